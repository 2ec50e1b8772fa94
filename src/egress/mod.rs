//! The only dialer: resolve, check, pin, connect.
