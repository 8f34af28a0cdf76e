//! Where the files of a Dataset's version lie on this machine: in the platform's
//! folder, or in a cache that is filled from the artifact store.
//!
//! A version never changes, so what was fetched once is good for ever. Of each
//! Dataset only the version that was asked for last is kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{Endpoint, Place};
use crate::home::Home;

/// Files of a version at most.
const MAX_FILES: usize = 100_000;
/// What the name of a folder begins with that is being filled.
const UNFINISHED: &str = ".fetching-";

/// Gives the folders of snapshots.
pub struct Snapshots<'a> {
    place: &'a Place,
    /// The store's folder, or the cache.
    root: PathBuf,
    /// Asked once a file is missing.
    store: Option<Endpoint>,
}

impl<'a> Snapshots<'a> {
    /// Those of a platform.
    pub fn of(place: &'a Place) -> Result<Self> {
        let root = match place {
            Place::Home(home) => home.path("artifacts"),
            Place::Context(context) => {
                // One folder for each API server: names mean nothing across them.
                let server = hex::encode(Sha256::digest(context.server()));
                Home::find()?
                    .path("cache/snapshots")
                    .join(server.get(..16).unwrap_or_default())
            }
        };
        Ok(Self {
            place,
            root,
            store: None,
        })
    }

    /// The local folder of a version (`cumulo:datasets/NAMESPACE/NAME/VERSION`).
    ///
    /// # Errors
    /// When the address is not one of the platform's store, or the store does not answer.
    pub async fn folder(&mut self, uri: &str) -> Result<PathBuf> {
        let relative = uri
            .strip_prefix("cumulo:")
            .filter(|relative| is_plain(relative))
            .with_context(|| format!("{uri} is not in this platform's artifact store"))?;
        let folder = self.root.join(relative);
        if matches!(self.place, Place::Context(_)) && !folder.is_dir() {
            let store = match self.store.take() {
                Some(store) => store,
                None => self.place.tracking().await?,
            };
            fetch(self.store.insert(store), relative, &folder).await?;
        }
        Ok(folder)
    }
}

/// Whether a path leads nowhere but down.
fn is_plain(path: &str) -> bool {
    let mut parts = path.split('/').peekable();
    parts.peek().is_some() && parts.all(|part| !matches!(part, "" | "." | ".."))
}

/// Downloads a folder; it appears whole or not at all, in place of the versions beside it.
async fn fetch(store: &Endpoint, relative: &str, folder: &Path) -> Result<()> {
    let base = format!("{}/api/2.0/mlflow-artifacts/artifacts", store.base);
    let answer = store
        .http
        .get(&base)
        .query(&[("path", relative)])
        .bearer_auth(&store.token)
        .send()
        .await
        .context("the artifact store does not answer")?;
    let listing: Value = checked(answer).await?.json().await?;
    let names: Vec<String> = listing["files"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|file| file["is_dir"] != true)
        .filter_map(|file| file["path"].as_str())
        .map(str::to_owned)
        .collect();
    if names.is_empty() || names.len() > MAX_FILES {
        bail!("the artifact store has {} files of {relative}", names.len());
    }
    let parent = folder.parent().context("a version lies in a folder")?;
    tokio::fs::create_dir_all(parent)
        .await
        .with_context(|| format!("cannot make {}", parent.display()))?;
    let unfinished = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    for name in &names {
        if !is_plain(name) || name.contains('/') {
            bail!("the artifact store names a file {name:?}");
        }
        let answer = store
            .http
            .get(format!("{base}/{relative}/{name}"))
            .bearer_auth(&store.token)
            .send()
            .await
            .context("the artifact store does not answer")?;
        let mut stream = checked(answer).await?.bytes_stream();
        let path = unfinished.path().join(name);
        let mut file = tokio::fs::File::create(&path)
            .await
            .with_context(|| format!("cannot write {}", path.display()))?;
        while let Some(chunk) = stream.next().await {
            file.write_all(&chunk.with_context(|| format!("{relative}/{name} broke off"))?)
                .await
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        file.flush().await?;
    }
    let others: Vec<PathBuf> = std::fs::read_dir(parent)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path != unfinished.path() && !is_being_fetched(path))
        .collect();
    match std::fs::rename(unfinished.path(), folder) {
        Ok(()) => {}
        // Another command was quicker; the content is the same.
        Err(_) if folder.is_dir() => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot make {}", folder.display()));
        }
    }
    for other in others {
        // Still read by another command, it stays until the next time.
        let _ = std::fs::remove_dir_all(other);
    }
    Ok(())
}

/// Whether a folder is another command's, under way; one of a command that was
/// killed is not after an hour.
fn is_being_fetched(path: &Path) -> bool {
    let marked = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED));
    marked
        && std::fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| {
                time.elapsed()
                    .is_ok_and(|age| age < Duration::from_secs(3600))
            })
}

async fn checked(answer: reqwest::Response) -> Result<reqwest::Response> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    match body["message"].as_str() {
        Some(message) => bail!("the artifact store: {message}"),
        None => bail!("the artifact store answered {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_down_only() {
        assert!(is_plain("datasets/default/flights/abc"));
        for path in ["", "/etc", "a//b", "../a", "a/./b", "a/.."] {
            assert!(!is_plain(path), "{path:?}");
        }
    }
}
