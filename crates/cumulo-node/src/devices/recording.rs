//! Devices from a file, for trials without a GPU and for tests.

use std::path::PathBuf;

use super::snapshot::Snapshot;
use super::{ReadError, Reader};

/// The variable that names a recording for `cumulo up`.
pub const RECORDING_VARIABLE: &str = "CUMULO_DEVICES";

/// Reads a [`Snapshot`] from a JSON file, each time anew: a change of the file
/// is a change of the devices.
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

impl Reader for RecordingReader {
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
