//! What a tool definition is: its digest and its risk. Everything that a definition says about itself is the upstream's
//! word; a digest pins it, and a risk class is never lowered by it.

pub mod digest;
pub mod lock;
pub mod risk;
