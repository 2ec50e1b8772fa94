//! Who is calling: from a presented token to a principal, or a refusal. Pure: keys and the time are given.
