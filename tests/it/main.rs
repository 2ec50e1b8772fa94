//! The one integration-test binary: linking is what costs, so every test that crosses a boundary lives below here.

mod architecture;
