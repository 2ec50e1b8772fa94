//! The data plane: every call authenticated, authorized, recorded, then forwarded.
