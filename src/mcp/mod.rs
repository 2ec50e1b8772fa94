//! The Model Context Protocol on the wire, judged strictly: what this module accepts, every upstream reads the same way.
