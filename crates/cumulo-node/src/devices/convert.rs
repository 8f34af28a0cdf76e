//! A snapshot as the solver's devices. Pure.

use std::collections::{BTreeMap, BTreeSet};

pub use cumulo_api::is_model;
use cumulo_schedule::solver::geometry::{Counter, Geometry, Profile, Slot, builtin};
use cumulo_schedule::solver::{self, Device, Sharing, WHOLE};

use super::health::Condition;
use super::snapshot::{Gpu, Instance, Snapshot};

/// Parts that the time of a GPU that is not partitioned is counted in: hundredths.
pub const SLOTS: u32 = 100;

/// Compute slices of a GPU that can be partitioned (NVIDIA MIG User Guide).
const COMPUTE_SLICES: u32 = 7;

/// What the solver is told of a node's GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Converted {
    /// One for each GPU, in the snapshot's order.
    pub devices: Vec<Device>,
    /// How the partitioned ones are divided.
    pub geometries: BTreeMap<String, Geometry>,
}

/// The solver's devices for a snapshot.
///
/// A GPU in MIG mode has the instances that exist, and no others: making them
/// takes root and an idle GPU, and nobody does it here yet. Each is named by its
/// position in the snapshot, as not every driver tells where it lies. Those in
/// `taken` (by UUID) are left out.
///
/// Any other GPU is time-sliced in hundredths: compute is shared by turns, and
/// memory is counted, not enforced.
pub fn convert(snapshot: &Snapshot, taken: &BTreeSet<&str>) -> Converted {
    let mut converted = Converted::default();
    let domains = snapshot.link_domains();
    for ((gpu, health), domain) in snapshot.gpus.iter().zip(snapshot.health()).zip(domains) {
        let sharing = match gpu.instances() {
            None => Sharing::TimeSliced { slots: SLOTS },
            Some(instances) => {
                let geometry = as_it_is(gpu, instances, taken);
                let name = geometry.name.clone();
                let instances = instances
                    .iter()
                    .zip(0..)
                    .filter(|(instance, _)| !taken.contains(instance.uuid.as_str()))
                    .map(|(instance, start)| solver::Instance {
                        profile: instance.profile.clone(),
                        start,
                    })
                    .collect();
                converted.geometries.insert(name.clone(), geometry);
                Sharing::Partitioned {
                    geometry: name,
                    instances,
                }
            }
        };
        converted.devices.push(Device {
            name: gpu.identity(),
            model: gpu.model().to_owned(),
            memory: gpu.memory.total,
            reserved: gpu.memory.reserved,
            sharing,
            numa: gpu.pci.numa,
            link: domain.map(|domain| format!("nvlink-{domain}")),
            health: match health.condition {
                Condition::Healthy | Condition::Degraded => solver::Health::Healthy,
                Condition::Broken => solver::Health::Broken,
            },
        });
    }
    converted
}

/// A geometry that has the instances of a GPU and nothing else: a counter each.
fn as_it_is(gpu: &Gpu, instances: &[Instance], taken: &BTreeSet<&str>) -> Geometry {
    let free: Vec<(usize, &Instance)> = instances
        .iter()
        .enumerate()
        .filter(|(_, instance)| !taken.contains(instance.uuid.as_str()))
        .collect();
    let mut profiles: Vec<Profile> = Vec::new();
    for (at, (position, instance)) in free.iter().enumerate() {
        let slot = Slot {
            start: u32::try_from(*position).unwrap_or(u32::MAX),
            uses: (0..free.len())
                .map(|other| u32::from(other == at))
                .collect(),
        };
        let memory = instance
            .memory
            .total
            .saturating_sub(instance.memory.reserved);
        if let Some(known) = profiles
            .iter_mut()
            .find(|profile| profile.name == instance.profile)
        {
            known.memory = known.memory.min(memory);
            known.slots.push(slot);
            continue;
        }
        let compute = compute_of(&instance.profile);
        let part = u128::from(memory) * u128::from(WHOLE) / u128::from(gpu.memory.total.max(1));
        profiles.push(Profile {
            name: instance.profile.clone(),
            memory,
            share: compute.max(u32::try_from(part).unwrap_or(WHOLE)).min(WHOLE),
            compute,
            slots: vec![slot],
        });
    }
    profiles.sort_by(|a, b| (a.share, a.compute, &a.name).cmp(&(b.share, b.compute, &b.name)));
    Geometry {
        name: format!("instances of {}", gpu.identity()),
        counters: free
            .iter()
            .map(|(_, instance)| Counter {
                name: instance.uuid.clone(),
                capacity: 1,
            })
            .collect(),
        profiles,
    }
}

/// Thousandths of a GPU's compute that a profile has: `3g.40gb` has 3 of 7 slices.
fn compute_of(profile: &str) -> u32 {
    let slices = profile.split_once('g').map(|(slices, _)| slices);
    let slices: u32 = slices.and_then(|text| text.parse().ok()).unwrap_or(1);
    slices.min(COMPUTE_SLICES) * WHOLE / COMPUTE_SLICES
}

/// How NVIDIA lays partitions out on GPUs of this model, where that is known.
pub(super) fn layout_of(gpu: &Gpu) -> Option<&'static Geometry> {
    let gibibytes = gpu.memory.total >> 30;
    builtin().values().find(|geometry| {
        let Some((family, size)) = geometry.name.split_once('-') else {
            return false;
        };
        let size: u64 = size.trim_end_matches("GB").parse().unwrap_or(0);
        is_model(gpu.model(), family) && size.abs_diff(gibibytes) * 10 <= size
    })
}
