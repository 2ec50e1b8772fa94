//! The Kubernetes API that we own: group `portcullis.dev`.
