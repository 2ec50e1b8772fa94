//! The Kubernetes API that we own: types, schemas, and the strict reading of what people write.
//!
//! Invariant: an [`Object`] has passed the same structural schema that the API server enforces, and holds no member
//! that the schema does not know: what is misspelled is refused with the nearest known name, never dropped.

pub mod core;
pub mod crd;
pub mod field_path;
pub mod metadata;
pub mod object;
pub mod schema;
pub mod v1alpha1;

pub use field_path::FieldPath;
pub use object::{Invalidity, Key, Kind, Object, Rejected};
pub use schema::Problem;
pub use v1alpha1::{McpAuthorizationServer, McpClient, McpPolicy, McpServer};

/// The API group of every kind that we own.
pub const GROUP: &str = "portcullis.dev";
/// The only version so far.
pub const VERSION: &str = "v1alpha1";
/// The annotation of a Secret that names the hosts its content may be sent to, separated by commas.
pub const ALLOWED_HOSTS: &str = "portcullis.dev/allowed-hosts";
