//! The decision core: compile, index, evaluate, list.
//!
//! Invariant: deny by default; only a matching Allow grants, everything else only narrows; the result depends on no
//! order, name or time of creation. Pure and total: no clock, no I/O, no panic.

pub mod condition;
pub mod decision;
pub mod evaluate;
pub mod index;
pub mod list;
pub mod pattern;
pub mod request;
pub mod rule;
pub mod tri;
