//! A snapshot: the result of a query over given sources, as Parquet files and a
//! manifest below `datasets/<namespace>/<name>/<version>/`.

pub mod manifest;
mod sketch;
pub mod statistics;
pub mod version;
pub(crate) mod write;

/// The folder of all versions of a dataset.
pub fn dataset_path(namespace: &str, name: &str) -> String {
    format!("datasets/{namespace}/{name}")
}

/// The folder of one version.
pub fn version_path(namespace: &str, name: &str, version: &str) -> String {
    format!("datasets/{namespace}/{name}/{version}")
}

/// The manifest's file name; it is written last, so its presence means completeness.
pub const MANIFEST: &str = "manifest.json";
