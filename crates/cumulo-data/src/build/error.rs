//! Why a build published nothing.

use crate::check::{CheckError, CheckResult};
use crate::query::QueryError;
use crate::request::RequestError;
use crate::snapshot::write::WriteError;
use crate::source::SourceError;
use crate::store::StoreError;

/// Why nothing was published. The message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The request makes no sense by itself.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The query is wrong or failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A check is wrong.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The result broke its checks.
    #[error("{}; nothing was published", failures(*rows, results))]
    ChecksFailed {
        /// The version that was refused.
        version: String,
        /// Its rows.
        rows: u64,
        /// How all checks went.
        results: Vec<CheckResult>,
    },
    /// The artifact store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The result cannot be written.
    #[error("{0}")]
    Write(String),
}

fn failures(rows: u64, results: &[CheckResult]) -> String {
    let failed: Vec<String> = results
        .iter()
        .filter(|result| !result.passed)
        .map(|result| result.sentence(rows))
        .collect();
    match failed.len() {
        0..=3 => failed.join("; "),
        n => format!("{}; and {} more", failed[..3].join("; "), n - 3),
    }
}

impl BuildError {
    /// A word for a condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) => "RequestInvalid",
            Self::Source(error) => error.reason(),
            Self::Query(QueryError::Failed(_)) => "QueryFailed",
            Self::Query(QueryError::OutOfMemory(_)) => "OutOfMemory",
            Self::Query(_) => "QueryInvalid",
            Self::Check(CheckError::Failed(_)) => "CheckError",
            Self::Check(_) => "CheckInvalid",
            Self::ChecksFailed { .. } => "CheckFailed",
            Self::Store(_) | Self::Write(_) => "StoreFailed",
        }
    }

    /// How the checks went, where that is the failure.
    pub fn check_results(&self) -> Option<&[CheckResult]> {
        match self {
            Self::ChecksFailed { results, .. } => Some(results),
            _ => None,
        }
    }

    /// Whether trying again with nothing changed may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source(error) => error.is_transient(),
            Self::Store(_) => true,
            _ => false,
        }
    }
}

impl From<WriteError> for BuildError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(error) => Self::Store(error),
            other => Self::Write(other.to_string()),
        }
    }
}
