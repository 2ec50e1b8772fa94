//! Counters that cannot be made to grow without end.
//!
//! Invariant: label values are words of this program, all created at registration; a stranger's names (tools,
//! principals, clients) are never labels. The hot path holds counter handles and looks nothing up.

use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// A registry whose metrics are named `portcullis_...`, with the build's version in it.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("portcullis");
    registry.register("build", "The running build", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    registry
}

/// A counter per word of a closed list.
#[derive(Clone, Debug)]
pub struct CounterSet {
    counters: Vec<(&'static str, Counter)>,
}

impl CounterSet {
    /// Registers `name` with one counter for each of `values` under `label`.
    pub fn register(
        registry: &mut Registry,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[&'static str],
    ) -> Self {
        let family = Family::<[(&'static str, &'static str); 1], Counter>::default();
        let counters = values.iter().map(|value| (*value, family.get_or_create_owned(&[(label, *value)]))).collect();
        registry.register(name, help, family);
        Self { counters }
    }

    /// The counter for `value`; fetch it once and keep it. `None` if the value was not registered.
    pub fn get(&self, value: &str) -> Option<Counter> {
        self.counters.iter().find(|(name, _)| *name == value).map(|(_, counter)| counter.clone())
    }
}

/// All metrics of a process, complete: nothing is registered after start. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Registry>);

impl Metrics {
    /// Closes the registry.
    pub fn new(registry: Registry) -> Self {
        Self(Arc::new(registry))
    }

    /// The OpenMetrics text.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail; were an encoder to, a cut text says so by its missing "# EOF".
        if text::encode(&mut out, &self.0).is_err() {
            tracing::error!("metrics could not be encoded");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_exist_from_the_start_and_no_others_can_be_made() {
        let mut registry = registry();
        let set = CounterSet::register(&mut registry, "decisions", "Decisions", "effect", &["allow", "deny"]);
        let metrics = Metrics::new(registry);
        assert!(metrics.render().contains("portcullis_decisions_total{effect=\"deny\"} 0\n"));
        set.get("deny").unwrap().inc();
        assert!(metrics.render().contains("portcullis_decisions_total{effect=\"deny\"} 1\n"));
        assert!(set.get("maybe").is_none());
        assert!(metrics.render().ends_with("# EOF\n"));
    }
}
