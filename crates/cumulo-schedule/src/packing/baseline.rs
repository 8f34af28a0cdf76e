//! The policies that others use, each by its documented formula.

use super::catalogue::{Kind, Shape};
use super::state::{Choice, NodeState, WHOLE};

/// The largest node of the paper's cluster, which its formulas divide by.
const MAX_CPU: f64 = 128_000.0;
const MAX_GPU: f64 = 8_000.0;

/// Dot product of what is free and what is asked, both as parts of the largest
/// node; a small product is a good score.
pub(super) fn dot_product(state: &NodeState, shape: &Shape) -> f64 {
    let cpu = f64::from(state.cpu) / MAX_CPU * (f64::from(shape.cpu) / MAX_CPU);
    let gpu = f64::from(state.gpu_free()) / MAX_GPU * (f64::from(shape.gpu_total()) / MAX_GPU);
    (100.0 * (1.0 - (cpu + gpu) / 2.0)).floor()
}

/// Pods of one class together: best a node with only that class, then one with
/// it among others, then an idle one, then one with other classes; the fuller
/// the better in each.
pub(super) fn clustering(state: &NodeState, shape: &Shape) -> f64 {
    if shape.gpus == 0 {
        return 0.0;
    }
    let own = match shape.gpus {
        1 if shape.is_fraction() => 1,
        gpus => 1u32 << u32::from(gpus).min(15),
    };
    let base = match state.tags {
        0 => 25,
        tags if tags == own => 75,
        tags if tags & own != 0 => 50,
        _ => 0,
    };
    let full = 25 * (8_000 - i64::from(state.gpu_free()).min(8_000)) / 8_000;
    (base + full) as f64
}

/// Shared devices first, then free devices of a used node, then a free node.
pub(super) fn packing(state: &NodeState, shape: &Shape) -> f64 {
    let free = state.whole_free() as i64;
    if free == i64::from(state.count) {
        return (33 - free).max(free) as f64;
    }
    let devices = state.devices();
    let first = devices.partition_point(|free| *free < shape.milli);
    let used = if shape.gpus == 0 {
        &devices[..0]
    } else {
        &devices[first..first + usize::from(shape.gpus)]
    };
    let opened = used.iter().filter(|free| **free == WHOLE).count() as i64;
    if opened > 0 {
        return (50 - opened).max(33) as f64;
    }
    let left: i64 = used.iter().map(|free| i64::from(*free) * 100 / 1000).sum();
    (100 - left / 10).max(50) as f64
}

/// The least of CPU and GPU left over, half each.
pub(super) fn best_fit(state: &NodeState, shape: &Shape) -> f64 {
    let cpu = (f64::from(state.cpu) - f64::from(shape.cpu)) / MAX_CPU;
    let gpu = (f64::from(state.gpu_free()) - f64::from(shape.gpu_total())) / MAX_GPU;
    ((1.0 - 0.5 * cpu - 0.5 * gpu) * 100.0).floor()
}

/// kube-scheduler's defaults, LeastAllocated and BalancedAllocation over CPU
/// and memory, each of weight 1 and in whole steps of 0 to 100. Extended
/// resources such as GPUs are in neither by default.
pub(super) fn kubernetes(state: &NodeState, shape: &Shape, kind: &Kind) -> f64 {
    let left = |free: u32, asked: u32, all: u32| match all {
        0 => 0.0,
        all => f64::from(free - asked) / f64::from(all),
    };
    let cpu = left(state.cpu, shape.cpu, kind.cpu);
    let memory = left(state.memory, shape.memory, kind.memory);
    let least = (((cpu * 100.0).floor() + (memory * 100.0).floor()) / 2.0).floor();
    let balanced = ((1.0 - (cpu - memory).abs() / 2.0) * 100.0).floor();
    least + balanced
}

/// The device of whoever does not look: the tightest that fits.
pub(super) fn tightest(state: &NodeState, shape: &Shape) -> Choice {
    if !shape.is_fraction() {
        return Choice::Tightest;
    }
    let devices = state.devices();
    let at = devices.partition_point(|free| *free < shape.milli);
    Choice::Free(devices[at])
}
