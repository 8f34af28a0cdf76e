//! What a write must pass besides its own validation, because of other objects:
//! classes that pods name, admission policies, quotas.

mod certificates;
mod classes;
mod policies;
mod quotas;

pub(crate) use policies::PolicyCache;
pub(crate) use quotas::used as quota_used;

use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use crate::engine::Engine;
use crate::operation::{Target, WriteOptions};
use crate::status::ApiError;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A new object.
    Create,
    /// A changed one.
    Update,
    /// One that goes.
    Delete,
}

impl Operation {
    /// As in policies.
    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A write that is to be admitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Write<'a> {
    pub operation: Operation,
    pub target: &'a Target,
    pub subresource: Option<&'a str>,
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
    pub options: &'a WriteOptions,
}

/// Held until the write is stored, so that two do not use the same quota.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    /// What the client should be warned of.
    pub warnings: Vec<String>,
    _quota: Option<OwnedMutexGuard<()>>,
}

impl Engine {
    /// Fills in what a new object gets from others.
    pub(crate) fn admit_defaults(
        &self,
        target: &Target,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        if target.resource.is("", "pods") {
            classes::settle(self, target, object)?;
        }
        Ok(())
    }

    /// Asks policies and quotas. The server's own controllers are not asked about.
    pub(crate) async fn admit(&self, write: Write<'_>) -> Result<Admitted, ApiError> {
        if write.options.user.is_none() {
            return Ok(Admitted::default());
        }
        certificates::check(self, &write).await?;
        let warnings = policies::check(self, &write)?;
        Ok(Admitted {
            warnings,
            _quota: quotas::charge(self, &write).await?,
        })
    }
}
