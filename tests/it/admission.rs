//! The webhook against a real API server, as the ServiceAccount that the chart makes, with the certificates that a real
//! controller makes for it, and asked as the chart's configurations say.

mod again;
mod author;
mod away;
mod bounds;
mod door;
mod house;
mod orders;
mod rotation;
mod table;
mod verdicts;
