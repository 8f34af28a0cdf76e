//! Uploads the files that a manifest names, addressed by their content, and
//! puts their addresses into the object: what ran can be run again.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::load::Manifest;
use crate::place::{Endpoint, Place};

/// The scheme of files in the artifact store.
pub const SCHEME: &str = "cumulo:";

/// Where files go: the artifact store behind the tracking server.
pub struct Uploader<'a> {
    place: &'a Place,
    /// Looked for when the first file is to be sent: many manifests name none.
    store: Option<Endpoint>,
    /// Files that are there, with their addresses: many manifests may name the same one.
    known: HashMap<PathBuf, String>,
    /// Files that were sent.
    pub sent: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

impl<'a> Uploader<'a> {
    /// An uploader for a platform.
    pub fn new(place: &'a Place) -> Self {
        Self {
            place,
            store: None,
            known: HashMap::new(),
            sent: 0,
            bytes: 0,
        }
    }

    /// Uploads every local file that the manifest names and rewrites the manifest.
    ///
    /// # Errors
    /// When a named file is not there (the message says where it was looked for) or the store refuses it.
    pub async fn localize(&mut self, manifest: &mut Manifest) -> Result<()> {
        let folder = manifest.folder().to_owned();
        let title = manifest.title();
        let kind = manifest
            .object
            .types
            .as_ref()
            .map(|types| (types.api_version.clone(), types.kind.clone()));
        // Looked up, not indexed: that would put a null where there is none.
        let Some(spec) = manifest.object.data.get_mut("spec") else {
            return Ok(());
        };
        match kind
            .as_ref()
            .map(|(version, kind)| (version.as_str(), kind.as_str()))
        {
            Some(("cumulo.dev/v1alpha1", "Dataset")) => self.dataset(spec, &folder).await,
            Some(("cumulo.dev/v1alpha1", "TrainJob")) => self.train_job(spec, &folder).await,
            Some(("cumulo.dev/v1alpha1", "Model")) => match spec.pointer_mut("/train/job") {
                Some(job) => self.train_job(job, &folder).await,
                None => Ok(()),
            },
            _ => Ok(()),
        }
        .with_context(|| title)
    }

    async fn dataset(&mut self, spec: &mut Value, folder: &Path) -> Result<()> {
        let Some(sources) = spec.get_mut("sources").and_then(Value::as_object_mut) else {
            return Ok(());
        };
        for (name, source) in sources {
            let named: Vec<String> = source["uri"]
                .as_str()
                .into_iter()
                .chain(
                    source["uris"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str),
                )
                .map(str::to_owned)
                .collect();
            if !named.iter().any(|uri| is_relative(uri)) {
                continue;
            }
            let mut uris = Vec::new();
            for uri in &named {
                if !is_relative(uri) {
                    uris.push(uri.clone());
                    continue;
                }
                for file in expand(folder, uri).with_context(|| format!("source {name:?}"))? {
                    uris.push(self.upload(&file).await?);
                }
            }
            if let Some(fields) = source.as_object_mut() {
                fields.remove("uri");
                fields.insert("uris".to_owned(), json!(uris));
            }
        }
        Ok(())
    }

    async fn train_job(&mut self, spec: &mut Value, folder: &Path) -> Result<()> {
        let mut files: Vec<(String, PathBuf)> = Vec::new();
        if let Some(script) = spec["script"].as_str().map(str::to_owned) {
            if !is_relative(&script) {
                bail!("script {script:?} must be a path relative to the manifest");
            }
            let path = folder.join(&script);
            if !path.is_file() {
                bail!(
                    "script {script:?} is not there (looked in {})",
                    folder.display()
                );
            }
            for beside in modules_beside(&path)? {
                let name = beside
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default();
                files.push((name, beside));
            }
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            spec["script"] = Value::String(name);
        }
        let mut placed = Vec::new();
        for file in spec["files"].as_array().into_iter().flatten() {
            match (file["path"].as_str(), file["uri"].as_str()) {
                (_, Some(_)) => placed.push(file.clone()),
                (Some(path), None) => files.push((path.to_owned(), folder.join(path))),
                (None, None) => bail!("files: every entry names a path"),
            }
        }
        for (path, file) in files {
            if !file.is_file() {
                bail!(
                    "file {path:?} is not there (looked in {})",
                    folder.display()
                );
            }
            let uri = self.upload(&file).await?;
            placed.push(json!({"path": path, "uri": uri}));
        }
        if !placed.is_empty() {
            spec["files"] = Value::Array(placed);
        }
        for field in ["requirements", "lock"] {
            let Some(value) = spec["environment"][field].as_str() else {
                continue;
            };
            let path = folder.join(value);
            if !value.contains('\n') && path.is_file() {
                spec["environment"][field] = Value::String(
                    fs::read_to_string(&path)
                        .with_context(|| format!("cannot read {}", path.display()))?,
                );
            } else if value.ends_with(".txt") || value.ends_with(".lock") {
                bail!(
                    "environment.{field}: {value:?} is not there (looked in {})",
                    folder.display()
                );
            }
        }
        Ok(())
    }

    /// Uploads one file unless the store has it; its `cumulo:` address.
    pub async fn upload(&mut self, file: &Path) -> Result<String> {
        if let Some(address) = self.known.get(file) {
            return Ok(address.clone());
        }
        let address = self.send(file).await?;
        self.known.insert(file.to_owned(), address.clone());
        Ok(address)
    }

    async fn send(&mut self, file: &Path) -> Result<String> {
        let owned = file.to_owned();
        let digest = tokio::task::spawn_blocking(move || hash(&owned))
            .await?
            .with_context(|| format!("cannot read {}", file.display()))?;
        let name = file
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_else(|| "file".to_owned());
        let relative = format!("blobs/sha256/{digest}/{name}");
        let store = match self.store.take() {
            Some(store) => store,
            None => self.place.tracking().await?,
        };
        let store = self.store.insert(store);
        let base = format!("{}/api/2.0/mlflow-artifacts/artifacts", store.base);
        let encoded = format!(
            "{base}/blobs/sha256/{digest}/{}",
            url::form_urlencoded::byte_serialize(name.as_bytes())
                .collect::<String>()
                .replace('+', "%20")
        );
        let there = store
            .http
            .get(&base)
            .query(&[("path", format!("blobs/sha256/{digest}"))])
            .bearer_auth(&store.token)
            .send()
            .await
            .context("the artifact store does not answer")?;
        if there.status().is_success() {
            let listing: Value = there.json().await.unwrap_or_default();
            let present = listing["files"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|file| file["path"].as_str() == Some(name.as_str()));
            if present {
                return Ok(format!("{SCHEME}{relative}"));
            }
        }
        let handle = tokio::fs::File::open(file)
            .await
            .with_context(|| format!("cannot read {}", file.display()))?;
        let size = handle.metadata().await?.len();
        let answer = store
            .http
            .put(encoded)
            .bearer_auth(&store.token)
            .header(http::header::CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(
                tokio_util::io::ReaderStream::with_capacity(handle, 1 << 17),
            ))
            .send()
            .await
            .with_context(|| format!("cannot upload {}", file.display()))?;
        if !answer.status().is_success() {
            let status = answer.status();
            let text = answer.text().await.unwrap_or_default();
            bail!(
                "the artifact store refused {} ({status}): {text}",
                file.display()
            );
        }
        self.sent += 1;
        self.bytes += size;
        Ok(format!("{SCHEME}{relative}"))
    }
}

/// Whether a URI is a path relative to the manifest.
fn is_relative(uri: &str) -> bool {
    let has_scheme = uri.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    !has_scheme && !uri.starts_with('/')
}

/// The files that a relative path or glob names, sorted.
fn expand(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let mut found = vec![folder.to_owned()];
    let parts: Vec<&str> = pattern
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    for part in &parts {
        let mut next = Vec::new();
        for base in &found {
            if part.contains(['*', '?', '[']) {
                for entry in fs::read_dir(base).into_iter().flatten().flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if !name.starts_with('.') && matches(part, &name) {
                        next.push(entry.path());
                    }
                }
            } else {
                let path = base.join(part);
                if path.exists() {
                    next.push(path);
                }
            }
        }
        found = next;
    }
    found.retain(|path| path.is_file());
    found.sort();
    if found.is_empty() {
        bail!(
            "no file matches {pattern:?} (looked in {})",
            folder.display()
        );
    }
    Ok(found)
}

/// Whether a file name matches a pattern of `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    fn from(pattern: &[char], name: &[char]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some('*'), _) => {
                from(&pattern[1..], name) || (!name.is_empty() && from(pattern, &name[1..]))
            }
            (Some('?'), Some(_)) => from(&pattern[1..], &name[1..]),
            (Some(expected), Some(found)) if expected == found => from(&pattern[1..], &name[1..]),
            _ => false,
        }
    }
    from(
        &pattern.chars().collect::<Vec<_>>(),
        &name.chars().collect::<Vec<_>>(),
    )
}

/// A script and the Python modules that lie beside it, which it may import.
fn modules_beside(script: &Path) -> Result<Vec<PathBuf>> {
    let folder = script.parent().unwrap_or(Path::new("."));
    let mut files = vec![script.to_owned()];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path != script
            && path.extension().is_some_and(|extension| extension == "py")
            && path.is_file()
        {
            files.push(path);
        }
    }
    files[1..].sort();
    Ok(files)
}

fn hash(file: &Path) -> std::io::Result<String> {
    let mut reader = fs::File::open(file)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 17];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        assert!(matches("*.csv", "a.csv"));
        assert!(matches("part-?.parquet", "part-1.parquet"));
        assert!(!matches("*.csv", "a.csv.gz"));
        assert!(!matches("?", ""));
    }

    #[test]
    fn relative_paths_are_told_from_uris() {
        assert!(is_relative("data/a.csv"));
        assert!(!is_relative("/data/a.csv"));
        assert!(!is_relative("https://example.org/a.csv"));
        assert!(!is_relative("cumulo:blobs/sha256/0/a.csv"));
    }

    #[test]
    fn a_missing_file_is_named_with_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let error = expand(folder.path(), "data/*.csv").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no file matches \"data/*.csv\" (looked in ")
        );
    }
}
