//! The contract between what resolves resources and the proxy that serves them.
