//! Further processes in a running container: `exec`, probes and hooks.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::process::{Child, Command};

use super::terminal::Terminal;
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
    /// There is no terminal for it.
    #[error("cannot make a terminal for the command: {0}")]
    Terminal(std::io::Error),
    /// Waiting failed.
    #[error("cannot wait for the command: {0}")]
    Wait(std::io::Error),
}

/// Takes what a process reads.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// Gives what a process writes.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// A process that runs in a container. Dropping `process` kills its process group.
pub struct ExecSession {
    /// Standard input, when it was asked for.
    pub stdin: Option<Input>,
    /// Standard output; with a terminal all that is shown.
    pub stdout: Option<Output>,
    /// Standard error; none with a terminal.
    pub stderr: Option<Output>,
    /// The terminal, when there is one.
    pub terminal: Option<Terminal>,
    /// The process, to be waited for beside the streams.
    pub process: ExecProcess,
}

impl std::fmt::Debug for ExecSession {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ExecSession")
            .field("process", &self.process)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
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

/// Starts a command in a container, with a terminal when `tty` says so.
pub fn start(
    target: &ExecTarget,
    command: &[String],
    stdin: bool,
    tty: bool,
) -> Result<ExecSession, ExecError> {
    let (program, arguments) = command.split_first().ok_or(ExecError::Empty)?;
    let mut process = Command::new(program);
    process
        .args(arguments)
        .env_clear()
        .envs(target.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&target.work_dir)
        .kill_on_drop(true);
    let terminal = if tty {
        // The session that this begins is a process group of its own.
        let opened = Terminal::open(process.as_std_mut());
        Some(opened.map_err(ExecError::Terminal)?)
    } else {
        process
            .stdin(if stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        None
    };
    if let Some(policy) = &target.policy {
        sandbox::prepare(policy)?.confine(process.as_std_mut());
    }
    let mut child = process.spawn().map_err(|error| ExecError::Start {
        program: program.clone(),
        error,
    })?;
    let group = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .unwrap_or(0);
    // The command holds the program's side of the terminal, and would keep it open.
    drop(process);
    Ok(match terminal {
        Some(terminal) => ExecSession {
            stdin: stdin.then(|| Box::new(terminal.clone()) as Input),
            stdout: Some(Box::new(terminal.clone())),
            stderr: None,
            terminal: Some(terminal),
            process: ExecProcess { child, group },
        },
        None => ExecSession {
            stdin: child.stdin.take().map(|pipe| Box::new(pipe) as Input),
            stdout: child.stdout.take().map(|pipe| Box::new(pipe) as Output),
            stderr: child.stderr.take().map(|pipe| Box::new(pipe) as Output),
            terminal: None,
            process: ExecProcess { child, group },
        },
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
    let session = start(target, command, false, false)?;
    let ExecSession {
        stdout,
        stderr,
        mut process,
        ..
    } = session;
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
