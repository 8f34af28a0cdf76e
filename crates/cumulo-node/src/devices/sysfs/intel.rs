//! Intel: `i915` and `xe`. Neither says in `/sys` how busy a GPU is or who uses it.
//!
//! `Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon` and `…-intel-xe-hwmon`.

use super::{Card, LEAST_MEMORY, degrees, entries, number, render_file, text};
use crate::devices::snapshot::{Gpu, Memory, Vendor};

const VENDOR: u64 = 0x8086;
/// The region of a PCI device through which its memory is reached.
const MEMORY_REGION: usize = 2;

/// Names of models (Intel's table of GPUs).
const MODELS: &[(u64, &str)] = &[
    (0x0bd5, "Intel Data Center GPU Max 1550"),
    (0x0bda, "Intel Data Center GPU Max 1100"),
    (0x56c0, "Intel Data Center GPU Flex 170"),
    (0x56c1, "Intel Data Center GPU Flex 140"),
    (0x56a0, "Intel Arc A770"),
    (0x56a1, "Intel Arc A750"),
    (0xe20b, "Intel Arc B580"),
    (0xe20c, "Intel Arc B570"),
];

/// The GPUs that have memory of their own.
pub(super) fn gpus(cards: &[Card]) -> Vec<Gpu> {
    let gpus = cards.iter().filter(|card| card.vendor == VENDOR);
    let mut gpus: Vec<Gpu> = gpus.filter_map(read).collect();
    // Level Zero counts them in this order when it is told to.
    for (number, gpu) in gpus.iter_mut().enumerate() {
        gpu.visible = Some(number.to_string());
    }
    gpus
}

fn read(card: &Card) -> Option<Gpu> {
    let memory = memory(card)?;
    let known = MODELS.iter().find(|(model, _)| *model == card.model);
    Some(Gpu {
        vendor: Vendor::Intel,
        uuid: format!("intel-{}", card.pci.bus_id),
        name: match known {
            Some((_, name)) => (*name).to_owned(),
            None => format!("Intel GPU {:#06x}", card.model),
        },
        memory,
        pci: card.pci.clone(),
        files: card.render_nodes().into_iter().map(render_file).collect(),
        power_milliwatts: card
            .sensor(&["power1_input", "power1_average"])
            .and_then(|microwatts| u32::try_from(microwatts / 1000).ok()),
        energy_millijoules: card
            .sensor(&["energy1_input"])
            .map(|microjoules| microjoules / 1000),
        temperature: card
            .sensor(&["temp1_input", "temp2_input"])
            .and_then(degrees),
        ..Gpu::default()
    })
}

/// Where a driver tells how much memory there is, that; else the size of the region that
/// it is reached through, which is all of it where the machine can map it.
fn memory(card: &Card) -> Option<Memory> {
    let total = number(&card.folder.join("lmem_total_bytes"))
        .or_else(|| tiles(card))
        .or_else(|| region(card))
        .filter(|total| *total >= LEAST_MEMORY)?;
    let free = number(&card.folder.join("lmem_avail_bytes"));
    Some(Memory {
        total,
        reserved: 0,
        used: free.map_or(0, |free| total.saturating_sub(free)),
    })
}

/// `xe` told it of each tile for a while.
fn tiles(card: &Card) -> Option<u64> {
    let tiles = entries(&card.device).into_iter();
    let tiles = tiles.filter(|(name, _)| name.starts_with("tile"));
    let sizes: Vec<u64> = tiles
        .filter_map(|(_, tile)| number(&tile.join("physical_vram_size_bytes")))
        .collect();
    (!sizes.is_empty()).then(|| sizes.iter().sum())
}

/// `resource` has a line of first address, last address and flags for each region.
fn region(card: &Card) -> Option<u64> {
    let text = text(&card.device.join("resource"))?;
    let line = text.lines().nth(MEMORY_REGION)?;
    let mut words = line.split_whitespace().map(|word| {
        let digits = word.strip_prefix("0x")?;
        u64::from_str_radix(digits, 16).ok()
    });
    let (first, last) = (words.next()??, words.next()??);
    (last > first).then(|| last - first + 1)
}
