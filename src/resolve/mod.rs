//! From API objects to the generated contract; every finding has a reason and a field path.
