//! AutoML for tables: from a snapshot to an evaluated model that predicts the
//! same numbers in Rust and in Python.
//!
//! ```text
//! record batches ─► table ─► split ─┬─► search ─► booster (LightGBM) ─► artifact (an MLflow folder)
//!                     │             │                                        │
//!                     └─► features ─┘        evaluate ◄── held-out rows ◄────┤
//!                       (FeaturePlan)                                        ▼
//!                                                              model (LoadedModel, serving)
//! ```
//!
//! * [`train::train`] does the whole way; [`train::score_holdout`] scores any
//!   model on the held-out rows of a request, so that two models meet the same rows.
//! * [`model::LoadedModel`] predicts from named columns; it is immutable and
//!   thread-safe, and evaluates the trees in Rust.
//! * [`features::FeaturePlan`] is the single description of how columns become
//!   features; training, serving and the Python loader all apply it.
//!
//! Deciding is pure: nothing here reads a clock, opens a socket or knows of
//! Kubernetes. Time comes in through [`train::Progress`], and only [`artifact`]
//! touches a folder. See `README.md` for the method and measured results.

pub mod artifact;
mod booster;
pub mod column;
pub mod evaluate;
pub mod features;
mod hash;
pub mod metrics;
pub mod model;
mod native;
mod random;
pub mod search;
pub mod split;
pub mod table;
pub mod train;
pub mod trees;

pub use column::{Column, Columns};
pub use model::{LoadedModel, Predictions};
pub use train::{TrainOutcome, TrainRequest, train};
