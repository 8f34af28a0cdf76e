//! The operations on objects, without HTTP: what the handler, the background
//! controllers and the tests all go through.

mod create;
mod delete;
mod escalation;
mod patch;
mod read;
mod rules;
mod scale;
mod update;
mod watch;

use std::sync::Arc;

use serde_json::Value;

pub use delete::{DeleteOptions, Deleted, Propagation};
pub use patch::Patch;
pub use read::{ListOptions, Listed, VersionMatch};
pub use scale::{scale_of, scale_replicas};
pub use watch::{
    Changes, WatchAlarm, WatchCursor, WatchEvent, WatchEvents, WatchOptions, WatchedKind,
};

use crate::auth::UserInfo;
use crate::engine::Engine;
use crate::resource::{Catalog, ResourceType};
use crate::status::ApiError;
use crate::storage::{Key, Object, WriteError};

/// Times that a write is tried again when another came in between.
pub const RETRIES: usize = 24;

/// What to do about fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// What comes with a write.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Do everything but store.
    pub dry_run: bool,
    /// Name in `managedFields`.
    pub field_manager: String,
    /// About unknown fields.
    pub validation: FieldValidation,
    /// What is to be said of keys that the body gave twice.
    pub duplicates: Vec<String>,
    /// Take fields over from other appliers.
    pub force: bool,
    /// Who writes; none for the server's own controllers, which may everything.
    pub user: Option<UserInfo>,
}

/// What a write made.
#[derive(Debug)]
pub struct Written {
    /// The object as it is now.
    pub object: Arc<Object>,
    /// Whether it is new.
    pub created: bool,
    /// What the client should be warned of.
    pub warnings: Vec<String>,
}

/// The object that an operation is about.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its type, in the version asked for.
    pub resource: Arc<ResourceType>,
    /// Its namespace, empty when cluster-scoped.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Target {
    /// A target from its parts.
    pub fn new(resource: &Arc<ResourceType>, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The target of a key, in the version that is stored.
    pub fn of_key(catalog: &Catalog, key: &Key) -> Option<Self> {
        let resource = catalog.by_storage(&key.resource)?;
        Some(Self::new(resource, &key.id.namespace, &key.id.name))
    }

    /// Its key in the store.
    pub fn key(&self) -> Key {
        Key::new(&self.resource.storage, &self.namespace, &self.name)
    }
}

impl Engine {
    /// The object of a target, or 404.
    pub fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError> {
        self.store
            .get(&target.key())
            .ok_or_else(|| ApiError::not_found(&target.resource, &target.name))
    }
}

fn write_error(target: &Target, error: WriteError) -> ApiError {
    use http::StatusCode;
    match error {
        WriteError::Exists => ApiError::already_exists(&target.resource, &target.name),
        WriteError::Stale => ApiError::stale(&target.resource, &target.name),
        WriteError::Persist(crate::storage::PersistError::Full) => ApiError::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "InternalError",
            error.to_string(),
        ),
        WriteError::Persist(_) => ApiError::internal(error),
        WriteError::Busy => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequests",
            error.to_string(),
        )
        .retry_after(1),
        WriteError::Closed => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            error.to_string(),
        )
        .retry_after(1),
    }
}

/// The text at a key of `metadata`.
pub(crate) fn metadata_text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}
