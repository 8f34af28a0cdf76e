//! Where a pod's ConfigMaps and Secrets come from.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::resource::v1::ResourceClaim;

/// Content of a ConfigMap or Secret.
pub type Data = BTreeMap<String, Vec<u8>>;

/// A lookup that failed for another reason than absence.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {kind} {namespace}/{name}: {reason}")]
pub struct SourceError {
    /// `ConfigMap`, `Secret` or `ResourceClaim`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What happened.
    pub reason: String,
}

/// Reads ConfigMaps, Secrets and ResourceClaims for the engine, which knows no API client.
#[async_trait]
pub trait ConfigSource: Send + Sync + 'static {
    /// Content of a ConfigMap; `None` when there is no such object.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, SourceError>;
    /// Content of a Secret; `None` when there is no such object.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, SourceError>;
    /// A ResourceClaim; `None` when there is no such object.
    async fn claim(&self, _: &str, _: &str) -> Result<Option<ResourceClaim>, SourceError> {
        Ok(None)
    }
}

/// A source without objects.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSource;

#[async_trait]
impl ConfigSource for NoSource {
    async fn config_map(&self, _: &str, _: &str) -> Result<Option<Data>, SourceError> {
        Ok(None)
    }
    async fn secret(&self, _: &str, _: &str) -> Result<Option<Data>, SourceError> {
        Ok(None)
    }
}
