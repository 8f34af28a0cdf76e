//! What pods ask of GPUs in one word (the annotation `cumulo.dev/gpu`), as a wish
//! for the devices that Cumulo's node agents publish. No claim is needed: what a
//! pod is given goes with its binding as another annotation.

use cumulo_api::{GpuAmount, GpuAsk, labels};
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceAllocationResult};

use super::inventory::{Attribute, Device, Inventory};
use super::wish::{Alternative, Request, Wish};
use crate::scheduling::pod::Pod;
use crate::scheduling::quantity::UNIT;

/// The driver that node agents publish as; quotas name GPUs so.
pub(crate) const DRIVER: &str = "gpu.cumulo.dev";
/// What the solver calls what it counts of them.
pub(crate) const COUNTED: &str = "thousandths of a GPU";
/// Thousandths of a GPU.
pub(crate) const WHOLE: u64 = 1000;
/// The capacity of a device that is its memory.
const MEMORY: &str = "gpu.cumulo.dev/memory";
const MEBIBYTE: i128 = 1 << 20;
/// Compute slices of a GPU in MIG mode.
const SLICES: u64 = 7;

/// The wish of a pod, if it has one.
///
/// # Errors
/// When it is not understood.
pub(crate) fn wish(pod: &Pod) -> Result<Option<Wish>, String> {
    let Some(text) = pod.mark(labels::GPU) else {
        return Ok(None);
    };
    let gpu: cumulo_api::Gpu = text.parse().map_err(|error| format!("{error}"))?;
    let ask = gpu.ask().map_err(|error| error.to_string())?;
    Ok(Some(Wish {
        requests: vec![Request {
            name: "gpu".to_owned(),
            alternatives: vec![Alternative {
                count: Some(ask.count as usize),
                class: DRIVER.to_owned(),
                gpu: Some(ask),
                ..Alternative::default()
            }],
        }],
        constraints: Vec::new(),
    }))
}

/// What a pod that has its node was given.
pub(crate) fn given(pod: &Pod) -> Option<AllocationResult> {
    let results = serde_json::from_str(pod.mark(labels::GPU_DEVICES)?).ok()?;
    Some(AllocationResult {
        devices: Some(DeviceAllocationResult {
            results: Some(results),
            config: None,
        }),
        ..AllocationResult::default()
    })
}

/// Whether node agents publish any devices at all: where they do not, a node
/// finds out by itself.
pub(crate) fn published(inventory: &Inventory) -> bool {
    let mut devices = inventory.devices.iter();
    devices.any(|device| device.id.driver == DRIVER)
}

/// Whether a device would do, if nobody else had it.
pub(crate) fn serves(device: &Device, ask: &GpuAsk) -> bool {
    let text = |name: &str| match device.attributes.get(&format!("{DRIVER}/{name}")) {
        Some(Attribute::Text(text)) => text.as_str(),
        _ => "",
    };
    let model = text("productName");
    if device.id.driver != DRIVER || !(ask.models.is_empty() || ask.takes(model)) {
        return false;
    }
    let memory = capacity(device, "memory").unwrap_or(0);
    let divided = device.shared || text("type") == "mig";
    match &ask.amount {
        GpuAmount::Whole => text("type") == "gpu",
        GpuAmount::Share(_) if device.shared => true,
        GpuAmount::Share(milli) => {
            // Hundredths.
            let share = capacity(device, "share").unwrap_or(0);
            divided && share * 10 >= i128::from(*milli) * UNIT
        }
        GpuAmount::Memory(bytes) => divided && memory >= i128::from(*bytes) * UNIT,
        GpuAmount::Profile(profile) => text("type") == "mig" && text("profile") == profile,
    }
}

/// How large a device is that one pod gets all of: the smallest that does is given.
pub(crate) fn extent(device: &Device) -> i128 {
    match device.shared {
        true => 0,
        false => capacity(device, "memory").unwrap_or(0),
    }
}

fn capacity(device: &Device, name: &str) -> Option<i128> {
    let capacity = device.capacity.get(&format!("{DRIVER}/{name}"))?;
    Some(capacity.value)
}

/// How much of a capacity of a shared device an ask takes, in billionths. In finer
/// steps than claims have, and never rounded up, so that parts that add up to a
/// whole fit beside each other.
pub(crate) fn takes(device: &Device, ask: &GpuAsk, name: &str) -> Option<i128> {
    let all = device.capacity.get(name)?.value;
    let memory = capacity(device, "memory").unwrap_or(all).max(1);
    let part = match &ask.amount {
        GpuAmount::Whole | GpuAmount::Profile(_) => return Some(all),
        GpuAmount::Share(milli) => all * i128::from(*milli) / i128::from(WHOLE),
        GpuAmount::Memory(bytes) if name == MEMORY => i128::from(*bytes) * UNIT,
        GpuAmount::Memory(bytes) => all * i128::from(*bytes) / (memory / UNIT).max(1),
    };
    let step = if name == MEMORY {
        MEBIBYTE * UNIT
    } else {
        UNIT / 10
    };
    Some((part - part % step).max(step))
}

/// How much of GPUs an ask is, in thousandths, for quotas: of memory by the
/// largest of the devices, of profiles by their compute slices.
pub(crate) fn thousandths(inventory: &Inventory, ask: &GpuAsk) -> u64 {
    let one = match &ask.amount {
        GpuAmount::Whole => WHOLE,
        GpuAmount::Share(milli) => u64::from(*milli),
        GpuAmount::Memory(bytes) => {
            let devices = inventory.devices.iter();
            let memory = devices
                .filter(|device| device.id.driver == DRIVER)
                .filter_map(|device| capacity(device, "memory"));
            let most = memory.max().unwrap_or(0) / UNIT;
            let part = u128::from(*bytes) * u128::from(WHOLE);
            let part = part.div_ceil(u128::try_from(most.max(1)).unwrap_or(1));
            u64::try_from(part).unwrap_or(WHOLE).min(WHOLE)
        }
        GpuAmount::Profile(name) => of_profile(name),
    };
    one.saturating_mul(u64::from(ask.count))
}

/// How much of GPUs a pod asks for in one word, in thousandths.
pub(crate) fn of_pod(inventory: &Inventory, pod: &Pod) -> u64 {
    let wish = wish(pod).ok().flatten();
    let requests = wish.iter().flat_map(|wish| &wish.requests);
    let alternatives = requests.flat_map(|request| &request.alternatives);
    let asks = alternatives.filter_map(|alternative| alternative.gpu.as_ref());
    asks.map(|ask| thousandths(inventory, ask)).sum()
}

/// How much of a GPU a device is, in thousandths.
pub(crate) fn size(device: &Device) -> u64 {
    if device.id.driver != DRIVER {
        return 0;
    }
    match device.attributes.get(&format!("{DRIVER}/profile")) {
        Some(Attribute::Text(profile)) => of_profile(profile),
        _ => WHOLE,
    }
}

fn of_profile(name: &str) -> u64 {
    let slices = name
        .split_once('g')
        .and_then(|(count, _)| count.parse().ok());
    let slices: u64 = slices.unwrap_or(SLICES);
    (slices * WHOLE).div_ceil(SLICES).min(WHOLE)
}
