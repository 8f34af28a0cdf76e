//! Whether a job fits, by trying nodes and devices in order.

use std::collections::BTreeMap;

use super::super::problem::{Device, Problem, Sharing, WHOLE};
use super::super::solution::{JobRef, Solution};
use super::super::work::{
    Ask, DevicePart, DeviceRequest, Job, Locality, Part, Placed, Placement, Pod,
};
use super::ledger::{Ledger, Live};
use super::quota;

/// Whether a waiting job fits beside all that has its place, its quota and the
/// reservations.
pub fn fits(problem: &Problem, solution: &Solution, ledger: &Ledger<'_>, job: usize) -> bool {
    if solution
        .reservations
        .iter()
        .any(|reservation| reservation.job == job)
    {
        // Its own reservation is in its own way.
        return false;
    }
    let end = ledger.ends(JobRef::Waiting(job));
    let mut later = Vec::new();
    for reservation in solution
        .reservations
        .iter()
        .filter(|reservation| end > reservation.at)
    {
        let mut then = ledger.at(reservation.at);
        for pod in &reservation.pods {
            then.make_instances(&pod.placement);
            // Reported elsewhere when it does not fit.
            let _ = then.bind(JobRef::Waiting(reservation.job), pod, None);
        }
        let nodes: Vec<usize> = reservation
            .pods
            .iter()
            .map(|pod| pod.placement.node)
            .collect();
        later.push((nodes, then));
    }
    let mut held: Vec<Live> = Vec::new();
    for reservation in &solution.reservations {
        let job = JobRef::Waiting(reservation.job);
        held.extend(reservation.pods.iter().map(|pod| Live {
            job,
            placed: pod.clone(),
            origin: None,
        }));
    }
    Try {
        problem,
        held,
        now: ledger.clone(),
        later,
    }
    .domains(job)
}

/// Whether a job fits where nothing runs.
pub fn fits_empty(problem: &Problem, job: usize) -> bool {
    let now = Ledger::empty(problem);
    Try {
        problem,
        held: Vec::new(),
        now,
        later: Vec::new(),
    }
    .domains(job)
}

#[derive(Clone)]
struct Try<'p> {
    problem: &'p Problem,
    /// What is reserved counts under quotas too.
    held: Vec<Live>,
    now: Ledger<'p>,
    later: Vec<(Vec<usize>, Ledger<'p>)>,
}

impl Try<'_> {
    fn domains(&self, at: usize) -> bool {
        let job = &self.problem.waiting[at];
        let Some(level) = &job.topology.required else {
            return self.clone().gang(at, |_| true);
        };
        let domain = |node: usize| {
            let node = &self.problem.nodes[node];
            if level == "node" {
                Some(&node.name)
            } else {
                node.topology.get(level)
            }
        };
        let mut domains: Vec<&String> = (0..self.problem.nodes.len()).filter_map(domain).collect();
        domains.sort();
        domains.dedup();
        domains
            .into_iter()
            .any(|wanted| self.clone().gang(at, |node| domain(node) == Some(wanted)))
    }

    fn gang(&mut self, at: usize, inside: impl Fn(usize) -> bool) -> bool {
        let job: &Job = &self.problem.waiting[at];
        for (member, members) in job.members.iter().enumerate() {
            for _ in 0..members.min {
                let nodes = (0..self.problem.nodes.len()).filter(|node| inside(*node));
                if !nodes
                    .into_iter()
                    .any(|node| self.pod(at, member, &members.pod, node))
                {
                    return false;
                }
            }
        }
        true
    }

    fn pod(&mut self, at: usize, member: usize, pod: &Pod, node: usize) -> bool {
        for devices in ways(self.problem, pod, node) {
            let placement = Placement { node, devices };
            let placed = Placed { member, placement };
            let mut next = self.clone();
            next.now.make_instances(&placed.placement);
            let mut fits = next.now.bind(JobRef::Waiting(at), &placed, None).is_ok();
            for (nodes, then) in next
                .later
                .iter_mut()
                .filter(|(nodes, _)| nodes.contains(&node))
            {
                debug_assert!(!nodes.is_empty());
                then.make_instances(&placed.placement);
                fits = fits && then.bind(JobRef::Waiting(at), &placed, None).is_ok();
            }
            if fits && next.quota() {
                *self = next;
                return true;
            }
        }
        false
    }

    fn quota(&self) -> bool {
        let after: Vec<&Live> = self.now.live.iter().chain(&self.held).collect();
        let mut before: Vec<&Live> = self.now.live.iter().collect();
        before.pop();
        before.extend(&self.held);
        let (before, after) = (
            quota::usage(self.problem, &before),
            quota::usage(self.problem, &after),
        );
        quota::exceeded(self.problem, &before, &after).is_empty()
    }
}

/// Most ways tried for one pod on one node.
const WAYS: usize = 256;

/// Ways to serve a pod's requests on a node, whether free or not.
fn ways(problem: &Problem, pod: &Pod, node: usize) -> Vec<Vec<DevicePart>> {
    let devices = &problem.nodes[node].devices;
    let mut ways: Vec<Vec<DevicePart>> = vec![Vec::new()];
    for (at, request) in pod.devices.iter().enumerate() {
        let mut domains: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
        for (device, spec) in devices.iter().enumerate() {
            let domain = match request.within {
                Some(Locality::Link) => spec.link.clone(),
                Some(Locality::Numa) => spec.numa.map(|numa| numa.to_string()),
                None => Some(String::new()),
            };
            domains.entry(domain).or_default().push(device);
        }
        let mut longer = Vec::new();
        for way in &ways {
            for inside in domains.values() {
                let mut partial = vec![way.clone()];
                for _ in 0..request.count {
                    partial = extend(problem, devices, request, at, inside, &partial);
                }
                longer.extend(partial);
            }
        }
        longer.truncate(WAYS);
        ways = longer;
    }
    ways
}

fn extend(
    problem: &Problem,
    devices: &[Device],
    request: &DeviceRequest,
    at: usize,
    inside: &[usize],
    partial: &[Vec<DevicePart>],
) -> Vec<Vec<DevicePart>> {
    let mut longer = Vec::new();
    for way in partial {
        for device in inside {
            for part in parts(problem, &devices[*device], &request.ask) {
                let next = DevicePart {
                    request: at,
                    device: *device,
                    part,
                };
                // Ascending, so that no set is tried twice.
                let last = way.iter().rfind(|part| part.request == at);
                if last.is_none_or(|last| *last < next) && longer.len() < WAYS {
                    let mut way = way.clone();
                    way.push(next);
                    longer.push(way);
                }
            }
        }
    }
    longer
}

/// What of a device would serve an ask.
fn parts(problem: &Problem, device: &Device, ask: &Ask) -> Vec<Part> {
    let usable = device.memory.saturating_sub(device.reserved);
    let (milli, memory) = match ask {
        Ask::Whole => (WHOLE, 0),
        Ask::Share { milli, memory } => (*milli, memory.unwrap_or(0)),
        Ask::Memory(memory) => (0, *memory),
        Ask::Profile(_) => (0, 0),
    };
    match &device.sharing {
        Sharing::Partitioned { geometry, .. } => {
            let geometry = &problem.geometries[geometry];
            let fitting = geometry.profiles.iter().filter(|profile| match ask {
                Ask::Profile(name) => profile.name == *name,
                // Only the smallest that serves, as nothing larger is needed.
                Ask::Whole => profile.compute == WHOLE,
                _ => geometry
                    .smallest(milli, memory)
                    .is_some_and(|at| geometry.profiles[at].name == profile.name),
            });
            fitting
                .flat_map(|profile| profile.slots.iter().map(move |slot| (profile, slot)))
                .map(|(profile, slot)| Part::Partition {
                    profile: profile.name.clone(),
                    start: slot.start,
                })
                .collect()
        }
        _ if matches!(ask, Ask::Profile(_)) => Vec::new(),
        _ if milli == WHOLE => vec![Part::Whole],
        Sharing::Mps { overhead, .. } => {
            let (milli, memory) = match ask {
                Ask::Share {
                    milli,
                    memory: None,
                } => {
                    let share = u128::from(usable) * u128::from(*milli) / u128::from(WHOLE);
                    (
                        *milli,
                        u64::try_from(share)
                            .unwrap_or(u64::MAX)
                            .saturating_sub(*overhead),
                    )
                }
                Ask::Memory(memory) if usable > 0 => {
                    let share = u128::from(*memory) * u128::from(WHOLE) / u128::from(usable);
                    (u32::try_from(share).unwrap_or(u32::MAX), *memory)
                }
                _ => (milli, memory),
            };
            vec![Part::Share { milli, memory }]
        }
        Sharing::TimeSliced { slots } => {
            let (milli, memory) = match ask {
                Ask::Share {
                    milli,
                    memory: None,
                } => {
                    let share = u128::from(usable) * u128::from(*milli) / u128::from(WHOLE);
                    (*milli, u64::try_from(share).unwrap_or(u64::MAX))
                }
                Ask::Memory(memory) if usable > 0 => {
                    let share = u128::from(*memory) * u128::from(WHOLE) / u128::from(usable);
                    (u32::try_from(share).unwrap_or(u32::MAX), *memory)
                }
                _ => (milli, memory),
            };
            vec![Part::Slots {
                slots: (milli.saturating_mul(*slots)).div_ceil(WHOLE).max(1),
                memory,
            }]
        }
        Sharing::Exclusive => Vec::new(),
    }
}
