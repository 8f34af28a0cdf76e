//! Uploads in parts, for clients that ask for them
//! (`MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD`).

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::folder::ArtifactStore;
use super::path::ArtifactPath;
use crate::error::{Error, Result};
use crate::wire::lenient;

/// Parts of one upload at most.
const MAX_PARTS: i64 = 10_000;
/// Names the destination within the folder of an upload.
const DESTINATION: &str = "destination";

/// A part, as the client reports it when it completes an upload.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Part {
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub(crate) part_number: i64,
    #[serde(default, deserialize_with = "lenient::string")]
    pub(crate) etag: String,
}

fn broken(what: &str, error: &io::Error) -> Error {
    Error::internal(format!("{what}: {error}."))
}

impl ArtifactStore {
    fn upload_folder(&self, id: &str) -> Result<PathBuf> {
        let fine = id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit());
        if !fine {
            return Err(Error::not_found(format!("No such upload: '{id}'")));
        }
        Ok(self.uploads().join(format!("parts-{id}")))
    }

    /// Starts an upload to `path` in that many parts; returns its identifier.
    pub(crate) async fn start_parts(&self, path: &ArtifactPath, parts: i64) -> Result<String> {
        if !(1..=MAX_PARTS).contains(&parts) {
            return Err(Error::invalid(format!(
                "Invalid value {parts} for parameter 'num_parts': expected 1 to {MAX_PARTS}."
            )));
        }
        path.required_digest()?;
        self.locate(path).await?;
        let id = crate::store::new_id();
        let folder = self.upload_folder(&id)?;
        let start = async {
            fs::create_dir(&folder).await?;
            fs::write(folder.join(DESTINATION), path.as_str()).await
        };
        start
            .await
            .map_err(|e| broken("Cannot start the upload", &e))?;
        Ok(id)
    }

    /// Stores one part; returns its entity tag.
    pub(crate) async fn write_part<S, E>(
        &self,
        id: &str,
        number: i64,
        mut content: S,
    ) -> Result<String>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        if !(1..=MAX_PARTS).contains(&number) {
            return Err(Error::invalid(format!("Invalid part number {number}.")));
        }
        let folder = self.upload_folder(id)?;
        if fs::metadata(&folder).await.is_err() {
            return Err(Error::not_found(format!("No such upload: '{id}'")));
        }
        let unfinished = folder.join(format!("{number}.{}", crate::store::new_id()));
        let write = async {
            let mut file = File::create(&unfinished).await?;
            let mut hasher = Sha256::new();
            let mut bytes: u64 = 0;
            while let Some(chunk) = content.next().await {
                let chunk = chunk.map_err(|error| io::Error::other(error.to_string()))?;
                bytes = bytes.saturating_add(chunk.len() as u64);
                if bytes > self.max_bytes() {
                    return Err(io::Error::other(
                        "the part is larger than the store's limit",
                    ));
                }
                hasher.update(&chunk);
                file.write_all(&chunk).await?;
            }
            file.flush().await?;
            fs::rename(&unfinished, folder.join(number.to_string())).await?;
            io::Result::Ok(hex::encode(hasher.finalize()))
        };
        let result = write.await;
        if result.is_err() {
            drop(fs::remove_file(&unfinished).await);
        }
        result.map_err(|error| broken("Cannot store the part", &error))
    }

    /// Puts the parts together in order of their numbers, and moves the file in place.
    pub(crate) async fn complete_parts(
        &self,
        path: &ArtifactPath,
        id: &str,
        mut parts: Vec<Part>,
    ) -> Result<()> {
        let folder = self.upload_folder(id)?;
        self.check_destination(&folder, path, id).await?;
        parts.sort_by_key(|part| part.part_number);
        let mut files = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            let expected = i64::try_from(index).unwrap_or(i64::MAX).saturating_add(1);
            let file = folder.join(part.part_number.to_string());
            if part.part_number != expected || fs::metadata(&file).await.is_err() {
                return Err(Error::invalid(format!(
                    "Part {expected} of the upload '{id}' is missing: send it again."
                )));
            }
            tracing::debug!(part = part.part_number, etag = %part.etag, "completing a part");
            files.push(file);
        }
        if files.is_empty() {
            return Err(Error::missing("parts"));
        }
        let content = futures::stream::iter(files)
            .then(|file| async move { File::open(file).await.map(ReaderStream::new) })
            .flat_map(|opened| match opened {
                Ok(stream) => stream.left_stream(),
                Err(error) => futures::stream::iter([Err(error)]).right_stream(),
            });
        self.write(path, Box::pin(content)).await?;
        self.abort_parts(id).await
    }

    async fn check_destination(
        &self,
        folder: &std::path::Path,
        path: &ArtifactPath,
        id: &str,
    ) -> Result<()> {
        let destination = fs::read_to_string(folder.join(DESTINATION)).await;
        match destination {
            Ok(destination) if destination == path.as_str() => Ok(()),
            Ok(_) => Err(Error::invalid(format!(
                "The upload '{id}' was started for another path."
            ))),
            Err(_) => Err(Error::not_found(format!("No such upload: '{id}'"))),
        }
    }

    /// Gives an upload up.
    pub(crate) async fn abort_parts(&self, id: &str) -> Result<()> {
        let folder = self.upload_folder(id)?;
        match fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(broken("Cannot remove the upload", &error))
            }
            _ => Ok(()),
        }
    }
}
