//! OAuth documents as plain data: RFC 9728, RFC 8414.
