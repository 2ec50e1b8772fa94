//! What a tool definition is: its digest and its risk.
