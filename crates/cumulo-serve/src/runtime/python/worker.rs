//! One worker process and the socket to it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::PythonError;
use crate::options::Options;
use crate::protocol;
use crate::tensor::Tensor;

const SCRIPT: &str = include_str!("worker.py");
/// Largest frame in either direction.
const FRAME_LIMIT: u32 = 1 << 30;

/// How a worker is started.
pub(super) struct Launch {
    command: Vec<String>,
    model: PathBuf,
    start: Duration,
}

impl Launch {
    pub(super) fn new(model: PathBuf, options: &Options) -> Self {
        let folder = model.to_string_lossy();
        let filled = |part: &String| part.replace("{model}", &folder);
        Self {
            command: options.python_command.iter().map(filled).collect(),
            start: Duration::from_secs(options.start_seconds),
            model,
        }
    }

    /// Starts the process, with a socket as its standard input.
    fn spawn(&self, script: &Path, socket: OwnedFd) -> Result<Child, PythonError> {
        let failed = |source| PythonError::Command {
            command: self.command.join(" "),
            source,
        };
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(failed(std::io::ErrorKind::InvalidInput.into()));
        };
        Command::new(program)
            .args(arguments)
            .arg(script)
            .env("CUMULO_WORKER_MODEL", &self.model)
            .env("PYTHONUNBUFFERED", "1")
            .stdin(socket)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)
    }
}

/// Two ends of a connection: ours, and one for a process that waits when it reads.
fn pair() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (own, other) = std::os::unix::net::UnixStream::pair()?;
    own.set_nonblocking(true)?;
    Ok((UnixStream::from_std(own)?, other.into()))
}

/// Why a question has no answer.
pub(super) enum AskError {
    /// The request doesn't fit the model.
    Input(String),
    /// The model failed.
    Model(String),
    /// The worker is gone or talks nonsense.
    Lost(String),
}

pub(super) struct Worker {
    child: Child,
    socket: UnixStream,
    buffer: Vec<u8>,
    /// Holds the script.
    _folder: TempDir,
}

#[derive(Serialize)]
struct Question<'a> {
    inputs: &'a [Tensor],
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    outputs: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    ready: Option<serde_json::Value>,
}

impl Worker {
    /// Starts the process and waits until it has loaded the model.
    ///
    /// The socket is the process's standard input: one with a path could not lie
    /// in any folder, as its path has 107 bytes at most.
    pub(super) async fn start(launch: &Launch) -> Result<Self, PythonError> {
        let folder = tempfile::Builder::new()
            .prefix("cumulo-worker-")
            .tempdir()
            .map_err(PythonError::Socket)?;
        let script = folder.path().join("worker.py");
        tokio::fs::write(&script, SCRIPT)
            .await
            .map_err(PythonError::Socket)?;
        let (socket, other) = pair().map_err(PythonError::Socket)?;
        let mut child = launch.spawn(&script, other)?;
        let starting = async {
            let ended = |status: std::io::Result<std::process::ExitStatus>| PythonError::Ended {
                status: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
            };
            let readable = tokio::select! {
                readable = socket.readable() => readable,
                status = child.wait() => return Err(ended(status)),
            };
            readable.map_err(PythonError::Socket)?;
            let mut worker = Self {
                child,
                socket,
                buffer: Vec::new(),
                _folder: folder,
            };
            let hello = match worker.receive().await {
                Ok(()) => serde_json::from_slice::<Answer<'_>>(&worker.buffer).ok(),
                Err(_) => return Err(ended(worker.child.wait().await)),
            };
            match hello {
                Some(Answer {
                    error: Some(error), ..
                }) => Err(PythonError::Refused(error)),
                Some(Answer {
                    ready: Some(ready), ..
                }) => {
                    tracing::info!(python = %ready["python"], "python worker ready");
                    Ok(worker)
                }
                _ => Err(PythonError::Refused(
                    "the worker's first words make no sense".into(),
                )),
            }
        };
        match tokio::time::timeout(launch.start, starting).await {
            Ok(started) => started,
            Err(_) => Err(PythonError::Slow(launch.start.as_secs())),
        }
    }

    /// Waits until the process ends; says how.
    pub(super) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Kills the process and waits for its end. What it started ends by itself
    /// when the socket closes.
    pub(super) async fn stop(&mut self) {
        let _ = self.socket.shutdown().await;
        // It may have ended already.
        let _ = self.child.kill().await;
    }

    async fn receive(&mut self) -> std::io::Result<()> {
        let length = self.socket.read_u32().await?;
        if length > FRAME_LIMIT {
            return Err(std::io::Error::other(format!("a frame of {length} bytes")));
        }
        self.buffer.clear();
        // Grows with what arrives, whatever the length says.
        let mut frame = (&mut self.socket).take(length.into());
        frame.read_to_end(&mut self.buffer).await?;
        match self.buffer.len() == length as usize {
            true => Ok(()),
            false => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Asks for a prediction. After `Lost` the worker is of no more use.
    pub(super) async fn ask(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, AskError> {
        let body = serde_json::to_vec(&Question { inputs })
            .map_err(|error| AskError::Model(error.to_string()))?;
        let Some(length) = u32::try_from(body.len())
            .ok()
            .filter(|length| *length <= FRAME_LIMIT)
        else {
            return Err(AskError::Input(
                "the request is too large for the Python worker".into(),
            ));
        };
        let exchange = async {
            self.socket.write_u32(length).await?;
            self.socket.write_all(&body).await?;
            self.receive().await
        };
        if let Err(error) = exchange.await {
            // How the process ended says more than what the socket saw.
            let ending = tokio::time::timeout(Duration::from_secs(1), self.child.wait()).await;
            let reason = match ending {
                Ok(Ok(status)) => status.to_string(),
                _ => error.to_string(),
            };
            return Err(AskError::Lost(reason));
        }
        let answer: Answer<'_> = serde_json::from_slice(&self.buffer)
            .map_err(|error| AskError::Lost(error.to_string()))?;
        if let Some(error) = answer.error {
            return Err(match answer.kind.as_deref() {
                Some("input") => AskError::Input(error),
                _ => AskError::Model(error),
            });
        }
        let outputs = answer.outputs.map_or("[]", RawValue::get);
        protocol::parse_tensors(outputs).map_err(|error| AskError::Model(error.to_string()))
    }
}
