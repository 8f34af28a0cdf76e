//! From a source's URIs to local files of a known format, each with its hash.
//!
//! Two steps, so that a version can be known before anything is read twice:
//! [`resolve`] finds and hashes, [`inspect::inspect_source`] looks inside.

mod csv_scan;
mod download;
mod error;
mod glob;
mod infer;
pub mod inspect;
mod location;
pub mod sniff;
pub mod table;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use crate::build::Progress;
use crate::options::Options;
use crate::request::{FileFormatName, SourceSpec};
use crate::store::{ArtifactStore, StoreError};
pub use error::SourceError;
use location::Location;
use sniff::Compression;

/// One file of a source, present on this machine.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// How a message names it: the URI as given, or the file that a glob found.
    pub label: String,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// How it is compressed, by its first bytes.
    pub compression: Compression,
}

/// A source whose files are here.
#[derive(Clone, Debug)]
pub struct ResolvedSource {
    /// What was asked for.
    pub spec: SourceSpec,
    /// The format, given or found.
    pub format: FileFormatName,
    /// The files, in the order in which they are read.
    pub files: Vec<SourceFile>,
    /// The delimiter of a CSV source.
    pub delimiter: u8,
}

impl ResolvedSource {
    /// The table's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether the first line of a CSV file holds names.
    pub fn has_header(&self) -> bool {
        self.spec.options.header.unwrap_or(true)
    }
}

/// A file before it is known to be good.
struct Found {
    path: PathBuf,
    label: String,
    sha256: Option<String>,
}

/// Finds, downloads and hashes the files of every source, at most as many at
/// once as there are threads. `downloads` must outlive the result.
pub async fn resolve(
    sources: &[SourceSpec],
    store: &ArtifactStore,
    options: &Options,
    downloads: &Path,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Vec<ResolvedSource>, SourceError> {
    let mut resolved = Vec::with_capacity(sources.len());
    for (index, spec) in sources.iter().enumerate() {
        let folder = downloads.join(index.to_string());
        std::fs::create_dir_all(&folder)
            .map_err(|error| SourceError::io(&spec.name, &folder, error))?;
        let found = find(spec, store, options, &folder, progress).await?;
        let files: Vec<SourceFile> = futures::stream::iter(found)
            .map(|file| {
                let name = spec.name.clone();
                tokio::task::spawn_blocking(move || examine(&name, file))
            })
            .buffered(options.effective_threads())
            .map(|joined| match joined {
                Ok(result) => result,
                Err(error) => Err(SourceError::Stopped {
                    source_name: spec.name.clone(),
                    problem: error.to_string(),
                }),
            })
            .try_collect()
            .await?;
        let (format, delimiter) = decide_format(spec, &files)?;
        for file in &files {
            let sample = head(&file.path, sniff::SAMPLE)
                .map_err(|error| SourceError::io(&spec.name, &file.path, error))?;
            sniff::verify(spec, format, file, &sample)?;
        }
        progress(Progress::SourceReady {
            name: spec.name.clone(),
            files: files.len(),
            bytes: files.iter().map(|file| file.bytes).sum(),
        });
        resolved.push(ResolvedSource {
            spec: spec.clone(),
            format,
            files,
            delimiter,
        });
    }
    Ok(resolved)
}

async fn find(
    spec: &SourceSpec,
    store: &ArtifactStore,
    options: &Options,
    folder: &Path,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Vec<Found>, SourceError> {
    let mut found = Vec::new();
    for uri in &spec.uris {
        match Location::parse(&spec.name, uri)? {
            Location::Stored(relative) => {
                found.push(find_stored(spec, uri, &relative, store, folder, found.len()).await?);
            }
            Location::Local(path) => {
                let name = spec.name.clone();
                let options = options.clone();
                let listed =
                    tokio::task::spawn_blocking(move || location::list(&name, &path, &options))
                        .await
                        .map_err(|error| SourceError::Stopped {
                            source_name: spec.name.clone(),
                            problem: error.to_string(),
                        })??;
                found.extend(listed.into_iter().map(|path| Found {
                    label: path.display().to_string(),
                    path,
                    sha256: None,
                }));
            }
            Location::Http(url) => {
                let path =
                    download::download(&spec.name, url, options, folder, found.len(), progress)
                        .await?;
                found.push(Found {
                    path,
                    label: uri.clone(),
                    sha256: None,
                });
            }
        }
        if found.len() > options.max_files {
            return Err(SourceError::TooManyFiles {
                source_name: spec.name.clone(),
                found: found.len(),
                limit: options.max_files,
            });
        }
    }
    Ok(found)
}

async fn find_stored(
    spec: &SourceSpec,
    uri: &str,
    relative: &str,
    store: &ArtifactStore,
    folder: &Path,
    index: usize,
) -> Result<Found, SourceError> {
    let store_error = |error: StoreError| match error {
        StoreError::Path(_) => SourceError::Scheme {
            source_name: spec.name.clone(),
            uri: uri.to_owned(),
        },
        other => SourceError::Store {
            source_name: spec.name.clone(),
            problem: other.to_string(),
        },
    };
    let missing = || {
        SourceError::Missing {
        source_name: spec.name.clone(),
        uri: uri.to_owned(),
        looked: "the artifact store has no such file; run `cumulo apply` again from the project's folder".to_owned(),
    }
    };
    // The store checks the hash of what is uploaded below blobs/sha256, so the
    // path alone says what the content is.
    let sha256 = relative
        .strip_prefix("blobs/sha256/")
        .and_then(|rest| rest.split('/').next())
        .filter(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(str::to_ascii_lowercase);
    let path = match store.local_path(relative).map_err(store_error)? {
        Some(path) if path.is_file() => path,
        Some(_) => return Err(missing()),
        None => {
            let name = relative.rsplit('/').next().unwrap_or("file");
            let path = folder.join(format!("{index:06}-{name}"));
            if !store.download(relative, &path).await.map_err(store_error)? {
                return Err(missing());
            }
            path
        }
    };
    // What a person uploaded is called by its name: the hash says nothing to them.
    let label = match (&sha256, relative.rsplit('/').next()) {
        (Some(_), Some(name)) => name.to_owned(),
        _ => uri.to_owned(),
    };
    Ok(Found {
        path,
        label,
        sha256,
    })
}

/// Hashes one file (unless its hash is known) and looks at its first bytes.
fn examine(source_name: &str, found: Found) -> Result<SourceFile, SourceError> {
    let io = |error| SourceError::io(source_name, &found.path, error);
    let bytes = std::fs::metadata(&found.path).map_err(io)?.len();
    if bytes == 0 {
        return Err(SourceError::Empty {
            source_name: source_name.to_owned(),
            file: found.label,
        });
    }
    let sha256 = match found.sha256 {
        Some(hash) => hash,
        None => hash_file(&found.path).map_err(io)?,
    };
    let compression = Compression::of(&head(&found.path, 8).map_err(io)?);
    Ok(SourceFile {
        path: found.path,
        label: found.label,
        sha256,
        bytes,
        compression,
    })
}

fn hash_file(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

fn head(path: &Path, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(bytes).read_to_end(&mut start)?;
    Ok(start)
}

/// The format as given, or as all files' extensions say alike.
fn decide_format(
    spec: &SourceSpec,
    files: &[SourceFile],
) -> Result<(FileFormatName, u8), SourceError> {
    let by_extension = |file: &SourceFile| sniff::format_of_name(&file.label);
    let tab = files
        .first()
        .and_then(by_extension)
        .is_some_and(|(_, tab)| tab);
    let delimiter = spec
        .options
        .delimiter
        .as_ref()
        .and_then(|text| text.bytes().next())
        .unwrap_or(if tab { b'\t' } else { b',' });
    if let Some(format) = spec.format {
        return Ok((format, delimiter));
    }
    let mut decided: Option<(FileFormatName, &str)> = None;
    for file in files {
        let Some((format, _)) = by_extension(file) else {
            return Err(SourceError::UnknownFormat {
                source_name: spec.name.clone(),
                file: file.label.clone(),
            });
        };
        match decided {
            Some((first, label)) if first != format => {
                return Err(SourceError::MixedFormats {
                    source_name: spec.name.clone(),
                    first: format!("{label} ({first})"),
                    second: format!("{} ({format})", file.label),
                });
            }
            Some(_) => {}
            None => decided = Some((format, &file.label)),
        }
    }
    match decided {
        Some((format, _)) => Ok((format, delimiter)),
        None => Err(SourceError::Missing {
            source_name: spec.name.clone(),
            uri: spec.uris.join(", "),
            looked: "no file was found".to_owned(),
        }),
    }
}
