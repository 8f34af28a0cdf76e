//! The GPUs of this node: what is read of them, how well they are, and what of
//! them is given to pods.
//!
//! ```text
//! NVML, or a recording ─► Snapshot ─┬─► health: healthy, degraded, broken and why
//!                                   ├─► the solver's devices ─► what a pod gets
//!                                   └─► ResourceSlices
//! ```
//!
//! Reading is behind [`Reader`]; all else is pure, and tested on the recordings
//! in `recordings/`.

mod claims;
mod convert;
mod decide;
mod energy;
mod health;
mod ledger;
mod nvml;
mod recording;
pub mod sharing;
mod slices;
mod snapshot;
pub mod watch;
mod why;

pub use claims::{claimed, named};
pub use convert::{Converted, SLOTS, convert, is_model};
pub use decide::{Held, Holder, Refusal, decide};
pub use energy::{Energy, Meter, Method};
pub use health::{Condition, Health};
pub use ledger::Inventory;
pub(crate) use ledger::Ledger;
pub use nvml::NvmlReader;
pub use recording::{RECORDING_VARIABLE, RecordingReader};
pub use slices::{DRIVER, VENDOR_DRIVERS, slices};
pub use snapshot::{ComputeMode, Ecc, Gpu, Instance, Link, Memory, Mig, Pci, Process, Snapshot};

use std::path::{Path, PathBuf};

#[cfg(test)]
pub(crate) mod tests;
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
}

/// The recording, where one is named, or else the machine's own devices.
pub fn reader(recording: Option<&Path>) -> Box<dyn Reader> {
    match recording {
        Some(path) => Box::new(RecordingReader::new(path)),
        None => Box::new(NvmlReader::default()),
    }
}
