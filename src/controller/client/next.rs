//! What is to be done for a client's token. Pure: time, the Secret's content and what was said last are given.
//!
//! Invariant: a token says what its client is granted now, and lasts as long; whoever was granted more keeps no token that
//! says so; and the same question has the same answer, whichever write was lost before it was asked again.

use std::collections::BTreeMap;

use crate::api::v1alpha1::{ClientTokenStatus, McpClientStatus};
use crate::issuer::{TokenRecord, TokenRequest};
use crate::resolve::{Client, Grant};

/// When a token is replaced: after this much of its life.
const RENEWED_AFTER: (i64, i64) = (4, 5);
/// A token may be dated ahead by this much, so that it can follow one of the same second. The gateway allows more.
const MOST_AHEAD: i64 = 5;
/// How much of an authority's generated object its list of clients may take, in bytes.
const MOST_LIST_BYTES: usize = 600_000;

/// So many clients are always listed: their ids have at most 150 bytes.
pub const ALWAYS_LISTED: usize = MOST_LIST_BYTES / 200;

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// From which time on (Unix seconds) the client's tokens must have been issued: what its authority's list says.
    pub valid_after: i64,
    /// Whether that is to be said in the client's status before anything else is done: once the Secret holds another
    /// token, nothing but the status would tell that earlier ones said more.
    pub remember: bool,
    /// What is to be done for its token.
    pub step: Step,
}

/// What is to be done for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The token that is there is right, until this time (Unix seconds).
    Keep {
        /// When it is to be replaced.
        until: i64,
    },
    /// A new one is to be made.
    Mint {
        /// What it says.
        request: Box<TokenRequest>,
        /// Its `iat`.
        issued_at: i64,
    },
    /// No token would be believed yet.
    Wait {
        /// From this time on one would.
        until: i64,
    },
}

/// What is to be done for a client, whose Secret holds `held` and of whom `last` was said.
pub fn plan(client: &Client, held: Option<&TokenRecord>, last: &McpClientStatus, now: i64) -> Plan {
    let valid_after = valid_after(client, held, last);
    let remember = valid_after > client.valid_after.max(remembered(last));
    Plan { valid_after, remember, step: step(client, held, valid_after, now) }
}

fn step(client: &Client, held: Option<&TokenRecord>, valid_after: i64, now: i64) -> Step {
    if let Some(held) = held.filter(|held| is_right(client, held, valid_after)) {
        let until = renewal(held);
        if now < until {
            return Step::Keep { until };
        }
    }
    if valid_after > now + MOST_AHEAD {
        return Step::Wait { until: valid_after };
    }
    let grant = client.grant.clone();
    let request = TokenRequest {
        subject: grant.subject,
        audiences: grant.audiences,
        client_id: client.client_id.clone(),
        groups: grant.groups,
        scopes: grant.scopes,
        lifetime_seconds: client.lifetime_seconds,
        label: None,
    };
    Step::Mint { request: Box::new(request), issued_at: now.max(valid_after) }
}

/// From which time on a client's tokens must have been issued: as its author says, as was said before, and later than any
/// that says more than what it is granted now.
pub fn valid_after(client: &Client, held: Option<&TokenRecord>, last: &McpClientStatus) -> i64 {
    let authority = client.grant.authority.as_str();
    let held = held.map(|held| (granted(held, authority), held.issued_at));
    // What cannot be read was not written here: it ends nothing.
    let told = last.token.as_ref().and_then(|token| Some((said(token), seconds(&token.issued_at)?)));
    let ends = held.into_iter().chain(told).filter(|(earlier, _)| !client.grant.covers(earlier));
    let ended = ends.map(|(_, issued_at)| issued_at.saturating_add(1)).max().unwrap_or_default();
    ended.max(client.valid_after).max(remembered(last))
}

/// From which time on, as was said before.
pub fn remembered(last: &McpClientStatus) -> i64 {
    last.valid_after.as_deref().and_then(seconds).unwrap_or_default()
}

fn is_right(client: &Client, held: &TokenRecord, valid_after: i64) -> bool {
    held.client_id == client.client_id
        && granted(held, &client.grant.authority) == client.grant
        && held.issued_at >= valid_after
        && held.expires_at.saturating_sub(held.issued_at) == i64::from(client.lifetime_seconds)
}

/// When a token is to be replaced.
pub fn renewal(held: &TokenRecord) -> i64 {
    let (part, whole) = RENEWED_AFTER;
    let lifetime = held.expires_at.saturating_sub(held.issued_at);
    held.issued_at.saturating_add(lifetime.saturating_mul(part) / whole)
}

fn granted(record: &TokenRecord, authority: &str) -> Grant {
    Grant {
        authority: authority.to_owned(),
        subject: record.subject.clone(),
        groups: record.groups.clone(),
        scopes: record.scopes.clone(),
        audiences: record.audiences.clone(),
    }
}

fn said(last: &ClientTokenStatus) -> Grant {
    Grant {
        authority: last.authorization_server.clone(),
        subject: last.subject.clone(),
        groups: last.groups.clone(),
        scopes: last.scopes.clone(),
        audiences: last.audiences.clone(),
    }
}

/// What is said of a token: never the token.
pub fn told(client: &Client, token: &TokenRecord) -> ClientTokenStatus {
    ClientTokenStatus {
        jti: token.jti.clone(),
        secret_name: client.secret_name.clone(),
        issued_at: time(token.issued_at),
        expires_at: time(token.expires_at),
        authorization_server: client.grant.authority.clone(),
        subject: token.subject.clone(),
        groups: token.groups.clone(),
        scopes: token.scopes.clone(),
        audiences: token.audiences.clone(),
    }
}

/// A client, as its authority's list needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// When its object was made (Unix seconds), so that whoever comes last is left out first.
    pub created: i64,
    /// Its `client_id`.
    pub client_id: String,
    /// [`valid_after`].
    pub valid_after: i64,
}

/// The clients whose tokens an authority believes, and how many are left out because the list would be too long: the
/// youngest, so that nobody who makes clients puts out those of others.
pub fn allow_list(mut clients: Vec<Listed>) -> (BTreeMap<String, i64>, usize) {
    clients.sort_unstable_by(|a, b| (a.created, &a.client_id).cmp(&(b.created, &b.client_id)));
    let mut bytes = 0;
    let mut listed = BTreeMap::new();
    let all = clients.len();
    for client in clients {
        // Quotes, colon, comma, and the longest number.
        bytes += client.client_id.len() + 24;
        if bytes > MOST_LIST_BYTES {
            break;
        }
        listed.insert(client.client_id, client.valid_after);
    }
    let left_out = all - listed.len();
    (listed, left_out)
}

fn seconds(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(|time| time.as_second())
}

/// Unix seconds as RFC 3339.
pub fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    use super::*;
    use crate::generated::ObjectId;

    const NOW: i64 = 1_800_000_000;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn client(groups: &[&str]) -> Client {
        let id = ObjectId { uid: "u".into(), namespace: "team".into(), name: "c".into(), generation: 1 };
        Client {
            client_id: "team/c/u".into(),
            id,
            grant: Grant {
                authority: "local".into(),
                subject: "ana".into(),
                groups: strings(groups),
                scopes: strings(&["mcp:use"]),
                audiences: strings(&["https://gw.example/team/s"]),
            },
            lifetime_seconds: 1000,
            secret_name: "c-token".into(),
            valid_after: 0,
            hindrance: None,
        }
    }

    /// What minting as `step` says would make.
    fn minted(step: &Step) -> TokenRecord {
        let Step::Mint { request, issued_at } = step else { panic!("{step:?}") };
        TokenRecord {
            jti: format!("j{issued_at}"),
            subject: request.subject.clone(),
            audiences: request.audiences.clone(),
            client_id: request.client_id.clone(),
            groups: request.groups.clone(),
            scopes: request.scopes.clone(),
            issued_at: *issued_at,
            expires_at: issued_at + i64::from(request.lifetime_seconds),
            label: None,
        }
    }

    fn nothing_said() -> McpClientStatus {
        McpClientStatus::default()
    }

    fn saying(client: &Client, token: &TokenRecord, valid_after: i64) -> McpClientStatus {
        let valid_after = (valid_after > 0).then(|| time(valid_after));
        McpClientStatus { token: Some(told(client, token)), valid_after, ..McpClientStatus::default() }
    }

    #[test]
    fn a_token_is_made_kept_and_renewed() {
        let client = client(&["a"]);
        let next = |client: &Client, held, now| plan(client, held, &nothing_said(), now).step;
        let token = minted(&next(&client, None, NOW));
        assert_eq!((token.issued_at, token.expires_at), (NOW, NOW + 1000));
        assert_eq!(next(&client, Some(&token), NOW + 799), Step::Keep { until: NOW + 800 });
        assert_eq!(minted(&next(&client, Some(&token), NOW + 800)).issued_at, NOW + 800);
        let longer = Client { lifetime_seconds: 2000, ..client.clone() };
        assert_eq!(minted(&next(&longer, Some(&token), NOW + 1)).expires_at, NOW + 2001);
        let another = TokenRecord { client_id: "team/c/v".into(), ..token.clone() };
        assert_eq!(minted(&next(&client, Some(&another), NOW + 1)).client_id, "team/c/u");
    }

    #[test]
    fn growing_ends_nothing_and_shrinking_ends_what_said_more() {
        let (less, more) = (client(&["a"]), client(&["a", "b"]));
        let of_less = minted(&plan(&less, None, &nothing_said(), NOW).step);
        let grown = plan(&more, Some(&of_less), &saying(&less, &of_less, 0), NOW + 9);
        assert_eq!((grown.valid_after, grown.remember, minted(&grown.step).groups), (0, false, strings(&["a", "b"])));

        // In the very second in which it was made.
        let of_more = minted(&plan(&more, None, &nothing_said(), NOW).step);
        let shrunk = plan(&less, Some(&of_more), &saying(&more, &of_more, 0), NOW);
        assert_eq!((shrunk.valid_after, shrunk.remember), (NOW + 1, true));
        let token = minted(&shrunk.step);
        assert!(token.issued_at >= shrunk.valid_after);
        // Once it is remembered, the old token need not be there to be known for what it was.
        let remembered = saying(&more, &of_more, shrunk.valid_after);
        let kept = plan(&less, Some(&token), &remembered, NOW + 1);
        assert_eq!(kept, Plan { valid_after: NOW + 1, remember: false, step: Step::Keep { until: NOW + 801 } });
        // Growing again revives nothing.
        let again = plan(&more, Some(&token), &saying(&less, &token, shrunk.valid_after), NOW + 9);
        assert_eq!((again.valid_after, again.remember), (NOW + 1, false));
    }

    #[test]
    fn a_start_that_is_to_come_is_waited_for() {
        let mut client = client(&[]);
        let token = minted(&plan(&client, None, &nothing_said(), NOW).step);
        let next = |client: &Client, now| plan(client, Some(&token), &nothing_said(), now).step;
        client.valid_after = NOW + 1;
        assert_eq!(minted(&next(&client, NOW + 1)).issued_at, NOW + 1);
        client.valid_after = NOW + 3600;
        assert_eq!(next(&client, NOW), Step::Wait { until: NOW + 3600 });
        assert_eq!(minted(&next(&client, NOW + 3600)).issued_at, NOW + 3600);
    }

    #[test]
    fn what_is_said_is_read_back_and_what_cannot_be_ends_nothing() {
        let client = client(&["a"]);
        let token = minted(&plan(&client, None, &nothing_said(), NOW).step);
        let told = told(&client, &token);
        assert_eq!((told.issued_at.as_str(), told.expires_at.as_str()), (&*time(NOW), &*time(NOW + 1000)));
        assert_eq!(said(&told), client.grant);
        let garbled = ClientTokenStatus { issued_at: "then".into(), groups: strings(&["more"]), ..told };
        let garbled =
            McpClientStatus { token: Some(garbled), valid_after: Some("later".into()), ..McpClientStatus::default() };
        assert_eq!(valid_after(&client, None, &garbled), 0);
    }

    #[test]
    fn the_list_is_bounded_and_keeps_the_oldest() {
        let listed = |n: i64| Listed { created: n, client_id: format!("team/{n:0>100}/u"), valid_after: n };
        let (all, left_out) = allow_list((0..10).map(listed).collect());
        assert_eq!((all.len(), left_out), (10, 0));
        let (some, left_out) = allow_list((0..20_000).rev().map(listed).collect());
        assert!(left_out > 0 && some.len() + left_out == 20_000 && some.contains_key(&listed(0).client_id));
        assert!(!some.contains_key(&listed(19_999).client_id));
        assert!(serde_json::to_vec(&some).unwrap().len() <= MOST_LIST_BYTES);
    }

    proptest! {
        /// Whatever edits come, and at whichever write the controller dies: no token is believed that says more than the
        /// last grant.
        #[test]
        fn no_history_leaves_a_token_that_says_more(
            edits in prop::collection::vec((subsequence(vec!["a", "b", "c"], 0..=3), 0..400i64, 0..4usize), 1..12)
        ) {
            let (mut now, mut held, mut last): (i64, Option<TokenRecord>, McpClientStatus) = (NOW, None, nothing_said());
            let mut out: Vec<TokenRecord> = Vec::new();
            for (groups, pause, writes) in edits {
                now += pause;
                let client = client(&groups);
                let plan = plan(&client, held.as_ref(), &last, now);
                // Three writes, of which the first `writes` are done.
                if writes > 0 {
                    if plan.remember {
                        last.valid_after = Some(time(plan.valid_after));
                    }
                    let token = match &plan.step {
                        Step::Keep { .. } => held.clone().unwrap(),
                        step @ Step::Mint { .. } => minted(step),
                        Step::Wait { .. } => unreachable!("nobody asked for a later start"),
                    };
                    prop_assert!(token.issued_at >= plan.valid_after && token.issued_at <= now + MOST_AHEAD);
                    prop_assert_eq!(&token.groups, &client.grant.groups);
                    if writes > 1 {
                        out.push(token.clone());
                        held = Some(token.clone());
                    }
                    if writes > 2 {
                        last.token = Some(told(&client, &token));
                    }
                }
                let after = valid_after(&client, held.as_ref(), &last);
                for believed in out.iter().filter(|token| token.issued_at >= after && token.expires_at > now) {
                    prop_assert!(client.grant.covers(&granted(believed, "local")), "{believed:?} after {after}");
                }
            }
        }
    }
}
