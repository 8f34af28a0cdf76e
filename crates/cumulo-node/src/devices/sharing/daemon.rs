//! MPS control daemons, one for each GPU that pods share: started with the first,
//! stopped after the last, found again by the next node agent.
//!
//! Each has a folder, named after the GPU, below the node agent's own: what is there is
//! what runs, whoever started it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::limits::{self, LOG_VARIABLE, Limits, PIPE_VARIABLE};

/// A daemon answers within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a daemon's servers have to end by themselves, in seconds.
const QUIT_SECONDS: u32 = 2;
/// How often a daemon that was just started is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Longest path of a socket on Linux.
const SOCKET_PATH: usize = 107;
/// The longest name that the daemon gives a socket in its folder.
const LONGEST_NAME: &str = "/control_privileged";
/// What is kept of an answer.
const ANSWER: usize = 64 << 10;

/// Why MPS cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MpsError {
    /// The node has no program for it.
    #[error("nvidia-cuda-mps-control was not found")]
    NoProgram,
    /// The path of its sockets would be too long for the system.
    #[error("{0} is too long a path for a socket: move the platform's folder (CUMULO_HOME)")]
    PathTooLong(PathBuf),
    /// Its folder cannot be made.
    #[error("cannot make {path}: {error}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        error: String,
    },
    /// It does not start, or does not answer.
    #[error("nvidia-cuda-mps-control: {0}")]
    Daemon(String),
}

/// Where the program is that starts and asks daemons.
pub fn find_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Where containers and minimal images have the driver's programs.
        .chain(["/usr/bin", "/usr/local/nvidia/bin", "/usr/local/bin"].map(PathBuf::from))
        .map(|folder| folder.join("nvidia-cuda-mps-control"))
        .find(|path| path.is_file())
}

/// The daemons of this node.
pub struct Daemons {
    program: Option<PathBuf>,
    root: PathBuf,
    /// What those that run were told, or why one does not run, by its GPU.
    known: BTreeMap<String, Result<Limits, MpsError>>,
}

impl Daemons {
    /// Daemons in folders below `root`.
    pub fn new(program: Option<PathBuf>, root: PathBuf) -> Self {
        Self {
            program,
            root,
            known: BTreeMap::new(),
        }
    }

    /// Where the clients of a GPU's daemon find it.
    pub fn pipes(&self, gpu: &str) -> PathBuf {
        self.root.join(folder_name(gpu)).join("pipe")
    }

    /// What the server of a GPU allows each client, or why there is none.
    ///
    /// # Errors
    /// With the reason, where there is none.
    pub fn state(&self, gpu: &str) -> Result<Limits, MpsError> {
        match (&self.program, self.known.get(gpu)) {
            (None, _) => Err(MpsError::NoProgram),
            (_, Some(known)) => known.clone(),
            (_, None) => Err(MpsError::Daemon("not started".to_owned())),
        }
    }

    /// Brings what runs to what is wanted. One that could not be started is tried again
    /// with `again` only.
    pub async fn settle(&mut self, wanted: &BTreeMap<String, Limits>, again: bool) {
        let Some(program) = self.program.clone() else {
            return;
        };
        let names: BTreeSet<String> = wanted.keys().map(|gpu| folder_name(gpu)).collect();
        for name in self.folders() {
            if !names.contains(&name) {
                let folder = self.root.join(&name);
                stop(&program, &folder).await;
                tracing::info!(folder = %folder.display(), "stopped the mps daemon of a gpu that is shared no more");
            }
        }
        self.known.retain(|gpu, _| wanted.contains_key(gpu));
        for (gpu, limits) in wanted {
            let folder = self.root.join(folder_name(gpu));
            let known = self.known.get(gpu);
            if matches!(known, Some(Err(_))) && !again {
                continue;
            }
            let runs = self.answers(&program, gpu).await;
            if runs && known == Some(&Ok(*limits)) {
                continue;
            }
            let state = provide(&program, &folder, gpu, *limits, runs).await;
            match &state {
                Ok(()) => {
                    tracing::info!(
                        gpu,
                        ?limits,
                        found = runs,
                        "an mps daemon serves a shared gpu"
                    );
                }
                Err(error) if known != Some(&Err(error.clone())) => {
                    tracing::warn!(gpu, %error, "a shared gpu has no mps daemon, its pods take turns");
                }
                Err(_) => {}
            }
            self.known.insert(gpu.clone(), state.map(|()| *limits));
        }
    }

    /// Ends one client's work on its GPU: its next call fails.
    ///
    /// # Errors
    /// When there is no daemon, or it does not answer.
    pub async fn end_client(&self, gpu: &str, pid: u32) -> Result<(), MpsError> {
        let program = self.program.as_ref().ok_or(MpsError::NoProgram)?;
        let folder = self.root.join(folder_name(gpu));
        let servers = ask(program, &folder, "get_server_list").await?;
        for server in limits::process_ids(&servers) {
            ask(
                program,
                &folder,
                &format!("terminate_client {server} {pid}"),
            )
            .await?;
        }
        Ok(())
    }

    async fn answers(&self, program: &Path, gpu: &str) -> bool {
        let folder = self.root.join(folder_name(gpu));
        folder.join("pipe").is_dir() && ask(program, &folder, "get_server_list").await.is_ok()
    }

    fn folders(&self) -> Vec<String> {
        std::fs::read_dir(&self.root)
            .map(|entries| {
                entries
                    .flatten()
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .collect()
            })
            .unwrap_or_default()
    }
}

/// The first part of the UUID's own number: paths of sockets are short.
fn folder_name(gpu: &str) -> String {
    let number = gpu.strip_prefix("GPU-").unwrap_or(gpu);
    number
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(12)
        .collect()
}

/// A daemon that runs, with these limits.
async fn provide(
    program: &Path,
    folder: &Path,
    gpu: &str,
    limits: Limits,
    runs: bool,
) -> Result<(), MpsError> {
    if !runs {
        start(program, folder, gpu).await?;
    }
    let servers = ask(program, folder, "get_server_list").await?;
    for command in limits::commands(limits, &limits::process_ids(&servers)) {
        ask(program, folder, &command).await?;
    }
    Ok(())
}

async fn start(program: &Path, folder: &Path, gpu: &str) -> Result<(), MpsError> {
    let pipes = folder.join("pipe");
    if pipes.as_os_str().len() + LONGEST_NAME.len() > SOCKET_PATH {
        return Err(MpsError::PathTooLong(pipes));
    }
    // What one that crashed left would be taken for it.
    let _ = std::fs::remove_dir_all(&pipes);
    for path in [&pipes, &folder.join("log")] {
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(path);
        made.map_err(|error| MpsError::Folder {
            path: path.clone(),
            error: error.to_string(),
        })?;
    }
    let mut command = command(program, folder);
    command.arg("-d").env("CUDA_VISIBLE_DEVICES", gpu);
    let answer = run(command, "").await;
    let answers = async {
        while ask(program, folder, "get_server_list").await.is_err() {
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    match answer {
        Ok(_) => tokio::time::timeout(PATIENCE, answers)
            .await
            .map_err(|_| MpsError::Daemon("it was started and does not answer".to_owned())),
        Err(error) => Err(error),
    }
}

async fn stop(program: &Path, folder: &Path) {
    if folder.join("pipe").is_dir() {
        // Fails where none runs any more.
        let _ = ask(program, folder, &format!("quit -t {QUIT_SECONDS}")).await;
        let gone = async {
            while ask(program, folder, "get_server_list").await.is_ok() {
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        if tokio::time::timeout(PATIENCE, gone).await.is_err() {
            tracing::warn!(folder = %folder.display(), "an mps daemon does not end");
            return;
        }
    }
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove the folder of an mps daemon");
    }
}

/// Says something to the daemon of a folder.
async fn ask(program: &Path, folder: &Path, text: &str) -> Result<String, MpsError> {
    run(command(program, folder), &format!("{text}\n")).await
}

fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env(PIPE_VARIABLE, folder.join("pipe"))
        .env(LOG_VARIABLE, folder.join("log"))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for name in ["PATH", "LD_LIBRARY_PATH", "NIX_LD"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(OsStr::new(name), value);
        }
    }
    command
}

/// Runs the program to its end; a daemon that it leaves behind keeps no pipe of ours
/// open that is waited for.
async fn run(mut command: Command, input: &str) -> Result<String, MpsError> {
    let failed = |error: io::Error| MpsError::Daemon(error.to_string());
    let mut child = command.spawn().map_err(failed)?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let work = async {
        if let Some(mut stdin) = child.stdin.take() {
            // It may have ended already.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait().await
    };
    let status = tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
        .map_err(failed)?;
    let out = drain(stdout).await;
    if status.success() {
        return Ok(out);
    }
    let told = format!("{out} {}", drain(stderr).await);
    let told = told.trim();
    Err(MpsError::Daemon(if told.is_empty() {
        format!("ended with {status}")
    } else {
        told.chars().take(500).collect()
    }))
}

/// What is in a pipe now. A daemon holds its end open for good; what the program said
/// is there by the time it has ended.
async fn drain(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    use tokio::io::AsyncReadExt;
    let Some(mut pipe) = pipe else {
        return String::new();
    };
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    while bytes.len() < ANSWER {
        match tokio::time::timeout(ASK_EVERY, pipe.read(&mut buffer)).await {
            Ok(Ok(count)) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}
