//! A bucket of an S3 service as the artifact store.
//!
//! Small files are one request. Larger ones go up in parts as they arrive, a few at
//! a time, and become visible when the last is there; a file that breaks off is
//! aborted. They come down in ranges of the same version of the object, so that no
//! single request must last as long as the whole file.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload,
    RetryConfig, WriteMultipart,
};

use super::intake::{Intake, Taken};
use super::path::{ArtifactPath, UPLOADS};
use super::store::{MAX_LISTED, missing, too_many};
use crate::error::{Error, ErrorCode, Result};
use crate::wire::FileInfo;

/// Bytes of one part of an upload, and of one range of a download. (S3 takes 10,000
/// parts of at least 5 MiB.)
const PART: usize = 8 * 1024 * 1024;
/// Parts of one upload or download under way at the same time: what bounds memory.
const UNDER_WAY: usize = 3;
/// Folders of one listing that are asked whether they are empty.
const MAX_ASKED: usize = 64;

/// The bucket, and what all keys in it begin with.
pub(super) struct Bucket {
    store: Arc<AmazonS3>,
    prefix: Key,
}

// Not derived: what the client shows of itself may hold its credentials.
impl fmt::Debug for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.store, self.prefix)
    }
}

/// A version of an object, for reading.
pub(super) struct Object {
    store: Arc<AmazonS3>,
    meta: ObjectMeta,
}

fn failed(what: &str, path: &ArtifactPath, error: &object_store::Error) -> Error {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => missing(path),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Error::internal(format!(
            "{what} '{path}': the object store refuses the platform's credentials ({error}). \
             Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy."
        )),
        _ => Error::new(
            ErrorCode::TemporarilyUnavailable,
            format!("{what} '{path}': the object store failed ({error}). Try again in a moment."),
        ),
    }
}

impl Bucket {
    pub(super) async fn open(
        bucket: &str,
        prefix: &str,
        environment: &[(String, String)],
    ) -> Result<Self> {
        let refuse = |error: object_store::Error| {
            Error::new(
                ErrorCode::TemporarilyUnavailable,
                format!(
                    "The artifact store s3://{bucket}/{prefix} cannot be used: {error}. Check that \
                     the bucket exists, AWS_ENDPOINT_URL (AWS_ALLOW_HTTP=true for one without \
                     TLS), AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
                ),
            )
        };
        let client = ClientOptions::new()
            .with_connect_timeout(Duration::from_secs(5))
            .with_timeout(Duration::from_secs(60));
        let store = AmazonS3Builder::new()
            .with_client_options(client)
            .with_bucket_name(bucket);
        let store = configured(store, environment)
            .with_retry(RetryConfig {
                max_retries: 6,
                retry_timeout: Duration::from_secs(30),
                ..RetryConfig::default()
            })
            .build()
            .map_err(refuse)?;
        let prefix = Key::parse(prefix).map_err(|error| Error::invalid(error.to_string()))?;
        let opened = Self {
            store: Arc::new(store),
            prefix,
        };
        // Asked now, so that a wrong address is told at the start.
        let uploads = opened.key(&ArtifactPath::upload("none"))?;
        let listed = opened.store.list_with_delimiter(Some(&uploads)).await;
        listed.map_err(refuse)?;
        Ok(opened)
    }

    fn key(&self, path: &ArtifactPath) -> Result<Key> {
        let text = match (self.prefix.as_ref(), path.as_str()) {
            ("", path) => path.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}/{path}"),
        };
        Key::parse(text).map_err(|error| Error::invalid(format!("Invalid path '{path}': {error}.")))
    }

    pub(super) async fn list(&self, path: &ArtifactPath) -> Result<Vec<FileInfo>> {
        let key = self.key(path)?;
        let listed = self
            .store
            .list_with_delimiter(Some(&key))
            .await
            .map_err(|error| failed("Cannot list", path, &error))?;
        if listed.objects.len() + listed.common_prefixes.len() > MAX_LISTED {
            return Err(too_many(path));
        }
        let name = |key: &Key| key.filename().unwrap_or_default().to_owned();
        let mut prefixes = listed.common_prefixes;
        if prefixes.len() <= MAX_ASKED {
            // Services that keep folders of their own show those that have become empty.
            let mut full = Vec::with_capacity(prefixes.len());
            for some in prefixes.chunks(8) {
                let asked = some.iter().map(|prefix| self.has_below(path, prefix));
                full.extend(futures::future::try_join_all(asked).await?);
            }
            let mut full = full.into_iter();
            prefixes.retain(|_| full.next().unwrap_or(true));
        }
        let folders = prefixes.iter().map(|key| FileInfo {
            path: name(key),
            is_dir: true,
            file_size: None,
        });
        let files = listed.objects.iter().map(|object| FileInfo {
            path: name(&object.location),
            is_dir: false,
            file_size: Some(i64::try_from(object.size).unwrap_or(i64::MAX)),
        });
        Ok(folders
            .chain(files)
            .filter(|file| !file.path.is_empty())
            .filter(|file| !(path.is_root() && file.path == UPLOADS))
            .collect())
    }

    pub(super) async fn read(&self, path: &ArtifactPath) -> Result<Object> {
        let key = self.key(path)?;
        match self.store.head(&key).await {
            Ok(meta) => Ok(Object {
                store: Arc::clone(&self.store),
                meta,
            }),
            Err(object_store::Error::NotFound { .. }) if self.has_below(path, &key).await? => {
                Err(Error::invalid(format!(
                    "'{path}' is a folder: list it, and read its files one by one."
                )))
            }
            Err(error) => Err(failed("Cannot read", path, &error)),
        }
    }

    /// Whether there is anything below a key.
    async fn has_below(&self, path: &ArtifactPath, key: &Key) -> Result<bool> {
        let options = PaginatedListOptions {
            max_keys: Some(1),
            ..PaginatedListOptions::default()
        };
        let listed = self
            .store
            .list_paginated(Some(&format!("{key}/")), options)
            .await
            .map_err(|error| failed("Cannot find", path, &error))?;
        Ok(!listed.result.objects.is_empty())
    }

    pub(super) async fn write(&self, path: &ArtifactPath, mut intake: Intake<'_>) -> Result<Taken> {
        let key = self.key(path)?;
        let cannot = |error: object_store::Error| failed("Cannot write", path, &error);
        let mut first = BytesMut::new();
        while first.len() < PART {
            match intake.next().await? {
                Some(chunk) => first.extend_from_slice(&chunk),
                None => {
                    let taken = intake.finish()?;
                    let payload = PutPayload::from_bytes(first.freeze());
                    self.store.put(&key, payload).await.map_err(cannot)?;
                    return Ok(taken);
                }
            }
        }
        let upload = self.store.put_multipart(&key).await.map_err(cannot)?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART);
        let sent = async {
            writer.put(first.freeze());
            while let Some(chunk) = intake.next().await? {
                writer.wait_for_capacity(UNDER_WAY).await.map_err(cannot)?;
                writer.put(chunk);
            }
            intake.finish()
        };
        match sent.await {
            Ok(taken) => {
                writer.finish().await.map_err(cannot)?;
                Ok(taken)
            }
            Err(error) => {
                if let Err(error) = writer.abort().await {
                    tracing::warn!(%path, %error, "an upload was not aborted");
                }
                Err(error)
            }
        }
    }

    pub(super) async fn delete(&self, path: &ArtifactPath) -> Result<()> {
        let key = self.key(path)?;
        let cannot = |error: object_store::Error| failed("Cannot delete", path, &error);
        let below = self
            .store
            .list(Some(&key))
            .map_ok(|object| object.location)
            .boxed();
        let itself = futures::stream::iter([Ok(key)]);
        self.delete_all(below.chain(itself).boxed())
            .await
            .map_err(cannot)
    }

    async fn delete_all(
        &self,
        keys: BoxStream<'static, object_store::Result<Key>>,
    ) -> object_store::Result<()> {
        let mut deleted = self.store.delete_stream(keys);
        while let Some(result) = deleted.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) async fn remove_stale_uploads(&self, age: Duration) -> Result<()> {
        let uploads = ArtifactPath::upload("");
        let key = match self.prefix.as_ref() {
            "" => Key::from(UPLOADS),
            prefix => Key::parse(format!("{prefix}/{UPLOADS}"))
                .map_err(|error| Error::internal(error.to_string()))?,
        };
        let age = chrono::TimeDelta::from_std(age).unwrap_or(chrono::TimeDelta::MAX);
        let old = self
            .store
            .list(Some(&key))
            .try_filter_map(move |object| {
                let old = chrono::Utc::now() - object.last_modified >= age;
                futures::future::ready(Ok(old.then_some(object.location)))
            })
            .boxed();
        self.delete_all(old)
            .await
            .map_err(|error| failed("Cannot delete", &uploads, &error))
    }
}

/// What the usual variables (`AWS_…`) say; the same with `CUMULO_` before them count
/// more, so that a pod can have credentials of its own, and the given ones most.
fn configured(mut builder: AmazonS3Builder, given: &[(String, String)]) -> AmazonS3Builder {
    let process = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let (own, usual): (Vec<_>, Vec<_>) = process.partition(|(name, _)| name.starts_with("CUMULO_"));
    for (name, value) in usual.into_iter().chain(own).chain(given.iter().cloned()) {
        let name = name.strip_prefix("CUMULO_").unwrap_or(&name);
        if !name.starts_with("AWS_") || value.is_empty() {
            continue;
        }
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

impl Object {
    pub(super) fn bytes(&self) -> u64 {
        self.meta.size
    }

    /// The bytes of a range, from this version of the object only.
    pub(super) fn stream(self, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        let mut pieces = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start.saturating_add(PART as u64));
            pieces.push(start..end);
            start = end;
        }
        let Self { store, meta } = self;
        futures::stream::iter(pieces)
            .map(move |piece| {
                let (store, key) = (Arc::clone(&store), meta.location.clone());
                let options = GetOptions {
                    if_match: meta.e_tag.clone(),
                    range: Some(GetRange::Bounded(piece)),
                    ..GetOptions::default()
                };
                async move {
                    let result = store.get_opts(&key, options).await;
                    let bytes = match result {
                        Ok(result) => result.bytes().await,
                        Err(error) => Err(error),
                    };
                    bytes.map_err(io::Error::other)
                }
            })
            .buffered(UNDER_WAY)
            .boxed()
    }
}
