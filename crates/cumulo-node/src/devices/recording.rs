//! Devices from a file, for trials without a GPU and for tests.

use std::path::PathBuf;

use super::mig::{PartitionError, Partitions, Place, Simulated};
use super::snapshot::Snapshot;
use super::{ReadError, Reader};
use crate::record::write_atomic;

/// The variable that names a recording for `cumulo up`.
pub const RECORDING_VARIABLE: &str = "CUMULO_DEVICES";

/// Reads a [`Snapshot`] from a JSON file, each time anew: a change of the file
/// is a change of the devices. What a driver would do with MIG instances is done to the
/// file.
#[derive(Debug)]
pub struct RecordingReader {
    path: PathBuf,
}

impl RecordingReader {
    /// A reader of this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl RecordingReader {
    fn change<T>(
        &self,
        work: impl FnOnce(Simulated<'_>) -> Result<T, PartitionError>,
    ) -> Result<T, PartitionError> {
        let driver = |error: String| PartitionError::Driver(error);
        let mut snapshot = self.read().map_err(|error| driver(error.to_string()))?;
        let done = work(Simulated(&mut snapshot))?;
        let text = serde_json::to_vec_pretty(&snapshot);
        let text = text.map_err(|error| driver(error.to_string()))?;
        write_atomic(&self.path, &text).map_err(|error| driver(error.to_string()))?;
        Ok(done)
    }
}

impl Partitions for RecordingReader {
    fn make(&self, place: &Place) -> Result<u32, PartitionError> {
        self.change(|mut driver| driver.make(place))
    }

    fn complete(&self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        self.change(|mut driver| driver.complete(gpu, id))
    }

    fn dismantle(&self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        self.change(|mut driver| driver.dismantle(gpu, id))
    }

    fn remove(&self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        self.change(|mut driver| driver.remove(gpu, id))
    }
}

impl Reader for RecordingReader {
    fn partitions(&self) -> Option<&dyn Partitions> {
        Some(self)
    }

    fn read(&self) -> Result<Snapshot, ReadError> {
        let text = std::fs::read_to_string(&self.path).map_err(|error| ReadError::File {
            path: self.path.clone(),
            error,
        })?;
        serde_json::from_str(&text).map_err(|error| ReadError::Syntax {
            path: self.path.clone(),
            error,
        })
    }
}
