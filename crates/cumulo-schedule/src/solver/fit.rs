//! Whether a pod fits a node in a state, which devices it takes there, and how
//! good that is.

use super::geometry::Geometry;
use super::index::Asking;
use super::model::{DeviceSpec, Kind, Model, Request};
use super::problem::WHOLE;
use super::state::{DeviceState, DeviceTake, NodeState, Take, Took};
use super::value::{NodeValue, NodeView};
use super::work::{Ask, Locality};

/// A pod's best way to fit a node.
#[derive(Debug, Clone)]
pub(super) struct Fit {
    pub take: Take,
    pub score: Score,
}

/// How good a place is; less is better, earlier fields decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// Thousandths of devices that the quota is charged, where the least counts.
    pub charge: u64,
    /// Weight of what the pod would have preferred and does not get.
    pub unmet: u32,
    /// Worth of the node's free room that is lost, and the price of changing partitions.
    pub lost: i64,
    /// What stays free there: a fuller node leaves an emptier one whole.
    pub left: u64,
    /// Price of the node.
    pub price: u64,
}

/// What has to be done about a device's partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Partitions {
    /// Nothing: an idle instance is there, or none is asked.
    Kept,
    /// An instance is made beside the others.
    Created,
    /// Idle instances have to go for it.
    Replaced,
}

impl Partitions {
    /// Making a partition takes a moment, and one that goes may be asked again: in
    /// millionths of a device, what a place must be better by to be worth it.
    fn price(self) -> i64 {
        match self {
            Self::Kept => 0,
            Self::Created => 100_000,
            Self::Replaced => 200_000,
        }
    }
}

/// Ways to serve a pod that are looked at on one node.
const WAYS: usize = 12;

/// The best way to fit a pod on `node` in `state`.
///
/// `before` is the state's own value.
pub(super) fn fit(
    model: &Model<'_>,
    value: &dyn NodeValue,
    asking: Asking,
    node: usize,
    state: &NodeState,
    before: i64,
) -> Option<Fit> {
    let asked = &model.shapes[asking.shape];
    let spec = &model.nodes[node];
    let unmet = asked.admits[spec.class]?;
    for ((amount, used), capacity) in asked.amounts.iter().zip(&state.used).zip(&spec.capacity) {
        if *amount > 0 && used.saturating_add(*amount) > *capacity {
            return None;
        }
    }
    let mut best: Option<Fit> = None;
    for devices in ways(model, &asked.requests, node, state) {
        let partitions = devices
            .iter()
            .map(|part| partitions(model, node, &state.devices[part.device], part))
            .max()
            .unwrap_or(Partitions::Kept);
        let take = Take {
            amounts: asked.amounts.clone(),
            devices,
        };
        let mut after = state.clone();
        after.take(model, node, &take);
        let score = Score {
            charge: if asking.thrifty {
                take.device_milli()
            } else {
                0
            },
            unmet,
            lost: before - value.value(&NodeView::new(model, node, &after)) + partitions.price(),
            left: left(model, node, &after),
            price: model.problem.nodes[node].price,
        };
        if best.as_ref().is_none_or(|best| score < best.score) {
            best = Some(Fit { take, score });
        }
    }
    best
}

/// Sum over resources and devices of what stays free, each in thousandths.
fn left(model: &Model<'_>, node: usize, state: &NodeState) -> u64 {
    let spec = &model.nodes[node];
    let resources = spec
        .capacity
        .iter()
        .zip(&state.used)
        .filter(|(capacity, _)| **capacity > 0);
    let part = |(capacity, used): (&u64, &u64)| {
        let free = u128::from(capacity.saturating_sub(*used)) * u128::from(WHOLE);
        u64::try_from(free / u128::from(*capacity)).unwrap_or(0)
    };
    let devices = state
        .devices
        .iter()
        .map(|device| u64::from(WHOLE.saturating_sub(device.share)));
    resources.map(part).sum::<u64>() + devices.sum::<u64>()
}

/// Ways to serve all requests together, best guesses first.
fn ways(
    model: &Model<'_>,
    requests: &[Request<'_>],
    node: usize,
    state: &NodeState,
) -> Vec<Vec<DeviceTake>> {
    // What is hardest to serve chooses first.
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|at| {
        let request = &requests[*at];
        let eligible = model.nodes[node]
            .devices
            .iter()
            .filter(|spec| named(request, spec))
            .count();
        let hardness = match request.ask {
            Ask::Whole => 0,
            Ask::Profile(_) => 1,
            Ask::Share { .. } | Ask::Memory(_) => 2,
        };
        (
            hardness,
            request.within.is_none(),
            eligible,
            std::cmp::Reverse(request.count),
        )
    });
    let mut ways: Vec<Vec<DeviceTake>> = vec![Vec::new()];
    for at in order {
        let mut longer = Vec::new();
        for way in ways {
            let found = if way.is_empty() {
                candidates(model, at, &requests[at], node, state)
            } else {
                let mut scratch = state.clone();
                scratch.take(
                    model,
                    node,
                    &Take {
                        amounts: Box::default(),
                        devices: way.clone(),
                    },
                );
                candidates(model, at, &requests[at], node, &scratch)
            };
            longer.extend(
                found
                    .into_iter()
                    .map(|found| way.iter().cloned().chain(found).collect()),
            );
            if longer.len() >= WAYS {
                break;
            }
        }
        longer.truncate(WAYS);
        ways = longer;
    }
    ways
}

fn named(request: &Request<'_>, spec: &DeviceSpec) -> bool {
    spec.healthy
        && request
            .models
            .as_ref()
            .is_none_or(|models| models.contains(&spec.model))
}

/// Ways to serve one request.
fn candidates(
    model: &Model<'_>,
    at: usize,
    request: &Request<'_>,
    node: usize,
    state: &NodeState,
) -> Vec<Vec<DeviceTake>> {
    let specs = &model.nodes[node].devices;
    let count = request.count as usize;
    if count == 0 {
        return vec![Vec::new()];
    }
    let usable: Vec<Vec<DeviceTake>> = (0..specs.len())
        .map(|device| parts(model, at, request, node, device, &state.devices[device]))
        .collect();
    let free_beside = |device: usize| {
        let link = specs[device].link;
        (0..specs.len())
            .filter(|other| {
                link.is_some() && specs[*other].link == link && !usable[*other].is_empty()
            })
            .count()
    };
    let mut devices: Vec<usize> = (0..specs.len())
        .filter(|device| !usable[*device].is_empty())
        .collect();
    // Devices in use first, then those with the fewest free ones beside them.
    devices.sort_by_key(|device| {
        (
            WHOLE.saturating_sub(state.devices[*device].share),
            free_beside(*device),
            *device,
        )
    });
    if count == 1 {
        let mut seen: Vec<(&DeviceSpec, &DeviceState)> = Vec::new();
        let mut found = Vec::new();
        for device in devices {
            let alike = seen.iter().any(|(spec, seen)| {
                *seen == &state.devices[device]
                    && spec.kind == specs[device].kind
                    && spec.model == specs[device].model
                    && spec.usable == specs[device].usable
            });
            if !alike {
                seen.push((&specs[device], &state.devices[device]));
                found.extend(usable[device].iter().map(|part| vec![part.clone()]));
            }
        }
        found.sort_by_key(|way| partitions(model, node, &state.devices[way[0].device], &way[0]));
        found.truncate(WAYS);
        return found;
    }
    // Where nothing is asked, near each other is still better.
    let within = request.within.unwrap_or(Locality::Link);
    let mut domains: Vec<u32> = devices
        .iter()
        .filter_map(|at| specs[*at].domain(within))
        .collect();
    domains.sort_unstable();
    domains.dedup();
    let inside = |domain: &u32| {
        let devices = devices.iter().copied();
        devices
            .filter(|at| specs[*at].domain(within) == Some(*domain))
            .collect::<Vec<_>>()
    };
    let mut groups: Vec<Vec<usize>> = domains.iter().map(inside).collect();
    groups.sort_by_key(Vec::len);
    if request.within.is_none() {
        groups.push(devices);
    }
    groups
        .iter()
        .filter_map(|group| several(model, request, node, state, group, &usable))
        .take(WAYS)
        .collect()
}

/// One way to take `count` parts from a group of devices, in the group's order.
fn several(
    model: &Model<'_>,
    request: &Request<'_>,
    node: usize,
    state: &NodeState,
    group: &[usize],
    usable: &[Vec<DeviceTake>],
) -> Option<Vec<DeviceTake>> {
    let count = request.count as usize;
    let mut way: Vec<DeviceTake> = Vec::with_capacity(count);
    for device in group {
        if way.len() == count {
            break;
        }
        if !matches!(
            model.nodes[node].devices[*device].kind,
            Kind::Partitioned { .. }
        ) {
            way.push(usable[*device].first()?.clone());
            continue;
        }
        let mut scratch = state.clone();
        let mut next = usable[*device].first().cloned();
        while let Some(part) = next.filter(|_| way.len() < count) {
            let take = Take {
                amounts: Box::default(),
                devices: vec![part.clone()],
            };
            scratch.take(model, node, &take);
            let at = part.request;
            way.push(part);
            next = parts(model, at, request, node, *device, &scratch.devices[*device])
                .into_iter()
                .next();
        }
    }
    (way.len() == count).then_some(way)
}

/// The parts of one device that would serve a request once.
fn parts(
    model: &Model<'_>,
    at: usize,
    request: &Request<'_>,
    node: usize,
    device: usize,
    state: &DeviceState,
) -> Vec<DeviceTake> {
    let spec = &model.nodes[node].devices[device];
    if !named(request, spec) {
        return Vec::new();
    }
    let whole = matches!(request.ask, Ask::Whole | Ask::Share { milli: WHOLE, .. });
    if let Kind::Partitioned { geometry } = spec.kind {
        let geometry = model.geometries[geometry];
        let profile = match request.ask {
            // Partitions of several devices cannot talk over the fast link.
            Ask::Whole if request.count > 1 => None,
            Ask::Whole => geometry.whole(),
            Ask::Share { milli, memory } => geometry.smallest(*milli, memory.unwrap_or(0)),
            Ask::Memory(memory) => geometry.smallest(0, *memory),
            Ask::Profile(name) => geometry.profile(name),
        };
        return profile.map_or_else(Vec::new, |profile| {
            slots(at, device, geometry, profile, state)
        });
    }
    if whole {
        let memory = match request.ask {
            Ask::Share { memory, .. } => memory.unwrap_or(0),
            _ => 0,
        };
        let free = state.untouched() && memory <= spec.usable;
        return if free {
            vec![DeviceTake::whole(at, device, &model.nodes[node])]
        } else {
            Vec::new()
        };
    }
    let (milli, memory) = match request.ask {
        Ask::Share { milli, memory } => (
            *milli,
            memory.unwrap_or_else(|| portion(spec.usable, *milli)),
        ),
        Ask::Memory(memory) if spec.usable > 0 => {
            let share = u128::from(*memory) * u128::from(WHOLE) / u128::from(spec.usable);
            (u32::try_from(share).unwrap_or(u32::MAX), *memory)
        }
        _ => return Vec::new(),
    };
    let given = matches!(request.ask, Ask::Share { memory: None, .. });
    let (share, memory, clients, most, part) = match spec.kind {
        // A share without memory has its context inside its part of the memory.
        Kind::Mps { clients, overhead } if given => {
            (milli, memory.max(overhead), 1, clients, Took::Share)
        }
        Kind::Mps { clients, overhead } => (
            milli,
            memory.saturating_add(overhead),
            1,
            clients,
            Took::Share,
        ),
        Kind::TimeSliced { slots } => {
            let turns = (milli.saturating_mul(slots)).div_ceil(WHOLE).max(1);
            (
                turns * WHOLE / slots.max(1),
                memory,
                turns,
                slots,
                Took::Slots,
            )
        }
        Kind::Exclusive | Kind::Partitioned { .. } => return Vec::new(),
    };
    let fits = state.share.saturating_add(share) <= WHOLE
        && state.memory.saturating_add(memory) <= spec.usable
        && state.clients.saturating_add(clients) <= most;
    if fits {
        vec![DeviceTake {
            request: at,
            device,
            share,
            memory,
            clients,
            part,
        }]
    } else {
        Vec::new()
    }
}

/// So many thousandths of so many bytes, rounded down: parts never exceed the whole.
fn portion(bytes: u64, milli: u32) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(milli) / u128::from(WHOLE)).unwrap_or(u64::MAX)
}

/// Where a partition of `profile` can lie: idle instances first, then free
/// room where the most stays possible, then where idle instances must go.
fn slots(
    at: usize,
    device: usize,
    geometry: &Geometry,
    profile: usize,
    state: &DeviceState,
) -> Vec<DeviceTake> {
    let found = &geometry.profiles[profile];
    let mut fitting: Vec<usize> = (0..found.slots.len())
        .filter(|slot| geometry.fits(&found.slots[*slot], &state.counters))
        .collect();
    fitting.sort_by_cached_key(|slot| {
        let mut used = state.counters.to_vec();
        super::geometry::add(&mut used, &found.slots[*slot].uses);
        let room: Vec<u32> = (0..geometry.profiles.len())
            .rev()
            .map(|at| geometry.room(at, &used))
            .collect();
        (
            disturbance(geometry, state, (profile, *slot)),
            std::cmp::Reverse(room),
            std::cmp::Reverse(*slot),
        )
    });
    let take = |slot| DeviceTake {
        request: at,
        device,
        share: found.share,
        memory: found.memory,
        clients: 1,
        part: Took::Partition { profile, slot },
    };
    fitting.into_iter().map(take).collect()
}

fn disturbance(geometry: &Geometry, state: &DeviceState, wanted: (usize, usize)) -> Partitions {
    if state.idle.contains(&wanted) {
        return Partitions::Kept;
    }
    let mut used = state.counters.to_vec();
    super::geometry::add(&mut used, &geometry.profiles[wanted.0].slots[wanted.1].uses);
    let stays =
        |idle: &(usize, usize)| geometry.fits(&geometry.profiles[idle.0].slots[idle.1], &used);
    if state.idle.iter().all(stays) {
        Partitions::Created
    } else {
        Partitions::Replaced
    }
}

fn partitions(
    model: &Model<'_>,
    node: usize,
    state: &DeviceState,
    part: &DeviceTake,
) -> Partitions {
    match (part.part, model.nodes[node].devices[part.device].kind) {
        (Took::Partition { profile, slot }, Kind::Partitioned { geometry }) => {
            disturbance(model.geometries[geometry], state, (profile, slot))
        }
        _ => Partitions::Kept,
    }
}
