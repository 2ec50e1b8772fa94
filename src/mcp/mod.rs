//! The Model Context Protocol on the wire, judged strictly: what this module accepts, every upstream reads the same way.
//!
//! Synchronous, without I/O and without a clock. Bytes come in; typed facts, refusals and new bytes go out.
//!
//! - [`scan`]: the one strict JSON scanner; [`envelope`]: a JSON-RPC message and the members that decide about it.
//! - [`revision`] and [`method`]: what each revision of the protocol says, and which of it this build polices.
//! - [`mirror`]: HTTP headers against the body, and the revision of a request; [`judge`]: a request against the table.
//! - [`rewrite`] and [`list`]: the few messages that are written anew; everything else passes byte for byte.
//! - [`server`]: what an upstream may send on a response stream; [`sse`]: the stream's own grammar.
//! - [`answer`]: every JSON-RPC body that the gateway itself writes, and every error code that it uses.

pub mod answer;
pub mod envelope;
pub mod judge;
pub mod list;
pub mod malformed;
pub mod method;
pub mod mirror;
pub mod param_header;
pub mod revision;
pub mod rewrite;
pub mod scan;
pub mod server;
pub mod sse;
