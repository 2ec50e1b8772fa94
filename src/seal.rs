//! Identifiers that leave the gateway, sealed with AEAD: purpose, server, principal and expiry are bound in.
