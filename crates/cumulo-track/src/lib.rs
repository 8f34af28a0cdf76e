//! Experiment tracking, model registry and artifact store behind the MLflow REST API.
//!
//! Any MLflow 3 client works unchanged: set `MLFLOW_TRACKING_URI` to where the
//! [router](Handle::router) is served. State is one SQLite file and one folder.
//!
//! ```text
//!  MLflow clients, pods            platform (same process)
//!        │ HTTP                            │
//!        ▼                                 ▼
//!      rest ──────────► Handle ◄───────────┘     resolve, aliases, subscribe
//!                        │   │
//!        filter ► store ─┘   └─ artifacts        folder, streamed, sanitised
//!                  │
//!              database                          one writer (group commit), readers
//! ```
//!
//! [`client`] is the other side: what pods use to track, register and fetch, and
//! which survives a restart of the platform by trying again.
//!
//! **The router does not authenticate.** Whoever serves it must put a credential
//! in front of every route (Ray's job API without one became CVE-2023-48022).
//!
//! Retrying never doubles anything: logging is idempotent as in MLflow (the same
//! key, step, timestamp and value are one point), uploads replace whole files,
//! and creating a run tagged [`TRAIN_JOB_TAG`] or a model version tagged
//! [`TRAIN_KEY_TAG`] a second time returns the first.

mod address;
mod artifacts;
pub mod client;
mod database;
mod error;
mod filter;
mod handle;
mod names;
mod rest;
mod store;
mod validate;
mod wire;

pub use artifacts::{ArtifactPath, ArtifactStore};
pub use error::{Error, ErrorCode, Result};
pub use handle::{Handle, Options};
pub use store::registry_events::{RegistryChange, RegistryChanges};
pub use store::resolve::ResolvedModel;
pub use wire::*;

/// Tag of a run that says which training job it belongs to. Creating a run with it
/// is idempotent: a second one with the same value in the same experiment is the first.
pub const TRAIN_JOB_TAG: &str = "cumulo.trainJob";

/// Tag of a model version that says which training (dataset version and spec) made
/// it. Creating a version with it is idempotent within its registered model.
pub const TRAIN_KEY_TAG: &str = "cumulo.trainKey";
