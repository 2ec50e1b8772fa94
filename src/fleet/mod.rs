//! The snapshot that a proxy serves: servers joined with the policies that reach them.
