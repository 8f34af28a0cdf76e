//! The store that everything goes through, whatever is behind it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};

use super::bucket::Bucket;
use super::folder::Folder;
use super::intake::{Intake, Taken};
use super::path::ArtifactPath;
use crate::address::StoreAddress;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Options;
use crate::wire::FileInfo;

/// Entries of one listing at most.
pub(super) const MAX_LISTED: usize = 100_000;
/// Top-level folders that no request may delete whole.
const RESERVED: &[&str] = &["blobs", "datasets", "experiments"];

/// A cloneable way to the artifacts.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    backend: Backend,
    max_bytes: u64,
}

#[derive(Debug, Clone)]
enum Backend {
    Folder(Arc<Folder>),
    Bucket(Arc<Bucket>),
}

/// A file opened for reading.
pub(crate) struct Opened {
    /// Its size.
    pub(crate) bytes: u64,
    source: Source,
}

enum Source {
    Folder(tokio::fs::File),
    Bucket(super::bucket::Object),
}

/// The error of a file that is not there.
pub(super) fn missing(path: &ArtifactPath) -> Error {
    Error::not_found(format!("No such artifact: '{path}'"))
}

pub(super) fn too_many(path: &ArtifactPath) -> Error {
    Error::new(
        ErrorCode::ResourceExhausted,
        format!("'{path}' has more than {MAX_LISTED} entries: list its folders."),
    )
}

impl Opened {
    /// Its bytes, all or a range of them that lies within the file.
    pub(crate) async fn stream(
        self,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>> {
        let range = range.unwrap_or(0..self.bytes);
        match self.source {
            Source::Folder(file) => super::folder::stream(file, range).await,
            Source::Bucket(object) => Ok(object.stream(range)),
        }
    }
}

impl ArtifactStore {
    pub(crate) async fn open(address: &StoreAddress, options: &Options) -> Result<Self> {
        let backend = match address {
            StoreAddress::Folder(path) => Backend::Folder(Arc::new(Folder::open(path).await?)),
            StoreAddress::S3 { bucket, prefix } => Backend::Bucket(Arc::new(
                Bucket::open(bucket, prefix, &options.environment).await?,
            )),
        };
        Ok(Self {
            backend,
            max_bytes: options.max_artifact_bytes,
        })
    }

    /// The folder, with no symbolic link in its path, where the store is one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match &self.backend {
            Backend::Folder(folder) => Some(folder.root()),
            Backend::Bucket(_) => None,
        }
    }

    /// Lists a folder by name; what is missing or a file has nothing in it.
    ///
    /// # Errors
    /// When it leads out of the store, cannot be read, or has too many entries.
    pub async fn list(&self, path: &ArtifactPath) -> Result<Vec<FileInfo>> {
        let mut files = match &self.backend {
            Backend::Folder(folder) => folder.list(path).await?,
            Backend::Bucket(bucket) => bucket.list(path).await?,
        };
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it is missing or a folder.
    pub(crate) async fn read(&self, path: &ArtifactPath) -> Result<Opened> {
        match &self.backend {
            Backend::Folder(folder) => {
                let (file, bytes) = folder.read(path).await?;
                let source = Source::Folder(file);
                Ok(Opened { bytes, source })
            }
            Backend::Bucket(bucket) => {
                let object = bucket.read(path).await?;
                Ok(Opened {
                    bytes: object.bytes(),
                    source: Source::Bucket(object),
                })
            }
        }
    }

    /// Writes a file from a stream: all of it or nothing, replacing what was there.
    ///
    /// # Errors
    /// When the stream breaks, the file is too large, the disk is full, or the
    /// content of a blob is not what its path says.
    pub async fn write<S, E>(&self, path: &ArtifactPath, content: S) -> Result<u64>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: std::fmt::Display,
    {
        Ok(self.take(path, content).await?.bytes)
    }

    pub(super) async fn take<S, E>(&self, path: &ArtifactPath, content: S) -> Result<Taken>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: std::fmt::Display,
    {
        if path.is_root() {
            return Err(Error::invalid("A file needs a name."));
        }
        let content = content.map(|chunk| chunk.map_err(|error| error.to_string()));
        let intake = Intake::new(path, content.boxed(), self.max_bytes)?;
        match &self.backend {
            Backend::Folder(folder) => folder.write(path, intake).await,
            Backend::Bucket(bucket) => bucket.write(path, intake).await,
        }
    }

    /// Writes a file from memory.
    ///
    /// # Errors
    /// As [`ArtifactStore::write`].
    pub async fn write_bytes(&self, path: &ArtifactPath, content: impl Into<Bytes>) -> Result<u64> {
        let content = Ok::<Bytes, std::io::Error>(content.into());
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
        match &self.backend {
            Backend::Folder(folder) => folder.delete(path).await,
            Backend::Bucket(bucket) => bucket.delete(path).await,
        }
    }

    /// Removes uploads that nobody has touched for that long.
    pub(crate) async fn remove_stale_uploads(&self, age: Duration) -> Result<()> {
        match &self.backend {
            Backend::Folder(folder) => folder
                .remove_stale_uploads(age)
                .await
                .map_err(|error| Error::internal(format!("Cannot remove old uploads: {error}."))),
            Backend::Bucket(bucket) => bucket.remove_stale_uploads(age).await,
        }
    }
}
