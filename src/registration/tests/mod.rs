//! Every life of a registration, ended at every boundary and gone on with.

mod lives;
pub(super) mod model;
mod steps;
