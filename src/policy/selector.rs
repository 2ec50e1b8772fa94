//! Which servers a policy reaches: label selectors, as Kubernetes means them, also where labels are not known.

use super::tri::Tri;
use crate::generated::policy::{Operator, Requirement, Selector};
use crate::generated::{Labels, NAMESPACE_NAME, ObjectId, Policy, Server};

/// Whether a policy reaches a server; unknown where the labels of the server's namespace are not known.
pub fn reach(policy: &Policy, server: &Server) -> Tri {
    reach_named(policy, &server.id, &server.labels, server.namespace_labels.as_ref())
}

/// [`reach`], of a server of which no more is known than this.
pub fn reach_named(policy: &Policy, id: &ObjectId, labels: &Labels, namespace_labels: Option<&Labels>) -> Tri {
    let targets = &policy.targets;
    let within = match &targets.namespaces {
        Some(selector) => matches_namespace(selector, &id.namespace, namespace_labels),
        None => (policy.id.namespace == id.namespace).into(),
    };
    let chosen = targets.servers.contains(&id.name)
        || targets.selector.as_ref().is_some_and(|selector| matches(selector, labels));
    within.and(chosen.into())
}

/// Whether labels satisfy every part of a selector; an empty selector is satisfied by all.
pub(crate) fn matches(selector: &Selector, labels: &Labels) -> bool {
    judge(selector, |key| Some(labels.get(key).map(String::as_str))) == Tri::Yes
}

/// Whether a namespace satisfies every part of a selector. `labels`: `None` if nobody knows them; its name is known
/// even then.
pub(crate) fn matches_namespace(selector: &Selector, name: &str, labels: Option<&Labels>) -> Tri {
    judge(selector, |key| match labels {
        _ if key == NAMESPACE_NAME => Some(Some(name)),
        Some(labels) => Some(labels.get(key).map(String::as_str)),
        None => None,
    })
}

/// Whether a selector is satisfied by all labels, whatever they are.
pub(crate) fn selects_all(selector: &Selector) -> bool {
    selector.match_labels.is_empty() && selector.match_expressions.is_empty()
}

/// `look` answers with a label's value, with its absence, or with `None`: it is not known whether it is there.
fn judge<'l>(selector: &Selector, look: impl Fn(&str) -> Option<Option<&'l str>>) -> Tri {
    let labels = selector.match_labels.iter().map(|(key, wanted)| look(key).map(|value| value == Some(wanted)));
    let expressions = selector.match_expressions.iter();
    let expressions = expressions.map(|wanted| look(&wanted.key).map(|value| satisfies(wanted, value)));
    labels.chain(expressions).fold(Tri::Yes, |all, answer| all.and(answer.map_or(Tri::Unknown, Tri::from)))
}

fn satisfies(requirement: &Requirement, value: Option<&str>) -> bool {
    let listed = |value: &str| requirement.values.iter().any(|listed| listed == value);
    match requirement.operator {
        Operator::In => value.is_some_and(listed),
        Operator::NotIn => value.is_none_or(|value| !listed(value)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(key: &str, operator: Operator, values: &[&str]) -> Selector {
        let requirement =
            Requirement { key: key.into(), operator, values: values.iter().map(|v| v.to_string()).collect() };
        Selector { match_labels: Labels::new(), match_expressions: vec![requirement] }
    }

    #[test]
    fn requirements_mean_what_kubernetes_means() {
        let gold = Labels::from([("tier".into(), "gold".into())]);
        let none = Labels::new();
        for (operator, values, on_gold, on_none) in [
            (Operator::In, &["gold", "silver"][..], true, false),
            (Operator::In, &["silver"], false, false),
            (Operator::NotIn, &["gold"], false, true),
            (Operator::NotIn, &["silver"], true, true),
            (Operator::Exists, &[], true, false),
            (Operator::DoesNotExist, &[], false, true),
        ] {
            let selector = selector("tier", operator, values);
            assert_eq!(matches(&selector, &gold), on_gold, "{operator:?} {values:?}");
            assert_eq!(matches(&selector, &none), on_none, "{operator:?} {values:?}");
            let known = matches_namespace(&selector, "team", Some(&gold));
            assert_eq!(known, Tri::from(on_gold), "{operator:?} {values:?}");
            assert_eq!(matches_namespace(&selector, "team", None), Tri::Unknown, "{operator:?} {values:?}");
        }
    }

    #[test]
    fn labels_and_requirements_must_all_hold() {
        let mut both = selector("tier", Operator::In, &["gold"]);
        both.match_labels.insert("team".into(), "a".into());
        let labels = Labels::from([("tier".into(), "gold".into()), ("team".into(), "a".into())]);
        assert!(matches(&both, &labels));
        assert!(!matches(&both, &Labels::from([("tier".into(), "gold".into())])));
        assert!(matches(&Selector::default(), &Labels::new()));
    }

    #[test]
    fn the_name_of_a_namespace_is_known_whatever_its_labels_are() {
        let liar = Labels::from([(NAMESPACE_NAME.into(), "other".into())]);
        for (operator, values, want) in [
            (Operator::In, &["team"][..], Tri::Yes),
            (Operator::In, &["other"], Tri::No),
            (Operator::NotIn, &["team"], Tri::No),
            (Operator::NotIn, &["other"], Tri::Yes),
            (Operator::Exists, &[], Tri::Yes),
            (Operator::DoesNotExist, &[], Tri::No),
        ] {
            let by_name = selector(NAMESPACE_NAME, operator, values);
            for labels in [None, Some(&Labels::new()), Some(&liar)] {
                assert_eq!(matches_namespace(&by_name, "team", labels), want, "{operator:?} {values:?} {labels:?}");
            }
            // What is known to fail settles it; what is known to hold does not.
            let mut both = by_name;
            both.match_labels.insert("tier".into(), "gold".into());
            assert_eq!(matches_namespace(&both, "team", None), want.and(Tri::Unknown), "{operator:?} {values:?}");
        }
        assert_eq!(matches_namespace(&Selector::default(), "team", None), Tri::Yes);
    }
}
