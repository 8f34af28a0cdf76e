//! Which node takes a pod. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node as KubeNode, Pod, Taint, Toleration};
use kube::ResourceExt;

use super::quantity::{milli, show_bytes, show_cpu};

/// What a pod asks for, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Requests {
    pub(crate) cpu: u128,
    pub(crate) memory: u128,
}

impl Requests {
    /// The sum over the containers, or the largest init container, if that is more.
    pub(crate) fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else {
            return Self::default();
        };
        let one = |container: &Container| {
            let requests = container
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref());
            let amount = |name: &str| {
                let quantity = requests.and_then(|requests| requests.get(name));
                quantity
                    .and_then(|quantity| milli(&quantity.0))
                    .unwrap_or(0)
            };
            Self {
                cpu: amount("cpu"),
                memory: amount("memory"),
            }
        };
        let sum = spec
            .containers
            .iter()
            .map(one)
            .fold(Self::default(), |sum, one| Self {
                cpu: sum.cpu + one.cpu,
                memory: sum.memory + one.memory,
            });
        spec.init_containers
            .iter()
            .flatten()
            .map(one)
            .fold(sum, |most, one| Self {
                cpu: most.cpu.max(one.cpu),
                memory: most.memory.max(one.memory),
            })
    }
}

/// A node with what is left of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub(crate) name: String,
    ready: bool,
    cordoned: bool,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    free: Requests,
    all: Requests,
    free_pods: u128,
}

impl Node {
    /// An empty node.
    pub(crate) fn of(node: &KubeNode) -> Self {
        let status = node.status.as_ref();
        let allocatable =
            status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let amount = |name: &str| {
            let quantity = allocatable.and_then(|allocatable| allocatable.get(name));
            quantity.and_then(|quantity| milli(&quantity.0))
        };
        let all = Requests {
            cpu: amount("cpu").unwrap_or(0),
            memory: amount("memory").unwrap_or(0),
        };
        let mut conditions = status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        Self {
            name: node.name_any(),
            ready: conditions
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            cordoned: node
                .spec
                .as_ref()
                .and_then(|spec| spec.unschedulable)
                .unwrap_or(false),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: node
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default(),
            free: all,
            all,
            free_pods: amount("pods").map_or(110, |milli| milli / 1000),
        }
    }

    /// Takes what a pod asks for off what is left.
    pub(crate) fn take(&mut self, requests: &Requests) {
        self.free.cpu = self.free.cpu.saturating_sub(requests.cpu);
        self.free.memory = self.free.memory.saturating_sub(requests.memory);
        self.free_pods = self.free_pods.saturating_sub(1);
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> Requests {
        self.free
    }

    /// Why a pod cannot come here; `None` when it can.
    fn refuses(&self, pod: &Pod, requests: &Requests) -> Option<String> {
        let spec = pod.spec.as_ref();
        if !self.ready {
            return Some("is not ready".to_owned());
        }
        if self.cordoned {
            return Some("takes no new pods".to_owned());
        }
        let mut selector = spec
            .and_then(|spec| spec.node_selector.as_ref())
            .into_iter()
            .flatten();
        if let Some((name, value)) =
            selector.find(|(name, value)| self.labels.get(*name) != Some(value))
        {
            return Some(format!("lacks the label {name}={value}"));
        }
        let tolerations = spec
            .and_then(|spec| spec.tolerations.as_deref())
            .unwrap_or_default();
        let taint = self.taints.iter().find(|taint| {
            taint.effect != "PreferNoSchedule"
                && !tolerations.iter().any(|one| tolerates(one, taint))
        });
        if let Some(taint) = taint {
            return Some(format!("has the taint {}", taint.key));
        }
        if self.free_pods == 0 {
            return Some("is full of pods".to_owned());
        }
        let short = |wanted: u128, free: u128, all: u128, show: fn(u128) -> String| {
            (wanted > free).then(|| {
                if wanted > all {
                    format!("has only {}", show(all))
                } else {
                    format!("has {} free of {}", show(free), show(all))
                }
            })
        };
        short(requests.cpu, self.free.cpu, self.all.cpu, show_cpu).or_else(|| {
            short(
                requests.memory,
                self.free.memory,
                self.all.memory,
                show_bytes,
            )
        })
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || (key.is_empty() && exists))
        && (exists
            || toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default())
}

/// The name of the first node, in the order of names, that fits a pod; or a
/// sentence that says why none does.
pub(crate) fn choose(pod: &Pod, requests: &Requests, nodes: &[Node]) -> Result<String, String> {
    let mut reasons = Vec::new();
    let mut sorted: Vec<&Node> = nodes.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for node in sorted {
        match node.refuses(pod, requests) {
            None => return Ok(node.name.clone()),
            Some(reason) => reasons.push(format!("{} {reason}", node.name)),
        }
    }
    if reasons.is_empty() {
        return Err("there is no node: start one with `cumulo up` or `cumulo node`".to_owned());
    }
    const MOST: usize = 5;
    let more = reasons.len().saturating_sub(MOST);
    reasons.truncate(MOST);
    let mut sentence = format!(
        "no node has room for {} and {}: {}",
        show_cpu(requests.cpu),
        show_bytes(requests.memory),
        reasons.join("; ")
    );
    if more > 0 {
        sentence.push_str(&format!("; and {more} more"));
    }
    Err(sentence)
}
