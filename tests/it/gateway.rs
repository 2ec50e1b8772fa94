//! The gateway, end to end.

mod attack_tokens;
mod body;
mod canary;
mod crash;
mod disk_full;
mod disk_hangs;
mod egress;
mod front_door;
mod house;
mod listening;
mod parser_corpus;
mod records;
mod reload;
mod revocation;
mod sessions;
mod smoke;
mod state_folder;
mod stock_clients;
mod streams;
