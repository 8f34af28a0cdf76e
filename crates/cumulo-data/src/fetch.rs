//! A snapshot on this machine, fetched where the store is elsewhere.

use std::path::{Path, PathBuf};

use crate::snapshot::MANIFEST;
use crate::snapshot::manifest::Manifest;
use crate::store::{ArtifactStore, StoreError};

/// Why a snapshot cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no complete snapshot.
    #[error("{0} is gone from the artifact store: build the dataset again")]
    Missing(String),
    /// Its manifest cannot be read.
    #[error("the manifest of {path} cannot be read ({problem}): build the dataset again")]
    Damaged {
        /// The snapshot's path in the store.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The store or the local folder failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The folder of a snapshot on this machine.
///
/// Where the store is a local folder, it is the store's own. Otherwise the files that
/// the manifest names are fetched to `folder`, which appears when it is complete: a
/// snapshot never changes, so what is there is not fetched again.
///
/// # Errors
/// When the snapshot is missing or damaged, or the store or the folder fails.
pub async fn fetch_snapshot(
    store: &ArtifactStore,
    relative: &str,
    folder: &Path,
) -> Result<PathBuf, FetchError> {
    if let Some(path) = store.local_path(relative)? {
        return Ok(path);
    }
    if folder.join(MANIFEST).is_file() {
        return Ok(folder.to_owned());
    }
    let Some(manifest) = manifest(store, relative).await? else {
        return Err(FetchError::Missing(relative.to_owned()));
    };
    fetch_files(store, relative, &manifest, folder).await
}

async fn manifest(store: &ArtifactStore, relative: &str) -> Result<Option<Manifest>, FetchError> {
    let Some(bytes) = store.read(&format!("{relative}/{MANIFEST}")).await? else {
        return Ok(None);
    };
    let damaged = |error: serde_json::Error| FetchError::Damaged {
        path: relative.to_owned(),
        problem: error.to_string(),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// The names of a snapshot's data files in the order of their rows, as its manifest has
/// them; none when there is no complete snapshot.
///
/// # Errors
/// When the manifest is damaged or the store fails.
pub async fn snapshot_names(
    store: &ArtifactStore,
    relative: &str,
) -> Result<Vec<String>, FetchError> {
    let manifest = manifest(store, relative).await?;
    let files = manifest.map(|manifest| manifest.files).unwrap_or_default();
    Ok(files.into_iter().map(|file| file.name).collect())
}

/// Fetches the files of a manifest, and the manifest last.
pub(crate) async fn fetch_files(
    store: &ArtifactStore,
    relative: &str,
    manifest: &Manifest,
    folder: &Path,
) -> Result<PathBuf, FetchError> {
    let cannot = |error| StoreError::file(folder, error);
    let parent = folder.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(cannot)?;
    let staging = tempfile::Builder::new()
        .prefix(".fetching-")
        .tempdir_in(parent)
        .map_err(cannot)?;
    for file in &manifest.files {
        let path = staging.path().join(&file.name);
        let found = store
            .download(&format!("{relative}/{}", file.name), &path)
            .await?;
        let bytes = if found {
            std::fs::metadata(&path).map_err(cannot)?.len()
        } else {
            0
        };
        if !found || bytes != file.bytes {
            return Err(FetchError::Damaged {
                path: relative.to_owned(),
                problem: format!(
                    "{} has {bytes} bytes in the store, not {}",
                    file.name, file.bytes
                ),
            });
        }
    }
    let text = serde_json::to_vec_pretty(manifest).map_err(|error| FetchError::Damaged {
        path: relative.to_owned(),
        problem: error.to_string(),
    })?;
    std::fs::write(staging.path().join(MANIFEST), text).map_err(cannot)?;
    match std::fs::rename(staging.path(), folder) {
        Ok(()) => drop(staging.keep()),
        // Somebody else fetched the same meanwhile.
        Err(_) if folder.join(MANIFEST).is_file() => {}
        Err(error) => return Err(cannot(error).into()),
    }
    Ok(folder.to_owned())
}
