//! The operations, one file a subject, as methods of [`Handle`](crate::Handle).

mod experiments;
mod inputs;
mod logged_model_search;
mod logged_models;
mod metrics;
mod paging;
pub(crate) mod registered_models;
pub(crate) mod registry_events;
mod registry_search;
pub(crate) mod resolve;
mod run_data;
mod run_search;
mod runs;
mod source;
mod versions;

use crate::error::{Error, Result};

/// Which life cycle stages a search looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ViewType {
    Active,
    Deleted,
    All,
}

impl ViewType {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        Ok(match text {
            None | Some("" | "ACTIVE_ONLY" | "1") => Self::Active,
            Some("DELETED_ONLY" | "2") => Self::Deleted,
            Some("ALL" | "3") => Self::All,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "Invalid view type '{other}': expected ACTIVE_ONLY, DELETED_ONLY or ALL."
                )));
            }
        })
    }

    pub(crate) fn stages(self) -> &'static [&'static str] {
        match self {
            Self::Active => &["active"],
            Self::Deleted => &["deleted"],
            Self::All => &["active", "deleted"],
        }
    }
}

/// A new identifier: 32 hexadecimal digits.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
