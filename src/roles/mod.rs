//! Composition: what each role of the binary is made of.

pub mod demo;
pub mod inventory;
pub mod quickstart;
pub mod standalone;
