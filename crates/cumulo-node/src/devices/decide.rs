//! Which devices a pod gets, or why none: the solver's decision for one node. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cumulo_api::{GpuAmount, GpuAsk};
use cumulo_schedule::solver::{
    self, Ask, DevicePart, DeviceRequest, Job, JobRef, Members, Node, Part, Placed, Placement, Pod,
    Problem, Resources, Running, WHOLE,
};
use serde::{Deserialize, Serialize};

use super::convert::{convert, is_model};
use super::energy::Energy;
use super::snapshot::{Gpu, Instance, Snapshot};
use super::why::why;

/// What a pod has of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// UUID of the GPU.
    pub gpu: String,
    /// UUID of the MIG instance, where it has one and not a part of the GPU itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Thousandths of the GPU; none where it may look at it for administration only, beside
    /// those who have it.
    pub milli: u32,
    /// Bytes of its memory.
    pub memory: u64,
    /// Uid of the ResourceClaim that gave it: pods that share a claim have one part
    /// together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

impl Held {
    /// The name that CUDA knows it by.
    pub fn visible(&self) -> &str {
        self.instance.as_deref().unwrap_or(&self.gpu)
    }

    /// The same, to be looked at only.
    pub fn for_administration(self) -> Self {
        Self {
            milli: 0,
            memory: 0,
            ..self
        }
    }

    /// Whether nobody else can have it.
    pub fn is_taken(&self) -> bool {
        self.milli > 0
    }
}

/// Who has devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// What it has.
    pub held: Vec<Held>,
    /// The energy that it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
}

/// What holders take from others: each claim's parts at the first of the pods that share it,
/// and nothing that is there for administration.
pub fn counted_once(holders: &[&Holder]) -> Vec<Holder> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut counted = Vec::with_capacity(holders.len());
    for holder in holders {
        let own = |held: &&Held| {
            let claim = held.claim.as_deref();
            held.is_taken() && claim.is_none_or(|claim| !seen.contains(claim))
        };
        counted.push(Holder {
            held: holder.held.iter().filter(own).cloned().collect(),
            ..(*holder).clone()
        });
        seen.extend(holder.held.iter().filter_map(|held| held.claim.as_deref()));
    }
    counted
}

/// Why a pod gets no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node could not give it even if nothing ran.
    #[error("{0}")]
    Never(String),
    /// What is free does not hold it now.
    #[error("{0}")]
    Busy(String),
}

/// Decides what a pod gets beside those who hold devices already.
///
/// # Errors
/// With a sentence, when it gets nothing.
pub fn decide(
    snapshot: &Snapshot,
    holders: &[&Holder],
    ask: &GpuAsk,
) -> Result<Vec<Held>, Refusal> {
    if snapshot.gpus.is_empty() {
        return Err(Refusal::Never(format!(
            "asks for {ask}; this node has none"
        )));
    }
    let holders = counted_once(holders);
    let holders: &[&Holder] = &holders.iter().collect::<Vec<_>>();
    // A broken GPU may be well again; until then the pod waits.
    if place(snapshot, &[], ask, true)?.is_none() {
        let reason = why(snapshot, &[], ask);
        return Err(Refusal::Never(format!(
            "asks for {ask}, more than this node has: {reason}"
        )));
    }
    place(snapshot, holders, ask, false)?.ok_or_else(|| {
        let reason = why(snapshot, holders, ask);
        Refusal::Busy(format!("asks for {ask}, which is not free: {reason}"))
    })
}

/// The solver's decision; `None` when nothing fits. With `healed` as if no GPU
/// were broken.
fn place(
    snapshot: &Snapshot,
    holders: &[&Holder],
    ask: &GpuAsk,
    healed: bool,
) -> Result<Option<Vec<Held>>, Refusal> {
    // Instances that somebody has are left out, so that the smallest of the
    // others is looked for; shares are told to the solver as running work.
    let taken: BTreeSet<&str> = holders
        .iter()
        .flat_map(|holder| &holder.held)
        .filter_map(|held| held.instance.as_deref())
        .collect();
    let mut converted = convert(snapshot, &taken);
    if healed {
        for device in &mut converted.devices {
            device.health = solver::Health::Healthy;
        }
    }
    let problem = Problem {
        nodes: vec![Node {
            name: "this node".to_owned(),
            devices: converted.devices,
            ..Node::default()
        }],
        geometries: converted.geometries,
        running: holders
            .iter()
            .enumerate()
            .filter_map(|(number, holder)| running(snapshot, number, holder))
            .collect(),
        waiting: vec![Job::pod(
            "the pod",
            "",
            Pod {
                devices: vec![request(snapshot, ask)],
                ..Pod::default()
            },
        )],
        ..Problem::default()
    };
    // Not the wish is wrong then but what was read: it may be right next time.
    let solution = solver::solve(&problem).map_err(|error| Refusal::Busy(error.to_string()))?;
    let placed = solution.bound(JobRef::Waiting(0)).next();
    Ok(placed.and_then(|placed| {
        let parts = placed.placement.devices.iter();
        parts.map(|part| given(snapshot, part)).collect()
    }))
}

pub(super) fn request(snapshot: &Snapshot, ask: &GpuAsk) -> DeviceRequest {
    // A person says A100 and means every model of that name.
    let mut models: BTreeSet<String> = BTreeSet::new();
    for name in &ask.models {
        let known = snapshot.gpus.iter().map(|gpu| gpu.model());
        let mut meant: Vec<&str> = known.filter(|model| is_model(model, name)).collect();
        if meant.is_empty() {
            meant.push(name);
        }
        models.extend(meant.into_iter().map(str::to_owned));
    }
    DeviceRequest {
        count: ask.count,
        ask: match &ask.amount {
            GpuAmount::Whole => Ask::Whole,
            GpuAmount::Share(milli) => Ask::Share {
                milli: *milli,
                memory: None,
            },
            GpuAmount::Memory(bytes) => Ask::Memory(*bytes),
            GpuAmount::Profile(name) => Ask::Profile(name.clone()),
        },
        models: models.into_iter().collect(),
        within: None,
    }
}

/// What a pod holds of GPUs that are not partitioned, as running work. What it
/// holds of one that is gone counts nowhere.
pub(super) fn running(snapshot: &Snapshot, number: usize, holder: &Holder) -> Option<Running> {
    let mut totals: BTreeMap<usize, (u32, u64)> = BTreeMap::new();
    for held in &holder.held {
        let device = snapshot
            .gpus
            .iter()
            .position(|gpu| gpu.identity() == held.gpu && gpu.instances().is_none());
        if let (Some(device), None) = (device, &held.instance) {
            let total = totals.entry(device).or_default();
            total.0 = total.0.saturating_add(held.milli);
            total.1 = total.1.saturating_add(held.memory);
        }
    }
    if totals.is_empty() {
        return None;
    }
    let mut devices = Vec::new();
    let mut requests = Vec::new();
    for (request, (device, (milli, memory))) in totals.into_iter().enumerate() {
        let part = if milli >= WHOLE {
            requests.push(DeviceRequest::whole(1));
            Part::Whole
        } else {
            requests.push(DeviceRequest::one(Ask::Share {
                milli,
                memory: Some(memory),
            }));
            Part::Slots {
                slots: milli,
                memory,
            }
        };
        devices.push(DevicePart {
            request,
            device,
            part,
        });
    }
    let pod = Pod {
        resources: Resources::default(),
        devices: requests,
        ..Pod::default()
    };
    Some(Running {
        job: Job {
            members: vec![Members {
                pod,
                min: 1,
                max: 1,
            }],
            ..Job::pod(
                &format!("{}/{} ({number})", holder.namespace, holder.pod),
                "",
                Pod::default(),
            )
        },
        pods: vec![Placed {
            member: 0,
            placement: Placement { node: 0, devices },
        }],
        start: 0,
        checkpoint: None,
    })
}

/// What a decided part is, by the devices' own names.
pub(super) fn given(snapshot: &Snapshot, part: &DevicePart) -> Option<Held> {
    let gpu = snapshot.gpus.get(part.device)?;
    let usable = gpu.memory.total.saturating_sub(gpu.memory.reserved);
    let of_gpu = |milli, memory| {
        Some(Held {
            gpu: gpu.identity(),
            instance: None,
            milli,
            memory,
            claim: None,
        })
    };
    match &part.part {
        Part::Whole => of_gpu(WHOLE, usable),
        Part::Share { milli, memory } => of_gpu(*milli, *memory),
        Part::Slots { slots, memory } => of_gpu(*slots, *memory),
        Part::Partition { start, .. } => {
            let instance = gpu.instances()?.get(usize::try_from(*start).ok()?)?;
            Some(held_of(gpu, instance))
        }
    }
}

/// What a pod holds that has an instance.
pub(super) fn held_of(gpu: &Gpu, instance: &Instance) -> Held {
    let part =
        u128::from(instance.memory.total) * u128::from(WHOLE) / u128::from(gpu.memory.total.max(1));
    Held {
        gpu: gpu.identity(),
        instance: Some(instance.uuid.clone()),
        milli: u32::try_from(part).unwrap_or(WHOLE).min(WHOLE),
        memory: instance
            .memory
            .total
            .saturating_sub(instance.memory.reserved),
        claim: None,
    }
}
