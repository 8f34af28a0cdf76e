//! Where a URI points, and whether it may be read.

use std::path::{Component, Path, PathBuf};

use url::Url;

use super::error::SourceError;
use super::glob;
use crate::options::Options;

/// A place that a URI names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// A path in the artifact store.
    Stored(String),
    /// A path or glob on this machine.
    Local(PathBuf),
    /// A download.
    Http(Url),
}

impl Location {
    pub(super) fn parse(source_name: &str, uri: &str) -> Result<Self, SourceError> {
        let refused = || SourceError::Scheme {
            source_name: source_name.to_owned(),
            uri: uri.to_owned(),
        };
        if let Some(relative) = uri.strip_prefix("cumulo:") {
            return Ok(Self::Stored(relative.trim_start_matches('/').to_owned()));
        }
        if let Some(rest) = uri.strip_prefix("file://") {
            // Not through Url: it would take `*`, `?` and `#` of a glob for syntax.
            return match rest.strip_prefix("localhost").unwrap_or(rest) {
                path if path.starts_with('/') => Ok(Self::Local(PathBuf::from(path))),
                _ => Err(refused()),
            };
        }
        match uri.split_once("://") {
            Some(("http" | "https", _)) => Url::parse(uri).map(Self::Http).map_err(|_| refused()),
            Some(_) => Err(refused()),
            None if uri.is_empty() || uri.contains('\0') => Err(refused()),
            None => Ok(Self::Local(PathBuf::from(uri))),
        }
    }
}

/// The files that a path or glob means, sorted, each below an allowed folder
/// once symbolic links are resolved.
pub(super) fn list(
    source_name: &str,
    path: &Path,
    options: &Options,
) -> Result<Vec<PathBuf>, SourceError> {
    let roots: Vec<PathBuf> = options
        .roots
        .iter()
        .filter_map(|root| root.canonicalize().ok())
        .collect();
    let outside = |path: &Path| SourceError::Outside {
        source_name: source_name.to_owned(),
        path: path.display().to_string(),
        roots: show_roots(&options.roots),
    };
    if roots.is_empty() {
        return Err(outside(path));
    }
    let candidates: Vec<PathBuf> = if path.is_absolute() {
        vec![normalise(path)]
    } else {
        roots
            .iter()
            .map(|root| normalise(&root.join(path)))
            .collect()
    };
    // Decided by name first, so that a refusal does not tell whether a file exists.
    let allowed: Vec<&PathBuf> = candidates
        .iter()
        .filter(|candidate| {
            roots
                .iter()
                .chain(&options.roots)
                .any(|root| candidate.starts_with(root))
        })
        .collect();
    if allowed.is_empty() {
        return Err(outside(path));
    }
    let text = path.to_string_lossy();
    let pattern = glob::is_pattern(&text) && !allowed.iter().any(|candidate| candidate.exists());
    let mut files = Vec::new();
    for candidate in &allowed {
        if pattern {
            files = glob::expand(candidate, options.max_files)
                .map_err(|error| SourceError::io(source_name, candidate, error))?;
        } else if candidate.is_file() {
            files.push((*candidate).clone());
        }
        if !files.is_empty() {
            break;
        }
    }
    if files.is_empty() {
        let looked = format!(
            "looked for {}",
            allowed
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(" and ")
        );
        return Err(if pattern {
            SourceError::NoMatch {
                source_name: source_name.to_owned(),
                pattern: path.display().to_string(),
                looked,
            }
        } else {
            SourceError::Missing {
                source_name: source_name.to_owned(),
                uri: path.display().to_string(),
                looked,
            }
        });
    }
    for file in &files {
        let real = file
            .canonicalize()
            .map_err(|error| SourceError::io(source_name, file, error))?;
        if !roots.iter().any(|root| real.starts_with(root)) {
            return Err(outside(file));
        }
    }
    Ok(files)
}

fn show_roots(roots: &[PathBuf]) -> String {
    if roots.is_empty() {
        return "none: let `cumulo apply` upload the file, or use a URL".to_owned();
    }
    roots
        .iter()
        .map(|root| root.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Takes `.` and `..` out of a path without asking the file system.
fn normalise(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_told_apart() {
        let parse = |uri| Location::parse("s", uri).expect("a location");
        assert_eq!(
            parse("cumulo:blobs/sha256/ab/x.csv"),
            Location::Stored("blobs/sha256/ab/x.csv".to_owned())
        );
        assert_eq!(
            parse("file:///data/*.csv"),
            Location::Local(PathBuf::from("/data/*.csv"))
        );
        assert_eq!(
            parse("data/a.csv"),
            Location::Local(PathBuf::from("data/a.csv"))
        );
        assert!(matches!(
            parse("https://example.org/a.csv"),
            Location::Http(_)
        ));
        for wrong in ["s3://bucket/a.csv", "file://host/a", "", "ftp://x/y"] {
            assert!(Location::parse("s", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_outside_the_roots_are_refused_whether_they_exist_or_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        std::fs::create_dir(&root).expect("a folder");
        std::fs::write(folder.path().join("secret.csv"), "a\n1\n").expect("a file");
        std::os::unix::fs::symlink(folder.path().join("secret.csv"), root.join("link.csv"))
            .expect("a link");
        let options = Options {
            roots: vec![root.clone()],
            ..Options::default()
        };
        let outside =
            |path: &Path| matches!(list("s", path, &options), Err(SourceError::Outside { .. }));
        assert!(outside(&folder.path().join("secret.csv")));
        assert!(outside(&folder.path().join("absent.csv")));
        assert!(outside(Path::new("../secret.csv")));
        assert!(outside(&root.join("link.csv")));
        assert!(outside(Path::new("*.csv")));
        std::fs::remove_file(root.join("link.csv")).expect("removed");
        std::fs::write(root.join("b.csv"), "a\n1\n").expect("a file");
        std::fs::write(root.join("a.csv"), "a\n1\n").expect("a file");
        let files = list("s", Path::new("*.csv"), &options).expect("two files");
        let names: Vec<_> = files
            .iter()
            .filter_map(|file| file.file_name()?.to_str())
            .collect();
        assert_eq!(names, ["a.csv", "b.csv"]);
        assert!(matches!(
            list("s", Path::new("none.csv"), &options),
            Err(SourceError::Missing { .. })
        ));
        assert!(matches!(
            list("s", Path::new("none*.csv"), &options),
            Err(SourceError::NoMatch { .. })
        ));
    }
}
