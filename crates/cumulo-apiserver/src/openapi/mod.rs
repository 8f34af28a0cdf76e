//! OpenAPI: the documents that `kubectl explain`, `kubectl apply` and other
//! clients read.
//!
//! Built-in group-versions are served as Kubernetes publishes them, compressed
//! in the binary and decompressed for each request: they are asked for rarely,
//! and keeping 5 MB of text for that would be a waste. Custom resources get a
//! document made from their CRDs, with the same paths and operations that
//! Kubernetes publishes.

mod custom;
pub mod metrics;
#[cfg(test)]
mod tests;
pub mod v2;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha512};

pub use custom::crd_document;

/// The document of a built-in group-version.
#[derive(Debug)]
pub struct Document {
    /// Its path below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
    pub path: &'static str,
    /// The group; empty for the core group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    compressed: &'static [u8],
}

macro_rules! document {
    ($path:literal, $group:literal, $file:literal) => {
        document!($path, $group, "v1", $file)
    };
    ($path:literal, $group:literal, $version:literal, $file:literal) => {
        Document {
            path: $path,
            group: $group,
            version: $version,
            compressed: include_bytes!(concat!("../../schemas/openapi/", $file, ".json.zst")),
        }
    };
}

static DOCUMENTS: &[Document] = &[
    document!("api/v1", "", "api__v1"),
    document!(
        "apis/apiextensions.k8s.io/v1",
        "apiextensions.k8s.io",
        "apis__apiextensions.k8s.io__v1"
    ),
    document!(
        "apis/admissionregistration.k8s.io/v1",
        "admissionregistration.k8s.io",
        "apis__admissionregistration.k8s.io__v1"
    ),
    document!(
        "apis/apiregistration.k8s.io/v1",
        "apiregistration.k8s.io",
        "apis__apiregistration.k8s.io__v1"
    ),
    document!("apis/apps/v1", "apps", "apis__apps__v1"),
    document!(
        "apis/autoscaling/v1",
        "autoscaling",
        "apis__autoscaling__v1"
    ),
    document!(
        "apis/autoscaling/v2",
        "autoscaling",
        "v2",
        "apis__autoscaling__v2"
    ),
    document!(
        "apis/certificates.k8s.io/v1",
        "certificates.k8s.io",
        "apis__certificates.k8s.io__v1"
    ),
    document!(
        "apis/flowcontrol.apiserver.k8s.io/v1",
        "flowcontrol.apiserver.k8s.io",
        "apis__flowcontrol.apiserver.k8s.io__v1"
    ),
    document!(
        "apis/node.k8s.io/v1",
        "node.k8s.io",
        "apis__node.k8s.io__v1"
    ),
    document!(
        "apis/authentication.k8s.io/v1",
        "authentication.k8s.io",
        "apis__authentication.k8s.io__v1"
    ),
    document!(
        "apis/authorization.k8s.io/v1",
        "authorization.k8s.io",
        "apis__authorization.k8s.io__v1"
    ),
    document!("apis/batch/v1", "batch", "apis__batch__v1"),
    document!(
        "apis/coordination.k8s.io/v1",
        "coordination.k8s.io",
        "apis__coordination.k8s.io__v1"
    ),
    document!(
        "apis/discovery.k8s.io/v1",
        "discovery.k8s.io",
        "apis__discovery.k8s.io__v1"
    ),
    document!(
        "apis/events.k8s.io/v1",
        "events.k8s.io",
        "apis__events.k8s.io__v1"
    ),
    document!(
        "apis/networking.k8s.io/v1",
        "networking.k8s.io",
        "apis__networking.k8s.io__v1"
    ),
    document!("apis/policy/v1", "policy", "apis__policy__v1"),
    document!(
        "apis/rbac.authorization.k8s.io/v1",
        "rbac.authorization.k8s.io",
        "apis__rbac.authorization.k8s.io__v1"
    ),
    document!(
        "apis/resource.k8s.io/v1",
        "resource.k8s.io",
        "apis__resource.k8s.io__v1"
    ),
    document!(
        "apis/scheduling.k8s.io/v1",
        "scheduling.k8s.io",
        "apis__scheduling.k8s.io__v1"
    ),
    document!(
        "apis/storage.k8s.io/v1",
        "storage.k8s.io",
        "apis__storage.k8s.io__v1"
    ),
];

/// Hashes of the compressed documents, made on first use.
static HASHES: LazyLock<Vec<String>> = LazyLock::new(|| {
    DOCUMENTS
        .iter()
        .map(|document| hash(document.compressed))
        .collect()
});

/// The group-versions that have a document of Kubernetes' own.
pub fn builtin_documents() -> &'static [Document] {
    DOCUMENTS
}

/// A built-in document as JSON text, by its path: `apis/apps/v1`.
pub fn builtin_document(path: &str) -> Option<Vec<u8>> {
    let document = DOCUMENTS.iter().find(|document| document.path == path)?;
    match zstd::decode_all(document.compressed) {
        Ok(json) => Some(json),
        Err(error) => {
            tracing::error!(path, %error, "openapi document cannot be decompressed");
            None
        }
    }
}

/// The hash by which a built-in document is cached.
pub fn builtin_hash(path: &str) -> Option<String> {
    let at = DOCUMENTS
        .iter()
        .position(|document| document.path == path)?;
    HASHES.get(at).cloned()
}

/// A hash for a document, in Kubernetes' notation: SHA-512, upper-case.
pub fn hash(document: &[u8]) -> String {
    hex::encode_upper(Sha512::digest(document))
}

/// The answer to `/openapi/v3`: all built-in documents and the custom ones,
/// given as path and hash. A custom document takes the place of a built-in one
/// at the same path.
pub fn index(custom: &[(String, String)]) -> Value {
    let mut all: Vec<(&str, &str)> = DOCUMENTS
        .iter()
        .zip(HASHES.iter())
        .map(|(document, hash)| (document.path, hash.as_str()))
        .filter(|(path, _)| custom.iter().all(|(other, _)| other != path))
        .chain(
            custom
                .iter()
                .map(|(path, hash)| (path.as_str(), hash.as_str())),
        )
        .collect();
    all.sort_unstable();
    let paths: Map<String, Value> = all
        .into_iter()
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path.to_owned(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}
