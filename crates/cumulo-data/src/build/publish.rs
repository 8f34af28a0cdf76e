//! Putting a snapshot into the store.

use std::path::Path;
use std::time::Duration;

use super::{BuildError, Job};
use crate::snapshot::manifest::Manifest;
use crate::snapshot::{MANIFEST, dataset_path};
use crate::store::StoreError;

/// How a folder that is written to begins, until it is published.
const STAGING: &str = ".building-";

impl Job<'_> {
    /// A folder to write to: beside the dataset's versions where the store is
    /// local, so that publishing is a rename.
    pub(super) fn staging(&self) -> Result<tempfile::TempDir, BuildError> {
        let dataset = dataset_path(&self.request.namespace, &self.request.name);
        let Some(folder) = self.store.local_path(&dataset)? else {
            return self.options.temporary_directory().map_err(|error| {
                StoreError::file(Path::new("the temporary folder"), error).into()
            });
        };
        std::fs::create_dir_all(&folder).map_err(|error| StoreError::file(&folder, error))?;
        remove_stale(&folder);
        tempfile::Builder::new()
            .prefix(STAGING)
            .tempdir_in(&folder)
            .map_err(|error| StoreError::file(&folder, error).into())
    }

    /// Puts the snapshot into the store, the manifest last.
    pub(super) async fn publish(
        &self,
        staging: tempfile::TempDir,
        manifest: &Manifest,
    ) -> Result<(), BuildError> {
        let bytes = manifest_bytes(manifest)?;
        let Some(target) = self.store.local_path(&self.path())? else {
            // Somebody else may have made the same version meanwhile; who made it twice
            // writes the same bytes, and who reads goes by the manifest, written last.
            if self.existing().await?.is_some() {
                return Ok(());
            }
            for file in &manifest.files {
                let to = format!("{}/{}", self.path(), file.name);
                self.store
                    .upload(&staging.path().join(&file.name), &to)
                    .await?;
            }
            self.store
                .write(&self.manifest_path(), bytes.into())
                .await?;
            return Ok(());
        };
        let path = staging.path().join(MANIFEST);
        write_synced(&path, &bytes).map_err(|error| StoreError::file(&path, error))?;
        match std::fs::rename(staging.path(), &target) {
            Ok(()) => {}
            Err(_) if target.exists() => {
                // Somebody else made the same version meanwhile, or left half of
                // one: either way what is here now is complete and the same.
                if self.existing().await?.is_some() {
                    return Ok(());
                }
                std::fs::remove_dir_all(&target)
                    .and_then(|()| std::fs::rename(staging.path(), &target))
                    .map_err(|error| StoreError::file(&target, error))?;
            }
            Err(error) => return Err(StoreError::file(&target, error).into()),
        }
        // Moved away: there is nothing left to remove.
        let _ = staging.keep();
        set_readable(&target);
        Ok(())
    }
}

/// A temporary folder is for its owner alone; a snapshot is for all that may see the store.
fn set_readable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755));
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

pub(super) fn manifest_bytes(manifest: &Manifest) -> Result<Vec<u8>, BuildError> {
    serde_json::to_vec_pretty(manifest)
        .map_err(|error| BuildError::Write(format!("the manifest cannot be written: {error}")))
}

/// Removes what builds that were killed left behind, a day later.
fn remove_stale(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let stale = entry.file_name().to_string_lossy().starts_with(STAGING)
            && entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|time| time.elapsed().ok())
                .is_some_and(|age| age > Duration::from_secs(86_400));
        if stale {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
