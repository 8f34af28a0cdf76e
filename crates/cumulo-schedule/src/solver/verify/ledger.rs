//! Who has what, added up anew at every step.

use std::collections::{BTreeMap, BTreeSet};

use super::super::problem::{Device, Instance, Node, Problem, Seconds, Sharing, WHOLE};
use super::super::solution::JobRef;
use super::super::work::{Part, Placed, Placement, Pod};
use super::Rule;
use super::asked::{admits, as_asked, find};

type Broken = (Rule, String);

/// A pod that has its place.
#[derive(Debug, Clone)]
pub struct Live {
    pub job: JobRef,
    pub placed: Placed,
    /// Position among the running job's pods, if it ran before.
    pub origin: Option<usize>,
}

/// Every pod that has its place, and the instances that exist.
#[derive(Clone)]
pub struct Ledger<'p> {
    problem: &'p Problem,
    pub live: Vec<Live>,
    instances: BTreeMap<(usize, usize), Vec<Instance>>,
    ended: BTreeSet<JobRef>,
}

/// What is used of one device.
#[derive(Debug, Default, PartialEq, Eq)]
struct DeviceUse {
    milli: u64,
    memory: u64,
    clients: u64,
    whole: u64,
    pods: u64,
    counters: Vec<u64>,
}

impl<'p> Ledger<'p> {
    pub fn new(problem: &'p Problem) -> Self {
        let mut ledger = Self::empty(problem);
        for (at, running) in problem.running.iter().enumerate() {
            for (origin, placed) in running.pods.iter().enumerate() {
                for part in &placed.placement.devices {
                    if let Part::Partition { profile, start } = &part.part {
                        let here = ledger
                            .instances
                            .entry((placed.placement.node, part.device))
                            .or_default();
                        let instance = Instance {
                            profile: profile.clone(),
                            start: *start,
                        };
                        if !here.contains(&instance) {
                            here.push(instance);
                        }
                    }
                }
                ledger.live.push(Live {
                    job: JobRef::Running(at),
                    placed: placed.clone(),
                    origin: Some(origin),
                });
            }
        }
        ledger
    }

    /// Without running work.
    pub fn empty(problem: &'p Problem) -> Self {
        let mut instances = BTreeMap::new();
        for (at, node) in problem.nodes.iter().enumerate() {
            for (device, spec) in node.devices.iter().enumerate() {
                if let Sharing::Partitioned {
                    instances: found, ..
                } = &spec.sharing
                {
                    instances.insert((at, device), found.clone());
                }
            }
        }
        Self {
            problem,
            live: Vec::new(),
            instances,
            ended: BTreeSet::new(),
        }
    }

    pub fn origin(&self, job: usize, pod: usize) -> Option<&Live> {
        self.live
            .iter()
            .find(|live| live.job == JobRef::Running(job) && live.origin == Some(pod))
    }

    pub fn end(&mut self, job: usize, pod: usize) {
        let job = JobRef::Running(job);
        if let Some(at) = self
            .live
            .iter()
            .position(|live| live.job == job && live.origin == Some(pod))
        {
            self.live.remove(at);
            self.ended.insert(job);
        }
    }

    pub fn ended(&self, job: JobRef) -> bool {
        self.ended.contains(&job)
    }

    /// How many pods of a group ran before.
    pub fn before(&self, job: JobRef, member: usize) -> usize {
        match job {
            JobRef::Running(at) => self.problem.running[at]
                .pods
                .iter()
                .filter(|pod| pod.member == member)
                .count(),
            JobRef::Waiting(_) => 0,
        }
    }

    /// Gives a pod its place, if it may be there and there is room.
    pub fn bind(
        &mut self,
        job: JobRef,
        placed: &Placed,
        origin: Option<usize>,
    ) -> Result<(), Broken> {
        let asked = super::job_of(self.problem, job);
        let asked = asked.ok_or_else(|| (Rule::Accounted, "no such job".to_owned()))?;
        let members = asked.members.get(placed.member);
        let pod = &members
            .ok_or_else(|| (Rule::Accounted, format!("{}: no such group", asked.name)))?
            .pod;
        let node = self.problem.nodes.get(placed.placement.node);
        let node =
            node.ok_or_else(|| (Rule::Accounted, format!("{}: no such node", asked.name)))?;
        let named = |what: String| format!("{} on {}: {what}", asked.name, node.name);
        admits(pod, node).map_err(|what| (Rule::AsAsked, named(what)))?;
        as_asked(self.problem, pod, node, &placed.placement)
            .map_err(|what| (Rule::AsAsked, named(what)))?;
        self.instances_free(&placed.placement)
            .map_err(|what| (Rule::NotOvercommitted, named(what)))?;
        self.live.push(Live {
            job,
            placed: placed.clone(),
            origin,
        });
        if let Err(what) = self.within(placed.placement.node, pod, &placed.placement) {
            self.live.pop();
            return Err((Rule::NotOvercommitted, named(what)));
        }
        Ok(())
    }

    /// Every partition asked exists and nobody has it.
    fn instances_free(&self, placement: &Placement) -> Result<(), String> {
        for part in &placement.devices {
            let Part::Partition { profile, start } = &part.part else {
                continue;
            };
            let wanted = Instance {
                profile: profile.clone(),
                start: *start,
            };
            let exist = self.instances.get(&(placement.node, part.device));
            if !exist.is_some_and(|exist| exist.contains(&wanted)) {
                return Err(format!("instance {profile} at {start} does not exist"));
            }
            if self.instance_used(placement.node, part.device, &wanted) {
                return Err(format!("instance {profile} at {start} is in use"));
            }
        }
        Ok(())
    }

    fn instance_used(&self, node: usize, device: usize, instance: &Instance) -> bool {
        self.live
            .iter()
            .filter(|live| live.placed.placement.node == node)
            .any(|live| {
                live.placed.placement.devices.iter().any(|part| {
                    let Part::Partition { profile, start } = &part.part else {
                        return false;
                    };
                    part.device == device
                        && *profile == instance.profile
                        && *start == instance.start
                })
            })
    }

    /// What `pod` adds to its node stays within what there is.
    fn within(&self, at: usize, pod: &Pod, placement: &Placement) -> Result<(), String> {
        let node = &self.problem.nodes[at];
        let here: Vec<&Live> = self
            .live
            .iter()
            .filter(|live| live.placed.placement.node == at)
            .collect();
        let pods = || here.iter().filter_map(|live| self.pod(live));
        let cpu: u128 = pods().map(|pod| u128::from(pod.resources.cpu)).sum();
        let memory: u128 = pods().map(|pod| u128::from(pod.resources.memory)).sum();
        if pod.resources.cpu > 0 && cpu > u128::from(node.capacity.cpu) {
            return Err(format!("{cpu} of {} CPU used", node.capacity.cpu));
        }
        if pod.resources.memory > 0 && memory > u128::from(node.capacity.memory) {
            return Err(format!("{memory} of {} bytes used", node.capacity.memory));
        }
        for (name, amount) in pod
            .resources
            .other
            .iter()
            .filter(|(_, amount)| **amount > 0)
        {
            let used =
                pods().map(|pod| u128::from(pod.resources.other.get(name).copied().unwrap_or(0)));
            let has = node.capacity.other.get(name).copied().unwrap_or(0);
            let used: u128 = used.sum();
            if used > u128::from(has) {
                return Err(format!("{used} of {has} {name} used for {amount}"));
            }
        }
        let touched: BTreeSet<usize> = placement.devices.iter().map(|part| part.device).collect();
        for device in touched {
            self.device_within(node, at, device)?;
        }
        Ok(())
    }

    fn pod(&self, live: &Live) -> Option<&'p Pod> {
        super::job_of(self.problem, live.job).map(|job| &job.members[live.placed.member].pod)
    }

    fn device_within(&self, node: &Node, at: usize, device: usize) -> Result<(), String> {
        let spec = &node.devices[device];
        let mut used = DeviceUse::default();
        for live in self
            .live
            .iter()
            .filter(|live| live.placed.placement.node == at)
        {
            for part in live
                .placed
                .placement
                .devices
                .iter()
                .filter(|part| part.device == device)
            {
                used.add(self.problem, spec, &part.part);
            }
        }
        let usable = spec.memory.saturating_sub(spec.reserved);
        let name = &spec.name;
        if used.whole > 0 && used.pods > 1 {
            return Err(format!("{name} is given whole and beside others"));
        }
        let clients = match &spec.sharing {
            Sharing::Exclusive => 1,
            Sharing::Mps { clients, .. } => *clients,
            Sharing::TimeSliced { slots } => *slots,
            Sharing::Partitioned { geometry, .. } => {
                let geometry = &self.problem.geometries[geometry];
                let over = used.counters.iter().zip(&geometry.counters);
                let over: Vec<&String> = over
                    .filter(|(used, counter)| **used > u64::from(counter.capacity))
                    .map(|(_, counter)| &counter.name)
                    .collect();
                return if over.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{name}: {over:?} exceeded"))
                };
            }
        };
        if used.milli > u64::from(WHOLE) {
            return Err(format!("{name}: {} thousandths given", used.milli));
        }
        if used.memory > usable {
            return Err(format!(
                "{name}: {} of {usable} usable bytes given",
                used.memory
            ));
        }
        if used.whole == 0 && used.clients > u64::from(clients) {
            return Err(format!("{name}: {} clients of {clients}", used.clients));
        }
        Ok(())
    }

    /// Removes idle instances and makes others.
    pub fn repartition(
        &mut self,
        node: usize,
        device: usize,
        remove: &[Instance],
        create: &[Instance],
    ) -> Result<(), Broken> {
        for instance in remove {
            if self.instance_used(node, device, instance) {
                return Err((Rule::RepartitionIdle, format!("{instance:?} is in use")));
            }
        }
        let spec = self
            .problem
            .nodes
            .get(node)
            .and_then(|node| node.devices.get(device));
        let Some(Sharing::Partitioned { geometry, .. }) = spec.map(|spec| &spec.sharing) else {
            return Err((
                Rule::RepartitionIdle,
                "not a device that has partitions".to_owned(),
            ));
        };
        let geometry = &self.problem.geometries[geometry];
        let exist = self.instances.entry((node, device)).or_default();
        for instance in remove {
            let Some(at) = exist.iter().position(|exists| exists == instance) else {
                return Err((
                    Rule::RepartitionIdle,
                    format!("{instance:?} does not exist"),
                ));
            };
            exist.remove(at);
        }
        exist.extend(create.iter().cloned());
        let mut used = vec![0u64; geometry.counters.len()];
        for instance in exist.iter() {
            let Some((_, slot)) = find(geometry, &instance.profile, instance.start) else {
                return Err((
                    Rule::RepartitionIdle,
                    format!("{instance:?} cannot lie there"),
                ));
            };
            for (used, uses) in used.iter_mut().zip(&slot.uses) {
                *used += u64::from(*uses);
            }
        }
        let over = used
            .iter()
            .zip(&geometry.counters)
            .any(|(used, counter)| *used > u64::from(counter.capacity));
        if over {
            Err((
                Rule::NotOvercommitted,
                format!("instances overlap: {exist:?}"),
            ))
        } else {
            Ok(())
        }
    }

    /// Makes the instances that a place needs, at the cost of idle ones.
    pub fn make_instances(&mut self, placement: &Placement) {
        let asked = |device: usize, instance: &Instance| {
            placement.devices.iter().any(|part| {
                let Part::Partition { profile, start } = &part.part else {
                    return false;
                };
                part.device == device && *profile == instance.profile && *start == instance.start
            })
        };
        for part in &placement.devices {
            let Part::Partition { profile, start } = &part.part else {
                continue;
            };
            let wanted = Instance {
                profile: profile.clone(),
                start: *start,
            };
            let key = (placement.node, part.device);
            let idle: Vec<Instance> = self
                .instances
                .get(&key)
                .into_iter()
                .flatten()
                .filter(|instance| !self.instance_used(key.0, key.1, instance))
                .cloned()
                .collect();
            if idle.contains(&wanted) {
                continue;
            }
            if let Some(exist) = self.instances.get_mut(&key) {
                exist.retain(|instance| !idle.contains(instance) || asked(key.1, instance));
                exist.push(wanted);
            }
        }
    }

    /// What is still there at a later moment, by the estimates.
    pub fn at(&self, then: Seconds) -> Self {
        let mut later = self.clone();
        later.live.retain(|live| self.ends(live.job) > then);
        later
    }

    /// When a job is taken to end.
    pub fn ends(&self, job: JobRef) -> Seconds {
        let now = self.problem.now;
        match job {
            JobRef::Waiting(at) => self.problem.waiting[at]
                .estimate
                .map_or(Seconds::MAX, |length| now.saturating_add(length)),
            JobRef::Running(at) => {
                let running = &self.problem.running[at];
                let assumed = self.problem.options.assumed_duration;
                let mut length = running.job.estimate.unwrap_or(assumed).max(1);
                while running.start.saturating_add(length) <= now {
                    length = length.saturating_mul(2);
                }
                running.start.saturating_add(length)
            }
        }
    }
}

impl DeviceUse {
    fn add(&mut self, problem: &Problem, device: &Device, part: &Part) {
        self.pods += 1;
        match (part, &device.sharing) {
            (Part::Whole, _) => {
                self.whole += 1;
                self.milli += u64::from(WHOLE);
                self.memory = self
                    .memory
                    .saturating_add(device.memory.saturating_sub(device.reserved));
            }
            (Part::Share { milli, memory }, sharing) => {
                let overhead = if let Sharing::Mps { overhead, .. } = sharing {
                    *overhead
                } else {
                    0
                };
                self.milli += u64::from(*milli);
                self.memory = self.memory.saturating_add(*memory).saturating_add(overhead);
                self.clients += 1;
            }
            (Part::Slots { slots, memory }, _) => {
                self.memory = self.memory.saturating_add(*memory);
                self.clients += u64::from(*slots);
            }
            (Part::Partition { profile, start }, Sharing::Partitioned { geometry, .. }) => {
                let geometry = &problem.geometries[geometry];
                self.counters.resize(geometry.counters.len(), 0);
                if let Some((_, slot)) = find(geometry, profile, *start) {
                    for (used, uses) in self.counters.iter_mut().zip(&slot.uses) {
                        *used += u64::from(*uses);
                    }
                }
            }
            (Part::Partition { .. }, _) => {}
        }
    }
}
