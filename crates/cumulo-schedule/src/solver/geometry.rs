//! Partitions as shared counters: a device has counters, each placement of a
//! profile takes from them. NVIDIA's MIG is one such geometry, and any
//! ResourceSlice with partitionable devices is another.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

use super::problem::WHOLE;

/// How devices of one model can be partitioned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Its name, e.g. `H100-80GB`.
    pub name: String,
    /// What partitions take from.
    pub counters: Vec<Counter>,
    /// The kinds of partitions, smallest first.
    pub profiles: Vec<Profile>,
}

/// A shared counter of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Counter {
    /// Its name, e.g. `memory-slice-3`.
    pub name: String,
    /// How much there is.
    pub capacity: u32,
}

/// A kind of partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Profile {
    /// Its name, e.g. `1g.10gb`.
    pub name: String,
    /// Bytes of memory that a pod in it has.
    pub memory: u64,
    /// Share of the device that quotas count, in thousandths: its largest share
    /// of compute or memory slices.
    pub share: u32,
    /// Share of the device's compute in thousandths.
    pub compute: u32,
    /// Where it can lie.
    pub slots: Vec<Slot>,
}

/// One place where a partition can lie.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Where it starts, as the driver numbers it.
    pub start: u32,
    /// What it takes of each counter, in the geometry's order.
    pub uses: Vec<u32>,
}

/// Why a description of geometries was refused.
#[derive(Debug, thiserror::Error)]
pub enum GeometryError {
    /// Not the expected JSON.
    #[error("the geometry file is not of the expected form: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A model names a profile that has no placements.
    #[error("{model}: profile {profile} has no placements")]
    NoPlacements {
        /// The device model.
        model: String,
        /// The profile's key.
        profile: String,
    },
}

impl Geometry {
    /// Position of the profile with this name.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<usize> {
        self.profiles
            .iter()
            .position(|profile| profile.name == name)
    }

    /// The smallest profile with at least so much compute (thousandths) and memory (bytes).
    #[must_use]
    pub fn smallest(&self, compute: u32, memory: u64) -> Option<usize> {
        self.profiles
            .iter()
            .enumerate()
            .filter(|(_, profile)| profile.compute >= compute && profile.memory >= memory)
            .min_by_key(|(at, profile)| (profile.share, profile.memory, *at))
            .map(|(at, _)| at)
    }

    /// The profile that is the whole device, if there is one.
    #[must_use]
    pub fn whole(&self) -> Option<usize> {
        self.profiles
            .iter()
            .position(|profile| profile.compute == WHOLE && profile.share == WHOLE)
    }

    /// Whether `slot` fits beside what is `used` of each counter.
    #[must_use]
    pub fn fits(&self, slot: &Slot, used: &[u32]) -> bool {
        self.counters
            .iter()
            .zip(&slot.uses)
            .zip(used)
            .all(|((counter, uses), used)| {
                *uses == 0 || used.saturating_add(*uses) <= counter.capacity
            })
    }

    /// How many partitions of `profile` fit beside what is `used`.
    #[must_use]
    pub fn room(&self, profile: usize, used: &[u32]) -> u32 {
        let mut used = used.to_vec();
        let mut count = 0;
        for slot in &self.profiles[profile].slots {
            while self.fits(slot, &used) && slot.uses.iter().any(|uses| *uses > 0) {
                add(&mut used, &slot.uses);
                count += 1;
            }
        }
        count
    }
}

pub(super) fn add(used: &mut [u32], uses: &[u32]) {
    for (used, uses) in used.iter_mut().zip(uses) {
        *used = used.saturating_add(*uses);
    }
}

pub(super) fn subtract(used: &mut [u32], uses: &[u32]) {
    for (used, uses) in used.iter_mut().zip(uses) {
        *used = used.saturating_sub(*uses);
    }
}

#[derive(Deserialize)]
struct MigFile {
    placements: BTreeMap<String, MigPlacement>,
    names: BTreeMap<String, BTreeMap<String, MigName>>,
}

#[derive(Deserialize)]
struct MigPlacement {
    compute: u32,
    starts: Vec<u32>,
    size: u32,
    max: usize,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MigName {
    Profile(String, u64),
    Other(serde::de::IgnoredAny),
}

/// Memory slices on the axis that MIG placements are given on.
const MEMORY_SLICES: u32 = 8;
/// Compute slices of a device (NVIDIA MIG User Guide).
const COMPUTE_SLICES: u32 = 7;

/// Reads MIG geometries: placements by profile key, and for each device model
/// the profiles' names and memory in MiB.
///
/// # Errors
///
/// When the text is not of that form or a model names an unknown profile.
pub fn parse_mig(text: &str) -> Result<BTreeMap<String, Geometry>, GeometryError> {
    let file: MigFile = serde_json::from_str(text)?;
    // A profile that could lie in more places than there may be of it needs a
    // counter of its own (media extensions: one per device).
    let limited: Vec<&String> = file
        .placements
        .iter()
        .filter(|(_, placement)| placement.max < placement.starts.len())
        .map(|(key, _)| key)
        .collect();
    let mut counters: Vec<Counter> = (0..MEMORY_SLICES)
        .map(|slice| Counter {
            name: format!("memory-slice-{slice}"),
            capacity: 1,
        })
        .collect();
    counters.push(Counter {
        name: "compute-slices".to_owned(),
        capacity: COMPUTE_SLICES,
    });
    for key in &limited {
        let capacity = u32::try_from(file.placements[*key].max).unwrap_or(u32::MAX);
        counters.push(Counter {
            name: format!("instances-of-{key}"),
            capacity,
        });
    }
    let mut geometries = BTreeMap::new();
    for (model, names) in &file.names {
        let mut profiles = Vec::new();
        for (key, name) in names {
            let MigName::Profile(name, mib) = name else {
                continue;
            };
            let placement =
                file.placements
                    .get(key)
                    .ok_or_else(|| GeometryError::NoPlacements {
                        model: model.clone(),
                        profile: key.clone(),
                    })?;
            let slots = placement.starts.iter().map(|start| {
                let mut uses: Vec<u32> = (0..MEMORY_SLICES)
                    .map(|slice| u32::from(slice >= *start && slice < start + placement.size))
                    .collect();
                uses.push(placement.compute);
                uses.extend(limited.iter().map(|limited| u32::from(*limited == key)));
                Slot {
                    start: *start,
                    uses,
                }
            });
            let compute = placement.compute * WHOLE / COMPUTE_SLICES;
            profiles.push(Profile {
                name: name.clone(),
                memory: mib << 20,
                share: compute.max(placement.size * WHOLE / MEMORY_SLICES),
                compute,
                slots: slots.collect(),
            });
        }
        profiles.sort_by(|a, b| (a.share, a.compute, &a.name).cmp(&(b.share, b.compute, &b.name)));
        let geometry = Geometry {
            name: model.clone(),
            counters: counters.clone(),
            profiles,
        };
        geometries.insert(model.clone(), geometry);
    }
    Ok(geometries)
}

/// NVIDIA's geometries for A100, H100 and H200 (`data/mig_geometry.json`).
///
/// # Panics
///
/// Never: the file is part of the crate and read by its tests.
pub fn builtin() -> &'static BTreeMap<String, Geometry> {
    static GEOMETRIES: OnceLock<BTreeMap<String, Geometry>> = OnceLock::new();
    GEOMETRIES.get_or_init(|| {
        parse_mig(include_str!("../../data/mig_geometry.json"))
            .expect("the crate's own geometry file")
    })
}
