//! The gateway, end to end.

mod attack_tokens;
mod body;
mod canary;
mod crash;
mod disk_full;
mod ended_sessions;
mod front_door;
mod hostile_http;
mod house;
mod late;
mod listening;
mod parser_corpus;
mod readiness;
mod records;
mod refusals;
mod reload;
mod sealed_ids;
mod sessions;
mod smoke;
mod stock_clients;
mod streams;
