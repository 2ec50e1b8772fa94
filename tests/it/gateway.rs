//! The gateway, end to end.

mod crash;
mod disk_full;
mod smoke;
