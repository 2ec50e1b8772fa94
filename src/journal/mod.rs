//! Bytes that must survive: segments, group commit, hash chain, checkpoints.
