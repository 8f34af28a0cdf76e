//! Labels and annotations that Cumulo sets on what it makes.

/// Who made an object; the value is [`MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const MANAGER: &str = "cumulo";
/// On pods: the Dataset that the pod builds.
pub const DATASET: &str = "cumulo.dev/dataset";
/// On pods: the TrainJob that the pod runs.
pub const TRAIN_JOB: &str = "cumulo.dev/train-job";
/// On pods and TrainJobs: the Model that they belong to.
pub const MODEL: &str = "cumulo.dev/model";
/// On pods: the InferenceService that the pod serves.
pub const INFERENCE_SERVICE: &str = "cumulo.dev/inference-service";
/// On pods: the revision (model version and serving settings) that the pod serves.
pub const REVISION: &str = "cumulo.dev/revision";
/// On objects that `cumulo run` or `cumulo apply` made: the project's name.
pub const PROJECT: &str = "cumulo.dev/project";
/// Annotation on pods: what they ask of GPUs, as [`crate::Gpu::text`] writes it.
pub const GPU: &str = "cumulo.dev/gpu";
/// On nodes, as a label and the key of a taint: what runs pods there. The value
/// [`RUNTIME_PROCESS`] says that only Cumulo's runtime image does, as processes.
pub const RUNTIME: &str = "cumulo.dev/runtime";
/// The value of [`RUNTIME`] on nodes of Cumulo's own agent.
pub const RUNTIME_PROCESS: &str = "process";
