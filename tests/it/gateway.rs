//! The gateway, end to end.

mod attack_tokens;
mod bad_upstreams;
mod body;
mod canary;
mod connections;
mod crash;
mod declared;
mod disk_full;
mod disk_hangs;
mod egress;
mod front_door;
mod house;
mod listening;
mod messages;
mod parser_corpus;
mod records;
mod reload;
mod revocation;
mod sessions;
mod shares;
mod state_folder;
mod stock_clients;
mod streams;
