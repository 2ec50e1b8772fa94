//! The answer to a review.
//!
//! Invariant: an object is refused only for what is wrong in itself or beyond its author's rights; what depends on other
//! objects, on upstreams or on time is a warning; and an update that changes neither spec nor labels is never refused.

use serde_json::Value;

use super::effect::{effect, sight};
use super::grant::{Need, Right, needs};
use super::named::named;
use super::reached;
use super::response::{Refusal, Response};
use super::review::{Operation, Review};
use super::world::{Found, World, read};
use crate::api::{Key, Kind, Object};
use crate::generated::{ObjectId, Server};
use crate::resolve::{self, Finding, Findings, Reason};

/// An answer that may still hang on the author's rights.
#[derive(Clone, Debug)]
pub struct Judged {
    of: Key,
    answer: Response,
    /// Warnings that tell of other policies' rules: for whoever may see these.
    sighted: Vec<String>,
    needs: Vec<Need>,
}

/// An answer that hangs on nothing any more.
#[derive(Clone, Debug)]
pub enum Decided {
    /// Refused, or of a kind of which nothing is told.
    Final(Response),
    /// Admitted; what it does is still to be told.
    Admitted {
        /// Without it.
        answer: Response,
        /// Whether the author may see it, or the cluster's audit log alone.
        seen: bool,
    },
}

/// Where the cluster's audit log has what a change does.
const ANNOTATION: &str = "access-changes";

impl Judged {
    fn refused(review: &Review, findings: &Findings) -> Self {
        let refusal = Refusal::invalid(review.key.clone(), findings);
        let answer = Response::refuse(&review.uid, refusal);
        Self { of: review.key.clone(), answer, sighted: Vec::new(), needs: Vec::new() }
    }

    fn admitted(review: &Review, (warnings, sighted): (Vec<String>, Vec<String>), needs: Vec<Need>) -> Self {
        Self { of: review.key.clone(), answer: Response::admit(&review.uid, warnings), sighted, needs }
    }

    /// What the author needs.
    pub fn needs(&self) -> &[Need] {
        &self.needs
    }

    /// The decision, now that it is known which of the needs the author does not have. What a change does costs more to find
    /// out than everything else; whoever has no right to the change makes nobody do it.
    pub fn decide(self, refused: &[Need]) -> Decided {
        let (missing, unseen): (Vec<&Need>, Vec<&Need>) = refused.iter().partition(|need| need.right != Right::See);
        if !missing.is_empty() {
            let lines: Vec<String> = missing.into_iter().map(Need::to_string).collect();
            let refusal = Refusal::forbidden(self.of, lines.join("\n"));
            return Decided::Final(Response::refuse(self.answer.uid(), refusal));
        }
        let seen = unseen.is_empty();
        let answer = if seen { self.answer.warned(self.sighted) } else { self.answer };
        match self.needs.iter().any(|need| need.right == Right::See) {
            true => Decided::Admitted { answer, seen },
            false => Decided::Final(answer),
        }
    }
}

impl Decided {
    /// The whole answer. `now`: in Unix seconds.
    pub fn tell(self, review: &Review, world: &World, looked_up: &LookedUp, now: i64) -> Response {
        let (answer, seen) = match self {
            Decided::Final(answer) => return answer,
            Decided::Admitted { answer, seen } => (answer, seen),
        };
        let new = review.new.as_ref().map(read).and_then(Result::ok);
        let found = Found::of(looked_up, world);
        let effect = effect(review, new.as_ref(), world, &found, now);
        let record = effect.record();
        let answer = if seen { answer.warned(effect.lines) } else { answer };
        // The audit log is the administrators'.
        match record {
            Some(record) => answer.annotated(ANNOTATION, record),
            None => answer,
        }
    }
}

/// What was asked for by name, and what of it is there. What is known may change meanwhile; what was asked for stays.
#[derive(Clone, Debug, Default)]
pub struct LookedUp {
    /// As [`wanted`] had it.
    pub asked: Vec<Key>,
    /// What was found.
    pub found: Vec<Object>,
}

/// Objects that are referred to and are not known, which is no proof that they are not there; and ConfigMaps, which are never
/// known, of what was before too. Each is to be asked for by its name.
pub fn wanted(review: &Review, world: &World) -> Vec<Key> {
    let parsed = |object: &Option<Value>| object.as_ref().map(read).and_then(Result::ok);
    let (old, new) = (parsed(&review.old), parsed(&review.new));
    if is_idle(review) || review.new.is_some() && new.is_none() {
        return Vec::new();
    }
    let mut keys = new.as_ref().map(named).unwrap_or_default();
    let before = old.as_ref().map(named).unwrap_or_default();
    keys.extend(before.into_iter().filter(|key| key.kind == Kind::ConfigMap));
    let policies = new.iter().chain(&old).filter_map(|object| match object {
        Object::Policy(policy) => Some(&**policy),
        _ => None,
    });
    keys.extend(reached::locks(policies, world));
    // Of very many, the last are not asked for: of a ConfigMap, that would be a statement.
    let (first, others): (Vec<Key>, Vec<Key>) = keys.into_iter().partition(|key| key.kind == Kind::ConfigMap);
    first.into_iter().chain(others).filter(|key| !world.has(key)).collect()
}

/// Judges a review.
pub fn judge(review: &Review, world: &World, looked_up: &LookedUp) -> Judged {
    let found = Found::of(looked_up, world);
    let given_away = given_away(review, world, &found);
    if is_idle(review) {
        return Judged::admitted(review, (Vec::new(), Vec::new()), given_away);
    }
    let new = match review.new.as_ref().map(read).transpose() {
        Ok(new) => new,
        Err(findings) => return Judged::refused(review, &findings),
    };
    let warnings = match new.as_ref().map(|object| findings(object, world, &found)).transpose() {
        Ok(warnings) => warnings.unwrap_or_default(),
        Err(findings) => return Judged::refused(review, &findings),
    };
    let needs = needs(review, new.as_ref(), world, &found).into_iter().chain(sight(review, new.as_ref(), world));
    let of_others = |finding: &Finding| matches!(finding.reason, Reason::NothingAllowed | Reason::ApprovalUnreachable);
    let (sighted, warnings): (Findings, Findings) = warnings.into_iter().partition(of_others);
    let said = |findings: Findings| findings.iter().map(Finding::to_string).collect();
    Judged::admitted(review, (said(warnings), said(sighted)), needs.chain(given_away).collect())
}

/// What it takes to give an object another owner, or to leave it to some of them: Kubernetes' garbage collector, which is asked
/// for no rights, deletes what has owners of which none is there any more.
fn given_away(review: &Review, world: &World, found: &Found) -> Vec<Need> {
    let owners = |object: &Value| -> Vec<Value> {
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owners.into_iter().flatten().map(|owner| owner["uid"].clone()).collect()
    };
    let (Some(old), Some(new)) = (&review.old, &review.new) else { return Vec::new() };
    let (before, after) = (owners(old), owners(new));
    if after.is_empty() || after == before {
        return Vec::new();
    }
    let deletion = Review { operation: Operation::Delete, new: None, ..review.clone() };
    let needs = needs(&deletion, None, world, found).into_iter();
    needs.map(|need| Need { why: format!("deleted with its owners, {}", need.why), ..need }).collect()
}

/// Whether nothing changes that is judged: an object that was accepted once, or has slipped past, can still be
/// labelled as deployed by somebody, and lose its finalizers.
fn is_idle(review: &Review) -> bool {
    let (Operation::Update, Some(old), Some(new)) = (review.operation, &review.old, &review.new) else { return false };
    let of = |object: &Value, path: &str| object.pointer(path).filter(|value| !is_empty(value)).cloned();
    of(old, "/spec") == of(new, "/spec") && of(old, "/metadata/labels") == of(new, "/metadata/labels")
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty)
}

/// That others claim the path of a server.
fn claimed_too(server: &mut Server, world: &World) -> Option<Finding> {
    let key = |id: &ObjectId| Key { kind: Kind::McpServer, namespace: id.namespace.clone(), name: id.name.clone() };
    let others = world.fleet().claimants(&server.path).filter(|other| other.id.uid != server.id.uid);
    let mut keys: Vec<Key> = others.map(|other| key(&other.id)).chain([key(&server.id)]).collect();
    keys.sort();
    let path = server.path.clone();
    (keys.len() > 1).then(|| resolve::conflicted(server, &path, &keys))
}

/// What its author should know of an object.
///
/// # Errors
/// What is wrong in the object itself.
fn findings(object: &Object, world: &World, found: &Found) -> Result<Findings, Findings> {
    let settings = world.settings();
    let names = named(object);
    let lookup = world.lookup(&names, found);
    Ok(match object {
        Object::Server(server) => {
            let mut resolved = world.server(server, found)?;
            resolved.warnings.extend(claimed_too(&mut resolved.object, world));
            resolved.warnings
        }
        Object::Policy(policy) => {
            let mut resolved = resolve::policy(policy, &settings, &lookup)?;
            resolved.warnings.extend(reached::findings(&resolved.object, world, found));
            resolved.warnings
        }
        Object::AuthorizationServer(server) => {
            let unseen = [Reason::ConfigMapNotFound, Reason::CaInvalid];
            let mut warnings = resolve::authority(server, &settings, &lookup)?.warnings;
            warnings.retain(|finding| !unseen.contains(&finding.reason));
            warnings
        }
        Object::Client(client) => resolve::client(client, &settings, &lookup)?.warnings,
        Object::Secret(_) | Object::ConfigMap(_) | Object::Namespace(_) => Findings::new(),
    })
}
