//! Clients at authorization servers: what is wanted of one.
//!
//! Invariant: pure: no clock, no I/O, and no secret; where one is needed, it is named.

pub mod desired;
