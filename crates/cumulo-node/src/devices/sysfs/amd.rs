//! AMD: `amdgpu` and KFD, the interface that ROCm computes through.
//!
//! <https://docs.kernel.org/gpu/amdgpu/driver-misc.html>,
//! <https://docs.kernel.org/gpu/amdgpu/thermal.html>,
//! `Documentation/ABI/testing/sysfs-class-kfd`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Card, LEAST_MEMORY, Sysfs, degrees, entries, hexadecimal, number, render_file, text};
use crate::devices::snapshot::{Ecc, Gpu, Link, Memory, Process, Vendor};

const VENDOR: u64 = 0x1002;
/// How KFD numbers links of AMD's own between GPUs (`HSA_IOLINK_TYPE_XGMI`).
const XGMI: u64 = 11;
/// The mode in which a GPU is one device.
const UNDIVIDED: &str = "SPX";

/// Names of models whose boards tell none (libdrm's `amdgpu.ids`).
const MODELS: &[(u64, &str)] = &[
    (0x738c, "AMD Instinct MI100"),
    (0x7408, "AMD Instinct MI250X"),
    (0x740c, "AMD Instinct MI250"),
    (0x740f, "AMD Instinct MI210"),
    (0x74a0, "AMD Instinct MI300A"),
    (0x74a1, "AMD Instinct MI300X"),
    (0x74a5, "AMD Instinct MI325X"),
    (0x75a0, "AMD Instinct MI350X"),
    (0x75a3, "AMD Instinct MI355X"),
];

/// A node of KFD's topology that computes: a GPU, or a partition of one.
struct Node {
    number: u64,
    gpu_id: u64,
    properties: BTreeMap<String, u64>,
    /// Numbers of the nodes that it has a link of AMD's own to.
    links: Vec<u64>,
}

impl Node {
    fn get(&self, name: &str) -> u64 {
        self.properties.get(name).copied().unwrap_or(0)
    }

    /// As the kernel writes PCI addresses.
    fn is_part_of(&self, unique: Option<u64>, render: &[u32]) -> bool {
        let own = self.get("unique_id");
        let minor = self.get("drm_render_minor");
        (own != 0 && Some(own) == unique) || render.iter().any(|number| u64::from(*number) == minor)
    }
}

/// The GPUs that ROCm can compute on.
pub(super) fn gpus(tree: &Sysfs, cards: &[Card]) -> Vec<Gpu> {
    let kfd = tree.root.join("class/kfd/kfd");
    let nodes = nodes(&kfd.join("topology/nodes"));
    let owner = |node: u64| {
        let node = nodes.iter().find(|known| known.number == node)?;
        let mut cards = cards.iter().filter(|card| card.vendor == VENDOR);
        cards.find(|card| {
            let unique = hexadecimal(&card.device.join("unique_id"));
            node.is_part_of(unique, &card.render_nodes())
        })
    };
    let processes = entries(&kfd.join("proc"));
    cards
        .iter()
        .filter(|card| card.vendor == VENDOR)
        .filter_map(|card| {
            let unique = hexadecimal(&card.device.join("unique_id")).filter(|id| *id != 0);
            let render = card.render_nodes();
            let own: Vec<(usize, &Node)> = nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.is_part_of(unique, &render))
                .collect();
            let mut gpu = read(card, unique)?;
            if own.is_empty() || gpu.memory.total < LEAST_MEMORY {
                return None;
            }
            let mode = text(&card.device.join("current_compute_partition"));
            let divided = mode.filter(|mode| mode != UNDIVIDED);
            // A name that stays, but partitions share it: those are told by their numbers.
            gpu.visible = match (unique, &divided) {
                (Some(_), None) => None,
                _ => {
                    let numbers: Vec<String> = own.iter().map(|(at, _)| at.to_string()).collect();
                    Some(numbers.join(","))
                }
            };
            gpu.partition_mode = divided;
            gpu.files = vec![PathBuf::from("/dev/kfd")];
            let minors = own.iter().map(|(_, node)| node.get("drm_render_minor"));
            let minors = minors.filter_map(|minor| u32::try_from(minor).ok());
            let mut minors: Vec<u32> = minors.filter(|minor| *minor > 0).chain(render).collect();
            minors.sort_unstable();
            minors.dedup();
            gpu.files.extend(minors.into_iter().map(render_file));
            let mut peers: BTreeMap<String, u32> = BTreeMap::new();
            for link in own.iter().flat_map(|(_, node)| &node.links) {
                let peer = owner(*link).filter(|peer| peer.pci.bus_id != card.pci.bus_id);
                if let Some(peer) = peer {
                    let up = peers.entry(peer.pci.bus_id.clone()).or_default();
                    *up = up.saturating_add(1);
                }
            }
            let peers = peers.into_iter();
            gpu.links = peers.map(|(peer, up)| Link { peer, up }).collect();
            let ids: Vec<u64> = own.iter().map(|(_, node)| node.gpu_id).collect();
            gpu.processes = processes_on(&processes, &ids);
            Some(gpu)
        })
        .collect()
}

fn read(card: &Card, unique: Option<u64>) -> Option<Gpu> {
    let at = |name: &str| card.device.join(name);
    let known = MODELS.iter().find(|(model, _)| *model == card.model);
    let name = text(&at("product_name"))
        .or_else(|| known.map(|(_, name)| (*name).to_owned()))
        .unwrap_or_else(|| format!("AMD GPU {:#06x}", card.model));
    Some(Gpu {
        vendor: Vendor::Amd,
        uuid: match unique {
            Some(unique) => format!("GPU-{unique:016x}"),
            None => format!("amd-{}", card.pci.bus_id),
        },
        name,
        memory: Memory {
            total: number(&at("mem_info_vram_total"))?,
            reserved: 0,
            used: number(&at("mem_info_vram_used")).unwrap_or(0),
        },
        pci: card.pci.clone(),
        power_milliwatts: card
            .sensor(&["power1_average", "power1_input"])
            .and_then(|microwatts| u32::try_from(microwatts / 1000).ok()),
        energy_millijoules: card
            .sensor(&["energy1_input"])
            .map(|microjoules| microjoules / 1000),
        // Some have no sensor at the edge, and all one where it is hottest.
        temperature: card
            .sensor(&["temp1_input", "temp2_input"])
            .and_then(degrees),
        slowdown_temperature: card.sensor(&["temp1_crit", "temp2_crit"]).and_then(degrees),
        utilization: number(&at("gpu_busy_percent"))
            .and_then(|percent| u32::try_from(percent).ok()),
        ecc: ecc(&at("ras/umc_err_count")),
        ..Gpu::default()
    })
}

/// `ue: 0` and `ce: 0`: memory errors that were not and that were corrected.
fn ecc(file: &Path) -> Option<Ecc> {
    let text = text(file)?;
    let count = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().parse().ok())?
        })
    };
    Some(Ecc {
        corrected: count("ce")?,
        uncorrected: count("ue")?,
    })
}

fn nodes(folder: &Path) -> Vec<Node> {
    let mut nodes: Vec<Node> = entries(folder)
        .into_iter()
        .filter_map(|(name, folder)| {
            let links = entries(&folder.join("io_links")).into_iter();
            let links = links.map(|(_, link)| properties(&link.join("properties")));
            Some(Node {
                number: name.parse().ok()?,
                gpu_id: number(&folder.join("gpu_id")).unwrap_or(0),
                properties: properties(&folder.join("properties")),
                links: links
                    .filter(|link| link.get("type") == Some(&XGMI))
                    .filter_map(|link| link.get("node_to").copied())
                    .collect(),
            })
        })
        .filter(|node| node.get("simd_count") > 0)
        .collect();
    nodes.sort_by_key(|node| node.number);
    nodes
}

/// Lines of a name and a number.
fn properties(file: &Path) -> BTreeMap<String, u64> {
    let text = text(file).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

/// Who computes on a GPU: KFD has a folder for each process, and in it the memory that it
/// uses of each GPU.
fn processes_on(processes: &[(String, PathBuf)], gpus: &[u64]) -> Vec<Process> {
    let found = processes.iter().filter_map(|(pid, folder)| {
        let used = gpus.iter();
        let used = used.filter_map(|gpu| number(&folder.join(format!("vram_{gpu}"))));
        let memory: u64 = used.sum();
        (memory > 0).then_some(Process {
            pid: pid.parse().ok()?,
            memory: Some(memory),
            ..Process::default()
        })
    });
    found.collect()
}
