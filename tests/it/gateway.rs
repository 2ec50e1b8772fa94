//! The gateway, end to end.

mod smoke;
