//! Who can.
