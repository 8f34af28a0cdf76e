//! The client side, for pods: track a run, register a model, move files.
//!
//! It survives a restart of the platform. A request that finds nobody, breaks off,
//! or is answered with 429 or 5xx is sent again with growing pauses until
//! [`Options::patience`] is over; every call here may be repeated without doubling
//! anything, also by a process that starts again after a crash.
//!
//! ```no_run
//! # async fn example() -> Result<(), cumulo_track::client::Error> {
//! use cumulo_track::{KeyValue, Metric, RunStatus, client::Client};
//!
//! let client = Client::from_environment()?;
//! let experiment = client.ensure_experiment("late-flights").await?;
//! let run = client.ensure_run(&experiment, "uid-of-the-train-job", "late-flights-1", vec![]).await?;
//! let id = &run.info.run_id;
//! client.log_batch(id, vec![Metric::new("auc", 0.79, 0, 0)], vec![], vec![]).await?;
//! let model = client.ensure_logged_model(&experiment, id, "model").await?;
//! client.upload_folder(&model.info.artifact_uri, "out/model".as_ref()).await?;
//! client.finalize_logged_model(&model.info.model_id).await?;
//! client.register(&model, "late-flights", "dataset-version-and-spec", vec![]).await?;
//! client.end_run(id, RunStatus::Finished).await?;
//! # Ok(()) }
//! ```

mod files;
mod models;
mod runs;
mod search;
mod transport;

use std::path::PathBuf;
use std::time::Duration;

use http::Method;

use crate::ErrorCode;

pub use files::Progress;
use transport::Transport;

/// What went wrong between this process and the tracking service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service refused.
    #[error("{message}")]
    Refused {
        /// What kind of refusal, if it said so in MLflow's way.
        code: Option<ErrorCode>,
        /// Its sentence.
        message: String,
        /// Its HTTP status.
        status: u16,
    },
    /// Nobody answered for as long as we had patience.
    #[error(
        "The tracking service at {address} did not answer for {waited:?} ({reason}). Check that \
         the platform is up (`cumulo status`) and that MLFLOW_TRACKING_URI is right."
    )]
    Unreachable {
        /// Where it should be.
        address: String,
        /// How long we tried.
        waited: Duration,
        /// The last attempt's failure.
        reason: String,
    },
    /// The settings make no sense.
    #[error("{0}")]
    Settings(String),
    /// A file here could not be read or written.
    #[error("Cannot {action} {}: {source}.", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The answer is not what the protocol says.
    #[error("The answer of the tracking service to {what} is not understood: {reason}.")]
    Answer {
        /// Which request.
        what: String,
        /// Why not.
        reason: String,
    },
    /// An artifact's path or URI is not valid.
    #[error(transparent)]
    Path(#[from] crate::Error),
}

impl Error {
    /// Whether the service said that something is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: Some(ErrorCode::ResourceDoesNotExist),
                ..
            }
        )
    }
}

/// How to reach the service.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it is, such as `http://127.0.0.1:8700`.
    pub address: String,
    /// Bearer token.
    pub token: Option<String>,
    /// How long to try again before giving up.
    pub patience: Duration,
    /// Accept any certificate (`MLFLOW_TRACKING_INSECURE_TLS`).
    pub insecure_tls: bool,
    /// Authorities to trust besides the machine's, as PEM
    /// (`MLFLOW_TRACKING_SERVER_CERT_PATH` names a file of them).
    pub authorities: Option<String>,
}

/// A cloneable client.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
}

/// Result of the client's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Client {
    /// A client with these settings.
    ///
    /// # Errors
    /// When the address is not a URL.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Self {
            transport: Transport::new(options)?,
        })
    }

    /// A client with MLflow's own settings: `MLFLOW_TRACKING_URI`,
    /// `MLFLOW_TRACKING_TOKEN`, `MLFLOW_TRACKING_INSECURE_TLS`,
    /// `MLFLOW_TRACKING_SERVER_CERT_PATH`.
    ///
    /// # Errors
    /// When `MLFLOW_TRACKING_URI` is missing or not a URL, or the file of
    /// authorities cannot be read.
    pub fn from_environment() -> Result<Self> {
        let address = std::env::var("MLFLOW_TRACKING_URI").map_err(|_| {
            Error::Settings(
                "MLFLOW_TRACKING_URI is not set: set it to the platform's address, such as \
                 http://127.0.0.1:8700."
                    .to_owned(),
            )
        })?;
        let insecure = std::env::var("MLFLOW_TRACKING_INSECURE_TLS").unwrap_or_default();
        let authorities = std::env::var_os("MLFLOW_TRACKING_SERVER_CERT_PATH")
            .filter(|path| !path.is_empty())
            .map(|path| {
                std::fs::read_to_string(&path).map_err(|error| {
                    Error::Settings(format!(
                        "MLFLOW_TRACKING_SERVER_CERT_PATH: {} cannot be read: {error}.",
                        path.display()
                    ))
                })
            })
            .transpose()?;
        Self::new(Options {
            address,
            token: std::env::var("MLFLOW_TRACKING_TOKEN")
                .ok()
                .filter(|t| !t.is_empty()),
            patience: Duration::from_secs(300),
            insecure_tls: insecure.eq_ignore_ascii_case("true") || insecure == "1",
            authorities,
        })
    }

    async fn done(&self, method: Method, path: &str, body: &serde_json::Value) -> Result<()> {
        let _: serde_json::Value = self.transport.send(method, path, body).await?;
        Ok(())
    }
}

/// A text for the filter language.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
