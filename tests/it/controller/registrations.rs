//! Clients that the controller registers at real authorization servers, through their whole life.

mod apart;
mod behind;
mod crash;
mod life;
mod place;
mod told;
mod told_crash;
