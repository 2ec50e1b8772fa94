//! What happened, as records: written through the journal, verified and queried from it.
