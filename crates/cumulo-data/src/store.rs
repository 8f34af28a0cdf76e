//! The artifact store: a folder on a laptop, a bucket on a cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    WriteMultipart,
};
use url::Url;

/// Bytes of one part of an upload and of one range of a download.
const PART: usize = 8 * 1024 * 1024;
/// Parts of one file under way at the same time: what bounds memory.
const UNDER_WAY: usize = 3;

/// What can go wrong with the artifact store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's URL does not name a store.
    #[error(
        "the artifact store {url:?} cannot be used: {problem}; give file:///absolute/path or s3://bucket/prefix"
    )]
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A path that leaves the store.
    #[error("{0:?} is not a path inside the artifact store")]
    Path(String),
    /// The store refused or failed.
    #[error("the artifact store failed at {path}: {source}")]
    Backend {
        /// The path in the store.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// A local file beside the store failed.
    #[error("{} {path}: {source}", describe(source))]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

fn describe(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "the disk is full: free some space; nothing was published; writing"
        }
        std::io::ErrorKind::PermissionDenied => "no permission for",
        _ => "cannot use",
    }
}

impl StoreError {
    pub(crate) fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File {
            path: path.display().to_string(),
            source,
        }
    }
}

/// A thin layer on an object store: paths relative to a root, and the fast way
/// through the file system where the store is a local folder.
#[derive(Clone)]
pub struct ArtifactStore {
    inner: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    local: Option<PathBuf>,
    url: String,
}

// Not derived: what the client shows of itself may hold its credentials.
impl std::fmt::Debug for ArtifactStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("ArtifactStore")
            .field(&self.url)
            .finish()
    }
}

impl ArtifactStore {
    /// Opens the store at a URL such as `file:///var/lib/cumulo/artifacts`. A
    /// local folder is made when it is not there.
    ///
    /// A bucket (`s3://bucket/prefix`) takes credentials, region and endpoint from the
    /// usual variables (`AWS_…`).
    pub fn from_url(text: &str) -> Result<Self, StoreError> {
        Self::from_url_with(text, &[])
    }

    /// As [`ArtifactStore::from_url`], with variables that count before those of the
    /// process.
    pub fn from_url_with(text: &str, given: &[(String, String)]) -> Result<Self, StoreError> {
        let problem = |problem: String| StoreError::Url {
            url: text.to_owned(),
            problem,
        };
        let url = Url::parse(text).map_err(|error| problem(error.to_string()))?;
        if url.scheme() == "file" {
            let folder = url
                .to_file_path()
                .map_err(|()| problem("it is not an absolute path".to_owned()))?;
            return Self::local(&folder);
        }
        if url.scheme() != "s3" {
            return Err(problem(format!(
                "{:?} is not a kind of store known here",
                url.scheme()
            )));
        }
        let bucket = url.host_str().unwrap_or_default();
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if bucket.is_empty() || !plain {
            return Err(problem(
                "it names no bucket, or more than a bucket and a prefix".to_owned(),
            ));
        }
        let prefix = ObjectPath::parse(url.path().trim_matches('/'))
            .map_err(|error| problem(error.to_string()))?;
        let inner = s3(bucket, given).map_err(|error| problem(error.to_string()))?;
        Ok(Self {
            inner: Arc::new(inner),
            prefix,
            local: None,
            url: text.trim_end_matches('/').to_owned(),
        })
    }

    /// Opens the store in a local folder, which is made when it is not there.
    pub fn local(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(|error| StoreError::file(folder, error))?;
        let folder = folder
            .canonicalize()
            .map_err(|error| StoreError::file(folder, error))?;
        let problem = |problem: String| StoreError::Url {
            url: folder.display().to_string(),
            problem,
        };
        let inner = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|error| problem(error.to_string()))?;
        let url = Url::from_file_path(&folder)
            .map_err(|()| problem("it is not an absolute path".to_owned()))?;
        Ok(Self {
            inner: Arc::new(inner),
            prefix: ObjectPath::default(),
            local: Some(folder),
            url: url.to_string(),
        })
    }

    /// The URL of a path in the store.
    pub fn url_of(&self, relative: &str) -> String {
        format!("{}/{relative}", self.url)
    }

    /// The store's folder, where it is a local one.
    pub fn local_root(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// The file or folder behind a path, where the store is a local folder.
    pub fn local_path(&self, relative: &str) -> Result<Option<PathBuf>, StoreError> {
        safe_relative(relative)?;
        Ok(self.local.as_ref().map(|folder| folder.join(relative)))
    }

    fn object_path(&self, relative: &str) -> Result<ObjectPath, StoreError> {
        safe_relative(relative)?;
        if self.local.is_some() {
            return Ok(ObjectPath::from(relative));
        }
        // In a bucket names are as they are, not percent-encoded.
        let key = match self.prefix.as_ref() {
            "" => relative.to_owned(),
            prefix => format!("{prefix}/{relative}"),
        };
        ObjectPath::parse(key).map_err(|_| StoreError::Path(relative.to_owned()))
    }

    /// The bytes at a path, or `None` where there is nothing.
    pub async fn read(&self, relative: &str) -> Result<Option<Bytes>, StoreError> {
        let path = self.object_path(relative)?;
        let backend = |source| StoreError::Backend {
            path: relative.to_owned(),
            source,
        };
        match self.inner.get(&path).await {
            Ok(result) => Ok(Some(result.bytes().await.map_err(backend)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(backend(source)),
        }
    }

    /// The size of what is at a path in bytes, or `None` where there is nothing.
    pub async fn size(&self, relative: &str) -> Result<Option<u64>, StoreError> {
        let path = self.object_path(relative)?;
        match self.inner.head(&path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::Backend {
                path: relative.to_owned(),
                source,
            }),
        }
    }

    /// Writes bytes to a path; readers see the old content or the new, never half.
    pub async fn write(&self, relative: &str, content: Bytes) -> Result<(), StoreError> {
        let path = self.object_path(relative)?;
        self.inner
            .put(&path, PutPayload::from_bytes(content))
            .await
            .map_err(|source| StoreError::Backend {
                path: relative.to_owned(),
                source,
            })?;
        Ok(())
    }

    /// Copies a local file into the store.
    pub async fn upload(&self, file: &Path, relative: &str) -> Result<(), StoreError> {
        use tokio::io::AsyncReadExt;
        let path = self.object_path(relative)?;
        let backend = |source| StoreError::Backend {
            path: relative.to_owned(),
            source,
        };
        let mut input = tokio::fs::File::open(file)
            .await
            .map_err(|error| StoreError::file(file, error))?;
        let upload = self.inner.put_multipart(&path).await.map_err(backend)?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = input
                .read(&mut buffer)
                .await
                .map_err(|error| StoreError::file(file, error))?;
            if read == 0 {
                break;
            }
            writer.wait_for_capacity(UNDER_WAY).await.map_err(backend)?;
            writer.write(&buffer[..read]);
        }
        writer.finish().await.map_err(backend)?;
        Ok(())
    }

    /// Copies a path of the store to a local file. `false` where there is nothing.
    pub async fn download(&self, relative: &str, file: &Path) -> Result<bool, StoreError> {
        use tokio::io::AsyncWriteExt;
        let path = self.object_path(relative)?;
        let backend = |source| StoreError::Backend {
            path: relative.to_owned(),
            source,
        };
        let meta = match self.inner.head(&path).await {
            Ok(meta) => meta,
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(source) => return Err(backend(source)),
        };
        let mut output = tokio::fs::File::create(file)
            .await
            .map_err(|error| StoreError::file(file, error))?;
        // In ranges of one version of the object, so that no request lasts as long as
        // the whole file, and one that fails is the only one to be repeated.
        let mut ranges = Vec::new();
        let mut start = 0;
        while start < meta.size {
            let end = meta.size.min(start + PART as u64);
            ranges.push(start..end);
            start = end;
        }
        let mut pieces = futures::stream::iter(ranges)
            .map(|range| {
                let options = GetOptions {
                    if_match: meta.e_tag.clone(),
                    range: Some(GetRange::Bounded(range)),
                    ..GetOptions::default()
                };
                async { self.inner.get_opts(&path, options).await?.bytes().await }
            })
            .buffered(UNDER_WAY);
        while let Some(piece) = pieces.try_next().await.map_err(backend)? {
            output
                .write_all(&piece)
                .await
                .map_err(|error| StoreError::file(file, error))?;
        }
        output
            .flush()
            .await
            .map_err(|error| StoreError::file(file, error))?;
        Ok(true)
    }
}

/// A bucket, with credentials and address from the usual variables (`AWS_…`).
fn s3(
    bucket: &str,
    given: &[(String, String)],
) -> object_store::Result<object_store::aws::AmazonS3> {
    let client = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(Duration::from_secs(60));
    let mut builder = AmazonS3Builder::new()
        .with_client_options(client)
        .with_bucket_name(bucket)
        .with_retry(RetryConfig {
            max_retries: 8,
            retry_timeout: Duration::from_secs(60),
            ..RetryConfig::default()
        });
    let process = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    // The same with CUMULO_ before them count more: a pod's program can have its own.
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
    builder.build()
}

/// Refuses what would leave the store: absolute paths, `..`, empty parts.
fn safe_relative(relative: &str) -> Result<(), StoreError> {
    let good = !relative.is_empty()
        && !relative.contains('\\')
        && !relative.contains('\0')
        && relative
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    if good {
        Ok(())
    } else {
        Err(StoreError::Path(relative.to_owned()))
    }
}
