//! The GPUs of this node: what is read of them, how well they are, and what of
//! them is given to pods.
//!
//! ```text
//! NVML and sysfs, or a recording ─► Snapshot ─┬─► health: healthy, degraded, broken and why
//!                                             ├─► the solver's devices ─► what a pod gets
//!                                             └─► ResourceSlices
//! ```
//!
//! Reading is behind [`Reader`], and so is what changes MIG instances; all else is pure,
//! and tested on the recordings in `recordings/`.

mod claims;
mod convert;
mod decide;
mod energy;
mod health;
mod ledger;
pub mod mig;
mod nvml;
pub(crate) mod reach;
mod recording;
pub mod sharing;
mod slices;
mod snapshot;
mod sysfs;
pub mod watch;
mod why;

pub use claims::{claimed, named};
pub use convert::{Converted, convert, is_model};
pub use decide::{Held, Holder, Refusal, decide};
pub use energy::{Energy, Meter, Method};
pub use health::{Condition, Health};
pub use ledger::Inventory;
pub(crate) use ledger::Ledger;
pub use nvml::NvmlReader;
pub use recording::{RECORDING_VARIABLE, RecordingReader};
pub use slices::{DRIVER, slices, vendor_driver};
pub use snapshot::{
    Bare, Cache, ComputeMode, Cpu, Ecc, Gpu, Instance, Link, Memory, Mig, NumaNode, Pci, Process,
    Profile, Snapshot, Vendor,
};
pub use sysfs::Sysfs;
pub use why::counted;

use std::path::{Path, PathBuf};

#[cfg(test)]
mod ledger_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod trouble_tests;
#[cfg(test)]
mod watch_tests;

/// Why the devices cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The driver is there and does not answer.
    #[error("the NVIDIA driver does not answer: {0}")]
    Driver(String),
    /// The recording cannot be read.
    #[error("the recording of devices {path} cannot be read: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The recording is not one.
    #[error("{path} is not a recording of devices: {error}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: serde_json::Error,
    },
}

/// Reads the state of the node's devices. Blocks; call it off the async threads.
pub trait Reader: Send + Sync {
    /// What is there now. No driver is an empty snapshot, not an error.
    ///
    /// # Errors
    /// When there is something to read and it cannot be read.
    fn read(&self) -> Result<Snapshot, ReadError>;

    /// What makes and removes MIG instances, where something can.
    fn partitions(&self) -> Option<&dyn mig::Partitions> {
        None
    }
}

/// The recording, where one is named, or else the machine's own devices.
pub fn reader(recording: Option<&Path>) -> Box<dyn Reader> {
    match recording {
        Some(path) => Box::new(RecordingReader::new(path)),
        None => Box::new(MachineReader::default()),
    }
}

/// This machine's own devices.
#[derive(Default)]
struct MachineReader {
    nvidia: NvmlReader,
    others: Sysfs,
}

impl Reader for MachineReader {
    fn read(&self) -> Result<Snapshot, ReadError> {
        let mut snapshot = self.nvidia.read()?;
        self.others.add_to(&mut snapshot);
        Ok(snapshot)
    }

    fn partitions(&self) -> Option<&dyn mig::Partitions> {
        self.nvidia.partitions()
    }
}
