//! The control plane: what resources come to, written where proxies read it.

pub mod inventory;
