//! The gateway, end to end.

mod crash;
mod disk_full;
mod parser_corpus;
mod smoke;
