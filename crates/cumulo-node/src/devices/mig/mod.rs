//! MIG instances that the node agent makes and removes itself, where its owner lets it.
//!
//! ```text
//! a wish ─► plan: the solver's Repartition actions ─► Manager ─► Partitions: the driver
//!                                                       │         (or a recording)
//!                                                       └► a journal, so that a crash
//!                                                          loses and doubles nothing
//! ```
//!
//! MIG mode itself is never changed: turning it on or off resets the GPU. What the node
//! agent did not make, it never removes.

mod manager;
pub(super) mod nvml;
mod plan;
mod simulated;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use manager::{ChangeError, Manager};
pub use plan::{Given, Plan, exactly, largest, plan};
pub(super) use simulated::{Layout, Simulated};

use super::snapshot::{Gpu, Snapshot};

/// Whether the node agent makes and removes MIG instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MigInstances {
    /// They stay as they are.
    #[default]
    Keep,
    /// It makes what a pod asks for, and removes what it made and nobody uses when
    /// another needs the room.
    Manage,
}

/// Where a GPU instance lies, or shall lie.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// UUID of the GPU.
    pub gpu: String,
    /// Profile, such as `1g.10gb`.
    pub profile: String,
    /// First memory slice.
    pub start: u32,
}

/// A GPU instance that the node agent made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Made {
    /// The driver's number for it, on its GPU.
    pub id: u32,
    /// Where it lies.
    #[serde(flatten)]
    pub place: Place,
    /// UUID, once programs can use it: another one at the same place with the same number
    /// has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// What the node agent has to do with a node's MIG instances.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Managed {
    /// Whether it makes and removes some.
    pub instances: MigInstances,
    /// Those that it made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<Made>,
}

impl Managed {
    /// Whether the node agent made the instance with this number.
    pub fn made(&self, gpu: &Gpu, id: u32) -> bool {
        self.find(gpu, id).is_some()
    }

    fn find(&self, gpu: &Gpu, id: u32) -> Option<&Made> {
        let one = present(gpu).into_iter().find(|one| one.id == id)?;
        let identity = gpu.identity();
        let mut made = self.made.iter();
        made.find(|made| made.place.gpu == identity && one.is(made))
    }

    /// The devices without the instances that the node agent made: it may remove one at
    /// any time when no pod of this node has it, so no claim may name it.
    pub fn lasting(&self, snapshot: &Snapshot) -> Snapshot {
        let mut lasting = snapshot.clone();
        for (gpu, known) in lasting.gpus.iter_mut().zip(&snapshot.gpus) {
            if let Some(mig) = &mut gpu.mig {
                mig.instances
                    .retain(|instance| !self.made(known, instance.id));
            }
        }
        lasting
    }
}

/// Instances of one GPU that change together: first some go, then others come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// UUID of the GPU.
    pub gpu: String,
    /// Instances that the node agent made and that nobody uses.
    pub remove: Vec<Made>,
    /// What comes instead.
    pub create: Vec<Place>,
}

/// Why the driver did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// There is no room at that place.
    #[error("the driver finds no room for it")]
    NoRoom,
    /// A program uses the instance.
    #[error("a program uses it")]
    InUse,
    /// There is no such GPU, instance, profile or placement.
    #[error("the driver knows no {0}")]
    Unknown(String),
    /// Anything else, in the driver's words.
    #[error("the driver answered: {0}")]
    Driver(String),
}

/// Makes and removes instances, one step at a time. A GPU instance is a part of the GPU;
/// programs see it once it has a compute instance.
pub trait Partitions: Send + Sync {
    /// Makes a GPU instance, and tells its number.
    ///
    /// # Errors
    /// When the driver does not do it: then nothing has changed.
    fn make(&self, place: &Place) -> Result<u32, PartitionError>;

    /// Gives a GPU instance a compute instance that has all of it.
    ///
    /// # Errors
    /// When the driver does not do it.
    fn complete(&self, gpu: &str, id: u32) -> Result<(), PartitionError>;

    /// Removes the compute instances of a GPU instance.
    ///
    /// # Errors
    /// When the driver does not do it, as while a program uses one.
    fn dismantle(&self, gpu: &str, id: u32) -> Result<(), PartitionError>;

    /// Removes a GPU instance that has no compute instances.
    ///
    /// # Errors
    /// When the driver does not do it.
    fn remove(&self, gpu: &str, id: u32) -> Result<(), PartitionError>;
}

/// A GPU instance that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Present {
    pub id: u32,
    pub profile: String,
    pub start: Option<u32>,
    /// UUID, where programs can use it.
    pub uuid: Option<String>,
}

impl Present {
    pub fn is_at(&self, place: &Place) -> bool {
        self.profile == place.profile && self.start == Some(place.start)
    }

    /// Whether it is what the node agent made, whether or not it was taken apart since.
    pub fn is(&self, made: &Made) -> bool {
        let same = match (&self.uuid, &made.uuid) {
            (Some(uuid), Some(known)) => uuid == known,
            _ => true,
        };
        self.id == made.id && self.is_at(&made.place) && same
    }

    /// Programs can use it.
    pub fn is_complete(&self) -> bool {
        self.uuid.is_some()
    }
}

/// The GPU instances of a GPU in MIG mode; of one that its administrator divided further
/// the profile is that of the first part.
pub(super) fn present(gpu: &Gpu) -> Vec<Present> {
    let Some(mig) = gpu.mig.as_ref().filter(|mig| mig.enabled) else {
        return Vec::new();
    };
    let mut found: BTreeMap<u32, Present> = BTreeMap::new();
    for instance in &mig.instances {
        found.entry(instance.id).or_insert_with(|| Present {
            id: instance.id,
            profile: instance.profile.clone(),
            start: instance.start,
            uuid: Some(instance.uuid.clone()),
        });
    }
    for bare in &mig.bare {
        found.entry(bare.id).or_insert_with(|| Present {
            id: bare.id,
            profile: bare.profile.clone(),
            start: bare.start,
            uuid: None,
        });
    }
    found.into_values().collect()
}
