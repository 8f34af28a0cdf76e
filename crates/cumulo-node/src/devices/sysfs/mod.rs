//! AMD's and Intel's GPUs and the processors, as the kernel describes them below `/sys`.
//!
//! Only what is documented is read: the kernel's `amdgpu` and KFD, `i915` and `xe`, hwmon,
//! and the ABI of `/sys/devices/system`. What is missing there is missing here.

mod amd;
mod cpu;
mod intel;
#[cfg(test)]
pub(super) mod tests;

use std::path::{Path, PathBuf};

use super::nvml::place;
use super::snapshot::{Gpu, Pci, Snapshot};

/// A GPU with less memory of its own is one that drives a display.
const LEAST_MEMORY: u64 = 4 << 30;

/// Reads a tree that is laid out as `/sys`.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::new("/sys")
    }
}

impl Sysfs {
    /// A tree in this folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Adds what is there to what is known of the machine.
    pub fn add_to(&self, snapshot: &mut Snapshot) {
        let cards = self.cards();
        let mut gpus = amd::gpus(self, &cards);
        gpus.extend(intel::gpus(&cards));
        let next = snapshot.gpus.iter().map(|gpu| gpu.index.saturating_add(1));
        let first = next.max().unwrap_or(0);
        snapshot.gpus.extend(
            gpus.into_iter()
                .zip(first..)
                .map(|(gpu, index)| Gpu { index, ..gpu }),
        );
        snapshot.cpu = cpu::read(&self.root.join("devices/system"));
    }

    /// The graphics devices, by their PCI address.
    fn cards(&self) -> Vec<Card> {
        let devices = self.root.join("bus/pci/devices");
        let mut cards: Vec<Card> = entries(&self.root.join("class/drm"))
            .into_iter()
            .filter(|(name, _)| {
                let number = name.strip_prefix("card");
                number.is_some_and(|number| number.parse::<u32>().is_ok())
            })
            .filter_map(|(_, folder)| {
                let device = std::fs::canonicalize(folder.join("device")).ok()?;
                let address = device.file_name()?.to_str()?.to_owned();
                Some(Card {
                    vendor: hexadecimal(&device.join("vendor"))?,
                    model: hexadecimal(&device.join("device")).unwrap_or(0),
                    pci: place(&address, &devices),
                    folder,
                    device,
                })
            })
            .collect();
        cards.sort_by(|a, b| a.pci.bus_id.cmp(&b.pci.bus_id));
        cards
    }
}

/// A graphics device.
struct Card {
    /// `class/drm/card0`.
    folder: PathBuf,
    /// Its PCI device.
    device: PathBuf,
    vendor: u64,
    /// The vendor's number for the model.
    model: u64,
    pci: Pci,
}

impl Card {
    /// Numbers of its files `/dev/dri/renderD…`.
    fn render_nodes(&self) -> Vec<u32> {
        let entries = entries(&self.device.join("drm")).into_iter();
        let numbers = entries.filter_map(|(name, _)| name.strip_prefix("renderD")?.parse().ok());
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.sort_unstable();
        numbers
    }

    /// The first of these files among its sensors that has a number.
    fn sensor(&self, names: &[&str]) -> Option<u64> {
        let sensors = entries(&self.device.join("hwmon"));
        names.iter().find_map(|name| {
            let mut sensors = sensors.iter();
            sensors.find_map(|(_, folder)| number(&folder.join(name)))
        })
    }
}

/// Entries of a folder by name, sorted; none where there is no folder.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(found) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<(String, PathBuf)> = found
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect();
    found.sort();
    found
}

fn text(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

fn hexadecimal(path: &Path) -> Option<u64> {
    let text = text(path)?;
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
}

fn render_file(number: u32) -> PathBuf {
    Path::new("/dev/dri").join(format!("renderD{number}"))
}

/// Millidegrees as degrees.
fn degrees(millidegrees: u64) -> Option<u32> {
    u32::try_from(millidegrees / 1000).ok()
}
