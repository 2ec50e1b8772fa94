//! Whether tokens are for the servers that a client is for: asked as [`crate::registration::audience`] says.
//!
//! Invariant: one look asks for one token at most, and nothing of it leaves this function but what it says it is for.

use super::{Anchor, Outcome, Publication, ledgers, resources};
use crate::controller::Context;
use crate::controller::error::Failure;
use crate::registration::audience::{self, Known, Target};
use crate::registration::call::{Heard, Purpose};
use crate::registration::{Desired, Ledger};

/// What is known of a client's tokens.
#[derive(Clone, Debug)]
pub(in crate::controller) struct Audiences {
    /// By server.
    pub(in crate::controller) known: Vec<Known>,
    /// Whether they can be asked for as the client.
    pub(in crate::controller) can_ask: bool,
    /// Resources that its issuer does not know, and why that cannot be changed from here.
    pub(in crate::controller) strange: Vec<String>,
    /// When to look again (Unix seconds).
    pub(in crate::controller) again: i64,
}

impl Default for Audiences {
    /// Nothing is known yet.
    fn default() -> Self {
        Self { known: Vec::new(), can_ask: true, strange: Vec::new(), again: i64::MAX }
    }
}

impl Audiences {
    /// Nothing could be looked at: what was learned before is not unknown for that.
    pub(in crate::controller) fn as_before(context: &Context, desired: &Desired, known: Vec<Known>) -> Self {
        let name = ledgers::name(&desired.owner.uid, &desired.issuer);
        let held = context.registrations.held();
        let ledger = held.get(&name).map(|held| &held.seen.ledger);
        Self { strange: resources::missing(context, &name), ..Self::learned(desired, ledger, known) }
    }

    /// What was learned of the tokens of a client, as far as they can be asked for.
    pub(in crate::controller) fn learned(desired: &Desired, ledger: Option<&Ledger>, known: Vec<Known>) -> Self {
        let can_ask = match ledger.filter(|ledger| ledger.current.is_some()) {
            Some(ledger) => audience::can_ask(desired, ledger),
            None => audience::speaks_for_itself(desired),
        };
        Self { known, can_ask, ..Self::default() }
    }
}

/// Sees to it that the issuer knows what its tokens are to be for, and asks for one, if it is time for that. `known`: what was
/// learned before.
///
/// # Errors
/// If this process does not lead any more.
pub(in crate::controller) async fn verify(
    context: &Context,
    anchor: &Anchor,
    (desired, targets): (&Desired, &[Target]),
    outcome: &Outcome,
    mut known: Vec<Known>,
) -> Result<Audiences, Failure> {
    let now = super::now();
    let name = ledgers::name(&desired.owner.uid, &desired.issuer);
    let ledger = context.registrations.held().get(&name).map(|held| held.seen.ledger.clone());
    let Some(ledger) = ledger else { return Ok(Audiences::as_before(context, desired, known)) };
    // Whatever is in its way: it keeps nobody else's from being deleted.
    let needed = resources::need(context, &name, (desired, &ledger));
    if ledger.current.is_none() {
        return Ok(Audiences::default());
    }
    // What is in its way is told already, and looked at again.
    let is_well =
        outcome.publication == Publication::Written && outcome.trouble.is_none() && outcome.unserved.is_none();
    let server = context.registrations.servers.of(anchor, &context.egress);
    let strange = match &server {
        Ok(server) if is_well => resources::ensure(context, server, (&name, &ledger), needed).await?,
        _ => resources::missing(context, &name),
    };
    if !audience::can_ask(desired, &ledger) {
        return Ok(Audiences { can_ask: false, strange, ..Audiences::default() });
    }
    let due = audience::due(targets, &ledger, &mut known, now);
    let audiences = |known, again| Audiences { known, strange, again, ..Audiences::default() };
    let Some(target) = due.now else { return Ok(audiences(known, due.next)) };
    if !is_well {
        return Ok(audiences(known, i64::MAX));
    }
    let heard = match server {
        Ok(server) => match server.place(now).await.map(|(place, _)| place.token_endpoint) {
            Ok(Some(url)) => {
                let owner = (ledger.owner.namespace.as_str(), ledger.owner.name.as_str());
                context.registrations.turns.spend(owner, &ledger.authority, context.start.elapsed());
                server.grant(context, &url, &ledger, target.access(ledger.profile), now).await?
            }
            Ok(None) => Err(Heard::Unsent("its metadata names no token endpoint".to_owned())),
            Err(not) => Err(Heard::Unsent(not.detail)),
        },
        Err(not) => Err(Heard::Unsent(not.detail)),
    };
    let told = heard.as_ref().map_or_else(Clone::clone, |_| Heard::Alive);
    context.metrics.registration_request(Purpose::Probe, &told);
    audience::learn(&mut known, target, &ledger, heard.as_ref(), now);
    Ok(audiences(known, due.next))
}
