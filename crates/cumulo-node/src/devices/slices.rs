//! A snapshot as Kubernetes' ResourceSlices (`resource.k8s.io/v1`). Pure.

use std::collections::BTreeMap;

use cumulo_schedule::solver::geometry::{Geometry, Slot};
use k8s_openapi::api::resource::v1::{
    CapacityRequestPolicy, CapacityRequestPolicyRange, Counter, CounterSet, Device,
    DeviceAttribute, DeviceCapacity, DeviceCounterConsumption, ResourcePool, ResourceSlice,
    ResourceSliceSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::convert::{layout_of, share_of};
use super::health::{Condition, Health};
use super::mig::{Layout, Managed, MigInstances};
use super::snapshot::{Gpu, Instance, Snapshot, Vendor};

/// The driver that the node agent publishes as.
pub const DRIVER: &str = "gpu.cumulo.dev";

/// Where a vendor's driver publishes its devices, the node agent keeps still about them.
pub fn vendor_driver(driver: &str) -> Option<Vendor> {
    Some(match driver {
        "gpu.nvidia.com" => Vendor::Nvidia,
        "gpu.amd.com" => Vendor::Amd,
        "gpu.intel.com" => Vendor::Intel,
        _ => return None,
    })
}

/// Most devices of a slice with counters (Kubernetes' validation).
const MOST_DEVICES: usize = 64;
/// Most counter sets of a slice (Kubernetes' validation).
const MOST_COUNTER_SETS: usize = 8;
/// Parts of a GPU that claims are counted in: hundredths, as MPS counts.
const SHARES: u32 = 100;
/// Shares of memory are whole mebibytes.
const MEBIBYTE: u64 = 1 << 20;

/// The slices of a node's devices, without a generation and an owner. None without devices.
///
/// Where the node agent makes MIG instances, each place where one could be is a device: it
/// is made when the first pod comes with it. What is there already by the agent's own hand
/// is in no slice of its own, as it may go at any time when no pod has it.
///
/// A broken GPU is left out: taints on devices are an alpha feature that an API
/// server may drop, and then a scheduler would give the GPU away.
pub fn slices(snapshot: &Snapshot, node: &str, managed: &Managed) -> Vec<ResourceSlice> {
    let mut counters = Vec::new();
    let mut devices = Vec::new();
    let divisible = |gpu| managed.instances == MigInstances::Manage && Layout::of(gpu).is_some();
    let divisible: Vec<bool> = snapshot.gpus.iter().map(divisible).collect();
    let snapshot = managed.lasting(snapshot);
    let gpus = snapshot.gpus.iter().zip(snapshot.health());
    for ((gpu, health), divisible) in gpus.zip(divisible) {
        if health.condition == Condition::Broken {
            continue;
        }
        match gpu.instances() {
            None if gpu.vendor != Vendor::Nvidia => {
                devices.push(undivided(&snapshot, gpu, &health));
            }
            None => devices.push(whole(&snapshot, gpu, &health)),
            Some(instances) => {
                let room = divisible.then(|| Layout::of(gpu)).flatten();
                // What is never the agent's to divide is not in the counters then.
                let layout = if room.is_some() { None } else { layout_of(gpu) };
                counters.extend(layout.map(|layout| counter_set(gpu, layout, &[])));
                for instance in instances {
                    devices.push(partition(&snapshot, gpu, &health, instance, layout));
                }
                if let Some(Layout { geometry, used }) = room {
                    counters.push(counter_set(gpu, &geometry, &used));
                    devices.extend(places(&snapshot, gpu, &health, &geometry, &used));
                }
            }
        }
    }
    // Kubernetes allows a slice either counters or devices.
    let counter_slices = counters
        .chunks(MOST_COUNTER_SETS)
        .map(|sets| ResourceSliceSpec {
            shared_counters: Some(sets.to_vec()),
            ..ResourceSliceSpec::default()
        });
    let device_slices = devices.chunks(MOST_DEVICES).map(|some| ResourceSliceSpec {
        devices: Some(some.to_vec()),
        ..ResourceSliceSpec::default()
    });
    let specs: Vec<ResourceSliceSpec> = counter_slices.chain(device_slices).collect();
    let count = i64::try_from(specs.len()).unwrap_or(i64::MAX);
    specs
        .into_iter()
        .enumerate()
        .map(|(number, spec)| ResourceSlice {
            metadata: ObjectMeta {
                name: Some(format!("{node}-{DRIVER}-{number}")),
                ..ObjectMeta::default()
            },
            spec: ResourceSliceSpec {
                driver: DRIVER.to_owned(),
                node_name: Some(node.to_owned()),
                pool: ResourcePool {
                    generation: 0,
                    name: node.to_owned(),
                    resource_slice_count: count,
                },
                ..spec
            },
        })
        .collect()
}

/// A GPU that can only be given whole.
fn undivided(snapshot: &Snapshot, gpu: &Gpu, health: &Health) -> Device {
    let usable = gpu.memory.total.saturating_sub(gpu.memory.reserved);
    let mut attributes = attributes(snapshot, gpu, health);
    attributes.insert("type".to_owned(), text("gpu"));
    attributes.insert("uuid".to_owned(), text(&gpu.uuid));
    Device {
        name: format!("gpu-{}", gpu.index),
        attributes: Some(attributes),
        capacity: Some(BTreeMap::from([(
            "memory".to_owned(),
            DeviceCapacity {
                request_policy: None,
                value: bytes(usable),
            },
        )])),
        ..Device::default()
    }
}

/// A GPU that can be given whole or in shares.
fn whole(snapshot: &Snapshot, gpu: &Gpu, health: &Health) -> Device {
    let usable = gpu.memory.total.saturating_sub(gpu.memory.reserved);
    let usable = usable - usable % MEBIBYTE;
    // Who names no amount gets all of it.
    let shared = |value: Quantity, min: Quantity| DeviceCapacity {
        request_policy: Some(CapacityRequestPolicy {
            default: Some(value.clone()),
            valid_range: Some(CapacityRequestPolicyRange {
                max: Some(value.clone()),
                min: min.clone(),
                step: Some(min),
            }),
            valid_values: None,
        }),
        value,
    };
    let mut attributes = attributes(snapshot, gpu, health);
    attributes.insert("type".to_owned(), text("gpu"));
    attributes.insert("uuid".to_owned(), text(&gpu.uuid));
    Device {
        name: format!("gpu-{}", gpu.index),
        allow_multiple_allocations: Some(true),
        attributes: Some(attributes),
        capacity: Some(BTreeMap::from([
            ("memory".to_owned(), shared(bytes(usable), bytes(MEBIBYTE))),
            (
                "share".to_owned(),
                shared(Quantity(SHARES.to_string()), Quantity("1".to_owned())),
            ),
        ])),
        ..Device::default()
    }
}

/// Each place on a GPU where an instance could be made, beside what lies there for good.
fn places<'a>(
    snapshot: &'a Snapshot,
    gpu: &'a Gpu,
    health: &'a Health,
    geometry: &'a Geometry,
    used: &'a [u32],
) -> impl Iterator<Item = Device> + 'a {
    let slots = geometry.profiles.iter().flat_map(|profile| {
        let slots = profile.slots.iter();
        slots.map(move |slot| (profile, slot))
    });
    let free = slots.filter(|(_, slot)| geometry.fits(slot, used));
    free.map(move |(profile, slot)| {
        let mut attributes = attributes(snapshot, gpu, health);
        attributes.insert("type".to_owned(), text("mig"));
        attributes.insert("parentUUID".to_owned(), text(&gpu.uuid));
        attributes.insert("profile".to_owned(), text(&profile.name));
        Device {
            name: place_name(gpu, &profile.name, slot.start),
            attributes: Some(attributes),
            capacity: Some(amounts(profile.memory, profile.share)),
            consumes_counters: Some(vec![consumption(gpu, geometry, slot)]),
            ..Device::default()
        }
    })
}

/// What the place of an instance is called, whether or not one is there.
pub(super) fn place_name(gpu: &Gpu, profile: &str, start: u32) -> String {
    format!("gpu-{}-mig-{}-{start}", gpu.index, label(profile))
}

/// What an instance has: bytes, and thousandths of its GPU.
fn amounts(memory: u64, share: u32) -> BTreeMap<String, DeviceCapacity> {
    // Hundredths, as of whole GPUs, in Kubernetes' own spelling.
    let hundredths = match share % 10 {
        0 => format!("{}", share / 10),
        _ => format!("{}m", u64::from(share) * 100),
    };
    let amount = |value| DeviceCapacity {
        request_policy: None,
        value,
    };
    BTreeMap::from([
        ("memory".to_owned(), amount(bytes(memory))),
        ("share".to_owned(), amount(Quantity(hundredths))),
    ])
}

/// A MIG instance.
fn partition(
    snapshot: &Snapshot,
    gpu: &Gpu,
    health: &Health,
    instance: &Instance,
    layout: Option<&Geometry>,
) -> Device {
    let mut attributes = attributes(snapshot, gpu, health);
    attributes.insert("type".to_owned(), text("mig"));
    attributes.insert("uuid".to_owned(), text(&instance.uuid));
    attributes.insert("parentUUID".to_owned(), text(&gpu.uuid));
    attributes.insert("profile".to_owned(), text(&instance.profile));
    let memory = instance
        .memory
        .total
        .saturating_sub(instance.memory.reserved);
    let slot = layout.and_then(|layout| {
        let profile = layout
            .profiles
            .iter()
            .find(|profile| profile.name == instance.profile)?;
        profile
            .slots
            .iter()
            .find(|slot| Some(slot.start) == instance.start)
    });
    Device {
        name: format!("gpu-{}-mig-{}", gpu.index, instance.id),
        attributes: Some(attributes),
        capacity: Some(amounts(memory, share_of(gpu, instance))),
        consumes_counters: layout
            .zip(slot)
            .map(|(layout, slot)| vec![consumption(gpu, layout, slot)]),
        ..Device::default()
    }
}

/// What can be divided of a GPU, without what is `used` for good (per counter; none: nothing).
fn counter_set(gpu: &Gpu, layout: &Geometry, used: &[u32]) -> CounterSet {
    let used = used.iter().copied().chain(std::iter::repeat(0));
    CounterSet {
        name: counter_set_name(gpu),
        counters: layout
            .counters
            .iter()
            .zip(used)
            .map(|(counter, used)| {
                let left = counter.capacity.saturating_sub(used);
                (label(&counter.name), amount(left))
            })
            .collect(),
    }
}

fn consumption(gpu: &Gpu, layout: &Geometry, slot: &Slot) -> DeviceCounterConsumption {
    DeviceCounterConsumption {
        counter_set: counter_set_name(gpu),
        counters: layout
            .counters
            .iter()
            .zip(&slot.uses)
            .filter(|(_, uses)| **uses > 0)
            .map(|(counter, uses)| (label(&counter.name), amount(*uses)))
            .collect(),
    }
}

fn counter_set_name(gpu: &Gpu) -> String {
    format!("gpu-{}-slices", gpu.index)
}

fn amount(number: u32) -> Counter {
    Counter {
        value: Quantity(number.to_string()),
    }
}

/// A name as a DNS label: profiles have `.` and `+` in theirs.
fn label(name: &str) -> String {
    name.replace(['.', '+'], "-")
}

/// What does not change from one look to the next, so that at rest nothing is written.
fn attributes(
    snapshot: &Snapshot,
    gpu: &Gpu,
    health: &Health,
) -> BTreeMap<String, DeviceAttribute> {
    let mut all = BTreeMap::from([
        ("vendor".to_owned(), text(gpu.vendor.name())),
        ("model".to_owned(), text(gpu.model())),
        ("productName".to_owned(), text(&gpu.name)),
        ("index".to_owned(), number(gpu.index)),
    ]);
    let mut add = |name: &str, value: Option<DeviceAttribute>| {
        if let Some(value) = value {
            all.insert(name.to_owned(), value);
        }
    };
    let capability = gpu.compute_capability.as_deref();
    add("architecture", capability.and_then(architecture).map(text));
    add("cudaComputeCapability", capability.and_then(version));
    // The versions that are read are those of NVIDIA's driver.
    let of_driver = |text: &Option<String>| {
        let text = text.as_deref().filter(|_| gpu.vendor == Vendor::Nvidia);
        text.and_then(version)
    };
    add("cudaDriverVersion", of_driver(&snapshot.cuda));
    add("driverVersion", of_driver(&snapshot.driver));
    add("numaNode", gpu.pci.numa.map(number));
    let bus = Some(gpu.pci.bus_id.as_str()).filter(|bus| !bus.is_empty());
    add("resource.kubernetes.io/pciBusID", bus.map(text));
    add(
        "resource.kubernetes.io/pcieRoot",
        gpu.pci.root.as_deref().map(text),
    );
    if health.condition == Condition::Degraded {
        add("health", Some(text("degraded")));
    }
    all
}

fn text(value: &str) -> DeviceAttribute {
    // Kubernetes allows 64 characters.
    DeviceAttribute {
        string: Some(value.chars().take(64).collect()),
        ..DeviceAttribute::default()
    }
}

fn number(value: u32) -> DeviceAttribute {
    DeviceAttribute {
        int: Some(i64::from(value)),
        ..DeviceAttribute::default()
    }
}

/// A version as semver.org wants it: three numbers without leading zeros.
fn version(text: &str) -> Option<DeviceAttribute> {
    let mut numbers = Vec::new();
    for part in text.split('.') {
        numbers.push(part.parse::<u64>().ok()?.to_string());
    }
    numbers.resize(3, "0".to_owned());
    Some(DeviceAttribute {
        version: Some(numbers.join(".")),
        ..DeviceAttribute::default()
    })
}

/// NVIDIA's name for GPUs of a compute capability.
fn architecture(capability: &str) -> Option<&'static str> {
    let (major, minor) = capability.split_once('.')?;
    Some(match (major, minor) {
        ("7", "5") => "Turing",
        ("7", _) => "Volta",
        ("8", "9") => "Ada Lovelace",
        ("8", _) => "Ampere",
        ("9", _) => "Hopper",
        ("10" | "11" | "12", _) => "Blackwell",
        _ => return None,
    })
}

/// Bytes in Kubernetes' own spelling: an API server that rewrote it would make
/// each look a change.
fn bytes(amount: u64) -> Quantity {
    let mut amount = amount;
    for suffix in ["", "Ki", "Mi", "Gi", "Ti"] {
        if amount == 0 || !amount.is_multiple_of(1024) || suffix == "Ti" {
            return Quantity(format!("{amount}{suffix}"));
        }
        amount /= 1024;
    }
    Quantity(amount.to_string())
}
