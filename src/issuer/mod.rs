//! Keys and tokens: the local authority, and the key sets of others.
