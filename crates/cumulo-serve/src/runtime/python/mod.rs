//! Any MLflow pyfunc, in a Python worker process.
//!
//! One task owns the worker: it takes requests from a bounded queue, one at a
//! time, and starts the worker again, later each time, when it dies. Requests
//! that wait survive a restart; the one that was being worked on doesn't, and
//! isn't tried again, as it may be what killed the worker.

mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{InferError, Metadata, Model, columns};
use crate::mlmodel::Signature;
use crate::options::Options;
use crate::tensor::Tensor;
use worker::{AskError, Launch, Worker};

/// A Python worker that doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// The command can't be run.
    #[error("the Python worker cannot be started by `{command}`: {source}")]
    Command {
        /// The command.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// There is nowhere to talk to it.
    #[error("no socket for the Python worker: {0}")]
    Socket(#[source] std::io::Error),
    /// It ended before it was ready.
    #[error(
        "the Python worker ended before it had loaded the model ({status}); its output is in the log"
    )]
    Ended {
        /// How.
        status: String,
    },
    /// It can't load the model.
    #[error("{0}")]
    Refused(String),
    /// It takes too long.
    #[error("the Python worker had not loaded the model after {0} s")]
    Slow(u64),
}

/// First wait before a restart; it doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A worker that lived this long starts the waits anew.
const HEALTHY: Duration = Duration::from_secs(60);

struct Job {
    inputs: Vec<Tensor>,
    reply: oneshot::Sender<Result<Vec<Tensor>, InferError>>,
}

pub(super) struct Python {
    queue: mpsc::Sender<Job>,
    limit: usize,
    /// Why the worker can't answer, while it can't.
    unready: Arc<RwLock<Option<String>>>,
    signature: Signature,
    shutdown: CancellationToken,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl Python {
    /// Starts the worker and waits until it has loaded the model.
    pub(super) async fn start(
        model: PathBuf,
        options: &Options,
        signature: Signature,
    ) -> Result<Self, PythonError> {
        let launch = Launch::new(model, options);
        let worker = Worker::start(&launch).await?;
        let (queue, jobs) = mpsc::channel(options.queue_limit.max(1));
        let unready = Arc::new(RwLock::new(None));
        let shutdown = CancellationToken::new();
        let supervisor = Supervisor {
            launch,
            jobs,
            unready: unready.clone(),
            predict: options.predict(),
        };
        let supervisor = tokio::spawn(supervisor.run(worker, shutdown.clone()));
        Ok(Self {
            queue,
            limit: options.queue_limit,
            unready,
            signature,
            shutdown,
            supervisor: Mutex::new(Some(supervisor)),
        })
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[async_trait]
impl Model for Python {
    fn metadata(&self) -> Metadata {
        Metadata {
            platform: "mlflow_pyfunc".into(),
            inputs: columns(&self.signature.inputs),
            outputs: columns(&self.signature.outputs),
        }
    }

    async fn infer(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Job { inputs, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => InferError::Busy(format!(
                "{} requests wait for the Python worker already; try again shortly or add replicas",
                self.limit
            )),
            mpsc::error::TrySendError::Closed(_) => {
                InferError::Unavailable("the server is shutting down".into())
            }
        })?;
        answer.await.unwrap_or_else(|_| {
            Err(InferError::Unavailable(
                "the server is shutting down".into(),
            ))
        })
    }

    fn unready(&self) -> Option<String> {
        self.unready.read().clone()
    }

    async fn close(&self) {
        self.shutdown.cancel();
        if let Some(supervisor) = self.supervisor.lock().await.take() {
            let _ = supervisor.await;
        }
    }
}

struct Supervisor {
    launch: Launch,
    jobs: mpsc::Receiver<Job>,
    unready: Arc<RwLock<Option<String>>>,
    predict: Duration,
}

impl Supervisor {
    async fn run(mut self, first: Worker, shutdown: CancellationToken) {
        let mut worker = first;
        let mut wait = FIRST_WAIT;
        loop {
            let started = Instant::now();
            let reason = tokio::select! {
                reason = self.serve(&mut worker) => reason,
                () = shutdown.cancelled() => None,
            };
            worker.stop().await;
            let Some(reason) = reason else { return };
            if started.elapsed() >= HEALTHY {
                wait = FIRST_WAIT;
            }
            let starting = self.restart(reason, &mut wait);
            let restarted = tokio::select! {
                worker = starting => Some(worker),
                () = shutdown.cancelled() => None,
            };
            match restarted {
                Some(restarted) => worker = restarted,
                None => return,
            }
            *self.unready.write() = None;
            tracing::info!("python worker restarted");
        }
    }

    /// Starts a new worker; tries for as long as it takes.
    async fn restart(&self, mut reason: String, wait: &mut Duration) -> Worker {
        loop {
            tracing::warn!(reason, wait = ?*wait, "python worker will be restarted");
            *self.unready.write() = Some(format!("the Python worker is being restarted: {reason}"));
            tokio::time::sleep(*wait).await;
            *wait = (*wait * 2).min(LONGEST_WAIT);
            match Worker::start(&self.launch).await {
                Ok(worker) => return worker,
                Err(error) => reason = error.to_string(),
            }
        }
    }

    /// Serves until the worker is of no use (says why) or nobody asks any more.
    async fn serve(&mut self, worker: &mut Worker) -> Option<String> {
        loop {
            let job = tokio::select! {
                job = self.jobs.recv() => job?,
                status = worker.ended() => return Some(format!("it ended ({status})")),
            };
            if job.reply.is_closed() {
                continue;
            }
            let asking = worker.ask(&job.inputs);
            let (result, lost) = match tokio::time::timeout(self.predict, asking).await {
                Ok(Ok(outputs)) => (Ok(outputs), None),
                Ok(Err(AskError::Input(message))) => (Err(InferError::Input(message)), None),
                Ok(Err(AskError::Model(message))) => (Err(InferError::Model(message)), None),
                Ok(Err(AskError::Lost(reason))) => {
                    let message =
                        format!("the Python worker died during this prediction: {reason}");
                    (Err(InferError::Model(message)), Some(reason))
                }
                Err(_) => {
                    let seconds = self.predict.as_secs();
                    let message = format!(
                        "the model did not answer within {seconds} s; its worker is restarted"
                    );
                    (
                        Err(InferError::Slow(message)),
                        Some("a prediction never ended".into()),
                    )
                }
            };
            // Who asked may be gone.
            let _ = job.reply.send(result);
            if lost.is_some() {
                return lost;
            }
        }
    }
}
