//! The artifact store: a folder on a laptop, a bucket on a cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use url::Url;

/// What can go wrong with the artifact store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's URL does not name a store.
    #[error(
        "the artifact store {url:?} cannot be used: {problem}; give a URL such as file:///var/lib/cumulo/artifacts"
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
#[derive(Clone, Debug)]
pub struct ArtifactStore {
    inner: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    local: Option<PathBuf>,
    url: String,
}

impl ArtifactStore {
    /// Opens the store at a URL such as `file:///var/lib/cumulo/artifacts`. A
    /// local folder is made when it is not there.
    pub fn from_url(text: &str) -> Result<Self, StoreError> {
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
        let (inner, prefix) =
            object_store::parse_url(&url).map_err(|error| problem(error.to_string()))?;
        Ok(Self {
            inner: Arc::from(inner),
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
        let mut path = self.prefix.clone();
        for part in relative.split('/') {
            path = path.join(part);
        }
        Ok(path)
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
        let mut writer = WriteMultipart::new(upload);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = input
                .read(&mut buffer)
                .await
                .map_err(|error| StoreError::file(file, error))?;
            if read == 0 {
                break;
            }
            // Bounded: at most four parts are under way.
            writer.wait_for_capacity(4).await.map_err(backend)?;
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
        let result = match self.inner.get(&path).await {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(source) => return Err(backend(source)),
        };
        let mut output = tokio::fs::File::create(file)
            .await
            .map_err(|error| StoreError::file(file, error))?;
        let mut stream = result.into_stream();
        while let Some(chunk) = stream.try_next().await.map_err(backend)? {
            output
                .write_all(&chunk)
                .await
                .map_err(|error| StoreError::file(file, error))?;
        }
        output
            .flush()
            .await
            .map_err(|error| StoreError::file(file, error))?;
        Ok(true)
    }

    /// The names directly below a path, sorted.
    pub async fn names(&self, relative: &str) -> Result<Vec<String>, StoreError> {
        let path = self.object_path(relative)?;
        let listed = self
            .inner
            .list_with_delimiter(Some(&path))
            .await
            .map_err(|source| StoreError::Backend {
                path: relative.to_owned(),
                source,
            })?;
        let mut names: Vec<String> = listed
            .objects
            .iter()
            .filter_map(|object| object.location.filename())
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }
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
