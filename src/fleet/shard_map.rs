//! A map from names that forks cheaply.
//!
//! Invariant: a clone shares everything with its origin until one of them changes, and a change copies one shard.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

const SHARDS: usize = 256;
/// A map is cut into [`SHARDS`] when it grows beyond this many entries.
const CUT_ABOVE: usize = 256;

type Shard<V> = Arc<HashMap<Arc<str>, V>>;

/// A map from names. A fork costs nothing, and a change of one costs as much as one shard.
#[derive(Clone, Debug)]
pub struct ShardMap<V> {
    /// One shard, or [`SHARDS`].
    shards: Arc<[Shard<V>]>,
    entries: usize,
}

impl<V> Default for ShardMap<V> {
    fn default() -> Self {
        Self { shards: Arc::from([Arc::default()]), entries: 0 }
    }
}

impl<V: Clone> ShardMap<V> {
    /// The value under a name.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.shards.get(self.place(key))?.get(key)
    }

    /// Puts a value under a name, instead of another.
    pub fn insert(&mut self, key: &str, value: V) {
        if self.shards.len() == 1 && self.entries >= CUT_ABOVE {
            self.cut();
        }
        let place = self.place(key);
        let Some(shard) = Arc::make_mut(&mut self.shards).get_mut(place) else { return };
        let shard = Arc::make_mut(shard);
        match shard.get_mut(key) {
            Some(known) => *known = value,
            None => {
                shard.insert(key.into(), value);
                self.entries += 1;
            }
        }
    }

    /// Takes out what is under a name.
    pub fn remove(&mut self, key: &str) -> Option<V> {
        self.get(key)?;
        let place = self.place(key);
        let removed = Arc::make_mut(Arc::make_mut(&mut self.shards).get_mut(place)?).remove(key);
        self.entries = self.entries.saturating_sub(usize::from(removed.is_some()));
        removed
    }

    /// All values, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Whether neither of two forks was changed since they were one. Costs nothing.
    pub fn is_fork(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shards, &other.shards)
    }

    fn cut(&mut self) {
        let mut shards = vec![HashMap::new(); SHARDS];
        for (key, value) in self.shards.iter().flat_map(|shard| shard.iter()) {
            if let Some(shard) = shards.get_mut(shard_of(key)) {
                shard.insert(Arc::clone(key), value.clone());
            }
        }
        self.shards = shards.into_iter().map(Arc::new).collect();
    }

    fn place(&self, key: &str) -> usize {
        if self.shards.len() == 1 { 0 } else { shard_of(key) }
    }
}

fn shard_of(key: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::from(hasher.finish().to_be_bytes()[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_and_its_origin_do_not_see_each_other() {
        let mut origin = ShardMap::default();
        for n in 0..1000 {
            origin.insert(&n.to_string(), n);
        }
        let mut fork = origin.clone();
        assert!(fork.is_fork(&origin));
        fork.insert("7", -7);
        assert!(!fork.is_fork(&origin));
        fork.insert("new", 1);
        assert_eq!(fork.remove("8"), Some(8));
        assert_eq!(fork.remove("8"), None);
        assert_eq!(
            (origin.get("7"), origin.get("8"), origin.get("new"), origin.len()),
            (Some(&7), Some(&8), None, 1000)
        );
        assert_eq!((fork.get("7"), fork.get("8"), fork.get("new"), fork.len()), (Some(&-7), None, Some(&1), 1000));
        assert_eq!(origin.values().sum::<i32>(), 499_500);
    }
}
