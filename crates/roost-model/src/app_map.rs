//! A map by app name of which a changed copy costs little, however large it is.
//!
//! It is in [`SHARDS`] parts that copies share until one of them is changed. So a copy with one
//! app changed costs a part, and two copies are compared by looking at the parts that differ.

use crate::name::AppName;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};

/// Parts of a map. At 100,000 apps one has some 400.
pub const SHARDS: usize = 256;

/// The same for all maps, so that equal names are in equal parts of them.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

type Shard<V> = HashMap<AppName, V, RandomState>;

/// A map by app name; see the module.
#[derive(Debug, Clone)]
pub struct AppMap<V> {
    shards: Vec<Arc<Shard<V>>>,
}

impl<V> Default for AppMap<V> {
    fn default() -> Self {
        let empty = Arc::new(Shard::with_hasher(HASHER.clone()));
        Self {
            shards: vec![empty; SHARDS],
        }
    }
}

fn shard_of(name: &str) -> usize {
    // The low bits choose a place in the part, so the high ones choose the part.
    usize::try_from(HASHER.hash_one(name) >> 32).unwrap_or(0) % SHARDS
}

impl<V> AppMap<V> {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is kept for an app.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.shards[shard_of(name)].get(name)
    }

    /// The same, with the app's name.
    pub fn get_key_value(&self, name: &str) -> Option<(&AppName, &V)> {
        self.shards[shard_of(name)].get_key_value(name)
    }

    /// All apps, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&AppName, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// What is kept for each app, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// How many apps there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }
}

impl<V: Clone> AppMap<V> {
    /// Keeps this for an app; what was kept before.
    pub fn insert(&mut self, name: AppName, value: V) -> Option<V> {
        let shard = &mut self.shards[shard_of(name.as_str())];
        Arc::make_mut(shard).insert(name, value)
    }

    /// Forgets an app; what was kept.
    pub fn remove(&mut self, name: &str) -> Option<V> {
        let shard = &mut self.shards[shard_of(name)];
        // One that is not there is no reason for a copy.
        shard.get(name)?;
        Arc::make_mut(shard).remove(name)
    }

    /// What is kept for an app, to be changed; an empty one if there was none.
    pub fn get_or_default(&mut self, name: AppName) -> &mut V
    where
        V: Default,
    {
        let shard = &mut self.shards[shard_of(name.as_str())];
        Arc::make_mut(shard).entry(name).or_default()
    }
}

impl<V: PartialEq> AppMap<V> {
    /// The apps for which two maps keep something else, or only one keeps anything.
    pub fn changed<'a>(&'a self, other: &'a Self) -> Vec<&'a AppName> {
        let mut names = Vec::new();
        for (ours, theirs) in self.shards.iter().zip(&other.shards) {
            if Arc::ptr_eq(ours, theirs) {
                continue;
            }
            let differs =
                |(name, value): &(&AppName, &V)| theirs.get(name.as_str()) != Some(*value);
            names.extend(ours.iter().filter(differs).map(|(name, _)| name));
            let is_new = |name: &&AppName| !ours.contains_key(name.as_str());
            names.extend(theirs.keys().filter(is_new));
        }
        names
    }
}

impl<V: PartialEq> AppMap<Arc<V>> {
    /// Keeps of another map what is the same in it.
    pub fn share(&mut self, other: &Self) {
        for (ours, theirs) in self.shards.iter_mut().zip(&other.shards) {
            if *ours == *theirs {
                ours.clone_from(theirs);
                continue;
            }
            for (name, value) in Arc::make_mut(ours) {
                if let Some(same) = theirs.get(name.as_str()).filter(|it| *it == value) {
                    value.clone_from(same);
                }
            }
        }
    }
}

impl<V> std::ops::Index<&AppName> for AppMap<V> {
    type Output = V;

    /// What is kept for an app that is there; panics for one that is not.
    fn index(&self, name: &AppName) -> &V {
        self.get(name.as_str()).expect("the app is in the map")
    }
}

impl<V: PartialEq> PartialEq for AppMap<V> {
    fn eq(&self, other: &Self) -> bool {
        self.shards == other.shards
    }
}

impl<V: Clone, T: Into<V>> FromIterator<(AppName, T)> for AppMap<V> {
    fn from_iter<I: IntoIterator<Item = (AppName, T)>>(apps: I) -> Self {
        let mut map = Self::new();
        for (name, value) in apps {
            map.insert(name, value.into());
        }
        map
    }
}

impl<V: Clone, T: Into<V>, const N: usize> From<[(AppName, T); N]> for AppMap<V> {
    fn from(apps: [(AppName, T); N]) -> Self {
        apps.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::AppMap;
    use crate::name::AppName;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    fn name(number: u8) -> AppName {
        AppName::parse(&format!("app-{number}")).unwrap()
    }

    proptest! {
        /// It is a map, copies do not see each other's changes, and what has changed between
        /// two copies is found.
        #[test]
        fn a_copy_differs_by_what_was_changed(
            before in prop::collection::btree_map(any::<u8>(), any::<u8>(), 0..50),
            changes in prop::collection::vec((any::<u8>(), any::<Option<u8>>()), 0..50),
        ) {
            let old: AppMap<u8> = before.iter().map(|(&key, &value)| (name(key), value)).collect();
            let (mut new, mut after) = (old.clone(), before.clone());
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        prop_assert_eq!(new.insert(name(key), value), after.insert(key, value));
                    }
                    None => prop_assert_eq!(new.remove(name(key).as_str()), after.remove(&key)),
                }
            }
            let same = |map: &AppMap<u8>, model: &BTreeMap<u8, u8>| {
                map.len() == model.len()
                    && model.iter().all(|(key, value)| map.get(name(*key).as_str()) == Some(value))
            };
            prop_assert!(same(&old, &before));
            prop_assert!(same(&new, &after));
            let keys: BTreeSet<u8> = before.keys().chain(after.keys()).copied().collect();
            let differs = |key: &&u8| before.get(key) != after.get(key);
            let expected: BTreeSet<AppName> = keys.iter().filter(differs).map(|key| name(*key)).collect();
            let changed: BTreeSet<AppName> = old.changed(&new).into_iter().cloned().collect();
            prop_assert_eq!(&changed, &expected);
            prop_assert_eq!(old == new, expected.is_empty());
        }
    }

    #[test]
    fn what_is_the_same_is_shared() {
        let map = |last: u8| -> AppMap<Arc<u8>> {
            (0..=255)
                .map(|n| (name(n), if n == 255 { last } else { n }))
                .collect()
        };
        let (old, mut new) = (map(1), map(2));
        let shared = |new: &AppMap<Arc<u8>>, n| Arc::ptr_eq(&old[&name(n)], &new[&name(n)]);
        assert!((0..=255).all(|n| !shared(&new, n)));
        new.share(&old);
        assert!((0..255).all(|n| shared(&new, n)));
        assert_eq!((*old[&name(255)], *new[&name(255)]), (1, 2));
        assert_eq!(old.changed(&new), [&name(255)]);
    }

    #[test]
    fn what_is_asked_for_is_made() {
        let mut map = AppMap::<Vec<u8>>::new();
        map.get_or_default(name(1)).push(1);
        map.get_or_default(name(1)).push(2);
        assert_eq!(map.values().collect::<Vec<_>>(), [&vec![1, 2]]);
        assert!(!map.is_empty() && map.remove("app-2").is_none());
    }
}
