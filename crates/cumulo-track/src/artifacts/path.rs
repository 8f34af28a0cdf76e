//! Paths in the artifact store that cannot mean anything outside of it.

use std::fmt;

use crate::error::{Error, Result};

/// Bytes of a path at most.
const MAX_LENGTH: usize = 2048;
/// Bytes of one name at most (what file systems take).
const MAX_NAME: usize = 255;
/// The folder of uploads under way; no request may name it.
pub(super) const UPLOADS: &str = ".uploads";

/// A path relative to the store's root, in plain names: no `..`, nothing absolute,
/// nothing that decodes to either. The empty path is the root.
///
/// Of "known holes in others": MLflow once decoded a path again after checking it
/// (CVE-2024-1560), so a path that any further decoding would turn into something
/// else dangerous is refused here, although nothing decodes it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArtifactPath(String);

impl ArtifactPath {
    /// The store's root.
    #[must_use]
    pub fn root() -> Self {
        Self(String::new())
    }

    /// A file of an upload under way, which no request can name.
    pub(super) fn of_upload(id: &str, file: &str) -> Self {
        Self(format!("{UPLOADS}/{id}/{file}"))
    }

    /// The folder of an upload under way.
    pub(super) fn upload(id: &str) -> Self {
        Self(format!("{UPLOADS}/{id}"))
    }

    /// Checks a path that was percent-decoded once already, if it came in a URL.
    ///
    /// # Errors
    /// When it is absolute, has empty, `.` or `..` parts (also after decoding it any
    /// number of times), control characters or backslashes, or is too long.
    pub fn parse(path: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = path.chars().take(200).collect();
            Error::invalid(format!("Invalid path '{}': {why}.", shown.escape_debug()))
        };
        if path.len() > MAX_LENGTH {
            return Err(refuse("it is too long"));
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        plain(path).map_err(refuse)?;
        let mut decoded = path.to_owned();
        for _ in 0..8 {
            let next = decode_once(&decoded);
            if next == decoded {
                return Ok(Self(path.to_owned()));
            }
            plain(&next).map_err(refuse)?;
            decoded = next;
        }
        Err(refuse("it is encoded too many times"))
    }

    /// The path that `mlflow-artifacts:/<path>` or `cumulo:<path>` names.
    ///
    /// # Errors
    /// When it has another scheme, names a host, or its path is refused.
    pub fn from_uri(uri: &str) -> Result<Self> {
        let path = uri
            .strip_prefix("mlflow-artifacts:/")
            .or_else(|| uri.strip_prefix("cumulo:"))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "Invalid artifact URI '{uri}': expected mlflow-artifacts:/<path> or \
                     cumulo:<path>."
                ))
            })?;
        if path.starts_with('/') {
            return Err(Error::invalid(format!(
                "Invalid artifact URI '{uri}': it must not name a host."
            )));
        }
        if path.contains(['?', '#']) {
            return Err(Error::invalid(format!(
                "Invalid artifact URI '{uri}': it must have no query and no fragment."
            )));
        }
        Self::parse(path)
    }

    /// As `mlflow-artifacts:/<path>`.
    #[must_use]
    pub fn to_uri(&self) -> String {
        format!("mlflow-artifacts:/{}", self.0)
    }

    /// As text, with `/` between names.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path `below` under this one.
    #[must_use]
    pub fn join(&self, below: &Self) -> Self {
        match (self.is_root(), below.is_root()) {
            (true, _) => below.clone(),
            (_, true) => self.clone(),
            _ => Self(format!("{}/{}", self.0, below.0)),
        }
    }

    /// The first name, and what is below it.
    #[must_use]
    pub fn split_first(&self) -> (&str, Option<Self>) {
        match self.0.split_once('/') {
            Some((first, rest)) => (first, Some(Self(rest.to_owned()))),
            None => (&self.0, None),
        }
    }

    /// The last name.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Its names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// For `blobs/sha256/<hex>/<file>`: the digest that the content must have.
    ///
    /// # Errors
    /// When it is below `blobs` but has another shape.
    pub(super) fn required_digest(&self) -> Result<Option<&str>> {
        let mut names = self.names();
        if names.next() != Some("blobs") {
            return Ok(None);
        }
        let rest = (names.next(), names.next(), names.next(), names.next());
        match rest {
            (Some("sha256"), Some(hex), Some(_), None)
                if hex.len() == 64 && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) =>
            {
                Ok(Some(hex))
            }
            _ => Err(Error::invalid(format!(
                "Invalid path '{self}': below blobs/ files are named \
                 blobs/sha256/<64 lowercase hexadecimal digits>/<file name>."
            ))),
        }
    }
}

impl fmt::Display for ArtifactPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn plain(path: &str) -> Result<(), &'static str> {
    if path.starts_with('/') {
        return Err("it is absolute");
    }
    if path.contains('\\') {
        return Err("it has a backslash");
    }
    if path.chars().any(char::is_control) {
        return Err("it has control characters");
    }
    if path.is_empty() {
        return Ok(());
    }
    let mut first = true;
    for name in path.split('/') {
        match name {
            "" => return Err("it has an empty part"),
            "." | ".." => return Err("it has a part named `.` or `..`"),
            _ if name.len() > MAX_NAME => return Err("a part of it is too long"),
            UPLOADS if first => return Err("this folder is reserved"),
            _ => {}
        }
        first = false;
    }
    let letter = path.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
    if letter && path.get(1..2) == Some(":") {
        return Err("it names a drive");
    }
    Ok(())
}

/// Percent-decoding, once; what is not valid UTF-8 then is replaced, which no
/// longer matters for a check.
pub(crate) fn decode_once(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%'
            && let Some(pair) = tail.get(..2)
            && let Ok(pair) = std::str::from_utf8(pair)
            && let Ok(value) = u8::from_str_radix(pair, 16)
        {
            decoded.push(value);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            decoded.push(byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::ArtifactPath;
    use proptest::prelude::*;
    use std::path::Component;

    #[test]
    fn dangerous_paths_are_refused() {
        for path in [
            "..",
            "../etc/passwd",
            "a/../../b",
            "/etc/passwd",
            "a//b",
            "./a",
            "a/./b",
            "%2e%2e/x",
            "%252e%252e/x",
            "%25252e%25252e%25252fx",
            "a/%2e%2e%2f%2e%2e",
            "%2fetc/passwd",
            "a\0b",
            "a%00b",
            "a\\..\\b",
            "C:/x",
            "a\nb",
            ".uploads/x",
            "%2euploads/x",
        ] {
            assert!(ArtifactPath::parse(path).is_err(), "{path:?}");
        }
        assert!(ArtifactPath::parse(&"a/".repeat(2000)).is_err());
        assert!(ArtifactPath::parse(&"a".repeat(300)).is_err());
    }

    #[test]
    fn ordinary_paths_are_kept() {
        for path in [
            "a",
            "a/b.txt",
            "a b/ü/..x",
            "100%",
            "a%2",
            "model.pkl",
            ".hidden",
            "x..y",
        ] {
            assert_eq!(ArtifactPath::parse(path).unwrap().as_str(), path);
        }
        assert_eq!(ArtifactPath::parse("a/b/").unwrap().as_str(), "a/b");
        assert!(ArtifactPath::parse("").unwrap().is_root());
    }

    #[test]
    fn uris_name_our_store_only() {
        let path = ArtifactPath::from_uri("mlflow-artifacts:/experiments/1").unwrap();
        assert_eq!(path.as_str(), "experiments/1");
        let path = ArtifactPath::from_uri("cumulo:blobs/x").unwrap();
        assert_eq!(path.to_uri(), "mlflow-artifacts:/blobs/x");
        for uri in [
            "file:///etc/passwd",
            "/etc/passwd",
            "s3://bucket/x",
            "mlflow-artifacts://host/x",
            "mlflow-artifacts:/../x",
            "mlflow-artifacts:/x?y",
            "cumulo:/etc/passwd",
            "http://localhost/api/2.0/mlflow-artifacts/artifacts/x",
        ] {
            assert!(ArtifactPath::from_uri(uri).is_err(), "{uri}");
        }
    }

    proptest! {
        /// Whatever is accepted stays below the root it is joined to.
        #[test]
        fn accepted_paths_stay_inside(path in "[a./%2eEfF\\\\:\u{0}-]{0,24}") {
            if let Ok(path) = ArtifactPath::parse(&path) {
                let inside = std::path::Path::new(path.as_str())
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)));
                prop_assert!(inside, "{}", path);
            }
        }
    }
}
