//! Why a sandbox cannot be made.

use std::io;
use std::path::PathBuf;

/// Why a sandbox cannot be made. Nothing is started then.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The ruleset for files, connections and signals.
    #[error("the sandbox cannot be made (Landlock): {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// A path of a rule.
    #[error("the sandbox cannot be made: {path}: {error}")]
    Path {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The filter of system calls.
    #[error("the sandbox cannot be made (seccomp): {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The machine's processor is none that filters are written for.
    #[error("there is no filter of system calls for {0}")]
    Architecture(&'static str),
    /// It was refused at the last step.
    #[error("the sandbox cannot be entered: {0}")]
    Enter(#[from] io::Error),
}
