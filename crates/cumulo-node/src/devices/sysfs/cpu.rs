//! Which processors share memory and caches.
//!
//! `Documentation/ABI/testing/sysfs-devices-system-cpu`, `Documentation/ABI/stable/sysfs-devices-node`.

use std::path::Path;

use super::{entries, number, text};
use crate::devices::snapshot::{Cache, Cpu, NumaNode};

/// What the kernel says; `None` where it says nothing.
pub(super) fn read(folder: &Path) -> Option<Cpu> {
    let numbered = |folder: &Path, prefix: &str| {
        let mut found: Vec<_> = entries(folder)
            .into_iter()
            .filter_map(|(name, path)| {
                Some((name.strip_prefix(prefix)?.parse::<u32>().ok()?, path))
            })
            .collect();
        found.sort();
        found
    };
    let numa = numbered(&folder.join("node"), "node").into_iter();
    let numa: Vec<NumaNode> = numa
        .map(|(id, node)| NumaNode {
            id,
            cpus: text(&node.join("cpulist")).unwrap_or_default(),
            memory: memory(&node).unwrap_or(0),
        })
        .collect();
    let mut caches: Vec<Cache> = Vec::new();
    for (_, cpu) in numbered(&folder.join("cpu"), "cpu") {
        for (_, index) in numbered(&cpu.join("cache"), "index") {
            let cache = (|| {
                Some(Cache {
                    level: u32::try_from(number(&index.join("level"))?).ok()?,
                    kind: text(&index.join("type"))?.to_lowercase(),
                    bytes: size(&text(&index.join("size"))?)?,
                    cpus: text(&index.join("shared_cpu_list"))?,
                })
            })();
            // Each is told by every processor that has it.
            if let Some(cache) = cache.filter(|cache| !caches.contains(cache)) {
                caches.push(cache);
            }
        }
    }
    // What is near a processor is its own; the outermost is what neighbours share.
    let outermost = caches.iter().map(|cache| cache.level).max();
    caches.retain(|cache| Some(cache.level) == outermost);
    let online = text(&folder.join("cpu/online"))?;
    Some(Cpu {
        online,
        numa,
        caches,
    })
}

/// `Node 0 MemTotal:  527988736 kB`.
fn memory(node: &Path) -> Option<u64> {
    let text = text(&node.join("meminfo"))?;
    let line = text.lines().find(|line| line.contains("MemTotal:"))?;
    let kilobytes = line.split_once(':')?.1.trim().strip_suffix("kB")?;
    kilobytes.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `32768K`.
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (digits, text.chars().last()?),
        None => (text, ' '),
    };
    let shift = match unit {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        _ => 0,
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}
