//! What a pod's folder holds on disk: the types that the container supervisor
//! and the engine exchange through files, and how they are written.
//!
//! Files are replaced atomically, so a reader sees the old content or the new
//! and never half of one. They are not flushed to the disk: after a loss of
//! power no process of the pod exists any more, so nothing that they say would
//! still be true.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sandbox::{Policy, Status};

/// What the supervisor is told to run. Sent over its standard input, so that
/// values of secrets reach no file.
#[derive(Clone, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment of the process.
    pub env: Vec<(String, String)>,
    /// The folder that the process starts in.
    pub work_dir: PathBuf,
    /// Soft limit of open files; `None` keeps the inherited one.
    pub open_files: Option<u64>,
    /// The log is rotated when it exceeds this many bytes.
    pub log_max_bytes: u64,
    /// What the process may reach; everything when absent.
    #[serde(default)]
    pub sandbox: Option<Policy>,
    /// What it reads as its standard input.
    #[serde(default)]
    pub input: Input,
}

/// The standard input of a container's process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    /// Nothing: an end of file at once.
    #[default]
    None,
    /// What clients that attach send, one after the other (`stdin: true`).
    Kept,
    /// What the first client sends that attaches, and then an end of file
    /// (`stdinOnce: true`).
    Once,
}

/// A process that was started: its identity survives the reuse of process ids
/// because the start time (clock ticks since boot) belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Process id, and id of the process group that it leads.
    pub pid: i32,
    /// Start time of the process in clock ticks since boot.
    pub start_ticks: u64,
    /// Process id of the supervisor.
    pub supervisor: i32,
    /// The machine's boot that the ids belong to.
    pub boot_id: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// What its sandbox is worth; `None` when it was started without.
    #[serde(default)]
    pub sandbox: Option<Status>,
}

/// How a container's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code as a shell reports it: 128 + signal when killed by one.
    pub exit_code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Why it could not be started at all.
    pub start_error: Option<String>,
    /// Set when nobody saw the end: the supervisor was killed or the machine
    /// restarted.
    #[serde(default)]
    pub unknown: bool,
}

/// The supervisor's answer on its standard output, one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    /// The process runs.
    Started(Started),
    /// It could not be started; the same is in the exit file.
    Failed(String),
}

/// Paths of one attempt to run a container.
#[derive(Debug, Clone)]
pub struct AttemptDir(pub PathBuf);

impl AttemptDir {
    /// Held locked by the supervisor as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
    /// A FIFO whose writing end the supervisor holds: its end of file says
    /// that the supervisor is gone.
    pub fn alive(&self) -> PathBuf {
        self.0.join("alive")
    }
    /// A FIFO whose reading end the supervisor holds: what is written to it is
    /// the process's standard input. Only containers with `stdin: true` have it.
    pub fn stdin(&self) -> PathBuf {
        self.0.join("stdin")
    }
    /// [`Started`], written by the supervisor.
    pub fn started(&self) -> PathBuf {
        self.0.join("started.json")
    }
    /// The [`Policy`] of the container's own code, written by the engine: what
    /// `exec` and probes get, also after a restart of the platform.
    pub fn policy(&self) -> PathBuf {
        self.0.join("policy.json")
    }
    /// [`Exit`], written by the supervisor.
    pub fn exit(&self) -> PathBuf {
        self.0.join("exit.json")
    }
    /// The current log.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }
    /// The log before the last rotation.
    pub fn rotated_log(&self) -> PathBuf {
        self.0.join("log.1")
    }
    /// The container's termination message.
    pub fn termination(&self) -> PathBuf {
        self.0.join("termination")
    }
}

/// Writes a file by writing a neighbour and renaming it, mode 0600.
pub fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let result = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        fs::rename(&temporary, path)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Writes a value as JSON, atomically.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_atomic(path, &serde_json::to_vec(value).map_err(io::Error::other)?)
}

/// Reads a JSON file; `None` when it does not exist.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(content) => serde_json::from_slice(&content).map(Some).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {error}", path.display()),
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether somebody (the supervisor) holds the lock file.
pub fn lock_is_held(path: &Path) -> bool {
    match fs::File::open(path) {
        Ok(file) => matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)),
        Err(_) => false,
    }
}
