//! Where records go besides the journal. Configured by administrators only: a sink is a write primitive.

pub mod stdout;
