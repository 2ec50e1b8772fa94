//! Label selectors, as Kubernetes means them.

use crate::generated::Labels;
use crate::generated::policy::{Operator, Requirement, Selector};

/// Whether labels satisfy every part of a selector; an empty selector is satisfied by all.
pub fn matches(selector: &Selector, labels: &Labels) -> bool {
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|requirement| satisfies(requirement, labels))
}

/// Whether a selector is satisfied by all labels, whatever they are.
pub(super) fn selects_all(selector: &Selector) -> bool {
    selector.match_labels.is_empty() && selector.match_expressions.is_empty()
}

fn satisfies(requirement: &Requirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    match requirement.operator {
        Operator::In => value.is_some_and(|v| requirement.values.contains(v)),
        Operator::NotIn => value.is_none_or(|v| !requirement.values.contains(v)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(operator: Operator, values: &[&str]) -> Selector {
        let requirement =
            Requirement { key: "tier".into(), operator, values: values.iter().map(|v| v.to_string()).collect() };
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
            assert_eq!(matches(&selector(operator, values), &gold), on_gold, "{operator:?} {values:?}");
            assert_eq!(matches(&selector(operator, values), &none), on_none, "{operator:?} {values:?}");
        }
    }

    #[test]
    fn labels_and_requirements_must_all_hold() {
        let mut both = selector(Operator::In, &["gold"]);
        both.match_labels.insert("team".into(), "a".into());
        let labels = Labels::from([("tier".into(), "gold".into()), ("team".into(), "a".into())]);
        assert!(matches(&both, &labels));
        assert!(!matches(&both, &Labels::from([("tier".into(), "gold".into())])));
        assert!(matches(&Selector::default(), &Labels::new()));
    }
}
