//! Where a controller can die while it goes on with a registration, and what may be left then: the matrix that `crash` runs and
//! `docs/compatibility.md` shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::place::{WAYS, Way};
use crate::controller::random::Numbers;

/// What is under way when the controller dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Create,
    Update,
    /// Its key is replaced, since its period has passed.
    RotateKey,
    /// Its secret is.
    RotateSecret,
    Delete,
}

pub(super) const DEEDS: [Deed; 5] = [Deed::Create, Deed::Update, Deed::RotateKey, Deed::RotateSecret, Deed::Delete];

/// To whom the request goes at which it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// About registrations, to the authorization server.
    Server,
    /// The ledger, to the API server; and so on.
    Ledger,
    Credentials,
    Finalizer,
    Status,
}

pub(super) const PLACES: [At; 5] = [At::Server, At::Ledger, At::Credentials, At::Finalizer, At::Status];

/// Where it dies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boundary {
    pub(super) way: Way,
    pub(super) deed: Deed,
    pub(super) at: At,
    /// The how manieth of those requests, counted from 1.
    pub(super) nth: usize,
    pub(super) is_after: bool,
}

/// How many of those requests a deed takes that nobody interrupts.
pub(super) fn requests(way: Way, deed: Deed, at: At) -> usize {
    let is_admin = way == Way::KeycloakAdmin;
    match (at, deed) {
        // The administrative API is read besides; and, since it describes nothing, read back.
        (At::Server, Deed::Create | Deed::Delete) => 1 + usize::from(is_admin),
        (At::Server, Deed::Update | Deed::RotateKey) => 1 + 2 * usize::from(is_admin),
        // RFC 7592 has no request for another secret: an update is tried, and then another client is made.
        (At::Server, Deed::RotateSecret) => 2 - usize::from(is_admin),
        // As nothing, with a key, as begun, as made.
        (At::Ledger, Deed::Create) => 4,
        (At::Ledger, Deed::Update) => 2,
        // The key first.
        (At::Ledger, Deed::RotateKey) => 3,
        (At::Ledger, Deed::RotateSecret) if is_admin => 1,
        // The update, what came of it, the other client as begun, and as made.
        (At::Ledger, Deed::RotateSecret) => 4,
        // The intent, what came of it, and that it goes itself.
        (At::Ledger, Deed::Delete) => 3,
        (At::Credentials, Deed::Create | Deed::RotateKey | Deed::RotateSecret) => 1,
        (At::Finalizer, Deed::Create | Deed::Delete) => 1,
        (At::Status, Deed::Create | Deed::Update) => 1,
        (At::Credentials | At::Finalizer | At::Status, _) => 0,
    }
}

/// Whether a client may be left at the server, told of, that cannot be found or removed from here: whose id, or whose token, went
/// with an answer that nobody kept (RFC 7591 has no request for what is there, and RFC 7592 none without the token of now).
pub(super) fn may_leave(way: Way, deed: Deed) -> bool {
    way != Way::KeycloakAdmin && deed != Deed::Delete
}

pub(super) fn all() -> Vec<Boundary> {
    let mut all = Vec::new();
    for (way, deed) in WAYS.into_iter().flat_map(|way| DEEDS.map(|deed| (way, deed))) {
        for at in PLACES {
            for nth in 1..=requests(way, deed, at) {
                all.extend([false, true].map(|is_after| Boundary { way, deed, at, nth, is_after }));
            }
        }
    }
    all
}

/// Numbers that are the same for the same sources, or for the same `PORTCULLIS_CRASH_SEED`.
pub(super) fn numbers() -> Numbers {
    let seed = std::env::var("PORTCULLIS_CRASH_SEED").map_or(20_261_126, |seed| seed.parse().unwrap());
    println!("PORTCULLIS_CRASH_SEED={seed}");
    Numbers(seed)
}

/// One of each kind.
pub(super) fn one_of_each<B>(all: Vec<B>, kind: impl Fn(&B) -> String) -> Vec<B> {
    let (mut numbers, mut kinds) = (numbers(), BTreeMap::<String, Vec<B>>::new());
    all.into_iter().for_each(|one| kinds.entry(kind(&one)).or_default().push(one));
    let pick = |mut of: Vec<B>| of.swap_remove(usize::try_from(numbers.below(of.len() as u64)).unwrap());
    kinds.into_values().map(pick).collect()
}

/// The rows of the table: for each deed, and each way, how many boundaries there are and what holds after each of them.
pub(crate) fn rows() -> String {
    let all = all();
    let mut rows = String::new();
    for deed in DEEDS {
        let title = match deed {
            Deed::Create => "register",
            Deed::Update => "update",
            Deed::RotateKey => "replace its key",
            Deed::RotateSecret => "replace its secret",
            Deed::Delete => "delete",
        };
        write!(rows, "| {title} |").unwrap();
        for way in WAYS {
            let count = all.iter().filter(|one| (one.way, one.deed) == (way, deed)).count();
            let holds = match (deed, may_leave(way, deed)) {
                (Deed::Delete, _) => "none",
                (_, true) => "one, and at most one *told of*",
                (_, false) => "one",
            };
            write!(rows, " {count}: {holds} |").unwrap();
        }
        rows.push('\n');
    }
    rows
}
