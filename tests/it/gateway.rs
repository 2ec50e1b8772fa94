//! The gateway, end to end.

mod disk_full;
mod smoke;
