//! The gateway as a client of an upstream's authorization server: real servers, a real check of tokens, a real gateway.

mod callers;
mod calls;
mod canary;
mod faults;
mod house;
mod numbers;
