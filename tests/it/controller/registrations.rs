//! Clients that the controller registers at real authorization servers, through their whole life.

mod apart;
mod audience;
mod authorized;
mod behind;
pub(crate) mod boundaries;
mod canary;
mod crash;
mod ending;
mod faults;
mod leaving;
mod life;
mod many;
mod place;
mod repair;
mod resync;
mod ssrf;
mod told;
mod told_crash;
mod upstream;
