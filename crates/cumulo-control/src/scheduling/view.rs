//! Everything that a decision is made from, and what of it concerns each pod.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cumulo_api::{Queue, labels};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::jiff::Timestamp;

use super::dra::{self, Class, Inventory, Wish};
use super::known::Known;
use super::node::Node;
use super::pod::Pod;
use super::room::Demand;
use super::selector::{Labels, Selector, node_terms};
use super::volumes;
use crate::key::ObjectKey;

/// Most pods that one claim serves (Kubernetes' bound).
const MOST_RESERVED: usize = 256;
/// Annotation of pods that a node made from its own files: nobody can end them.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is there.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) pods: Vec<Arc<Pod>>,
    /// In the order of their names.
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) claims: HashMap<ObjectKey, Arc<Known<ResourceClaim>>>,
    pub(crate) classes: Arc<HashMap<String, Class>>,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) volume_claims: HashMap<ObjectKey, Arc<PersistentVolumeClaim>>,
    pub(crate) volumes: HashMap<String, Arc<PersistentVolume>>,
    pub(crate) budgets: Vec<Arc<PodDisruptionBudget>>,
    pub(crate) namespaces: Arc<HashMap<String, Labels>>,
    /// Value and whether it preempts, by PriorityClass.
    pub(crate) priorities: HashMap<String, (i32, bool)>,
    /// The class of pods that name none.
    pub(crate) usual_priority: i32,
    pub(crate) queues: BTreeMap<String, Arc<Queue>>,
    /// Whether a scheduler's name in a pod's spec means this one.
    pub(crate) ours: Ours,
}

/// Which pods this scheduler places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ours {
    /// Its name.
    pub(crate) name: String,
    /// Also the pods of the default scheduler.
    pub(crate) default_scheduler: bool,
}

impl Ours {
    fn includes(&self, name: &str) -> bool {
        name == self.name || (self.default_scheduler && matches!(name, "" | "default-scheduler"))
    }
}

/// A pod that waits for a node.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) pod: Arc<Pod>,
    pub(crate) demand: Demand,
    pub(crate) priority: i32,
    pub(crate) preempts: bool,
    /// Claims that have no devices yet.
    pub(crate) wishes: Vec<(ObjectKey, Wish)>,
    /// Claims that have devices already.
    pub(crate) allocated: Vec<ObjectKey>,
    /// Its Queue; empty when it is in none.
    pub(crate) queue: String,
    pub(crate) gang: Option<Gang>,
}

/// Pods that start together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Gang {
    pub(crate) key: ObjectKey,
    pub(crate) size: usize,
}

/// Pods, sorted by what is to be done about them.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// On a node that is there.
    pub(crate) bound: Vec<(Arc<Pod>, usize)>,
    pub(crate) waiting: Vec<Waiting>,
    /// Not to be looked at yet, each with a sentence.
    pub(crate) held_back: Vec<(Arc<Pod>, String)>,
}

impl View {
    /// Sorts the pods.
    pub(crate) fn intake(&self) -> Intake {
        let positions: HashMap<&str, usize> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(at, node)| (node.name.as_str(), at))
            .collect();
        let mut intake = Intake::default();
        let mut candidates = Vec::new();
        for pod in &self.pods {
            if pod.finished() {
                continue;
            }
            if let Some(node) = &pod.node {
                if let Some(at) = positions.get(node.as_str()) {
                    intake.bound.push((Arc::clone(pod), *at));
                }
            } else if !pod.deleting() && !pod.spec.gated && self.ours.includes(&pod.spec.scheduler)
            {
                candidates.push(pod);
            }
        }
        let mounted = self.mounted(&candidates);
        for pod in candidates {
            match self.waiting(pod, &mounted) {
                Ok(waiting) => intake.waiting.push(waiting),
                Err(sentence) => intake.held_back.push((Arc::clone(pod), sentence)),
            }
        }
        self.whole_gangs(&mut intake);
        intake
    }

    /// Volume claims of running pods, as far as candidates ask for any.
    fn mounted(&self, candidates: &[&Arc<Pod>]) -> HashSet<ObjectKey> {
        if candidates.iter().all(|pod| pod.spec.volumes.is_empty()) {
            return HashSet::new();
        }
        let running = self.pods.iter().filter(|pod| pod.runs());
        running
            .flat_map(|pod| {
                let volumes = pod.spec.volumes.iter();
                volumes.map(|name| ObjectKey::new(pod.namespace(), name))
            })
            .collect()
    }

    fn waiting(&self, pod: &Arc<Pod>, mounted: &HashSet<ObjectKey>) -> Result<Waiting, String> {
        let spec = &pod.spec;
        if !spec.unknown.is_empty() {
            return Err(format!(
                "it has constraints that this scheduler does not understand: {}",
                spec.unknown.join(", ")
            ));
        }
        let mut bound = volumes::reach(
            pod,
            |key| self.volume_claims.get(key).map(AsRef::as_ref),
            |name| self.volumes.get(name).map(AsRef::as_ref),
            |key| mounted.contains(key),
        )?;
        let (mut wishes, mut allocated) = (Vec::new(), Vec::new());
        for key in self.claims_of(pod)? {
            let Some(claim) = self.claims.get(&key) else {
                return Err(format!("waits for ResourceClaim {}", key.name));
            };
            if claim.object.metadata.deletion_timestamp.is_some() {
                return Err(format!("ResourceClaim {} is being deleted", key.name));
            }
            let status = claim.object.status.as_ref();
            match status.and_then(|status| status.allocation.as_ref()) {
                Some(allocation) => {
                    let users = status.and_then(|status| status.reserved_for.as_ref());
                    let users = users.map(Vec::as_slice).unwrap_or_default();
                    if users.len() >= MOST_RESERVED
                        && !users.iter().any(|user| user.uid == pod.uid())
                    {
                        return Err(format!(
                            "ResourceClaim {} serves {MOST_RESERVED} pods already",
                            key.name
                        ));
                    }
                    if let Some(selector) = &allocation.node_selector {
                        let terms = node_terms(selector).map_err(|what| {
                            format!("the allocation of ResourceClaim {}: {what}", key.name)
                        })?;
                        bound.push(terms);
                    }
                    allocated.push(key);
                }
                None => {
                    let wish = Wish::of(claim)
                        .map_err(|what| format!("ResourceClaim {}: {what}", key.name))?;
                    for class in wish.classes() {
                        if !self.classes.contains_key(class) {
                            return Err(format!("waits for DeviceClass {class}"));
                        }
                    }
                    wishes.push((key, wish));
                }
            }
        }
        if spec.claims.is_empty()
            && dra::gpu::published(&self.inventory)
            && let Some(wish) = dra::gpu::wish(pod)?
        {
            wishes.push((no_claim(pod), wish));
        }
        let queue = pod.labels().get(labels::QUEUE).cloned().unwrap_or_default();
        self.may_use(&queue, pod)?;
        let (priority, preempts) = self.priority(pod);
        let preempts = preempts
            && self.queues.get(&queue).is_none_or(|queue| {
                queue.spec.preemption_policy != Some(cumulo_api::queue::PreemptionPolicy::Never)
            });
        Ok(Waiting {
            demand: Demand {
                place: Arc::clone(&spec.place),
                bound,
            },
            priority,
            preempts,
            wishes,
            allocated,
            queue,
            gang: gang(pod)?,
            pod: Arc::clone(pod),
        })
    }

    /// Whether a pod may wait in a Queue.
    fn may_use(&self, name: &str, pod: &Pod) -> Result<(), String> {
        if name.is_empty() {
            return Ok(());
        }
        let Some(queue) = self.queues.get(name) else {
            return Err(format!("waits for Queue {name}, which does not exist"));
        };
        let mut at = queue;
        for _ in 0..=self.queues.len() {
            let Some(parent) = &at.spec.parent else {
                return match &queue.spec.namespace_selector {
                    Some(selector) if !self.selects_namespace(selector, pod.namespace()) => {
                        Err(format!(
                            "Queue {name} is not for namespace {}: see its namespaceSelector",
                            pod.namespace()
                        ))
                    }
                    _ => Ok(()),
                };
            };
            match self.queues.get(parent) {
                Some(parent) => at = parent,
                None => {
                    return Err(format!(
                        "Queue {name} lies under Queue {parent}, which does not exist"
                    ));
                }
            }
        }
        Err(format!("Queue {name} lies under itself"))
    }

    fn selects_namespace(
        &self,
        selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
        namespace: &str,
    ) -> bool {
        let labels = self.namespaces.get(namespace);
        match (Selector::read(Some(selector)), labels) {
            (Ok(selector), Some(labels)) => selector.matches(labels),
            _ => false,
        }
    }

    /// A pod's priority, and whether it may displace others.
    pub(crate) fn priority(&self, pod: &Pod) -> (i32, bool) {
        let spec = &pod.spec;
        let class = spec.priority_class.as_ref();
        let class = class.and_then(|name| match name.as_str() {
            "system-node-critical" => Some((2_000_001_000, true)),
            "system-cluster-critical" => Some((2_000_000_000, true)),
            _ => self.priorities.get(name).copied(),
        });
        let (priority, preempts) = class.unwrap_or((self.usual_priority, true));
        let mut priority = spec.priority.unwrap_or(priority);
        // Between work of Queues, what its owner says, where no class does.
        if spec.priority_class.is_none() && pod.labels().contains_key(labels::QUEUE) {
            let own = pod
                .mark(labels::PRIORITY)
                .and_then(|text| text.parse::<i32>().ok());
            priority = own.map_or(priority, |own| own.clamp(-1000, 1000));
        }
        (priority, spec.preempts && preempts)
    }

    /// The objects of a pod's claims.
    pub(crate) fn claims_of(&self, pod: &Pod) -> Result<Vec<ObjectKey>, String> {
        let mut keys = Vec::new();
        for (name, object) in &pod.spec.claims {
            let generated = pod.status.claims.get(name);
            match (object, generated) {
                (Some(object), _) => keys.push(ObjectKey::new(pod.namespace(), object)),
                (None, Some(Some(object))) => {
                    let key = ObjectKey::new(pod.namespace(), object);
                    let own = self.claims.get(&key).is_none_or(|claim| {
                        let owners = claim.object.metadata.owner_references.iter().flatten();
                        owners.into_iter().any(|owner| owner.uid == pod.uid())
                    });
                    if !own {
                        return Err(format!("ResourceClaim {object} was not made for this pod"));
                    }
                    keys.push(key);
                }
                // None was needed.
                (None, Some(None)) => {}
                (None, None) => {
                    return Err(format!(
                        "waits for the ResourceClaim {name} to be made from its template"
                    ));
                }
            }
        }
        Ok(keys)
    }

    /// Holds gangs back whose pods are not all there.
    fn whole_gangs(&self, intake: &mut Intake) {
        let mut there: HashMap<ObjectKey, usize> = HashMap::new();
        let bound = intake.bound.iter().map(|(pod, _)| gang_key(pod));
        let waiting = intake.waiting.iter().map(|one| gang_key(&one.pod));
        for key in bound.chain(waiting).flatten() {
            *there.entry(key).or_default() += 1;
        }
        let mut held_back = Vec::new();
        intake.waiting.retain(|one| {
            let Some(gang) = &one.gang else {
                return true;
            };
            let count = there.get(&gang.key).copied().unwrap_or(0);
            if count < gang.size {
                let sentence = format!(
                    "its gang {} starts with {} pods, of which {count} are there and ready to start",
                    gang.key.name, gang.size
                );
                held_back.push((Arc::clone(&one.pod), sentence));
            }
            count >= gang.size
        });
        intake.held_back.extend(held_back);
    }

    /// The pods that may be ended for others, by what disruption budgets leave.
    pub(crate) fn endable(&self, bound: &[(Arc<Pod>, usize)]) -> HashSet<String> {
        let mut budgets: Vec<(String, Selector, i32)> = Vec::new();
        for budget in &self.budgets {
            let spec = budget.spec.as_ref();
            let selector = Selector::read(spec.and_then(|spec| spec.selector.as_ref()));
            let status = budget.status.as_ref();
            let allowed = status.map_or(0, |status| status.disruptions_allowed);
            // One that is not understood allows nothing to anybody it may mean.
            let (selector, allowed) = match selector {
                Ok(selector) => (selector, allowed),
                Err(_) => (
                    Selector {
                        requirements: Some(Vec::new()),
                    },
                    0,
                ),
            };
            budgets.push((
                budget.metadata.namespace.clone().unwrap_or_default(),
                selector,
                allowed,
            ));
        }
        let mut order: Vec<&Arc<Pod>> = bound.iter().map(|(pod, _)| pod).collect();
        // Those that are looked at first may go: the least important, then the youngest.
        order.sort_by_key(|pod| {
            (
                self.priority(pod).0,
                std::cmp::Reverse(pod.created()),
                pod.key(),
            )
        });
        let mut endable = HashSet::new();
        for pod in order {
            let mirror = pod.metadata.annotations.as_ref();
            if pod.deleting() || mirror.is_some_and(|all| all.contains_key(MIRROR)) {
                continue;
            }
            let mut covering: Vec<&mut i32> = budgets
                .iter_mut()
                .filter(|(namespace, selector, _)| {
                    namespace == pod.namespace() && selector.matches(pod.labels())
                })
                .map(|(_, _, allowed)| allowed)
                .collect();
            if covering.iter().all(|allowed| **allowed > 0) {
                for allowed in &mut covering {
                    **allowed -= 1;
                }
                endable.insert(pod.uid().to_owned());
            }
        }
        endable
    }
}

/// What stands for a claim where a pod asks for GPUs without one: no object has
/// such a name.
pub(crate) fn no_claim(pod: &Pod) -> ObjectKey {
    ObjectKey::new(pod.namespace(), format!("{}/gpu", pod.name()))
}

fn gang_key(pod: &Pod) -> Option<ObjectKey> {
    let name = pod
        .labels()
        .get(labels::GANG)
        .filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(pod.namespace(), name))
}

/// The gang that a pod belongs to.
pub(crate) fn gang(pod: &Pod) -> Result<Option<Gang>, String> {
    let Some(key) = gang_key(pod) else {
        return Ok(None);
    };
    let text = pod.mark(labels::GANG_SIZE);
    let size = text.and_then(|text| text.parse::<usize>().ok());
    match size.filter(|size| (1..=10_000).contains(size)) {
        Some(size) => Ok(Some(Gang { key, size })),
        None => Err(format!(
            "it belongs to gang {} and says with {} how many pods start together, which is not a number from 1 to 10000: {:?}",
            key.name,
            labels::GANG_SIZE,
            text.unwrap_or_default()
        )),
    }
}
