//! The decision core: compile, index, evaluate, list. Pure, total, and deny by default.
