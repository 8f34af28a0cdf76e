//! What can go wrong with an environment.

use std::io;
use std::path::{Path, PathBuf};

/// Why an environment could not be provided.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A package that is none.
    #[error(
        "{0:?} is not a package requirement; write for example \"scikit-learn\" or \"numpy>=2,<3\""
    )]
    Package(String),
    /// A Python version that is none.
    #[error("{0:?} is not a Python version; write for example \"3.11\"")]
    PythonVersion(String),
    /// Requirements or lock beyond the limit.
    #[error("the requirements are longer than 1 MiB; list fewer packages")]
    TooLong,
    /// Both a lock and something to resolve.
    #[error("an environment has either a lock or packages and requirements, not both; remove one")]
    LockAndPackages,
    /// No such interpreter here.
    #[error(
        "{wanted} is not installed here and could not be installed: {reason}; install it, or ask for one of: {installed}"
    )]
    NoPython {
        /// What was asked for.
        wanted: String,
        /// uv's reason.
        reason: String,
        /// What there is.
        installed: String,
    },
    /// The requirements contradict each other or name what does not exist.
    #[error("the environment cannot be resolved: {0}; change its packages or requirements")]
    Unresolvable(String),
    /// Another step of uv failed.
    #[error("uv could not {step}: {reason}")]
    Uv {
        /// What was tried.
        step: &'static str,
        /// uv's reason.
        reason: String,
    },
    /// uv took too long.
    #[error("uv did not {step} within {minutes} minutes; is the package index reachable?")]
    Timeout {
        /// What was tried.
        step: &'static str,
        /// The limit.
        minutes: u64,
    },
    /// There is no uv and it could not be installed.
    #[error(
        "uv was not found and could not be installed with python3: {0}; install uv, or name it in CUMULO_UV"
    )]
    NoUv(String),
    /// The file system refused.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
}

impl EnvironmentError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}
