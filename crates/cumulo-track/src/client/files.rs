//! Files to and from the artifact store.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::transport::chain;
use super::{Client, Error, Result};
use crate::artifacts::ArtifactPath;
use crate::wire::FileInfo;

/// Files of one folder at most, in either direction.
const MAX_FILES: usize = 100_000;
/// Attempts to download one file whose answer breaks off.
const DOWNLOADS: usize = 5;

/// How much was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

fn file_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}

impl Client {
    /// Uploads one file to an artifact URI or path (`mlflow-artifacts:/…`, `cumulo:…`).
    ///
    /// # Errors
    /// When the file cannot be read, or the service refuses or cannot be reached.
    pub async fn upload_file(&self, to: &str, file: &Path) -> Result<Progress> {
        self.put(&ArtifactPath::from_uri(to)?, file).await
    }

    /// Uploads a small file from memory.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn upload_bytes(&self, to: &str, content: impl Into<bytes::Bytes>) -> Result<()> {
        let path = ArtifactPath::from_uri(to)?;
        let content = content.into();
        let url = self.artifact_url(&path);
        self.transport
            .deliver(&format!("PUT {path}"), || {
                let request = self
                    .transport
                    .client()
                    .put(url.clone())
                    .body(content.clone());
                std::future::ready(Ok(request))
            })
            .await?;
        Ok(())
    }

    /// Uploads a folder, with everything below it, to an artifact URI.
    ///
    /// # Errors
    /// When a file cannot be read, or the service refuses or cannot be reached.
    pub async fn upload_folder(&self, to: &str, folder: &Path) -> Result<Progress> {
        let root = ArtifactPath::from_uri(to)?;
        let mut waiting = VecDeque::from([(root, folder.to_owned())]);
        let mut progress = Progress::default();
        while let Some((path, folder)) = waiting.pop_front() {
            let read = file_error("read", &folder);
            let mut entries = match fs::read_dir(&folder).await {
                Ok(entries) => entries,
                Err(error) => return Err(read(error)),
            };
            let mut names = Vec::new();
            while let Some(entry) = entries
                .next_entry()
                .await
                .map_err(file_error("read", &folder))?
            {
                names.push(entry.path());
            }
            // In a fixed order, so that a failure is the same one each time.
            names.sort();
            for local in names {
                let name = local
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default();
                let target = path.join(&ArtifactPath::parse(name)?);
                let metadata = fs::metadata(&local)
                    .await
                    .map_err(file_error("read", &local))?;
                if metadata.is_dir() {
                    waiting.push_back((target, local));
                    continue;
                }
                if progress.files >= MAX_FILES as u64 {
                    return Err(Error::Settings(format!(
                        "{} has more than {MAX_FILES} files: pack them into an archive.",
                        folder.display()
                    )));
                }
                let one = self.put(&target, &local).await?;
                progress.files += one.files;
                progress.bytes = progress.bytes.saturating_add(one.bytes);
            }
        }
        Ok(progress)
    }

    fn artifact_url(&self, path: &ArtifactPath) -> url::Url {
        let prefix = ["mlflow-artifacts", "artifacts"];
        self.transport.url(prefix.into_iter().chain(path.names()))
    }

    async fn put(&self, path: &ArtifactPath, local: &Path) -> Result<Progress> {
        let url = self.artifact_url(path);
        let bytes = fs::metadata(local)
            .await
            .map_err(file_error("read", local))?
            .len();
        let (url, transport) = (&url, &self.transport);
        self.transport
            .deliver(&format!("PUT {path}"), move || async move {
                // Opened anew for each attempt: a stream cannot be rewound.
                let file = File::open(local).await.map_err(file_error("read", local))?;
                let stream = ReaderStream::with_capacity(file, 256 * 1024);
                Ok(transport
                    .client()
                    .put(url.clone())
                    .header(http::header::CONTENT_LENGTH, bytes)
                    .body(reqwest::Body::wrap_stream(stream)))
            })
            .await?;
        Ok(Progress { files: 1, bytes })
    }

    /// What is in a folder of the store.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn list(&self, uri: &str) -> Result<Vec<FileInfo>> {
        self.list_path(&ArtifactPath::from_uri(uri)?).await
    }

    async fn list_path(&self, path: &ArtifactPath) -> Result<Vec<FileInfo>> {
        #[derive(serde::Deserialize)]
        struct Listing {
            #[serde(default)]
            files: Vec<FileInfo>,
        }
        let query = [("path", path.as_str())];
        let found: Listing = self
            .transport
            .get("mlflow-artifacts/artifacts", &query)
            .await?;
        Ok(found.files)
    }

    /// Downloads a file, or a folder with everything below it, to a local path.
    ///
    /// Each file appears complete or not at all.
    ///
    /// # Errors
    /// When nothing is there, a file cannot be written, or the service refuses or
    /// cannot be reached.
    pub async fn download(&self, uri: &str, to: &Path) -> Result<Progress> {
        let root = ArtifactPath::from_uri(uri)?;
        let listing = self.list_path(&root).await?;
        let mut progress = Progress::default();
        if listing.is_empty() {
            // Not a folder (or an empty one, which the store does not keep).
            progress.bytes = self.fetch(&root, to).await?;
            progress.files = 1;
            return Ok(progress);
        }
        let mut waiting: VecDeque<(ArtifactPath, PathBuf, FileInfo)> = listing
            .into_iter()
            .map(|entry| (root.clone(), to.to_owned(), entry))
            .collect();
        while let Some((path, folder, entry)) = waiting.pop_front() {
            // The names are the service's: they must not lead out of `to` either.
            let name = ArtifactPath::parse(&entry.path)?;
            let (remote, local) = (path.join(&name), folder.join(name.as_str()));
            if entry.is_dir {
                for inner in self.list_path(&remote).await? {
                    waiting.push_back((remote.clone(), local.clone(), inner));
                }
            } else {
                progress.bytes = progress
                    .bytes
                    .saturating_add(self.fetch(&remote, &local).await?);
                progress.files += 1;
            }
            if waiting.len() > MAX_FILES {
                return Err(Error::Settings(format!(
                    "{uri} has more than {MAX_FILES} files."
                )));
            }
        }
        Ok(progress)
    }

    async fn fetch(&self, path: &ArtifactPath, to: &Path) -> Result<u64> {
        let url = self.artifact_url(path);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)
                .await
                .map_err(file_error("create", folder))?;
        }
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", uuid::Uuid::new_v4().simple()));
        let unfinished = to.with_file_name(name);
        let mut reason = String::new();
        for _ in 0..DOWNLOADS {
            let response = self
                .transport
                .deliver(&format!("GET {path}"), || {
                    std::future::ready(Ok(self.transport.client().get(url.clone())))
                })
                .await?;
            let mut file = File::create(&unfinished)
                .await
                .map_err(file_error("write", &unfinished))?;
            let mut bytes: u64 = 0;
            let mut stream = response.bytes_stream();
            let broken = loop {
                match stream.next().await {
                    None => break None,
                    Some(Err(error)) => break Some(chain(&error)),
                    Some(Ok(chunk)) => {
                        bytes = bytes.saturating_add(chunk.len() as u64);
                        file.write_all(&chunk)
                            .await
                            .map_err(file_error("write", &unfinished))?;
                    }
                }
            };
            if let Some(broken) = broken {
                // The platform stopped in the middle; from the start again.
                reason = broken;
                continue;
            }
            file.flush()
                .await
                .map_err(file_error("write", &unfinished))?;
            drop(file);
            fs::rename(&unfinished, to)
                .await
                .map_err(file_error("write", to))?;
            return Ok(bytes);
        }
        drop(fs::remove_file(&unfinished).await);
        Err(Error::Answer {
            what: format!("GET {path}"),
            reason,
        })
    }
}
