//! Every life of a registration, ended at every boundary and gone on with.

mod claims;
mod doubts;
mod leaving;
mod limits;
mod lives;
mod model;
mod steps;
mod told;

pub(super) use model::{desired, place};
