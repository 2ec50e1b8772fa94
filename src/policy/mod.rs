//! The decision core: compile, index, evaluate, list.
//!
//! Invariant: deny by default; only a matching Allow grants, everything else only narrows; the result depends on no
//! order, name or time of creation. Pure and total: no clock, no I/O, no panic.

#[cfg(test)]
pub(crate) mod arbitrary;
pub mod condition;
pub mod decision;
pub mod evaluate;
pub mod index;
pub mod list;
pub mod pattern;
#[cfg(test)]
pub(crate) mod reference;
pub mod request;
pub mod rule;
pub mod selector;
#[cfg(test)]
mod tests;
pub mod tri;
