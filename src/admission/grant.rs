//! Which rights a change needs.
//!
//! Invariant: whatever could let anybody do what nobody could before needs the virtual verb `grant` on each server that it
//! opens, namespace-wide where a selector or a name that nobody has is used; only what is proven to narrow needs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::review::Review;
use super::world::{Found, World, read};
use crate::api::v1alpha1::{LockSpec, McpServerSpec, OnChange as OnChangeSpec, ServerState};
use crate::api::{Key, Kind, McpPolicy, McpServer, Object};
use crate::generated::policy::{Effect, Mode, PrincipalMatch, Rule, Targets};
use crate::generated::server::{Lock, OnChange, State};
use crate::generated::{Authority, Labels, Policy, Server};
use crate::policy::decision::RuleRef;
use crate::policy::selector::{matches, selects_all};
use crate::resolve::{self, Comparison, Lookup};

/// The verb by which somebody may open a server to callers.
pub const GRANT: &str = "grant";

/// A right that the author of a change needs, for a SubjectAccessReview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which.
    pub right: Right,
    /// Where.
    pub place: Place,
    /// What makes it needed, in words.
    pub why: String,
}

/// What somebody may need to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To open McpServers to callers: without it, the change is refused.
    Grant,
    /// To see McpPolicies: without it, the author is not told what the change does.
    See,
}

impl Right {
    /// Verb and resource, as a SubjectAccessReview has them.
    pub fn attributes(self) -> (&'static str, &'static str) {
        match self {
            Right::Grant => (GRANT, "mcpservers"),
            Right::See => ("list", "mcppolicies"),
        }
    }
}

impl Need {
    /// The right to see what a change does.
    pub(super) fn sight(place: Place) -> Self {
        Self { right: Right::See, place, why: "to be told what the change does".to_owned() }
    }
}

/// The servers that a right is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Those of all namespaces.
    Everywhere,
    /// Those of a namespace.
    Namespace(String),
    /// One.
    Server {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// More servers of one namespace than these are asked about as all of them.
const MOST_SERVERS: usize = 16;

impl Place {
    /// The namespace of the one server that it is.
    fn of_server(&self) -> Option<&String> {
        match self {
            Place::Server { namespace, .. } => Some(namespace),
            Place::Everywhere | Place::Namespace(_) => None,
        }
    }

    /// Namespace and name, as a SubjectAccessReview has them: empty means all.
    pub fn attributes(&self) -> (&str, &str) {
        match self {
            Place::Everywhere => ("", ""),
            Place::Namespace(namespace) => (namespace, ""),
            Place::Server { namespace, name } => (namespace, name),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, role) = match &self.place {
            Place::Server { namespace, name } => {
                (format!("McpServer {namespace}/{name}"), format!(", resourceNames [{name}]"))
            }
            Place::Namespace(namespace) => (format!("the McpServers of namespace {namespace}"), String::new()),
            Place::Everywhere => ("the McpServers of all namespaces".to_owned(), String::new()),
        };
        write!(
            f,
            "{} (GrantMissing): the verb {GRANT} on {place} is needed; whoever has it may give it by a role with apiGroups \
             [portcullis.dev], resources [mcpservers], verbs [{GRANT}]{role}",
            self.why
        )
    }
}

/// What the author of a change needs.
pub(super) fn needs(review: &Review, new: Option<&Object>, world: &World, found: &Found) -> Vec<Need> {
    let old = review.old.as_ref().map(read);
    let mut needs = Needs::default();
    match review.key.kind {
        Kind::McpPolicy => {
            let old = old.map(|old| resolved_policy(old.ok().as_ref(), world, found));
            let new = new.and_then(|new| resolved_policy(Some(new), world, found));
            policy(&review.key.namespace, old, new.as_ref(), world, &mut needs);
        }
        Kind::McpServer => {
            let resolved = |object: &Object| match object {
                Object::Server(object) => world.server(object, found).ok().map(|server| server.object),
                _ => None,
            };
            let old = old.and_then(Result::ok);
            let objects = (old.as_ref().and_then(as_server), new.and_then(as_server));
            let (before, after) = (old.as_ref().and_then(&resolved), new.and_then(&resolved));
            if let Some(after) = &after {
                server(objects, before.as_ref(), after, world, &mut needs);
            }
            if let Some(before) = before.filter(|before| after.is_none_or(|after| after.path != before.path)) {
                path_left(&before, world, &mut needs);
            }
        }
        Kind::McpAuthorizationServer => {
            let resolved = |object: &Object| match object {
                Object::AuthorizationServer(object) => {
                    resolve::authority(object, &world.settings(), &Lookup::default())
                        .ok()
                        .map(|resolved| resolved.object)
                }
                _ => None,
            };
            let old = old.and_then(Result::ok).as_ref().and_then(&resolved);
            match new.and_then(&resolved) {
                Some(new) => authority(old.as_ref(), &new, world, &mut needs),
                None => old.iter().for_each(|old| issuer_left(old, world, &mut needs)),
            }
        }
        // For its token, whoever writes an McpClient needs the verb `issue`; a ValidatingAdmissionPolicy asks for it.
        Kind::McpClient => {
            let authority = |object: &Object| match object {
                Object::Client(object) => {
                    let client = resolve::client(object, &world.settings(), &Lookup::default());
                    client.ok().map(|client| client.object.grant.authority)
                }
                _ => None,
            };
            let old = old.and_then(Result::ok).as_ref().and_then(authority);
            if let Some(new) = new.and_then(authority).filter(|new| old.as_ref() != Some(new)) {
                client(&review.key, &new, world, &mut needs);
            }
        }
        Kind::Secret | Kind::ConfigMap | Kind::Namespace => {}
    }
    needs.into_vec()
}

/// By place, each with the first thing that makes it needed.
#[derive(Default)]
struct Needs(BTreeMap<Place, String>);

impl Needs {
    fn into_vec(mut self) -> Vec<Need> {
        let several: BTreeSet<&String> = self.0.keys().filter_map(Place::of_server).collect();
        for namespace in several.into_iter().cloned().collect::<Vec<_>>() {
            let is_of = |place: &Place| place.of_server() == Some(&namespace);
            if self.0.keys().filter(|place| is_of(place)).count() > MOST_SERVERS {
                let together: Vec<String> =
                    self.0.extract_if(.., |place, _| is_of(place)).map(|(_, why)| why).collect();
                self.add(Place::Namespace(namespace), together.into_iter().next().unwrap_or_default());
            }
        }
        self.0.into_iter().map(|(place, why)| Need { right: Right::Grant, place, why }).collect()
    }

    fn add(&mut self, place: Place, why: String) {
        self.0.entry(place).or_insert(why);
    }

    fn server(&mut self, server: &Server, why: String) {
        self.add(Place::Server { namespace: server.id.namespace.clone(), name: server.id.name.clone() }, why);
    }
}

fn as_server(object: &Object) -> Option<&McpServer> {
    match object {
        Object::Server(server) => Some(server),
        _ => None,
    }
}

fn resolved_policy(object: Option<&Object>, world: &World, found: &Found) -> Option<Policy> {
    let Some(Object::Policy(policy)) = object else { return None };
    let policy: &McpPolicy = policy;
    let names = super::named::named(object?);
    resolve::policy(policy, &world.settings(), &world.lookup(&names, found)).ok().map(|resolved| resolved.object)
}

/// What a policy's change needs, as [`policy`] has it.
#[cfg(test)]
pub(super) fn of_policy(
    namespace: &str,
    old: Option<Option<Policy>>,
    new: Option<&Policy>,
    world: &World,
) -> Vec<Need> {
    let mut needs = Needs::default();
    policy(namespace, old, new, world, &mut needs);
    needs.into_vec()
}

/// A policy's change. `old`: `Some(None)` if there was one that is invalid, of which nobody knows here what it denies.
fn policy(namespace: &str, old: Option<Option<Policy>>, new: Option<&Policy>, world: &World, needs: &mut Needs) {
    let guardrail = namespace == world.settings().system_namespace;
    let wide = |selects: bool| match selects {
        true => Place::Everywhere,
        false => Place::Namespace(namespace.to_owned()),
    };
    let (old, new) = match (old, new) {
        (Some(None), _) => {
            let why = "what is in force of an invalid policy denies, and it would be replaced or removed".to_owned();
            return needs.add(wide(guardrail), why);
        }
        (Some(Some(old)), Some(new)) => (old, new.clone()),
        (Some(Some(old)), None) => (old.clone(), saying_nothing(&old)),
        (None, Some(new)) => (saying_nothing(new), new.clone()),
        (None, None) => return,
    };
    let mut change = Change { old: &old, new: &new, comparison: Comparison::within(guardrail) };
    if old.targets.namespaces.is_some() || new.targets.namespaces.is_some() {
        if let Some(why) = change.beyond(covers(&new.targets, &old.targets), covers(&old.targets, &new.targets)) {
            needs.add(Place::Everywhere, why);
        }
        return;
    }
    let selected = |targets: &Targets| Targets { servers: Vec::new(), ..targets.clone() };
    let (before, after) = (selected(&old.targets), selected(&new.targets));
    if (before.selector.is_some() || after.selector.is_some())
        && let Some(why) = change.beyond(covers(&after, &before), covers(&before, &after))
    {
        // Every server is among them.
        return needs.add(wide(false), why);
    }
    let names: BTreeSet<&String> = old.targets.servers.iter().chain(&new.targets.servers).collect();
    for name in names {
        let server = world.fleet().by_name(namespace, name).map(|served| served.server);
        let reaches = |targets: &Targets| {
            let selects = |server: &&std::sync::Arc<Server>| {
                targets.selector.as_ref().is_some_and(|selector| matches(selector, &server.labels))
            };
            targets.servers.contains(name) || server.as_ref().is_some_and(selects)
        };
        if let Some(why) = change.at(reaches(&old.targets), reaches(&new.targets)) {
            match server {
                Some(server) => needs.server(server, why),
                // Whoever comes to have that name would be open.
                None => needs.add(wide(false), why),
            }
        }
    }
}

/// A policy that reaches as far, and says nothing.
fn saying_nothing(policy: &Policy) -> Policy {
    Policy { rules: Vec::new(), ..policy.clone() }
}

/// Whether `wide` reaches every server that `tight` reaches, whatever labels there are.
fn covers(wide: &Targets, tight: &Targets) -> bool {
    let namespaces = match (&wide.namespaces, &tight.namespaces) {
        (Some(wide), Some(tight)) => selects_all(wide) || wide == tight,
        (wide, tight) => wide.is_none() && tight.is_none(),
    };
    let all = wide.selector.as_ref().is_some_and(selects_all);
    let selector = all || tight.selector.is_none() || wide.selector == tight.selector;
    let names = all || tight.servers.iter().all(|name| wide.servers.contains(name));
    let nothing = tight.selector.is_none() && tight.servers.is_empty();
    nothing || namespaces && selector && names
}

/// One policy before and after.
struct Change<'a> {
    old: &'a Policy,
    new: &'a Policy,
    comparison: Comparison,
}

impl Change<'_> {
    /// What it opens anywhere, if servers may be reached by one side only. `kept`: the new side reaches all that the old one
    /// did; `same`: it reaches no more.
    fn beyond(&mut self, kept: bool, same: bool) -> Option<String> {
        let both = self.at(true, true);
        let left = if kept { None } else { self.at(true, false) };
        let entered = if same { None } else { self.at(false, true) };
        both.or(left).or(entered)
    }

    /// What it opens at a server that the old side and the new one reach or not.
    fn at(&mut self, old_reaches: bool, new_reaches: bool) -> Option<String> {
        let (old, new) = (rules(self.old, old_reaches), rules(self.new, new_reaches));
        for rule in new.iter().filter(|rule| rule.effect == Effect::Allow) {
            let is_allow = |earlier: &&Rule| earlier.effect == Effect::Allow;
            if !old.iter().filter(is_allow).any(|earlier| self.comparison.covers(earlier, rule)) {
                return Some(format!("rule {:?} allows what this policy did not allow before", rule.name));
            }
        }
        for rule in old.iter().filter(|rule| rule.effect != Effect::Allow) {
            let narrows = |later: &&Rule| later.effect == rule.effect || later.effect == Effect::Deny;
            if !new.iter().filter(narrows).any(|later| self.comparison.covers(later, rule)) {
                return Some(format!("rule {:?} would not refuse any more all that it refused before", rule.name));
            }
        }
        None
    }
}

/// What of a policy decides at a server.
fn rules(policy: &Policy, reaches: bool) -> &[Rule] {
    if reaches && policy.mode == Mode::Enforce { &policy.rules } else { &[] }
}

/// A server's change: rules that are there already may reach it now, or no more; and what it asks of callers may be less.
fn server(
    objects: (Option<&McpServer>, Option<&McpServer>),
    old: Option<&Server>,
    new: &Server,
    world: &World,
    needs: &mut Needs,
) {
    let key = Key { kind: Kind::McpServer, namespace: new.id.namespace.clone(), name: new.id.name.clone() };
    let with = |server: &Server| reaching(&world.fleet_with(&key, Some(server.clone())), server);
    let after = with(new);
    // A new server could have been made without its labels: what they keep away of guardrails is told like a label that goes.
    let before = match old {
        Some(old) => with(old),
        None => {
            let bare = Server { labels: Labels::new(), ..new.clone() };
            with(&bare).into_iter().filter(|(_, rule)| rule.guardrail && rule.effect != Effect::Allow).collect()
        }
    };
    let is_open = after.values().any(|rule| rule.effect == Effect::Allow);
    // What kept it from taking calls may be gone: an issuer that it trusted twice.
    let wakes = new.state == State::Enabled && old.is_some_and(|old| old.state != State::Enabled);
    for (name, rule) in &after {
        if rule.effect == Effect::Allow && (wakes || !before.contains_key(name)) {
            needs.server(new, format!("{} would allow calls to this server from now on", rule.shown(name)));
        }
    }
    for (name, rule) in before.iter().filter(|(name, rule)| rule.effect != Effect::Allow && !after.contains_key(*name))
    {
        let why = format!("{} would not reach this server any more", rule.shown(name));
        // Whoever may open the server later need not be who may take it from under a guardrail.
        if rule.guardrail {
            needs.add(Place::Namespace(world.settings().system_namespace.to_owned()), why);
        } else if is_open {
            needs.server(new, why);
        }
    }
    let Some(old) = old.filter(|_| is_open) else { return };
    // A class that changes may be one that a rule allows, or leave one that a rule refuses.
    let by_risk = before.values().chain(after.values()).any(|rule| rule.by_risk);
    let mut why = loosened(old, new, by_risk);
    why.extend(loosened_as_written(objects, by_risk));
    for why in why {
        needs.server(new, why);
    }
}

/// A path that several servers claim is served by none of them; if one of two leaves it, the other takes calls.
fn path_left(server: &Server, world: &World, needs: &mut Needs) {
    for other in world.fleet().claimants(&server.path).filter(|other| other.id.uid != server.id.uid) {
        needs.server(other, format!("the path {} would be its own from now on", server.path));
    }
}

/// A rule that reaches a server.
struct Reaching {
    effect: Effect,
    guardrail: bool,
    by_risk: bool,
}

impl Reaching {
    /// The name of a guardrail is not for everybody.
    fn shown(&self, name: &str) -> String {
        if self.guardrail { "a rule of a guardrail".to_owned() } else { format!("rule {name}") }
    }
}

/// The rules that reach a server, by name.
fn reaching(fleet: &crate::fleet::Fleet, server: &Server) -> BTreeMap<String, Reaching> {
    let name = |rule: &RuleRef| format!("{}/{}/{}", rule.namespace, rule.policy, rule.rule);
    let Some(served) = fleet.by_name(&server.id.namespace, &server.id.name) else { return BTreeMap::new() };
    let decides = served.layers.rules().into_iter().filter(|rule| !rule.shadow);
    let reach = decides.map(|rule| {
        let by_risk = rule.source().tools.iter().any(|tools| !tools.risk.is_empty());
        (name(&rule.reference), Reaching { effect: rule.effect, guardrail: rule.guardrail, by_risk })
    });
    reach.collect()
}

/// What a server asks of its callers, and would not any more.
fn loosened(old: &Server, new: &Server, by_risk: bool) -> Vec<String> {
    let mut why = Vec::new();
    if new.resource != old.resource {
        why.push(format!("tokens for {} would be accepted from now on", new.resource));
    }
    let baseline = old.scopes.baseline.iter().find(|scope| !new.scopes.baseline.contains(scope));
    if let Some(scope) = baseline {
        why.push(format!("the scope {scope} would not be needed any more"));
    }
    if let Some(entry) = old.scopes.tools.iter().find(|entry| !new.scopes.tools.contains(entry)) {
        why.push(format!("spec.authorization.scopes.tools entry {:?} would not hold any more", entry.name));
    }
    let changed = if by_risk { old.risk != new.risk } else { !old.risk.iter().all(|entry| new.risk.contains(entry)) };
    if changed {
        why.push("the risk classes of tools (spec.tools.risk) would be others".to_owned());
    }
    if old.lock.as_ref().is_some_and(|old| new.lock.as_ref().is_none_or(|new| strictness(new) < strictness(old))) {
        why.push("the tool lock (spec.tools.lock) would hold less".to_owned());
    }
    why
}

/// The same, of what depends on objects that may come later, or that are not seen here: as it is written.
fn loosened_as_written((old, new): (Option<&McpServer>, Option<&McpServer>), by_risk: bool) -> Vec<String> {
    let mut why = Vec::new();
    let (Some(old), Some(new)) = (old.map(|old| &old.spec), new.map(|new| &new.spec)) else { return why };
    if (old.state, new.state) == (ServerState::Disabled, ServerState::Enabled) {
        why.push("the server would take calls from now on".to_owned());
    }
    let (accepted, accepts) = (&old.authorization, &new.authorization);
    if let Some(name) = accepts.servers.iter().find(|name| !accepted.servers.contains(name)) {
        why.push(format!("tokens of the McpAuthorizationServer {name} would be accepted from now on"));
    }
    if let Some(audience) = accepts.audiences.iter().find(|audience| !accepted.audiences.contains(audience)) {
        why.push(format!("tokens for the audience {audience} would be accepted from now on"));
    }
    let (lock, locks) = (lock_of(old), lock_of(new));
    let content = |lock: &LockSpec| (lock.config_map_name.clone(), lock.key.clone(), lock.sha256.clone());
    // Somebody has to have reviewed the definitions of another lock; and a lock says which class a tool has.
    if lock.map(content) != locks.map(content) && (lock.is_some() || by_risk) {
        why.push("the tool lock (spec.tools.lock) would be another, or none".to_owned());
    }
    if old.upstream.credentials != new.upstream.credentials {
        // The definitions can be those that were reviewed, and what they reach is somebody else's.
        why.push("callers would reach the upstream as somebody else".to_owned());
    }
    if old.upstream != new.upstream && locks.is_none_or(|lock| lock.on_change == Some(OnChangeSpec::Warn)) {
        why.push("callers would reach another upstream".to_owned());
    }
    why
}

fn lock_of(spec: &McpServerSpec) -> Option<&LockSpec> {
    spec.tools.as_ref()?.lock.as_ref()
}

fn strictness(lock: &Lock) -> u8 {
    match lock.on_change {
        OnChange::Warn => 0,
        OnChange::Deny => 1,
        OnChange::Hide => 2,
    }
}

/// Servers that trust two anchors of one issuer take no calls; when one of them goes, they do.
fn issuer_left(authority: &Authority, world: &World, needs: &mut Needs) {
    let id = &authority.id;
    let twin = world.fleet().authorities().any(|other| other.issuer == authority.issuer && other.id.uid != id.uid);
    if twin && world.names_authority(&id.name) {
        let why = format!("another McpAuthorizationServer has the issuer of {}, and would be believed alone", id.name);
        needs.add(Place::Everywhere, why);
    }
}

/// A client that comes to be one of this authority: what narrows, and names it, counted for everybody while it was not there.
fn client(key: &Key, authority: &str, world: &World, needs: &mut Needs) {
    for policy in world.policies_of(&key.namespace).filter(|policy| policy.mode == Mode::Enforce) {
        let waits = |entry: &PrincipalMatch| {
            let of_it = entry.named.as_ref().filter(|named| named.mcp_clients.contains(&key.name));
            of_it.is_some_and(|named| named.authority.as_deref().is_none_or(|named| named == authority))
        };
        let narrows = |rule: &&Rule| match rule.effect {
            Effect::Allow => rule.except.iter().any(waits),
            Effect::Deny | Effect::RequireApproval => rule.principals.iter().any(waits),
        };
        if let Some(rule) = policy.rules.iter().find(narrows) {
            let why = format!(
                "rule {:?} of McpPolicy {} would mean this client alone, and not everybody",
                rule.name, policy.id.name
            );
            let everywhere = policy.targets.namespaces.is_some();
            needs.add(if everywhere { Place::Everywhere } else { Place::Namespace(key.namespace.clone()) }, why);
        }
    }
}

/// A trust anchor's change: whoever it vouches for can be a caller of each server that trusts it; and while it is not there, what
/// a Deny says of its callers counts for everybody's.
fn authority(old: Option<&Authority>, new: &Authority, world: &World, needs: &mut Needs) {
    let plain = |authority: &Authority| Authority { revoked: Vec::new(), id: new.id.clone(), ..authority.clone() };
    let narrows = old
        .is_some_and(|old| plain(old) == plain(new) && old.revoked.iter().all(|revoked| new.revoked.contains(revoked)));
    if !narrows && world.names_authority(&new.id.name) {
        let why = format!("McpServers or McpPolicies name the McpAuthorizationServer {}", new.id.name);
        needs.add(Place::Everywhere, why);
    }
}
