//! The gateway, end to end.

mod attack_tokens_on_the_wire;
mod canary;
mod crash;
mod disk_full;
mod parser_corpus;
mod smoke;
