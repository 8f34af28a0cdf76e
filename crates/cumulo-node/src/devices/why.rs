//! Why a wish for GPUs is not fulfilled, in terms of one node's GPUs. Pure: the
//! solver has decided that it is not, this says what there is instead.

use std::fmt::Write as _;

use cumulo_api::{GpuAmount, GpuAsk};

use super::convert::is_model;
use super::decide::Holder;
use super::health::Condition;
use super::snapshot::{Gpu, Instance, Snapshot, Vendor};

/// Thousandths of a GPU.
const WHOLE: u32 = 1000;

/// What of the node's GPUs would do, and why it does not. With nobody among the
/// holders: why it never would.
pub(super) fn why(snapshot: &Snapshot, holders: &[&Holder], ask: &GpuAsk) -> String {
    let named: Vec<(&Gpu, bool)> = snapshot
        .gpus
        .iter()
        .zip(snapshot.health())
        .filter(|(gpu, _)| {
            ask.models.is_empty() || ask.models.iter().any(|name| is_model(gpu.model(), name))
        })
        .map(|(gpu, health)| (gpu, health.condition == Condition::Broken))
        .collect();
    if named.is_empty() {
        let models = snapshot.gpus.iter().map(Gpu::model);
        return format!("this node has {}", counted(models));
    }
    if ask.amount != GpuAmount::Whole && named.iter().all(|(gpu, _)| gpu.vendor != Vendor::Nvidia) {
        let models = named.iter().map(|(gpu, _)| gpu.model());
        return format!(
            "{} can only be given whole: only NVIDIA's GPUs are shared",
            counted(models)
        );
    }
    let broken = named.iter().filter(|(_, broken)| *broken).count();
    let well: Vec<&Gpu> = named
        .iter()
        .filter(|(_, broken)| !broken)
        .map(|(gpu, _)| *gpu)
        .collect();
    if well.is_empty() {
        return format!("every GPU that would do is broken ({broken})");
    }
    let undivided: Vec<&Gpu> = well
        .iter()
        .copied()
        .filter(|gpu| gpu.instances().is_none())
        // Those of others are given whole or not at all.
        .filter(|gpu| ask.amount == GpuAmount::Whole || gpu.vendor == Vendor::Nvidia)
        .collect();
    let idle: Vec<&Instance> = well
        .iter()
        .filter_map(|gpu| gpu.instances())
        .flatten()
        .filter(|instance| {
            !holds(holders, |held| {
                held.instance.as_ref() == Some(&instance.uuid)
            })
        })
        .collect();
    let mut sentence = match &ask.amount {
        GpuAmount::Whole => {
            let free = undivided
                .iter()
                .filter(|gpu| !holds(holders, |held| held.gpu == gpu.identity()))
                .count();
            if holders.is_empty() {
                format!("this node can give {free} whole")
            } else {
                format!("{free} of {} are free", undivided.len())
            }
        }
        GpuAmount::Share(_) => {
            let most = undivided.iter().map(|gpu| left(gpu, holders).0).max();
            format!(
                "the most that is free of one is {}",
                f64::from(most.unwrap_or(0)) / f64::from(WHOLE)
            )
        }
        GpuAmount::Memory(_) => {
            let most = undivided.iter().map(|gpu| left(gpu, holders).1).max();
            format!(
                "the most that is free of one is {}",
                crate::quantity::show_bytes(most.unwrap_or(0))
            )
        }
        GpuAmount::Profile(_) => String::new(),
    };
    let divided = well.iter().filter(|gpu| gpu.instances().is_some()).count();
    match &ask.amount {
        GpuAmount::Whole if divided > 0 => {
            let _ = write!(sentence, ", {divided} in MIG mode");
        }
        GpuAmount::Whole => {}
        _ if divided == 0 && sentence.is_empty() => {
            sentence.push_str("none of its GPUs is in MIG mode");
        }
        _ if divided == 0 => {}
        _ => {
            let join = if sentence.is_empty() { "" } else { ", and " };
            let profiles = idle.iter().map(|instance| instance.profile.as_str());
            let _ = match idle.is_empty() {
                true => write!(sentence, "{join}no MIG instance is free"),
                false => write!(
                    sentence,
                    "{join}the free MIG instances are {}",
                    counted(profiles)
                ),
            };
        }
    }
    if ask.count > 1 && ask.amount != GpuAmount::Whole {
        let _ = write!(sentence, "; {} are asked for", ask.count);
    }
    match broken {
        0 => {}
        1 => sentence.push_str("; 1 is broken"),
        many => {
            let _ = write!(sentence, "; {many} are broken");
        }
    }
    sentence
}

fn holds(holders: &[&Holder], is: impl Fn(&super::Held) -> bool) -> bool {
    holders.iter().flat_map(|holder| &holder.held).any(is)
}

/// Thousandths and bytes of a GPU that nobody has.
fn left(gpu: &Gpu, holders: &[&Holder]) -> (u32, u64) {
    let usable = gpu.memory.total.saturating_sub(gpu.memory.reserved);
    let identity = gpu.identity();
    let held = holders.iter().flat_map(|holder| &holder.held);
    held.filter(|held| held.gpu == identity)
        .fold((WHOLE, usable), |(milli, memory), held| {
            (
                milli.saturating_sub(held.milli),
                memory.saturating_sub(held.memory),
            )
        })
}

/// Names with how often each is there: `2 × A100-SXM4-80GB, H100 80GB HBM3`.
pub fn counted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for name in names {
        match counts.iter_mut().find(|known| known.0 == name) {
            Some(known) => known.1 += 1,
            None => counts.push((name, 1)),
        }
    }
    let words: Vec<String> = counts
        .into_iter()
        .map(|(name, count)| match count {
            1 => name.to_owned(),
            count => format!("{count} × {name}"),
        })
        .collect();
    words.join(", ")
}
