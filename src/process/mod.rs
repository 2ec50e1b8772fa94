//! What every role shares: admin listener, drain, telemetry, TLS.
