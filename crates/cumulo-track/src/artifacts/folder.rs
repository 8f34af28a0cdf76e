//! A folder as the artifact store.

use std::io::{self, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::intake::{Intake, Taken};
use super::path::{ArtifactPath, UPLOADS};
use super::store::{MAX_LISTED, missing, too_many};
use crate::error::{Error, ErrorCode, Result};
use crate::wire::FileInfo;

/// The folder, with no symbolic link in its path.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

fn failed(what: &str, path: &ArtifactPath, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => missing(path),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::new(
            ErrorCode::StorageFull,
            format!("{what} '{path}': the disk of the artifact store is full. Free some space."),
        ),
        _ => Error::internal(format!("{what} '{path}': {error}.")),
    }
}

/// The bytes of a range of a file.
pub(super) async fn stream(
    mut file: File,
    range: Range<u64>,
) -> Result<BoxStream<'static, io::Result<Bytes>>> {
    let seek = file.seek(SeekFrom::Start(range.start)).await;
    seek.map_err(|error| Error::internal(format!("Cannot read an artifact: {error}.")))?;
    let length = range.end.saturating_sub(range.start);
    Ok(ReaderStream::with_capacity(file.take(length), 256 * 1024).boxed())
}

impl Folder {
    pub(super) async fn open(root: &Path) -> Result<Self> {
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
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn uploads(&self) -> PathBuf {
        self.root.join(UPLOADS)
    }

    /// Where a path is on disk, checked to be inside: a symbolic link on the way
    /// must not lead out of the store.
    async fn locate(&self, path: &ArtifactPath) -> Result<PathBuf> {
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
                    return Err(missing(path));
                }
                Err(error) => return Err(failed("Cannot find", path, &error)),
            }
        }
    }

    pub(super) async fn list(&self, path: &ArtifactPath) -> Result<Vec<FileInfo>> {
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
                return Err(too_many(path));
            }
            let is_dir = metadata.is_dir();
            files.push(FileInfo {
                path: name,
                is_dir,
                file_size: (!is_dir).then(|| i64::try_from(metadata.len()).unwrap_or(i64::MAX)),
            });
        }
        Ok(files)
    }

    pub(super) async fn read(&self, path: &ArtifactPath) -> Result<(File, u64)> {
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
        Ok((file, metadata.len()))
    }

    /// Writes a file: all of it or nothing, replacing what was there.
    pub(super) async fn write(&self, path: &ArtifactPath, mut intake: Intake<'_>) -> Result<Taken> {
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
        while let Some(chunk) = intake.next().await? {
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
        drop(file);
        let taken = intake.finish()?;
        self.publish(path, temporary, &full).await?;
        Ok(taken)
    }

    /// Moves a complete file to its place, durably.
    async fn publish(
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

    pub(super) async fn delete(&self, path: &ArtifactPath) -> Result<()> {
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
    pub(super) async fn remove_stale_uploads(&self, age: Duration) -> io::Result<()> {
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
