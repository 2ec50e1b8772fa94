//! Clients that the controller registers at real authorization servers, through their whole life.

mod apart;
mod audience;
mod authorized;
mod behind;
pub(crate) mod boundaries;
mod canary;
mod changed;
mod crash;
mod died;
mod ending;
mod faults;
mod leaving;
mod let_go;
mod life;
mod many;
mod own_keys;
mod persons;
mod place;
mod repair;
mod resources;
mod resync;
mod ssrf;
mod told;
mod told_crash;
mod unread;
mod upstream;
