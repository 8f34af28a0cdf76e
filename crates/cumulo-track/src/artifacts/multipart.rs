//! Uploads in parts, for clients that ask for them
//! (`MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD`).
//!
//! Parts are files of the store until the upload is complete, so that any platform
//! that shares the store takes any part, and the whole is checked as every upload is.

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use serde::Deserialize;

use super::path::ArtifactPath;
use super::store::ArtifactStore;
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

/// The name of an upload's folder.
fn folder(id: &str) -> Result<String> {
    let fine = id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit());
    if !fine {
        return Err(no_such_upload(id));
    }
    Ok(format!("parts-{id}"))
}

fn no_such_upload(id: &str) -> Error {
    let id: String = id.chars().take(64).collect();
    Error::not_found(format!("No such upload: '{}'", id.escape_debug()))
}

impl ArtifactStore {
    /// Starts an upload to `path` in that many parts; returns its identifier.
    pub(crate) async fn start_parts(&self, path: &ArtifactPath, parts: i64) -> Result<String> {
        if !(1..=MAX_PARTS).contains(&parts) {
            return Err(Error::invalid(format!(
                "Invalid value {parts} for parameter 'num_parts': expected 1 to {MAX_PARTS}."
            )));
        }
        path.required_digest()?;
        let id = crate::store::new_id();
        let destination = ArtifactPath::of_upload(&folder(&id)?, DESTINATION);
        self.write_bytes(&destination, path.as_str().to_owned())
            .await?;
        Ok(id)
    }

    /// The path that an upload was started for.
    async fn destination(&self, id: &str) -> Result<String> {
        let destination = ArtifactPath::of_upload(&folder(id)?, DESTINATION);
        let opened = self.read(&destination).await.map_err(|error| {
            if error.is_not_found() {
                no_such_upload(id)
            } else {
                error
            }
        })?;
        let content = opened.stream(None).await?;
        let bytes: Vec<Bytes> = content
            .try_collect()
            .await
            .map_err(|error| Error::internal(format!("Cannot read an upload: {error}.")))?;
        Ok(String::from_utf8_lossy(&bytes.concat()).into_owned())
    }

    /// Stores one part; returns its entity tag.
    pub(crate) async fn write_part<S, E>(&self, id: &str, number: i64, content: S) -> Result<String>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: std::fmt::Display,
    {
        if !(1..=MAX_PARTS).contains(&number) {
            return Err(Error::invalid(format!("Invalid part number {number}.")));
        }
        self.destination(id).await?;
        let path = ArtifactPath::of_upload(&folder(id)?, &number.to_string());
        Ok(self.take(&path, content).await?.digest)
    }

    /// Puts the parts together in order of their numbers, and moves the file in place.
    pub(crate) async fn complete_parts(
        &self,
        path: &ArtifactPath,
        id: &str,
        mut parts: Vec<Part>,
    ) -> Result<()> {
        if self.destination(id).await? != path.as_str() {
            return Err(Error::invalid(format!(
                "The upload '{id}' was started for another path."
            )));
        }
        parts.sort_by_key(|part| part.part_number);
        let stored = self.list(&ArtifactPath::upload(&folder(id)?)).await?;
        let mut files = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            let expected = i64::try_from(index).unwrap_or(i64::MAX).saturating_add(1);
            let name = part.part_number.to_string();
            if part.part_number != expected || !stored.iter().any(|file| file.path == name) {
                return Err(Error::invalid(format!(
                    "Part {expected} of the upload '{id}' is missing: send it again."
                )));
            }
            tracing::debug!(part = part.part_number, etag = %part.etag, "completing a part");
            files.push(ArtifactPath::of_upload(&folder(id)?, &name));
        }
        if files.is_empty() {
            return Err(Error::missing("parts"));
        }
        let store = self.clone();
        let content = futures::stream::iter(files)
            .then(move |file: ArtifactPath| {
                let store = store.clone();
                async move { store.read(&file).await?.stream(None).await }.boxed()
            })
            .map_ok(|content| content.map_err(|error| Error::internal(error.to_string())))
            .try_flatten()
            .boxed();
        self.write(path, content).await?;
        self.abort_parts(id).await
    }

    /// Gives an upload up.
    pub(crate) async fn abort_parts(&self, id: &str) -> Result<()> {
        self.delete(&ArtifactPath::upload(&folder(id)?)).await
    }
}
