//! The routing table: a pure reducer from watch events to routes.
//!
//! A service's requests may go to the pods that are ready, not being deleted,
//! and of the service's active revision; while the service names no active
//! revision, to any ready pod. The service's status decides when a new revision
//! takes over, so that the switch is one event.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

/// A service's name and namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The namespace of the InferenceService.
    pub namespace: String,
    /// Its name, also the name of the model in the protocol.
    pub name: String,
}

impl ServiceKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the gateway needs to know of an InferenceService.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Which service.
    pub key: ServiceKey,
    /// `status.activeRevision`: the revision that takes requests.
    pub active_revision: Option<String>,
    /// `status.modelVersion`, for the index.
    pub model_version: Option<String>,
    /// What the service waits for, from its conditions, when it isn't ready.
    pub waiting_for: Option<String>,
}

/// What the gateway needs to know of a pod of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRecord {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID: a pod made again under the same name is another replica.
    pub uid: String,
    /// The service it belongs to (label `cumulo.dev/inference-service`).
    pub service: String,
    /// The revision it runs (label `cumulo.dev/revision`).
    pub revision: Option<String>,
    /// Where its server listens, once the pod has an address.
    pub address: Option<SocketAddr>,
    /// Its `Ready` condition.
    pub ready: bool,
    /// It has a deletion timestamp.
    pub deleting: bool,
}

/// A change of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All services there are: what isn't listed is gone.
    Services(Vec<ServiceRecord>),
    /// A service was added or changed.
    Service(ServiceRecord),
    /// A service was deleted.
    ServiceDeleted(ServiceKey),
    /// All pods there are: what isn't listed is gone.
    Pods(Vec<PodRecord>),
    /// A pod was added or changed.
    Pod(PodRecord),
    /// A pod was deleted.
    PodDeleted {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
    },
}

/// A replica that may take requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The pod's UID.
    pub uid: String,
    /// The pod's name.
    pub pod: String,
    /// Where its server listens.
    pub address: SocketAddr,
}

/// A service's replicas and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The replicas that may take requests, in the order of their pods' names.
    pub targets: Vec<Target>,
    /// What the service waits for when it isn't ready.
    pub waiting_for: Option<String>,
    /// The model version that is served.
    pub model_version: Option<String>,
}

/// All services and their pods.
#[derive(Debug, Default)]
pub struct Table {
    services: BTreeMap<ServiceKey, ServiceRecord>,
    pods: BTreeMap<ServiceKey, BTreeMap<String, PodRecord>>,
    /// Which service a pod belongs to; its label may change.
    owners: BTreeMap<(String, String), ServiceKey>,
}

impl Table {
    /// Takes one event in; returns the services whose route may have changed.
    pub fn apply(&mut self, event: Event) -> BTreeSet<ServiceKey> {
        let mut changed = BTreeSet::new();
        match event {
            Event::Services(records) => {
                let old = std::mem::take(&mut self.services);
                for record in records {
                    if old.get(&record.key) != Some(&record) {
                        changed.insert(record.key.clone());
                    }
                    self.services.insert(record.key.clone(), record);
                }
                changed.extend(
                    old.into_keys()
                        .filter(|key| !self.services.contains_key(key)),
                );
            }
            Event::Service(record) => {
                if self.services.get(&record.key) != Some(&record) {
                    changed.insert(record.key.clone());
                    self.services.insert(record.key.clone(), record);
                }
            }
            Event::ServiceDeleted(key) => {
                if self.services.remove(&key).is_some() {
                    changed.insert(key);
                }
            }
            Event::Pods(records) => {
                let listed: BTreeSet<(String, String)> = records
                    .iter()
                    .map(|pod| (pod.namespace.clone(), pod.name.clone()))
                    .collect();
                let gone: Vec<(String, String)> = self
                    .owners
                    .keys()
                    .filter(|pod| !listed.contains(pod))
                    .cloned()
                    .collect();
                for (namespace, name) in gone {
                    changed.extend(self.remove_pod(namespace, name));
                }
                for record in records {
                    changed.extend(self.put_pod(record));
                }
            }
            Event::Pod(record) => changed.extend(self.put_pod(record)),
            Event::PodDeleted { namespace, name } => {
                changed.extend(self.remove_pod(namespace, name));
            }
        }
        changed
    }

    fn put_pod(&mut self, record: PodRecord) -> BTreeSet<ServiceKey> {
        let mut changed = BTreeSet::new();
        let owner = ServiceKey::new(&record.namespace, &record.service);
        let pod = (record.namespace.clone(), record.name.clone());
        let before = self.owners.insert(pod, owner.clone());
        if let Some(before) = before.filter(|before| *before != owner) {
            self.forget(&before, &record.name);
            changed.insert(before);
        }
        let pods = self.pods.entry(owner.clone()).or_default();
        if pods.get(&record.name) != Some(&record) {
            pods.insert(record.name.clone(), record);
            changed.insert(owner);
        }
        changed
    }

    fn remove_pod(&mut self, namespace: String, name: String) -> Option<ServiceKey> {
        let owner = self.owners.remove(&(namespace, name.clone()))?;
        self.forget(&owner, &name);
        Some(owner)
    }

    fn forget(&mut self, owner: &ServiceKey, pod: &str) {
        if let Some(pods) = self.pods.get_mut(owner) {
            pods.remove(pod);
            if pods.is_empty() {
                self.pods.remove(owner);
            }
        }
    }

    /// The route of a service, if there is such a service.
    pub fn route(&self, key: &ServiceKey) -> Option<Route> {
        let service = self.services.get(key)?;
        let targets = self
            .pods
            .get(key)
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|pod| pod.ready && !pod.deleting)
            .filter(|pod| {
                service
                    .active_revision
                    .as_ref()
                    .is_none_or(|active| pod.revision.as_ref() == Some(active))
            })
            .filter_map(|pod| {
                Some(Target {
                    uid: pod.uid.clone(),
                    pod: pod.name.clone(),
                    address: pod.address?,
                })
            })
            .collect();
        Some(Route {
            targets,
            waiting_for: service.waiting_for.clone(),
            model_version: service.model_version.clone(),
        })
    }

    /// All services, in order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceRecord> {
        self.services.values()
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
