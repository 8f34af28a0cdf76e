//! Local copies of all that scheduling looks at, and the view made from them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cumulo_api::Queue;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{
    DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::assumed::Assumed;
use super::dra::{Class, Inventory};
use super::known::Known;
use super::node::Node;
use super::pod::Pod;
use super::view::{Ours, View};
use crate::cache::{Cache, follow};
use crate::key::ObjectKey;
use crate::options::SchedulerOptions;

/// The copies.
pub(crate) struct Stores {
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) claims: Arc<Cache<Known<ResourceClaim>>>,
    pub(crate) templates: Arc<Cache<ResourceClaimTemplate>>,
    pub(crate) queues: Arc<Cache<Queue>>,
    nodes: Arc<Cache<v1::Node>>,
    slices: Arc<Cache<Known<ResourceSlice>>>,
    classes: Arc<Cache<Known<DeviceClass>>>,
    volume_claims: Arc<Cache<v1::PersistentVolumeClaim>>,
    volumes: Arc<Cache<v1::PersistentVolume>>,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    namespaces: Arc<Cache<v1::Namespace>>,
    priorities: Arc<Cache<PriorityClass>>,
    change: Notify,
    changed: AtomicBool,
    /// For the controller of claims, which looks at fewer kinds.
    pub(crate) claim_change: Notify,
    pub(crate) assumed: Assumed,
}

/// What is kept from one view to the next.
#[derive(Default)]
pub(crate) struct Memory {
    nodes: HashMap<String, (String, Arc<Node>)>,
    slices: Vec<Arc<Known<ResourceSlice>>>,
    inventory: Arc<Inventory>,
}

impl Stores {
    pub(crate) fn new() -> Self {
        Self {
            pods: Arc::new(Cache::new()),
            claims: Arc::new(Cache::new()),
            templates: Arc::new(Cache::new()),
            queues: Arc::new(Cache::new()),
            nodes: Arc::new(Cache::new()),
            slices: Arc::new(Cache::new()),
            classes: Arc::new(Cache::new()),
            volume_claims: Arc::new(Cache::new()),
            volumes: Arc::new(Cache::new()),
            budgets: Arc::new(Cache::new()),
            namespaces: Arc::new(Cache::new()),
            priorities: Arc::new(Cache::new()),
            change: Notify::new(),
            changed: AtomicBool::new(false),
            claim_change: Notify::new(),
            assumed: Assumed::default(),
        }
    }

    /// Says that something is to be decided about anew.
    pub(crate) fn touch(&self) {
        self.changed.store(true, Ordering::Release);
        self.change.notify_one();
    }

    /// Whether something changed since the last [`Self::next_change`].
    pub(crate) fn changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// Waits for a change, or for a moment.
    pub(crate) async fn next_change(&self, at: Option<Instant>) {
        let moment = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        if !self.changed() {
            tokio::select! {
                () = self.change.notified() => {}
                () = moment => {}
            }
        }
        self.changed.store(false, Ordering::Release);
    }

    /// Keeps all copies for as long as it is polled.
    pub(crate) async fn follow(&self, client: kube::Client) {
        tokio::join!(
            self.keep(&client, &self.pods, true),
            self.keep(&client, &self.claims, true),
            self.keep(&client, &self.templates, true),
            self.keep(&client, &self.queues, false),
            self.keep(&client, &self.nodes, false),
            self.keep(&client, &self.slices, false),
            self.keep(&client, &self.classes, false),
            self.keep(&client, &self.volume_claims, false),
            self.keep(&client, &self.volumes, false),
            self.keep(&client, &self.budgets, false),
            self.keep(&client, &self.namespaces, false),
            self.keep(&client, &self.priorities, false),
        );
    }

    async fn keep<K>(&self, client: &kube::Client, cache: &Arc<Cache<K>>, claims: bool)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let config = watcher::Config::default().any_semantic().page_size(1000);
        follow(Api::all(client.clone()), config, Arc::clone(cache), |_| {
            self.touch();
            if claims {
                self.claim_change.notify_one();
            }
        })
        .await;
    }

    /// Waits until every copy is whole.
    pub(crate) async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.claims.synced(),
            self.templates.synced(),
            self.queues.synced(),
            self.nodes.synced(),
            self.slices.synced(),
            self.classes.synced(),
            self.volume_claims.synced(),
            self.volumes.synced(),
            self.budgets.synced(),
            self.namespaces.synced(),
            self.priorities.synced(),
        );
    }

    /// What is there now.
    pub(crate) fn view(&self, options: &SchedulerOptions, memory: &mut Memory) -> View {
        let priorities = self.priorities.select(|_| true);
        let usual = priorities
            .iter()
            .find(|class| class.global_default == Some(true))
            .map_or(0, |class| class.value);
        let now = Timestamp::now();
        let mut claims = by_key(self.claims.select(|_| true));
        self.assumed.claims(&mut claims);
        View {
            now,
            pods: self.assumed.pods(self.pods.select(|_| true), now),
            nodes: memory.nodes(&self.nodes.select(|_| true)),
            claims,
            classes: Arc::new(classes(&self.classes.select(|_| true))),
            inventory: memory.inventory(self.slices.select(|_| true)),
            volume_claims: by_key(self.volume_claims.select(|_| true)),
            volumes: self
                .volumes
                .select(|_| true)
                .into_iter()
                .map(|volume| (volume.name_any(), volume))
                .collect(),
            budgets: self.budgets.select(|_| true),
            namespaces: Arc::new(
                self.namespaces
                    .select(|_| true)
                    .iter()
                    .map(|namespace| {
                        let labels = namespace.metadata.labels.clone().unwrap_or_default();
                        (namespace.name_any(), labels)
                    })
                    .collect(),
            ),
            priorities: priorities
                .iter()
                .map(|class| {
                    let preempts = class.preemption_policy.as_deref() != Some("Never");
                    (class.name_any(), (class.value, preempts))
                })
                .collect(),
            usual_priority: usual,
            queues: self
                .queues
                .select(|_| true)
                .into_iter()
                .map(|queue| (queue.name_any(), queue))
                .collect::<BTreeMap<_, _>>(),
            ours: Ours {
                name: options.name.clone(),
                default_scheduler: options.default_scheduler,
            },
        }
    }
}

impl Memory {
    /// Nodes, read anew only where they changed.
    fn nodes(&mut self, nodes: &[Arc<v1::Node>]) -> Vec<Arc<Node>> {
        let mut known = std::mem::take(&mut self.nodes);
        let mut all = Vec::with_capacity(nodes.len());
        for node in nodes {
            let version = node.metadata.resource_version.clone().unwrap_or_default();
            let name = node.name_any();
            let read = match known.remove(&name) {
                Some((seen, read)) if seen == version => read,
                _ => Arc::new(Node::of(node)),
            };
            self.nodes.insert(name, (version, Arc::clone(&read)));
            all.push(read);
        }
        all
    }

    fn inventory(&mut self, slices: Vec<Arc<Known<ResourceSlice>>>) -> Arc<Inventory> {
        let same = slices.len() == self.slices.len()
            && slices
                .iter()
                .zip(&self.slices)
                .all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            self.inventory = Arc::new(Inventory::of(&slices));
            for unusable in &self.inventory.unusable {
                tracing::warn!(
                    device = unusable.what,
                    why = unusable.why,
                    "a device is not used"
                );
            }
            self.slices = slices;
        }
        Arc::clone(&self.inventory)
    }
}

fn by_key<K: Resource>(objects: Vec<Arc<K>>) -> HashMap<ObjectKey, Arc<K>> {
    let keyed = objects.into_iter();
    keyed
        .map(|object| (ObjectKey::of(object.as_ref()), object))
        .collect()
}

/// Classes that are understood as a whole: with others, a claim waits.
fn classes(classes: &[Arc<Known<DeviceClass>>]) -> HashMap<String, Class> {
    let mut known = HashMap::new();
    for class in classes.iter().filter(|class| class.unknown.is_empty()) {
        let spec = &class.object.spec;
        let selectors = spec.selectors.iter().flatten();
        let selectors: Option<Vec<String>> = selectors
            .map(|selector| Some(selector.cel.as_ref()?.expression.clone()))
            .collect();
        if let Some(selectors) = selectors {
            let config = spec.config.clone().unwrap_or_default();
            known.insert(class.object.name_any(), Class { selectors, config });
        }
    }
    known
}
