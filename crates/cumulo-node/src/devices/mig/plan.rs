//! What a pod gets where instances may be made for it: the solver's decision with the
//! real geometry, and what has to be changed for it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cumulo_api::GpuAsk;
use cumulo_schedule::solver::{
    self, Action, Ask, DevicePart, DeviceRequest, Job, JobRef, Members, Node, Part, Placed,
    Placement, Pod, Problem, Running, Sharing,
};

use super::simulated::slot;
use super::{Change, Layout, Managed, MigInstances, Place, Present, present};
use crate::devices::convert::convert;
use crate::devices::decide::{counted_once, decide, given, held_of, request, running};
use crate::devices::snapshot::{Gpu, Snapshot};
use crate::devices::why::why;
use crate::devices::{Held, Holder, Refusal};

/// What a pod gets, and what has to be done before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What it gets.
    pub given: Vec<Given>,
    /// What has to change, at most one for each GPU.
    pub changes: Vec<Change>,
}

/// A part of what a pod gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// It is there.
    Held(Held),
    /// It will be, after the changes.
    New {
        /// Where.
        place: Place,
        /// Uid of the ResourceClaim that gives it.
        claim: Option<String>,
    },
}

impl Given {
    /// What will lie at a place.
    pub fn at(place: Place) -> Self {
        Self::New { place, claim: None }
    }

    /// The same, given by the ResourceClaim with this uid.
    pub fn by(self, claim: Option<String>) -> Self {
        match self {
            Self::Held(held) => Self::Held(Held { claim, ..held }),
            Self::New { place, .. } => Self::New { place, claim },
        }
    }

    /// What the pod holds, after the changes.
    pub fn resolve(&self, snapshot: &Snapshot) -> Option<Held> {
        let (place, claim) = match self {
            Self::Held(held) => return Some(held.clone()),
            Self::New { place, claim } => (place, claim),
        };
        let mut gpus = snapshot.gpus.iter();
        let gpu = gpus.find(|gpu| gpu.identity() == place.gpu)?;
        let mut instances = gpu.instances()?.iter();
        let instance = instances.find(|instance| {
            instance.profile == place.profile && instance.start == Some(place.start)
        })?;
        Some(Held {
            claim: claim.clone(),
            ..held_of(gpu, instance)
        })
    }
}

/// Decides what a pod gets beside those who hold devices already: as [`decide`], and where
/// instances may be made, also what can be made for it.
///
/// An idle instance of the smallest profile that does is taken first, then one is made,
/// for which idle ones that the node agent made may have to go. Only then it gets a larger
/// one that is there.
///
/// # Errors
/// With a sentence, when it gets nothing.
pub fn plan(
    snapshot: &Snapshot,
    holders: &[&Holder],
    ask: &GpuAsk,
    managed: &Managed,
) -> Result<Plan, Refusal> {
    let holders = counted_once(holders);
    let holders: &[&Holder] = &holders.iter().collect::<Vec<_>>();
    let as_it_is = |held: Vec<Held>| Plan {
        given: held.into_iter().map(Given::Held).collect(),
        changes: Vec::new(),
    };
    let layouts: Vec<Option<Layout>> = match managed.instances {
        MigInstances::Keep => Vec::new(),
        MigInstances::Manage => snapshot.gpus.iter().map(Layout::of).collect(),
    };
    if layouts.iter().all(Option::is_none) {
        return decide(snapshot, holders, ask).map(as_it_is);
    }
    let scene = Scene {
        snapshot,
        layouts: &layouts,
        ask,
        managed,
    };
    if let Some(plan) = scene.divide(holders, false)? {
        return Ok(plan);
    }
    match decide(snapshot, holders, ask) {
        Ok(held) => Ok(as_it_is(held)),
        Err(Refusal::Busy(message)) => Err(Refusal::Busy(format!(
            "{message}; and there is no room for another instance"
        ))),
        Err(Refusal::Never(message)) => {
            if scene.divide(&[], true)?.is_none() {
                return Err(Refusal::Never(format!(
                    "{message}; and none of its GPUs can be divided for it as long as its administrator's instances are there"
                )));
            }
            let reason = why(snapshot, holders, ask);
            Err(Refusal::Busy(format!(
                "asks for {ask}, for which there is no room now: {reason}"
            )))
        }
    }
}

/// What has to be done so that a pod gets the devices that were decided elsewhere, beside
/// those who hold some already.
///
/// # Errors
/// [`Refusal::Busy`] while others have a device or its room, or it cannot be made here.
pub fn exactly(
    snapshot: &Snapshot,
    holders: &[&Holder],
    decided: Vec<Given>,
    managed: &Managed,
) -> Result<Plan, Refusal> {
    let holders = counted_once(holders);
    let holders: &[&Holder] = &holders.iter().collect::<Vec<_>>();
    let mut plan = Plan::default();
    for given in decided {
        let given = match given {
            Given::New { place, claim } => settle(
                snapshot,
                holders,
                place,
                claim.as_deref(),
                managed,
                &mut plan,
            )?
            .by(claim),
            held @ Given::Held(_) => held,
        };
        plan.given.push(given);
    }
    Ok(plan)
}

/// The instance at a place, or what has to change before it is there, beside what the plan
/// gives already. Those who share the claim have it together.
fn settle(
    snapshot: &Snapshot,
    holders: &[&Holder],
    place: Place,
    claim: Option<&str>,
    managed: &Managed,
    plan: &mut Plan,
) -> Result<Given, Refusal> {
    let busy = |why: &str| {
        let Place { profile, start, .. } = &place;
        Refusal::Busy(format!("was given a {profile} at {start} of a GPU, {why}"))
    };
    let mut gpus = snapshot.gpus.iter();
    let gpu = gpus
        .find(|gpu| gpu.identity() == place.gpu)
        .ok_or_else(|| busy("which is not there now"))?;
    let parts = || holders.iter().flat_map(|holder| &holder.held);
    let is = |one: &Present, part: &Held| part.instance.is_some() && part.instance == one.uuid;
    let shared = |one: &Present| {
        let same = |part: &Held| claim.is_some() && part.claim.as_deref() == claim;
        parts().any(|part| is(one, part) && same(part))
    };
    let given = plan.given.iter().filter_map(|given| match given {
        Given::Held(held) => Some(held.clone()),
        Given::New { .. } => None,
    });
    let given: Vec<Held> = given.collect();
    let held = |one: &Present| parts().chain(&given).any(|part| is(one, part));
    // What the node agent made is for pods alone.
    let idle = |one: &Present| {
        let mut programs = gpu.processes.iter();
        let used = programs.any(|process| process.instance == Some(one.id));
        managed.made(gpu, one.id) && !used && !held(one)
    };
    let at = plan.changes.iter().position(|one| one.gpu == place.gpu);
    let mut change = at.map_or_else(
        || Change {
            gpu: place.gpu.clone(),
            remove: Vec::new(),
            create: Vec::new(),
        },
        |at| plan.changes[at].clone(),
    );
    let mut there = present(gpu);
    there.retain(|one| !change.remove.iter().any(|made| one.is(made)));
    if let Some(one) = there.iter().find(|one| one.is_at(&place)) {
        let mut known = gpu.instances().unwrap_or_default().iter();
        return match known.find(|known| known.id == one.id) {
            Some(known)
                if shared(one) || idle(one) || !(managed.made(gpu, one.id) || held(one)) =>
            {
                Ok(Given::Held(held_of(gpu, known)))
            }
            _ => Err(busy("which others have")),
        };
    }
    if managed.instances == MigInstances::Keep {
        return Err(busy(
            "and this node makes no instances (migInstances: manage)",
        ));
    }
    let layout = Layout::of(gpu).ok_or_else(|| busy("which cannot be divided now"))?;
    let geometry = &layout.geometry;
    let wanted = slot(geometry, &place.profile, place.start)
        .ok_or_else(|| busy("which has no such place"))?;
    let laid = |there: &[Present], change: &Change| {
        let stays = there.iter().map(|one| (&one.profile, one.start));
        let comes = change
            .create
            .iter()
            .map(|place| (&place.profile, Some(place.start)));
        let mut used = vec![0u32; geometry.counters.len()];
        for (profile, start) in stays.chain(comes) {
            let slot = start.and_then(|start| slot(geometry, profile, start));
            for (used, uses) in used.iter_mut().zip(slot.iter().flat_map(|slot| &slot.uses)) {
                *used = used.saturating_add(*uses);
            }
        }
        used
    };
    // Those in the way go first, then others, as many as it takes.
    let in_the_way = |one: &Present| {
        let slot = one
            .start
            .and_then(|start| slot(geometry, &one.profile, start));
        let mut counters = geometry
            .counters
            .iter()
            .zip(slot.iter().flat_map(|slot| &slot.uses));
        let mut wanted = wanted.uses.iter();
        counters.any(|(counter, uses)| {
            let wanted = wanted.next().copied().unwrap_or(0);
            uses + wanted > counter.capacity
        })
    };
    there.sort_by_key(|one| !in_the_way(one));
    while !geometry.fits(wanted, &laid(&there, &change)) {
        let at = there
            .iter()
            .position(&idle)
            .ok_or_else(|| busy("of which others have the room"))?;
        let gone = there.remove(at);
        change.remove.extend(managed.find(gpu, gone.id).cloned());
    }
    change.create.push(place.clone());
    match at {
        Some(at) => plan.changes[at] = change,
        None => plan.changes.push(change),
    }
    Ok(Given::at(place))
}

/// The largest profile that could be made on a GPU now: beside what pods have and what
/// others made, in place of what the node agent made and nobody uses.
pub fn largest(gpu: &Gpu, holders: &[&Holder], managed: &Managed) -> Option<String> {
    if managed.instances == MigInstances::Keep {
        return None;
    }
    let layout = Layout::of(gpu)?;
    let mut used = layout.used.clone();
    let held = |id| {
        let instances = gpu.instances().unwrap_or_default().iter();
        let mut uuids = instances.filter(|one| one.id == id).map(|one| &one.uuid);
        let mut parts = holders.iter().flat_map(|holder| &holder.held);
        uuids.any(|uuid| parts.any(|part| part.is_taken() && part.instance.as_ref() == Some(uuid)))
    };
    for one in present(gpu) {
        if managed.made(gpu, one.id) && !held(one.id) {
            let slot = slot(&layout.geometry, &one.profile, one.start?)?;
            for (used, uses) in used.iter_mut().zip(&slot.uses) {
                *used = used.saturating_sub(*uses);
            }
        }
    }
    let geometry = &layout.geometry;
    let mut profiles = geometry.profiles.iter().rev();
    let found = profiles.find(|profile| {
        let mut slots = profile.slots.iter();
        slots.any(|slot| geometry.fits(slot, &used))
    });
    found.map(|profile| profile.name.clone())
}

/// What does not change while one wish is looked at.
struct Scene<'a> {
    snapshot: &'a Snapshot,
    /// Of each GPU that can be divided.
    layouts: &'a [Option<Layout>],
    ask: &'a GpuAsk,
    managed: &'a Managed,
}

impl Scene<'_> {
    /// `None` when nothing fits.
    fn divide(&self, holders: &[&Holder], healed: bool) -> Result<Option<Plan>, Refusal> {
        let mut pinned = self.in_use(holders);
        loop {
            let problem = self.problem(holders, &pinned, healed);
            let solution =
                solver::solve(&problem).map_err(|error| Refusal::Busy(error.to_string()))?;
            let Some(placed) = solution.bound(JobRef::Waiting(0)).next() else {
                return Ok(None);
            };
            let (changes, foreign) = self.changes(&solution.actions);
            if foreign.is_empty() {
                let parts = placed.placement.devices.iter();
                let given: Option<Vec<Given>> =
                    parts.map(|part| self.given(part, &changes)).collect();
                return Ok(given.map(|given| Plan {
                    given,
                    changes: changes.into_values().collect(),
                }));
            }
            // Idle, and not the node agent's to remove.
            pinned.extend(foreign);
        }
    }

    /// Instances, by position of the GPU and number, that nobody can be given: those of
    /// pods, of programs that run there, and what has no compute instance.
    fn in_use(&self, holders: &[&Holder]) -> BTreeSet<(usize, u32)> {
        let held: BTreeSet<&str> = holders
            .iter()
            .flat_map(|holder| &holder.held)
            .filter_map(|held| held.instance.as_deref())
            .collect();
        let mut found = BTreeSet::new();
        for (at, gpu) in self.snapshot.gpus.iter().enumerate() {
            let mig = gpu.mig.iter();
            found.extend(
                mig.clone()
                    .flat_map(|mig| &mig.bare)
                    .map(|bare| (at, bare.id)),
            );
            let instances = mig.flat_map(|mig| &mig.instances);
            let used = instances.filter(|instance| held.contains(instance.uuid.as_str()));
            found.extend(used.map(|instance| (at, instance.id)));
            // What an administrator made may be shared with the programs that run there,
            // as ever; what the node agent made is for pods alone.
            let programs = gpu.processes.iter().filter_map(|process| process.instance);
            let ours = programs.filter(|id| self.managed.made(gpu, *id));
            found.extend(ours.map(|id| (at, id)));
        }
        found
    }

    fn problem(
        &self,
        holders: &[&Holder],
        pinned: &BTreeSet<(usize, u32)>,
        healed: bool,
    ) -> Problem {
        let taken: BTreeSet<&str> = holders
            .iter()
            .flat_map(|holder| &holder.held)
            .filter_map(|held| held.instance.as_deref())
            .collect();
        let mut converted = convert(self.snapshot, &taken);
        let mut work: Vec<Running> = holders
            .iter()
            .enumerate()
            .filter_map(|(number, holder)| running(self.snapshot, number, holder))
            .collect();
        let gpus = self.snapshot.gpus.iter().zip(self.layouts);
        for (at, (gpu, layout)) in gpus.enumerate() {
            let device = &mut converted.devices[at];
            if healed {
                device.health = solver::Health::Healthy;
            }
            let Some(layout) = layout else { continue };
            let mut instances = Vec::new();
            for one in present(gpu) {
                let start = one.start.unwrap_or(0);
                if pinned.contains(&(at, one.id)) {
                    work.push(pin(at, one.id, &one.profile, start));
                }
                instances.push(solver::Instance {
                    profile: one.profile,
                    start,
                });
            }
            let name = layout.geometry.name.clone();
            device.sharing = Sharing::Partitioned {
                geometry: name.clone(),
                instances,
            };
            converted.geometries.insert(name, layout.geometry.clone());
        }
        Problem {
            nodes: vec![Node {
                name: "this node".to_owned(),
                devices: converted.devices,
                ..Node::default()
            }],
            geometries: converted.geometries,
            running: work,
            waiting: vec![Job::pod(
                "the pod",
                "",
                Pod {
                    devices: vec![request(self.snapshot, self.ask)],
                    ..Pod::default()
                },
            )],
            ..Problem::default()
        }
    }

    /// What the solver would change, by GPU, and what of it is not the node agent's.
    fn changes(&self, actions: &[Action]) -> (BTreeMap<usize, Change>, Vec<(usize, u32)>) {
        let mut changes: BTreeMap<usize, Change> = BTreeMap::new();
        let mut foreign = Vec::new();
        for action in actions {
            let Action::Repartition {
                device,
                remove,
                create,
                ..
            } = action
            else {
                continue;
            };
            let gpu = &self.snapshot.gpus[*device];
            let identity = gpu.identity();
            let place = |instance: &solver::Instance| Place {
                gpu: identity.clone(),
                profile: instance.profile.clone(),
                start: instance.start,
            };
            let change = changes.entry(*device).or_insert_with(|| Change {
                gpu: identity.clone(),
                remove: Vec::new(),
                create: Vec::new(),
            });
            change.create.extend(create.iter().map(place));
            for place in remove.iter().map(place) {
                let there = present(gpu);
                let Some(one) = there.iter().find(|one| one.is_at(&place)) else {
                    continue;
                };
                match self.managed.find(gpu, one.id) {
                    Some(made) => change.remove.push(made.clone()),
                    None => foreign.push((*device, one.id)),
                }
            }
        }
        (changes, foreign)
    }

    fn given(&self, part: &DevicePart, changes: &BTreeMap<usize, Change>) -> Option<Given> {
        let (Part::Partition { profile, start }, Some(_)) =
            (&part.part, self.layouts.get(part.device)?)
        else {
            return given(self.snapshot, part).map(Given::Held);
        };
        let gpu = self.snapshot.gpus.get(part.device)?;
        let place = Place {
            gpu: gpu.identity(),
            profile: profile.clone(),
            start: *start,
        };
        let mut created = changes.get(&part.device).into_iter();
        if created.any(|change| change.create.contains(&place)) {
            return Some(Given::at(place));
        }
        let mut instances = gpu.instances()?.iter();
        let instance = instances
            .find(|instance| instance.profile == *profile && instance.start == Some(*start))?;
        Some(Given::Held(held_of(gpu, instance)))
    }
}

/// Work that has an instance.
fn pin(device: usize, id: u32, profile: &str, start: u32) -> Running {
    let pod = Pod {
        devices: vec![DeviceRequest::one(Ask::Profile(profile.to_owned()))],
        ..Pod::default()
    };
    let name = format!("instance {id} of device {device}");
    Running {
        job: Job {
            members: vec![Members {
                pod,
                min: 1,
                max: 1,
            }],
            ..Job::pod(&name, "", Pod::default())
        },
        pods: vec![Placed {
            member: 0,
            placement: Placement {
                node: 0,
                devices: vec![DevicePart {
                    request: 0,
                    device,
                    part: Part::Partition {
                        profile: profile.to_owned(),
                        start,
                    },
                }],
            },
        }],
        start: 0,
        checkpoint: None,
    }
}
