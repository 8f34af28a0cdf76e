//! The problem compiled: names become positions, equal pods one shape, nodes
//! that no pod of the problem can tell apart one class.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::geometry::Geometry;
use super::problem::{
    Availability, Device, Health, Node, Problem, Resources, Sharing, TaintEffect,
};
use super::queue::DEVICE_QUOTA;
use super::solution::JobRef;
use super::work::{Ask, Job, Locality, Pod};

/// Position of CPU among the resources; memory follows.
pub(super) const CPU: usize = 0;
/// Position of memory.
pub(super) const MEMORY: usize = 1;

pub(super) struct Model<'p> {
    pub problem: &'p Problem,
    /// Names of the resources; devices come last, as quotas count them.
    pub resources: Vec<String>,
    pub flavors: Vec<String>,
    pub models: Vec<String>,
    pub nodes: Vec<NodeSpec>,
    pub geometries: Vec<&'p Geometry>,
    pub levels: Vec<Level>,
    pub shapes: Vec<Shape<'p>>,
    waiting: Vec<Vec<usize>>,
    running: Vec<Vec<usize>>,
    waiting_queue: Vec<Option<usize>>,
    running_queue: Vec<Option<usize>>,
}

/// A node without what changes.
pub(super) struct NodeSpec {
    pub capacity: Box<[u64]>,
    pub devices: Vec<DeviceSpec>,
    pub flavor: usize,
    /// Nodes of one class differ in name and topology only.
    pub class: usize,
    pub ready: bool,
}

/// A device without what changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DeviceSpec {
    pub model: usize,
    pub usable: u64,
    pub kind: Kind,
    pub numa: Option<u32>,
    /// Position of the link domain among the node's.
    pub link: Option<u32>,
    pub healthy: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Exclusive,
    Mps { clients: u32, overhead: u64 },
    TimeSliced { slots: u32 },
    Partitioned { geometry: usize },
}

impl DeviceSpec {
    pub fn domain(&self, within: Locality) -> Option<u32> {
        match within {
            Locality::Link => self.link,
            Locality::Numa => self.numa,
        }
    }
}

/// A topology level; the last one is the node itself.
pub(super) struct Level {
    pub name: String,
    pub domain: Vec<Option<usize>>,
    pub names: Vec<String>,
    pub nodes: Vec<Vec<usize>>,
}

/// Pods that ask the same.
pub(super) struct Shape<'p> {
    pub pod: &'p Pod,
    pub amounts: Box<[u64]>,
    pub requests: Vec<Request<'p>>,
    /// By node class: whether the pod may go there at all, and how much it would rather not.
    pub admits: Vec<Option<u32>>,
}

/// A device request with names resolved.
pub(super) struct Request<'p> {
    pub count: u32,
    pub ask: &'p Ask,
    pub models: Option<Vec<usize>>,
    pub within: Option<Locality>,
}

impl<'p> Model<'p> {
    pub fn new(problem: &'p Problem) -> Self {
        let mut names: BTreeSet<&String> = BTreeSet::new();
        let jobs = || {
            problem
                .running
                .iter()
                .map(|running| &running.job)
                .chain(&problem.waiting)
        };
        for node in &problem.nodes {
            names.extend(node.capacity.other.keys());
        }
        for member in jobs().flat_map(|job| &job.members) {
            names.extend(member.pod.resources.other.keys());
        }
        let mut resources = vec!["cpu".to_owned(), "memory".to_owned()];
        resources.extend(names.into_iter().cloned());
        let device_quota = resources.len();
        resources.push(DEVICE_QUOTA.to_owned());

        let geometries: Vec<&Geometry> = problem.geometries.values().collect();
        let (flavors, models) = vocabulary(problem);
        let levels = levels(problem);
        let classes = Classes::new(problem);
        let queues: HashMap<&String, usize> = problem
            .queues
            .iter()
            .enumerate()
            .map(|(at, queue)| (&queue.name, at))
            .collect();
        let queue = |job: &Job| queues.get(&job.queue).copied();
        let waiting_queue = problem.waiting.iter().map(queue).collect();
        let running_queue = problem
            .running
            .iter()
            .map(|running| queue(&running.job))
            .collect();
        let nodes: Vec<NodeSpec> = problem
            .nodes
            .iter()
            .map(|node| NodeSpec {
                capacity: amounts(&node.capacity, &resources[..device_quota]),
                devices: devices(node, &models, problem),
                flavor: flavors.binary_search(&node.flavor).unwrap_or(0),
                class: 0,
                ready: node.availability == Availability::Ready,
            })
            .collect();
        let mut model = Self {
            problem,
            resources,
            flavors,
            models,
            nodes,
            geometries,
            levels,
            shapes: Vec::new(),
            waiting: Vec::new(),
            running: Vec::new(),
            waiting_queue,
            running_queue,
        };
        let representatives = model.classify(&classes);
        let mut known: HashMap<&'p Pod, usize> = HashMap::new();
        for running in &problem.running {
            let shapes = model.compile(&running.job, &mut known, &representatives);
            model.running.push(shapes);
        }
        for job in &problem.waiting {
            let shapes = model.compile(job, &mut known, &representatives);
            model.waiting.push(shapes);
        }
        model
    }

    pub fn job(&self, job: JobRef) -> &'p Job {
        match job {
            JobRef::Running(at) => &self.problem.running[at].job,
            JobRef::Waiting(at) => &self.problem.waiting[at],
        }
    }

    /// The queue of a job; none when it is in none.
    pub fn queue(&self, job: JobRef) -> Option<usize> {
        match job {
            JobRef::Running(at) => self.running_queue[at],
            JobRef::Waiting(at) => self.waiting_queue[at],
        }
    }

    /// The shape of each of the job's member groups.
    pub fn shapes_of(&self, job: JobRef) -> &[usize] {
        match job {
            JobRef::Running(at) => &self.running[at],
            JobRef::Waiting(at) => &self.waiting[at],
        }
    }

    /// Position of devices among the resources that quotas count.
    pub fn device_quota(&self) -> usize {
        self.resources.len() - 1
    }

    pub fn level(&self, name: &str) -> usize {
        self.levels
            .iter()
            .position(|level| level.name == name)
            .unwrap_or(self.levels.len() - 1)
    }

    fn classify(&mut self, classes: &Classes<'p>) -> Vec<usize> {
        let mut known = HashMap::new();
        let mut representatives = Vec::new();
        for at in 0..self.nodes.len() {
            let node = &self.problem.nodes[at];
            let key = (
                self.nodes[at].capacity.clone(),
                self.nodes[at].devices.clone(),
                classes.labels(node),
                &node.taints,
                &node.flavor,
                node.price,
                classes.region(node),
                self.nodes[at].ready,
            );
            let class = *known.entry(key).or_insert_with(|| {
                representatives.push(at);
                representatives.len() - 1
            });
            self.nodes[at].class = class;
        }
        representatives
    }

    fn compile(
        &mut self,
        job: &'p Job,
        known: &mut HashMap<&'p Pod, usize>,
        representatives: &[usize],
    ) -> Vec<usize> {
        let mut shapes = Vec::with_capacity(job.members.len());
        for member in &job.members {
            let pod = &member.pod;
            let shape = known.get(pod).copied().unwrap_or_else(|| {
                known.insert(pod, self.shapes.len());
                let shape = self.shape(pod, representatives);
                self.shapes.push(shape);
                self.shapes.len() - 1
            });
            shapes.push(shape);
        }
        shapes
    }

    fn shape(&self, pod: &'p Pod, representatives: &[usize]) -> Shape<'p> {
        let requests = pod.devices.iter().map(|request| Request {
            count: request.count,
            ask: &request.ask,
            models: (!request.models.is_empty()).then(|| {
                let named = request.models.iter();
                named
                    .filter_map(|name| self.models.binary_search(name).ok())
                    .collect()
            }),
            within: request.within,
        });
        Shape {
            pod,
            amounts: amounts(&pod.resources, &self.resources[..self.device_quota()]),
            requests: requests.collect(),
            admits: representatives
                .iter()
                .map(|at| admits(pod, &self.problem.nodes[*at]))
                .collect(),
        }
    }
}

/// Whether a node takes a pod as far as labels, taints, region and availability
/// go, and the weight of what the pod would have preferred otherwise.
fn admits(pod: &Pod, node: &Node) -> Option<u32> {
    let tolerated = |taint| {
        pod.tolerations
            .iter()
            .any(|toleration| toleration.covers(taint))
    };
    let mut unmet = 0u32;
    for taint in node.taints.iter().filter(|taint| !tolerated(taint)) {
        match taint.effect {
            TaintEffect::NoSchedule => return None,
            TaintEffect::PreferNoSchedule => unmet = unmet.saturating_add(1),
        }
    }
    let allowed = node.availability == Availability::Ready
        && (pod.regions.is_empty() || pod.regions.contains(&node.region))
        && pod
            .selector
            .iter()
            .all(|requirement| requirement.holds(&node.labels));
    for preference in &pod.preferred {
        if !preference.requirement.holds(&node.labels) {
            unmet = unmet.saturating_add(preference.weight);
        }
    }
    allowed.then_some(unmet)
}

fn amounts(resources: &Resources, names: &[String]) -> Box<[u64]> {
    let other = names[MEMORY + 1..]
        .iter()
        .map(|name| resources.other.get(name).copied().unwrap_or(0));
    [resources.cpu, resources.memory]
        .into_iter()
        .chain(other)
        .collect()
}

fn vocabulary(problem: &Problem) -> (Vec<String>, Vec<String>) {
    let mut flavors: BTreeSet<&String> = problem.nodes.iter().map(|node| &node.flavor).collect();
    flavors.extend(problem.queues.iter().flat_map(|queue| queue.quotas.keys()));
    let models: BTreeSet<&String> = problem
        .nodes
        .iter()
        .flat_map(|node| &node.devices)
        .map(|device| &device.model)
        .collect();
    (
        flavors.into_iter().cloned().collect(),
        models.into_iter().cloned().collect(),
    )
}

fn devices(node: &Node, models: &[String], problem: &Problem) -> Vec<DeviceSpec> {
    let mut links: Vec<&String> = Vec::new();
    for name in node
        .devices
        .iter()
        .filter_map(|device| device.link.as_ref())
    {
        if !links.contains(&name) {
            links.push(name);
        }
    }
    let link = |device: &Device| {
        let name = device.link.as_ref()?;
        links
            .iter()
            .position(|known| *known == name)
            .and_then(|at| u32::try_from(at).ok())
    };
    node.devices
        .iter()
        .map(|device| DeviceSpec {
            model: models.binary_search(&device.model).unwrap_or(usize::MAX),
            usable: device.usable(),
            kind: match &device.sharing {
                Sharing::Exclusive => Kind::Exclusive,
                Sharing::Mps { clients, overhead } => Kind::Mps {
                    clients: *clients,
                    overhead: *overhead,
                },
                Sharing::TimeSliced { slots } => Kind::TimeSliced { slots: *slots },
                Sharing::Partitioned { geometry, .. } => Kind::Partitioned {
                    geometry: problem
                        .geometries
                        .keys()
                        .position(|known| known == geometry)
                        .unwrap_or(0),
                },
            },
            numa: device.numa,
            link: link(device),
            healthy: device.health == Health::Healthy,
        })
        .collect()
}

fn levels(problem: &Problem) -> Vec<Level> {
    let mut levels = Vec::new();
    for name in &problem.levels {
        let names: BTreeSet<&String> = problem
            .nodes
            .iter()
            .filter_map(|node| node.topology.get(name))
            .collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        let mut nodes = vec![Vec::new(); names.len()];
        let mut domain = Vec::with_capacity(problem.nodes.len());
        for (at, node) in problem.nodes.iter().enumerate() {
            let found = node
                .topology
                .get(name)
                .and_then(|domain| names.binary_search(domain).ok());
            if let Some(found) = found {
                nodes[found].push(at);
            }
            domain.push(found);
        }
        levels.push(Level {
            name: name.clone(),
            domain,
            names,
            nodes,
        });
    }
    levels.push(Level {
        name: "node".to_owned(),
        domain: (0..problem.nodes.len()).map(Some).collect(),
        names: problem.nodes.iter().map(|node| node.name.clone()).collect(),
        nodes: (0..problem.nodes.len()).map(|at| vec![at]).collect(),
    });
    levels
}

/// What of a node's labels and region any pod looks at: the rest (host names
/// above all) must not tell nodes apart, or no two would be alike.
struct Classes<'p> {
    keys: BTreeSet<&'p String>,
    regions: bool,
}

impl<'p> Classes<'p> {
    fn new(problem: &'p Problem) -> Self {
        let mut keys = BTreeSet::new();
        let mut regions = false;
        let jobs = problem
            .running
            .iter()
            .map(|running| &running.job)
            .chain(&problem.waiting);
        for member in jobs.flat_map(|job| &job.members) {
            keys.extend(
                member
                    .pod
                    .selector
                    .iter()
                    .map(|requirement| &requirement.key),
            );
            keys.extend(
                member
                    .pod
                    .preferred
                    .iter()
                    .map(|preference| &preference.requirement.key),
            );
            regions |= !member.pod.regions.is_empty();
        }
        Self { keys, regions }
    }

    fn labels(&self, node: &'p Node) -> BTreeMap<&'p String, &'p String> {
        node.labels
            .iter()
            .filter(|(key, _)| self.keys.contains(key))
            .collect()
    }

    fn region(&self, node: &'p Node) -> Option<&'p String> {
        self.regions.then_some(&node.region)
    }
}
