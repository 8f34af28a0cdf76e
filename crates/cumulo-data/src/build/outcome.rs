//! What a build that went well has to tell.

use serde::{Deserialize, Serialize};

use crate::check::CheckResult;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::version_path;
use crate::store::ArtifactStore;

/// What was built, small enough for a termination message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildOutcome {
    /// The version.
    pub version: String,
    /// Its rows.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its number of columns.
    pub columns: usize,
    /// Where it is.
    pub uri: String,
    /// Whether it was there already.
    pub reused: bool,
    /// Name and type of the columns; of very many the first ones.
    pub schema: Vec<(String, String)>,
    /// How the checks went.
    pub checks: Vec<CheckResult>,
}

impl BuildOutcome {
    /// JSON of at most `limit` bytes: long column lists are cut, and long
    /// check lists lose their examples, then their last entries.
    pub fn to_message(&self, limit: usize) -> String {
        let mut small = self.clone();
        loop {
            let text = serde_json::to_string(&small).unwrap_or_default();
            if text.len() <= limit {
                return text;
            }
            let examples: usize = small.checks.iter().map(|check| check.examples.len()).sum();
            if examples > 0 {
                small
                    .checks
                    .iter_mut()
                    .for_each(|check| check.examples.clear());
            } else if small.schema.len() > 1 && small.schema.len() >= small.checks.len() {
                small.schema.truncate(small.schema.len() * 3 / 4);
            } else if small.checks.len() > 1 {
                small.checks.truncate(small.checks.len() * 3 / 4);
            } else {
                small.schema.clear();
                small.checks.clear();
                return serde_json::to_string(&small).unwrap_or_default();
            }
        }
    }

    pub(super) fn of(manifest: &Manifest, store: &ArtifactStore, reused: bool) -> Self {
        Self {
            version: manifest.version.clone(),
            rows: manifest.rows,
            bytes: manifest.bytes,
            columns: manifest.columns.len(),
            uri: store.url_of(&version_path(
                &manifest.namespace,
                &manifest.name,
                &manifest.version,
            )),
            reused,
            schema: manifest
                .columns
                .iter()
                .map(|column| (column.name.clone(), column.data_type.clone()))
                .collect(),
            checks: manifest.check_results.clone(),
        }
    }
}
