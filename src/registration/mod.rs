//! Clients registered at authorization servers, through their whole life: RFC 7591 and RFC 7592, vendors' own ways, documents
//! that the gateway serves, and what others have registered.
//!
//! Invariant: what is done next is a pure function of the ledger, of what was read and heard, of what is wanted, and of the
//! time. Requests and answers are data; who sends them, and keeps the ledger, decides nothing.
//!
//! ```text
//! next(seen, wish, place, now) -> Persist | MakeKey | Send(call) | Serve(document) | Publish | Forget | Settled
//!                                               |
//!        absorb(seen, what was heard) <---------+
//! ```

mod absorb;
pub mod audience;
pub mod call;
mod choose;
pub mod claim;
pub mod desired;
mod document;
mod given;
pub mod ledger;
mod next;
mod probe;
pub mod profile;
mod seen;
#[cfg(test)]
mod tests;
pub mod wanted;

pub use absorb::{absorb, add_key, hear};
pub use choose::{choose, is_another};
pub use claim::{Claim, ClaimError};
pub use desired::{Desired, Method, Profile};
pub use ledger::Ledger;
pub use next::{CHECK_SECONDS, Wish, next};
pub use seen::{Action, News, Seen, Trouble, What};
