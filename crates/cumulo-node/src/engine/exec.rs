//! Further processes in a running container: `exec`, probes and hooks.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::sandbox::{self, Policy, SandboxError};

/// Where a further process runs: environment and folder of the container.
#[derive(Clone, PartialEq, Eq)]
pub struct ExecTarget {
    /// The container's environment.
    pub env: Arc<[(String, String)]>,
    /// The folder that the container started in.
    pub work_dir: PathBuf,
    /// What it may reach; `None` in a container without a sandbox.
    pub policy: Option<Arc<Policy>>,
}

impl std::fmt::Debug for ExecTarget {
    /// Without the values, which may be secrets.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ExecTarget")
            .field("variables", &self.env.len())
            .field("work_dir", &self.work_dir)
            .finish()
    }
}

/// Why a command could not be run in a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Nothing to run.
    #[error("the command is empty")]
    Empty,
    /// The program does not start.
    #[error("cannot start {program:?} in the container: {error}")]
    Start {
        /// The program.
        program: String,
        /// The system's answer.
        error: std::io::Error,
    },
    /// It cannot be confined as the container is.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// It did not end in time and was killed.
    #[error("{program:?} did not end within {seconds} s")]
    Timeout {
        /// The program.
        program: String,
        /// The limit.
        seconds: u64,
    },
    /// Waiting failed.
    #[error("cannot wait for the command: {0}")]
    Wait(std::io::Error),
}

/// A process that runs in a container. Dropping it kills its process group.
#[derive(Debug)]
pub struct ExecSession {
    /// Standard input, when it was asked for.
    pub stdin: Option<ChildStdin>,
    /// Standard output; take it to read.
    pub stdout: Option<ChildStdout>,
    /// Standard error; take it to read.
    pub stderr: Option<ChildStderr>,
    process: ExecProcess,
}

impl ExecSession {
    /// Splits off the process, to be waited for beside the streams.
    pub fn into_parts(
        self,
    ) -> (
        Option<ChildStdin>,
        Option<ChildStdout>,
        Option<ChildStderr>,
        ExecProcess,
    ) {
        (self.stdin, self.stdout, self.stderr, self.process)
    }
}

/// The process of an [`ExecSession`]. Dropping it kills its process group.
#[derive(Debug)]
pub struct ExecProcess {
    child: Child,
    group: i32,
}

impl ExecProcess {
    /// Waits for the end; gives the exit code as a shell reports it.
    pub async fn wait(&mut self) -> Result<i32, ExecError> {
        self.child
            .wait()
            .await
            .map(exit_code)
            .map_err(ExecError::Wait)
    }
}

impl Drop for ExecProcess {
    fn drop(&mut self) {
        if self.group > 0 {
            let _ = killpg(Pid::from_raw(self.group), Signal::SIGKILL);
        }
    }
}

/// Exit code as a shell reports it: 128 + signal when killed by one.
pub fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}

/// Starts a command in a container.
pub fn start(
    target: &ExecTarget,
    command: &[String],
    stdin: bool,
) -> Result<ExecSession, ExecError> {
    let (program, arguments) = command.split_first().ok_or(ExecError::Empty)?;
    let mut process = Command::new(program);
    process
        .args(arguments)
        .env_clear()
        .envs(target.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&target.work_dir)
        .stdin(if stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(policy) = &target.policy {
        sandbox::prepare(policy)?.confine(process.as_std_mut())?;
    }
    let mut child = process.spawn().map_err(|error| ExecError::Start {
        program: program.clone(),
        error,
    })?;
    let group = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .unwrap_or(0);
    Ok(ExecSession {
        stdin: child.stdin.take(),
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
        process: ExecProcess { child, group },
    })
}

/// The most output of a probe or hook that is kept for messages.
const KEPT_OUTPUT: usize = 1024;

/// Runs a command to its end; gives the exit code and the first of its output.
pub async fn run(
    target: &ExecTarget,
    command: &[String],
    limit: Duration,
) -> Result<(i32, String), ExecError> {
    let session = start(target, command, false)?;
    let (_, stdout, stderr, mut process) = session.into_parts();
    let work = async {
        let (out, err, code) = tokio::join!(head(stdout), head(stderr), process.wait());
        code.map(|code| (code, if err.is_empty() { out } else { err }))
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(ExecError::Timeout {
            program: command.first().cloned().unwrap_or_default(),
            seconds: limit.as_secs(),
        }),
    }
}

/// Reads everything, keeps the beginning.
async fn head(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            let room = KEPT_OUTPUT.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..length.min(room)]);
        }
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}
