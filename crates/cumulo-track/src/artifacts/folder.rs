//! The folder behind the artifact store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

use super::path::{ArtifactPath, UPLOADS};
use crate::error::{Error, ErrorCode, Result};
use crate::wire::FileInfo;

/// Entries of one listing at most.
const MAX_LISTED: usize = 100_000;
/// Top-level folders that no request may delete whole.
const RESERVED: &[&str] = &["blobs", "datasets", "experiments"];

/// A cloneable way to the artifacts.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    root: Arc<PathBuf>,
    max_bytes: u64,
}

/// A file opened for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) bytes: u64,
}

fn failed(what: &str, path: &ArtifactPath, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!("No such artifact: '{path}'")),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::new(
            ErrorCode::StorageFull,
            format!("{what} '{path}': the disk of the artifact store is full. Free some space."),
        ),
        _ => Error::internal(format!("{what} '{path}': {error}.")),
    }
}

impl ArtifactStore {
    pub(crate) async fn open(root: &Path, max_bytes: u64) -> Result<Self> {
        let open = async {
            fs::create_dir_all(root.join(UPLOADS)).await?;
            fs::canonicalize(root).await
        };
        let root = open.await.map_err(|error| {
            Error::internal(format!(
                "Cannot open the artifact store {}: {error}. Check that the folder may be written.",
                root.display()
            ))
        })?;
        Ok(Self {
            root: Arc::new(root),
            max_bytes,
        })
    }

    /// The folder, with no symbolic link in its path.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.root
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join(UPLOADS)
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Where a path is on disk, checked to be inside: a symbolic link on the way
    /// must not lead out of the store.
    ///
    /// # Errors
    /// When a link leads out.
    pub async fn locate(&self, path: &ArtifactPath) -> Result<PathBuf> {
        let full = self.root.join(path.as_str());
        let mut existing = full.as_path();
        loop {
            match fs::canonicalize(existing).await {
                Ok(real) if real.starts_with(self.root.as_path()) => return Ok(full),
                Ok(_) => {
                    return Err(Error::new(
                        ErrorCode::PermissionDenied,
                        format!("'{path}' leads out of the artifact store by a symbolic link."),
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // A dangling link is not "missing": writing would follow it.
                    if fs::symlink_metadata(existing).await.is_ok() {
                        return Err(Error::new(
                            ErrorCode::PermissionDenied,
                            format!("'{path}' goes through a broken symbolic link."),
                        ));
                    }
                    match existing.parent() {
                        Some(parent) if existing != self.root.as_path() => existing = parent,
                        _ => return Err(failed("Cannot find", path, &error)),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    return Err(Error::not_found(format!("No such artifact: '{path}'")));
                }
                Err(error) => return Err(failed("Cannot find", path, &error)),
            }
        }
    }

    /// Lists a folder by name; what is missing or a file has nothing in it.
    ///
    /// # Errors
    /// When it leads out of the store, cannot be read, or has too many entries.
    pub async fn list(&self, path: &ArtifactPath) -> Result<Vec<FileInfo>> {
        let full = self.locate(path).await?;
        let mut entries = match fs::read_dir(&full).await {
            Ok(entries) => entries,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Vec::new());
            }
            Err(error) => return Err(failed("Cannot list", path, &error)),
        };
        let mut files = Vec::new();
        while let Some(entry) = entries
            .next_entry()
            .await
            .map_err(|error| failed("Cannot list", path, &error))?
        {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if path.is_root() && name == UPLOADS {
                continue;
            }
            let Ok(metadata) = fs::metadata(entry.path()).await else {
                continue;
            };
            if files.len() >= MAX_LISTED {
                return Err(Error::new(
                    ErrorCode::ResourceExhausted,
                    format!("'{path}' has more than {MAX_LISTED} entries: list its folders."),
                ));
            }
            let is_dir = metadata.is_dir();
            files.push(FileInfo {
                path: name,
                is_dir,
                file_size: (!is_dir).then(|| i64::try_from(metadata.len()).unwrap_or(i64::MAX)),
            });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it is missing or a folder.
    pub(crate) async fn read(&self, path: &ArtifactPath) -> Result<Opened> {
        let full = self.locate(path).await?;
        let open = async {
            let file = File::open(&full).await?;
            let metadata = file.metadata().await?;
            io::Result::Ok((file, metadata))
        };
        let (file, metadata) = open.await.map_err(|e| failed("Cannot read", path, &e))?;
        if !metadata.is_file() {
            return Err(Error::invalid(format!(
                "'{path}' is a folder: list it, and read its files one by one."
            )));
        }
        Ok(Opened {
            file,
            bytes: metadata.len(),
        })
    }

    /// Writes a file from a stream: all of it or nothing, replacing what was there.
    ///
    /// # Errors
    /// When the stream breaks, the file is too large, the disk is full, or the
    /// content of a blob is not what its path says.
    pub async fn write<S, E>(&self, path: &ArtifactPath, content: S) -> Result<u64>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        if path.is_root() {
            return Err(Error::invalid("A file needs a name."));
        }
        let digest = path.required_digest()?.map(str::to_owned);
        let full = self.locate(path).await?;
        if fs::metadata(&full)
            .await
            .is_ok_and(|metadata| metadata.is_dir())
        {
            return Err(Error::invalid(format!(
                "'{path}' is a folder; a file cannot replace it."
            )));
        }
        let temporary = tempfile::Builder::new()
            .prefix("put-")
            .tempfile_in(self.uploads())
            .map_err(|error| failed("Cannot write", path, &error))?;
        let (file, temporary) = temporary.into_parts();
        let mut file = File::from_std(file);
        let (bytes, actual) = self
            .copy(path, content, &mut file, digest.is_some())
            .await?;
        if let (Some(expected), Some(actual)) = (&digest, &actual)
            && expected != actual
        {
            return Err(Error::invalid(format!(
                "The content of '{path}' has SHA-256 {actual}, not {expected} as its path says: \
                 nothing was stored."
            )));
        }
        drop(file);
        self.publish(path, temporary, &full).await?;
        Ok(bytes)
    }

    async fn copy<S, E>(
        &self,
        path: &ArtifactPath,
        mut content: S,
        file: &mut File,
        hash: bool,
    ) -> Result<(u64, Option<String>)>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let mut hasher = hash.then(Sha256::new);
        let mut bytes: u64 = 0;
        while let Some(chunk) = content.next().await {
            let chunk = chunk.map_err(|error| {
                Error::invalid(format!(
                    "The upload of '{path}' broke off after {bytes} bytes ({error}): nothing was \
                     stored, send it again."
                ))
            })?;
            bytes = bytes.saturating_add(chunk.len() as u64);
            if bytes > self.max_bytes {
                return Err(Error::invalid(format!(
                    "'{path}' is larger than {} bytes, the limit of the artifact store: nothing \
                     was stored.",
                    self.max_bytes
                )));
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&chunk);
            }
            let written = file.write_all(&chunk).await;
            written.map_err(|error| failed("Cannot write", path, &error))?;
        }
        let finish = async {
            file.flush().await?;
            file.sync_all().await
        };
        finish
            .await
            .map_err(|error| failed("Cannot write", path, &error))?;
        Ok((bytes, hasher.map(|hasher| hex::encode(hasher.finalize()))))
    }

    /// Moves a complete file to its place, durably.
    pub(super) async fn publish(
        &self,
        path: &ArtifactPath,
        temporary: tempfile::TempPath,
        full: &Path,
    ) -> Result<()> {
        let full = full.to_owned();
        let publish = move || -> io::Result<()> {
            let parent = full.parent().unwrap_or(Path::new("/")).to_owned();
            std::fs::create_dir_all(&parent)?;
            temporary.persist(&full).map_err(|error| error.error)?;
            std::fs::File::open(&parent)?.sync_all()
        };
        tokio::task::spawn_blocking(publish)
            .await
            .map_err(|error| Error::internal(format!("Cannot write '{path}': {error}.")))?
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => Error::invalid(
                    format!("Cannot write '{path}': a part of its path is a file."),
                ),
                _ => failed("Cannot write", path, &error),
            })
    }

    /// Writes a file from memory.
    ///
    /// # Errors
    /// As [`ArtifactStore::write`].
    pub async fn write_bytes(&self, path: &ArtifactPath, content: impl Into<Bytes>) -> Result<u64> {
        let content = Ok::<Bytes, io::Error>(content.into());
        self.write(path, futures::stream::iter([content])).await
    }

    /// Deletes a file, or a folder with everything in it; a missing one is deleted already.
    ///
    /// # Errors
    /// When it is the root or one of the store's own folders, or leads out.
    pub async fn delete(&self, path: &ArtifactPath) -> Result<()> {
        if path.is_root() || RESERVED.contains(&path.as_str()) {
            return Err(Error::new(
                ErrorCode::PermissionDenied,
                format!("'{path}' belongs to the store itself and cannot be deleted whole."),
            ));
        }
        let full = self.locate(path).await?;
        let delete = async {
            let metadata = fs::symlink_metadata(&full).await?;
            if metadata.is_dir() {
                fs::remove_dir_all(&full).await
            } else {
                fs::remove_file(&full).await
            }
        };
        match delete.await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("Cannot delete", path, &error))
            }
            _ => Ok(()),
        }
    }

    /// Removes uploads that nobody has touched for that long.
    pub(crate) async fn remove_stale_uploads(&self, age: Duration) -> io::Result<()> {
        let mut entries = fs::read_dir(self.uploads()).await?;
        while let Some(entry) = entries.next_entry().await? {
            let metadata = entry.metadata().await?;
            let touched = metadata.modified().unwrap_or_else(|_| SystemTime::now());
            if touched.elapsed().is_ok_and(|elapsed| elapsed >= age) {
                tracing::info!(upload = %entry.path().display(), "removing a stale upload");
                if metadata.is_dir() {
                    fs::remove_dir_all(entry.path()).await?;
                } else {
                    fs::remove_file(entry.path()).await?;
                }
            }
        }
        Ok(())
    }
}
