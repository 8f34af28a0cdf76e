//! Pods and nodes as a problem of the solver. Pure.
//!
//! What Kubernetes says with selectors, terms and names becomes labels of the
//! problem's own: a node has `fits/3` if it does for pods of the third kind of
//! demand, a job has `near/2` if the second group of pods that somebody asks
//! about includes it. So nothing of Kubernetes' selectors is lost on the way,
//! and the solver needs not know them. Devices of claims become countable
//! (`claim/1`: how often such a claim could be had on the node); which devices
//! they are is decided afterwards ([`super::dra`]).

mod devices;
mod quotas;
mod work;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cumulo_api::labels;
use cumulo_api::queue::DEFAULT_FLAVOR;
use cumulo_schedule::solver::{
    Job, Node, Options, Placed, Placement, Pod as Ask, Problem, Resources, Running, Taint,
    TaintEffect,
};

use super::dra::{InUse, Matcher, Wish};
use super::pod::Pod;
use super::room::{Demand, Room, subtract};
use super::view::{Gang, View, Waiting};

/// Places kept for what waits at the front, where there are Queues.
const RESERVATIONS: usize = 4;
/// Most times that one claim is tried on a node to see how often it has room.
const MOST_ROOM: u64 = 64;

/// A pod that has its place, or is promised it.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) pod: Arc<Pod>,
    pub(crate) node: usize,
    pub(crate) priority: i32,
    /// Whether it may be ended for others.
    pub(crate) endable: bool,
    pub(crate) queue: String,
    pub(crate) gang: Option<Gang>,
    /// What its claims ask for.
    pub(crate) wishes: Vec<Wish>,
}

/// What the problem is made from.
pub(crate) struct Situation<'a> {
    pub(crate) view: &'a View,
    pub(crate) room: &'a Room,
    pub(crate) settled: &'a [Settled],
    /// By node, what pods take that are on their way out, beyond what is promised to others.
    pub(crate) leaving: &'a BTreeMap<usize, Resources>,
    pub(crate) waiting: &'a [Waiting],
    /// Positions in `waiting` that are decided about now.
    pub(crate) open: &'a [usize],
    /// Nodes that turned out not to do, by position in `waiting`.
    pub(crate) excluded: &'a HashMap<usize, BTreeSet<usize>>,
}

/// The problem, and what its jobs are.
pub(crate) struct Translation {
    pub(crate) problem: Problem,
    /// By waiting job, its pods: positions in `waiting`, by member group.
    pub(crate) jobs: Vec<Vec<Vec<usize>>>,
    /// By running job, positions in `settled`, in the order of the job's pods.
    pub(crate) running: Vec<Vec<usize>>,
}

/// Numbers for things that are equal.
struct Numbers<T>(HashMap<T, usize>);

impl<T: std::hash::Hash + Eq + Clone> Numbers<T> {
    fn of(&mut self, thing: &T) -> usize {
        if let Some(known) = self.0.get(thing) {
            return *known;
        }
        let number = self.0.len();
        self.0.insert(thing.clone(), number);
        number
    }
}

/// Makes the problem.
pub(crate) fn translate(
    situation: &Situation<'_>,
    matcher: &mut Matcher<'_>,
    in_use: &mut InUse,
) -> Translation {
    let mut building = Building::new(situation);
    building.demands();
    building.preferences();
    building.claims(matcher, in_use);
    building.ports();
    building.count_devices(matcher);
    building.running();
    building.waiting();
    Translation {
        problem: building.problem,
        jobs: building.jobs,
        running: building.running,
    }
}

struct Building<'a> {
    situation: &'a Situation<'a>,
    problem: Problem,
    jobs: Vec<Vec<Vec<usize>>>,
    running: Vec<Vec<usize>>,
    /// By waiting pod, what is asked of its node besides amounts.
    asks: HashMap<usize, Ask>,
    /// Names of resources that some quota limits.
    limited: BTreeSet<String>,
    /// The number of a claims' wish by its content.
    wishes: Numbers<Vec<Wish>>,
    /// By position in `settled`, how often which claims could be had besides when it ends.
    freeing: HashMap<usize, BTreeMap<String, u64>>,
}

impl<'a> Building<'a> {
    fn new(situation: &'a Situation<'a>) -> Self {
        let Situation { view, room, .. } = situation;
        let keys = levels(situation);
        let nodes = room.nodes.iter().enumerate().map(|(at, node)| {
            let mut capacity = node.capacity.clone();
            if let Some(leaving) = situation.leaving.get(&at) {
                subtract(&mut capacity, leaving);
            }
            let topology = keys.iter();
            let topology = topology
                .filter_map(|key| Some((key.clone(), node.labels.get(key)?.clone())))
                .collect();
            let flavor = node.labels.get(labels::FLAVOR);
            Node {
                name: node.name.clone(),
                capacity,
                topology,
                flavor: flavor.map_or(DEFAULT_FLAVOR, String::as_str).to_owned(),
                ..Node::default()
            }
        });
        let queued = !view.queues.is_empty();
        let problem = Problem {
            now: seconds(view.now.as_second()),
            nodes: nodes.collect(),
            levels: keys,
            queues: quotas::queues(view),
            options: Options {
                // Without Queues pods fare as Kubernetes has it: by priority, and
                // whoever fits goes.
                reservations: if queued { RESERVATIONS } else { 0 },
                starvation: if queued {
                    Options::default().starvation
                } else {
                    u64::MAX
                },
                ..Options::default()
            },
            ..Problem::default()
        };
        let limited = problem
            .queues
            .iter()
            .flat_map(|queue| queue.quotas.values())
            .flat_map(|quotas| quotas.keys().cloned())
            .collect();
        let asks = situation.open.iter().map(|at| {
            let pod = &situation.waiting[*at].pod;
            let ask = Ask {
                resources: pod.spec.requests.clone(),
                ..Ask::default()
            };
            (*at, ask)
        });
        Self {
            situation,
            problem,
            jobs: Vec::new(),
            running: Vec::new(),
            asks: asks.collect(),
            limited,
            wishes: Numbers(HashMap::new()),
            freeing: HashMap::new(),
        }
    }

    /// Which nodes do for which pods, whatever runs there.
    fn demands(&mut self) {
        let situation = self.situation;
        let mut numbers: Numbers<Demand> = Numbers(HashMap::new());
        let mut uses: Vec<Vec<usize>> = Vec::new();
        let mut demands: Vec<&Demand> = Vec::new();
        for at in situation.open {
            let demand = &situation.waiting[*at].demand;
            let number = numbers.of(demand);
            if number == uses.len() {
                uses.push(Vec::new());
                demands.push(demand);
            }
            uses[number].push(*at);
        }
        for (number, demand) in demands.into_iter().enumerate() {
            let nodes = &situation.room.nodes;
            let fit: Vec<bool> = nodes
                .iter()
                .map(|node| demand.unmet(node).is_none())
                .collect();
            if fit.iter().all(|fits| *fits) {
                continue;
            }
            let label = format!("fits/{number}");
            self.mark(&label, |at| fit[at]);
            for at in &uses[number] {
                self.require(*at, &label, true);
            }
        }
        for at in situation.open {
            let Some(excluded) = situation.excluded.get(at) else {
                continue;
            };
            let label = format!("not/{at}");
            self.mark(&label, |node| excluded.contains(&node));
            self.require(*at, &label, false);
        }
    }

    /// Nodes that pods would rather have, and taints that they would rather not.
    fn preferences(&mut self) {
        let situation = self.situation;
        let mut numbers = Numbers(HashMap::new());
        for at in situation.open {
            for (weight, term) in &situation.waiting[*at].pod.spec.preferred_nodes {
                let new = numbers.0.len();
                let number = numbers.of(term);
                let label = format!("likes/{number}");
                if number == new {
                    let nodes = &situation.room.nodes;
                    self.mark(&label, |node| {
                        term.matches(&nodes[node].name, &nodes[node].labels)
                    });
                }
                if let Some(ask) = self.asks.get_mut(at) {
                    ask.preferred.push(work::preference(*weight, &label));
                }
            }
        }
        let mut taints = Numbers(HashMap::new());
        for (node, given) in self.problem.nodes.iter_mut().zip(&situation.room.nodes) {
            for taint in &given.taints {
                if taint.effect == "PreferNoSchedule" {
                    node.taints.push(Taint {
                        key: format!("taint/{}", taints.of(taint)),
                        value: String::new(),
                        effect: TaintEffect::PreferNoSchedule,
                    });
                }
            }
        }
        for at in situation.open {
            let place = &situation.waiting[*at].demand.place;
            for (taint, number) in &taints.0 {
                let tolerated = place.tolerations.iter().any(|one| one.covers(taint));
                if let (true, Some(ask)) = (tolerated, self.asks.get_mut(at)) {
                    ask.tolerations
                        .push(work::toleration(format!("taint/{number}")));
                }
            }
        }
        for ask in self.asks.values_mut() {
            ask.tolerations.sort_by(|a, b| a.key.cmp(&b.key));
        }
    }

    /// Ports of nodes, each there once.
    fn ports(&mut self) {
        let situation = self.situation;
        let mut ports = BTreeSet::new();
        for at in situation.open {
            for port in &situation.waiting[*at].pod.spec.ports {
                let name = format!("port/{}/{}", port.protocol, port.port);
                if let Some(ask) = self.asks.get_mut(at) {
                    ask.resources.other.insert(name.clone(), 1);
                }
                ports.insert(name);
            }
        }
        for name in &ports {
            for node in &mut self.problem.nodes {
                node.capacity.other.insert(name.clone(), 1);
            }
        }
    }

    fn mark(&mut self, label: &str, holds: impl Fn(usize) -> bool) {
        for (at, node) in self.problem.nodes.iter_mut().enumerate() {
            if holds(at) {
                node.labels.insert(label.to_owned(), String::new());
            }
        }
    }

    fn require(&mut self, at: usize, label: &str, present: bool) {
        if let Some(ask) = self.asks.get_mut(&at) {
            ask.selector.push(work::requirement(label, present));
        }
    }

    /// What has its place: gangs as one job, for they end as a whole.
    fn running(&mut self) {
        let mut gangs: BTreeMap<&Gang, Vec<usize>> = BTreeMap::new();
        for (at, settled) in self.situation.settled.iter().enumerate() {
            match &settled.gang {
                Some(gang) => gangs.entry(gang).or_default().push(at),
                None => {
                    let job = self.running_job(settled.pod.key().to_string(), &[at], 1);
                    self.problem.running.push(job);
                    self.running.push(vec![at]);
                }
            }
        }
        for (gang, members) in gangs {
            let name = format!("the running part of gang {}", gang.key);
            let job = self.running_job(name, &members, gang.size);
            self.problem.running.push(job);
            self.running.push(members);
        }
    }

    fn running_job(&self, name: String, members: &[usize], size: usize) -> Running {
        let situation = self.situation;
        let first = &situation.settled[members[0]];
        let mut job = Job::pod(&name, &self.queue(&first.queue), Ask::default());
        job.members.clear();
        let mut pods = Vec::new();
        for (member, at) in members.iter().enumerate() {
            let settled = &situation.settled[*at];
            let mut ask = Ask {
                resources: settled.pod.spec.requests.clone(),
                ..Ask::default()
            };
            self.count_claims(settled, &mut ask.resources);
            if let Some(freed) = self.freeing.get(at) {
                ask.resources.other.extend(freed.clone());
            }
            job.members
                .push(work::members(ask, usize::from(member < size), 1));
            pods.push(Placed {
                member,
                placement: Placement {
                    node: settled.node,
                    devices: Vec::new(),
                },
            });
        }
        let all = || members.iter().map(|at| &situation.settled[*at]);
        job.priority = all().map(|one| one.priority).max().unwrap_or(0);
        job.preemptible = all().all(|one| one.endable);
        job.estimate = work::estimate(&first.pod);
        job.labels = self.labels(all().map(|one| one.pod.as_ref()));
        let start = all()
            .filter_map(|one| one.pod.status.started.or(one.pod.created()))
            .min();
        Running {
            job,
            pods,
            start: start.map_or(self.problem.now, |start| seconds(start.as_second())),
            checkpoint: None,
        }
    }

    fn queue(&self, name: &str) -> String {
        let known = self.problem.queues.iter().any(|queue| queue.name == name);
        if known {
            name.to_owned()
        } else {
            String::new()
        }
    }

    /// The groups that pods belong to.
    fn labels<'p>(&self, pods: impl Iterator<Item = &'p Pod>) -> BTreeMap<String, String> {
        let room = self.situation.room;
        let mut labels = BTreeMap::new();
        if room.nearby.groups().is_empty() {
            return labels;
        }
        for pod in pods {
            for number in 0..room.nearby.groups().len() {
                if room.nearby.speaks_of(number, pod, &room.namespaces) {
                    labels.insert(format!("near/{number}"), String::new());
                }
            }
            for term in &pod.spec.apart {
                if let Some(number) = room.nearby.number(&super::nearby::single(term)) {
                    labels.insert(format!("averse/{number}"), String::new());
                }
            }
        }
        labels
    }

    /// What waits: gangs as one job each.
    fn waiting(&mut self) {
        let situation = self.situation;
        let mut gangs: BTreeMap<&Gang, Vec<usize>> = BTreeMap::new();
        let mut single = Vec::new();
        for at in situation.open {
            match &situation.waiting[*at].gang {
                Some(gang) => gangs.entry(gang).or_default().push(*at),
                None => single.push(*at),
            }
        }
        let mut settled: HashMap<&Gang, usize> = HashMap::new();
        for gang in situation.settled.iter().filter_map(|one| one.gang.as_ref()) {
            *settled.entry(gang).or_default() += 1;
        }
        let averse = self.averse();
        for at in single {
            self.job(
                situation.waiting[at].pod.key().to_string(),
                &[at],
                1,
                &averse,
            );
        }
        for (gang, mut members) in gangs {
            members.sort_by_key(|at| situation.waiting[*at].pod.key());
            // What of it runs already counts; when that is enough, more pods come one by one.
            let missing = gang
                .size
                .saturating_sub(settled.get(gang).copied().unwrap_or(0));
            if missing > members.len() {
                // Others of it share a claim that has no devices yet.
                continue;
            }
            if missing == 0 {
                for at in members {
                    let name = situation.waiting[at].pod.key().to_string();
                    self.job(name, &[at], 1, &averse);
                }
            } else {
                self.job(format!("gang {}", gang.key), &members, missing, &averse);
            }
        }
    }

    /// Groups that some pod must be apart from.
    fn averse(&self) -> HashSet<usize> {
        let situation = self.situation;
        let settled = situation.settled.iter().map(|one| &one.pod);
        let waiting = situation.open.iter().map(|at| &situation.waiting[*at].pod);
        let terms = settled.chain(waiting).flat_map(|pod| &pod.spec.apart);
        terms
            .filter_map(|term| situation.room.nearby.number(&super::nearby::single(term)))
            .collect()
    }

    fn job(&mut self, name: String, pods: &[usize], size: usize, averse: &HashSet<usize>) {
        let situation = self.situation;
        let first = &situation.waiting[pods[0]];
        let mut job = Job::pod(&name, &self.queue(&first.queue), Ask::default());
        job.members.clear();
        // Equal pods are one group, so that the solver looks at them once.
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut asks: Vec<&Ask> = Vec::new();
        for at in pods {
            let ask = &self.asks[at];
            match asks.iter().position(|known| *known == ask) {
                Some(group) => groups[group].push(*at),
                None => {
                    asks.push(ask);
                    groups.push(vec![*at]);
                }
            }
        }
        let mut left = size;
        for (ask, group) in asks.into_iter().zip(&groups) {
            let min = left.min(group.len());
            left -= min;
            job.members
                .push(work::members(ask.clone(), min, group.len()));
        }
        let all = || pods.iter().map(|at| &situation.waiting[*at]);
        job.priority = all().map(|one| one.priority).max().unwrap_or(0);
        job.preempts = all().all(|one| one.preempts);
        let arrival = all().filter_map(|one| one.pod.created()).min();
        job.arrival = arrival.map_or(self.problem.now, |time| seconds(time.as_second()));
        job.estimate = work::estimate(&first.pod);
        job.topology = work::topology(&first.pod, &self.problem.levels);
        job.labels = self.labels(all().map(|one| one.pod.as_ref()));
        work::neighbours(&mut job, &first.pod, situation.room, averse);
        self.problem.waiting.push(job);
        self.jobs.push(groups);
    }
}

/// What a pod's claims still ask for, in an order that follows from it.
pub(crate) fn wishes(waiting: &Waiting) -> Vec<Wish> {
    waiting
        .wishes
        .iter()
        .map(|(_, wish)| wish.clone())
        .collect()
}

fn seconds(second: i64) -> u64 {
    u64::try_from(second).unwrap_or(0)
}

/// Labels of nodes whose values are domains, those with fewer domains first.
fn levels(situation: &Situation<'_>) -> Vec<String> {
    let mut keys: BTreeSet<String> = BTreeSet::new();
    for group in situation.room.nearby.groups() {
        keys.insert(group.topology.clone());
    }
    for at in situation.open {
        let pod = &situation.waiting[*at].pod;
        for name in [labels::REQUIRED_TOPOLOGY, labels::PREFERRED_TOPOLOGY] {
            keys.extend(pod.mark(name).map(str::to_owned));
        }
    }
    // Names that the solver has itself.
    keys.retain(|key| key != "node" && !key.is_empty());
    let domains = |key: &String| {
        let values = situation
            .room
            .nodes
            .iter()
            .filter_map(|node| node.labels.get(key));
        values.collect::<HashSet<_>>().len()
    };
    let mut keys: Vec<String> = keys.into_iter().collect();
    keys.sort_by_cached_key(|key| (domains(key), key.clone()));
    keys
}
