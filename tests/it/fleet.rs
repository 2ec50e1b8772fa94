//! Proxies of the real binary before a real API server, over generated objects that the tests write.

mod away;
mod blind;
mod canary;
mod documents;
mod house;
mod keys;
mod reviews;
mod rights;
mod serving;
mod unreadable;
mod whole;
