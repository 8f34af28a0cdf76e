//! A snapshot as the solver's devices. Pure.

use std::collections::{BTreeMap, BTreeSet};

pub use cumulo_api::is_model;
use cumulo_schedule::solver::geometry::{Counter, Geometry, Profile, Slot, builtin};
use cumulo_schedule::solver::{self, Device, Sharing, WHOLE};

use super::health::Condition;
use super::snapshot::{self, Gpu, Instance, Snapshot, Vendor};

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
/// A GPU in MIG mode has the instances that exist, and no others. Each is named by its
/// position in the snapshot, as not every driver tells where it lies. Those in
/// `taken` (by UUID) are left out.
///
/// Any other GPU of NVIDIA's is time-sliced in thousandths: compute is shared by turns, and
/// memory is counted, not enforced. Those of others are given whole.
pub fn convert(snapshot: &Snapshot, taken: &BTreeSet<&str>) -> Converted {
    let mut converted = Converted::default();
    let domains = snapshot.link_domains();
    for ((gpu, health), domain) in snapshot.gpus.iter().zip(snapshot.health()).zip(domains) {
        let sharing = match gpu.instances() {
            None if gpu.vendor != Vendor::Nvidia => Sharing::Exclusive,
            None => Sharing::TimeSliced { slots: WHOLE },
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
        profiles.push(Profile {
            name: instance.profile.clone(),
            memory,
            share: share_of(gpu, instance),
            compute: compute_of(&instance.profile),
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

/// Thousandths of its GPU that an instance is, by memory or by compute, whichever is more.
pub(super) fn share_of(gpu: &Gpu, instance: &Instance) -> u32 {
    let memory = instance.memory;
    let memory = memory.total.saturating_sub(memory.reserved);
    let part = u128::from(memory) * u128::from(WHOLE) / u128::from(gpu.memory.total.max(1));
    let part = u32::try_from(part).unwrap_or(WHOLE);
    compute_of(&instance.profile).max(part).min(WHOLE)
}

/// Thousandths of a GPU's compute that a profile has: `3g.40gb` has 3 of 7 slices.
fn compute_of(profile: &str) -> u32 {
    let slices = profile.split_once('g').map(|(slices, _)| slices);
    let slices: u32 = slices.and_then(|text| text.parse().ok()).unwrap_or(1);
    slices.min(COMPUTE_SLICES) * WHOLE / COMPUTE_SLICES
}

/// How a GPU can be divided: as its driver says, or else as is known of its model.
pub(super) fn geometry_of(gpu: &Gpu) -> Option<Geometry> {
    let told = gpu.mig.as_ref().map_or(&[][..], |mig| &mig.profiles);
    if told.is_empty() {
        return layout_of(gpu).cloned();
    }
    Some(as_told(gpu, told))
}

/// The geometry that a driver's own profiles make: memory slices that no two instances
/// share, compute slices that are counted, and for a profile that could lie in more places
/// than there may be of it a counter of its own.
fn as_told(gpu: &Gpu, told: &[snapshot::Profile]) -> Geometry {
    let ends = told.iter().flat_map(|profile| {
        let ends = profile.starts.iter();
        ends.map(|start| start.saturating_add(profile.size))
    });
    let memory_slices = ends.max().unwrap_or(0);
    let compute_slices = told.iter().map(|profile| profile.compute).max();
    let compute_slices = compute_slices.unwrap_or(1).max(1);
    let limited: Vec<&snapshot::Profile> = told
        .iter()
        .filter(|profile| (profile.most as usize) < profile.starts.len())
        .collect();
    let mut counters: Vec<Counter> = (0..memory_slices)
        .map(|slice| Counter {
            name: format!("memory-slice-{slice}"),
            capacity: 1,
        })
        .collect();
    counters.push(Counter {
        name: "compute-slices".to_owned(),
        capacity: compute_slices,
    });
    counters.extend(limited.iter().map(|profile| Counter {
        name: format!("instances-of-{}", profile.name),
        capacity: profile.most,
    }));
    let mut profiles: Vec<Profile> = told
        .iter()
        .map(|profile| {
            let slots = profile.starts.iter().map(|start| {
                let lies = *start..start.saturating_add(profile.size);
                let mut uses: Vec<u32> = (0..memory_slices)
                    .map(|slice| u32::from(lies.contains(&slice)))
                    .collect();
                uses.push(profile.compute);
                let own = limited.iter().map(|limited| limited.name == profile.name);
                uses.extend(own.map(u32::from));
                Slot {
                    start: *start,
                    uses,
                }
            });
            let compute = profile.compute.saturating_mul(WHOLE) / compute_slices;
            let memory = profile.size.saturating_mul(WHOLE) / memory_slices.max(1);
            Profile {
                name: profile.name.clone(),
                memory: profile.memory,
                share: compute.max(memory),
                compute,
                slots: slots.collect(),
            }
        })
        .collect();
    profiles.sort_by(|a, b| (a.share, a.compute, &a.name).cmp(&(b.share, b.compute, &b.name)));
    Geometry {
        // GPUs that differ in nothing are alike for the solver.
        name: format!("{} of {} GiB as told", gpu.model(), gpu.memory.total >> 30),
        counters,
        profiles,
    }
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
