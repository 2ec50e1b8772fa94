//! A folder of manifests, read and watched, with source positions.
