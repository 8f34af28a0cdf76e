//! One worker process and the socket to it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
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
    /// Holds the script and the socket.
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
    pub(super) async fn start(launch: &Launch) -> Result<Self, PythonError> {
        // Short: the path of a socket has 108 bytes at most.
        let folder = tempfile::Builder::new()
            .prefix("cumulo-worker-")
            .tempdir()
            .map_err(PythonError::Socket)?;
        let (script, path) = (
            folder.path().join("worker.py"),
            folder.path().join("socket"),
        );
        tokio::fs::write(&script, SCRIPT)
            .await
            .map_err(PythonError::Socket)?;
        let listener = UnixListener::bind(&path).map_err(PythonError::Socket)?;
        let command = launch.command.join(" ");
        let failed = |source| PythonError::Command {
            command: command.clone(),
            source,
        };
        let Some((program, arguments)) = launch.command.split_first() else {
            return Err(failed(std::io::ErrorKind::InvalidInput.into()));
        };
        let mut child = Command::new(program)
            .args(arguments)
            .arg(&script)
            .env("CUMULO_WORKER_SOCKET", &path)
            .env("CUMULO_WORKER_MODEL", &launch.model)
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let starting = async {
            let ended = |status: std::io::Result<std::process::ExitStatus>| PythonError::Ended {
                status: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
            };
            let (socket, _) = tokio::select! {
                accepted = listener.accept() => accepted.map_err(PythonError::Socket)?,
                status = child.wait() => return Err(ended(status)),
            };
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
