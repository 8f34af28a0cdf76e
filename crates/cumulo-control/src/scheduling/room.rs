//! What there is of room, and whether one more pod has it: the exact check that
//! every decision must pass, whoever made it. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use cumulo_schedule::solver::Resources;

use super::nearby::Nearby;
use super::node::Node;
use super::pod::{HostPort, Place, Pod};
use super::quantity::show;
use super::selector::{Labels, NodeTerm, selects};

/// What a pod demands of its node whatever runs there: its own wishes, and those
/// of its volumes and of claims that have devices already.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Demand {
    pub(crate) place: Arc<Place>,
    /// Of each list of terms, one must hold.
    pub(crate) bound: Vec<Vec<NodeTerm>>,
}

impl Demand {
    /// Why a node does not do; `None` when it does.
    pub(crate) fn unmet(&self, node: &Node) -> Option<String> {
        node.refuses(&self.place).or_else(|| {
            self.bound
                .iter()
                .any(|terms| !selects(terms, &node.name, &node.labels))
                .then(|| "is out of reach of its volumes or claimed devices".to_owned())
        })
    }
}

/// A node with what runs there.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) used: Resources,
    ports: Vec<(String, HostPort)>,
}

/// Why a node does not take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum No {
    /// Nothing that ends changes it.
    Place(String),
    /// What runs has too much of a resource: asked, free, all.
    Short {
        resource: String,
        asked: u64,
        free: u64,
        all: u64,
    },
    /// What runs there or nearby is in the way.
    Others(String),
}

impl No {
    /// As said of the node.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Place(text) | Self::Others(text) => text.clone(),
            Self::Short {
                resource,
                asked,
                free,
                all,
            } => {
                if asked > all {
                    format!("has only {}", show(resource, *all))
                } else {
                    format!(
                        "has {} free of {}",
                        show(resource, *free),
                        show(resource, *all)
                    )
                }
            }
        }
    }
}

/// All nodes with what runs there.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) sites: Vec<Site>,
    by_name: HashMap<String, usize>,
    pub(crate) nearby: Nearby,
    pub(crate) namespaces: Arc<HashMap<String, Labels>>,
}

impl Room {
    /// Empty nodes. `nearby` has been told what is asked about.
    pub(crate) fn new(
        nodes: Vec<Arc<Node>>,
        nearby: Nearby,
        namespaces: Arc<HashMap<String, Labels>>,
    ) -> Self {
        let sites = nodes
            .iter()
            .map(|_| Site {
                used: Resources::default(),
                ports: Vec::new(),
            })
            .collect();
        let by_name = nodes.iter().enumerate();
        Self {
            by_name: by_name.map(|(at, node)| (node.name.clone(), at)).collect(),
            nodes,
            sites,
            nearby,
            namespaces,
        }
    }

    /// Position of a node.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Counts a pod on a node.
    pub(crate) fn add(&mut self, pod: &Pod, at: usize) {
        let site = &mut self.sites[at];
        add(&mut site.used, &pod.spec.requests);
        let ports = pod.spec.ports.iter();
        site.ports
            .extend(ports.map(|port| (pod.uid().to_owned(), port.clone())));
        self.nearby
            .count(pod, at, &self.nodes[at], &self.namespaces, 1);
    }

    /// Takes a pod off again.
    pub(crate) fn remove(&mut self, pod: &Pod, at: usize) {
        let site = &mut self.sites[at];
        subtract(&mut site.used, &pod.spec.requests);
        site.ports.retain(|(uid, _)| uid != pod.uid());
        self.nearby
            .count(pod, at, &self.nodes[at], &self.namespaces, -1);
    }

    /// Whether a pod may be bound to a node now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, pod: &Pod, demand: &Demand, at: usize) -> Result<(), No> {
        let node = &self.nodes[at];
        if let Some(text) = demand.unmet(node) {
            return Err(No::Place(text));
        }
        self.fits(pod, at)?;
        let taken = &self.sites[at].ports;
        for port in &pod.spec.ports {
            if taken.iter().any(|(_, other)| other.conflicts(port)) {
                return Err(No::Others(format!(
                    "has its port {}/{} taken",
                    port.port, port.protocol
                )));
            }
        }
        if let Some(text) = self.nearby.refuses(pod, node, &self.namespaces) {
            return Err(No::Others(text));
        }
        for spread in pod.spec.spread.iter().filter(|spread| spread.required) {
            let counted = |node: &Node| {
                (!spread.honor_affinity || node.unwanted(&demand.place).is_none())
                    && (!spread.honor_taints || node.refusing_taint(&demand.place).is_none())
            };
            let uneven =
                self.nearby
                    .uneven(spread, pod, node, &self.nodes, counted, &self.namespaces);
            if let Some(text) = uneven {
                return Err(No::Others(text));
            }
        }
        Ok(())
    }

    fn fits(&self, pod: &Pod, at: usize) -> Result<(), No> {
        let (all, used) = (&self.nodes[at].capacity, &self.sites[at].used);
        let requests = &pod.spec.requests;
        let short = |resource: &str, asked: u64, used: u64, all: u64| {
            let free = all.saturating_sub(used);
            // Who asks for none of it may come even where too much is used.
            (asked > free).then(|| No::Short {
                resource: resource.to_owned(),
                asked,
                free,
                all,
            })
        };
        let amount =
            |resources: &Resources, name: &str| resources.other.get(name).copied().unwrap_or(0);
        let found = short("cpu", requests.cpu, used.cpu, all.cpu)
            .or_else(|| short("memory", requests.memory, used.memory, all.memory))
            .or_else(|| {
                requests.other.iter().find_map(|(name, asked)| {
                    short(name, *asked, amount(used, name), amount(all, name))
                })
            });
        found.map_or(Ok(()), Err)
    }
}

/// Adds amounts up.
pub(crate) fn add(sum: &mut Resources, more: &Resources) {
    sum.cpu = sum.cpu.saturating_add(more.cpu);
    sum.memory = sum.memory.saturating_add(more.memory);
    for (name, amount) in &more.other {
        match sum.other.get_mut(name) {
            Some(sum) => *sum = sum.saturating_add(*amount),
            None => {
                sum.other.insert(name.clone(), *amount);
            }
        }
    }
}

/// Takes amounts off.
pub(crate) fn subtract(sum: &mut Resources, less: &Resources) {
    sum.cpu = sum.cpu.saturating_sub(less.cpu);
    sum.memory = sum.memory.saturating_sub(less.memory);
    for (name, amount) in &less.other {
        if let Some(sum) = sum.other.get_mut(name) {
            *sum = sum.saturating_sub(*amount);
        }
    }
}
