//! Local copies of what the API server holds, kept by watches.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::key::ObjectKey;

/// Most deletions remembered; see [`Cache::offer`].
const MOST_TOMBSTONES: usize = 4096;

/// Objects of one kind by key. Answers of our own writes go in at once, so that
/// the next reconciliation sees what the last one did.
pub(crate) struct Cache<K> {
    state: RwLock<State<K>>,
    synced: tokio::sync::watch::Sender<bool>,
}

struct State<K> {
    objects: HashMap<ObjectKey, Arc<K>>,
    /// Versions at which objects were deleted: the answer of a write that was
    /// overtaken by the deletion must not bring the object back.
    tombstones: HashMap<ObjectKey, u64>,
}

impl<K: Resource> Cache<K> {
    pub(crate) fn new() -> Self {
        Self {
            state: RwLock::new(State {
                objects: HashMap::new(),
                tombstones: HashMap::new(),
            }),
            synced: tokio::sync::watch::channel(false).0,
        }
    }

    /// One object.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.objects.get(key).cloned()
    }

    /// The objects that a condition holds for, in the order of their keys.
    pub(crate) fn select(&self, condition: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = state
            .objects
            .iter()
            .filter(|(_, object)| condition(object))
            .collect();
        found.sort_by_key(|(key, _)| *key);
        found
            .into_iter()
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Takes an object in unless a newer one is known.
    pub(crate) fn offer(&self, mut object: K) {
        // Large and of no use here.
        object.meta_mut().managed_fields = None;
        let key = ObjectKey::of(&object);
        let version = version(&object);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state
            .tombstones
            .get(&key)
            .is_some_and(|deleted| *deleted >= version)
        {
            return;
        }
        let known = state.objects.get(&key);
        if known.is_none_or(|known| self::version(known.as_ref()) <= version) {
            state.objects.insert(key, Arc::new(object));
        }
    }

    /// Takes a deletion in.
    pub(crate) fn remove(&self, object: &K) {
        let key = ObjectKey::of(object);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.tombstones.len() >= MOST_TOMBSTONES {
            state.tombstones.clear();
        }
        state.objects.remove(&key);
        state.tombstones.insert(key, version(object));
    }

    /// Keeps only the objects with these keys; returns the others.
    fn retain(&self, listed: &HashSet<ObjectKey>) -> Vec<Arc<K>> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<_> = state
            .objects
            .keys()
            .filter(|key| !listed.contains(key))
            .cloned()
            .collect();
        gone.iter()
            .filter_map(|key| state.objects.remove(key))
            .collect()
    }

    /// Waits for the first full list.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as the cache.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }
}

/// Resource versions are opaque in general but numbers on every server there
/// is, and since Kubernetes 1.35 comparable by promise (KEP-5504).
fn version<K: Resource>(object: &K) -> u64 {
    let version = object.meta().resource_version.as_deref();
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Keeps a cache by a watch for as long as it is polled; says which objects changed.
pub(crate) async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    cache: Arc<Cache<K>>,
    changed: impl Fn(&K),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let mut events = pin!(watch(api, config).default_backoff());
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(ObjectKey::of(&object));
                cache.offer(object.clone());
                if *cache.synced.borrow() {
                    changed(&object);
                }
            }
            Ok(Event::InitDone) => {
                for object in cache.retain(&listed) {
                    changed(&object);
                }
                // Everything is looked at once the lists of all kinds are whole.
                cache.synced.send_replace(true);
                listed = HashSet::new();
            }
            Ok(Event::Apply(object)) => {
                cache.offer(object.clone());
                changed(&object);
            }
            Ok(Event::Delete(object)) => {
                cache.remove(&object);
                changed(&object);
            }
            // A kind that the server does not have has no objects.
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
                if status.code == 404 =>
            {
                cache.synced.send_replace(true);
            }
            Err(error) => tracing::warn!(kind, %error, "watch interrupted"),
        }
    }
}
