//! Composition: what each role of the binary is made of.

pub mod controller;
pub mod demo;
pub mod proxy;
pub mod quickstart;
pub mod serving;
pub mod standalone;
pub mod webhook;
