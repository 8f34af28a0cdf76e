//! Cumulo's resource kinds: group `cumulo.dev`, version `v1alpha1`.
//!
//! Every kind follows Kubernetes' conventions: `spec` is wanted, `status` is
//! observed, conditions carry a reason and a message. The schema that
//! [`crds`] publishes holds the defaults and the validation, so that an API
//! server, embedded or real, answers a mistake with the field and the reason.
//! This crate does no I/O and reads no clock.

#![allow(
    clippy::duplicated_attributes,
    reason = "kube's derive takes one `printcolumn` for each column"
)]

pub mod dataset;
pub mod duration;
pub mod gpu;
pub mod inference_service;
pub mod labels;
pub mod model;
pub mod queue;
pub mod shared;
pub mod train_job;

pub use dataset::{Dataset, DatasetSpec, DatasetStatus};
pub use duration::parse_duration;
pub use gpu::{GPU_MAKERS, Gpu, GpuAmount, GpuAsk, GpuError, is_model};
pub use inference_service::{InferenceService, InferenceServiceSpec, InferenceServiceStatus};
pub use model::{Model, ModelSpec, ModelStatus};
pub use queue::{Queue, QueueSpec, QueueStatus};
pub use train_job::{TrainJob, TrainJobSpec, TrainJobStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of all kinds.
pub const GROUP: &str = "cumulo.dev";
/// The served and stored version.
pub const VERSION: &str = "v1alpha1";
/// The image that means "this binary": a node agent starts its own executable for it.
pub const RUNTIME_IMAGE: &str = "cumulo.dev/runtime";

/// The CustomResourceDefinitions of all kinds, in the order a project uses them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        Dataset::crd(),
        TrainJob::crd(),
        Model::crd(),
        InferenceService::crd(),
        Queue::crd(),
    ]
}

#[cfg(test)]
mod tests;
