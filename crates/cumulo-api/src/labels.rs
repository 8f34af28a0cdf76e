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
/// Annotation on pods that have their node: which devices the scheduler gave them for [`GPU`],
/// a list as in a ResourceClaim's `status.allocation.devices.results`.
pub const GPU_DEVICES: &str = "cumulo.dev/gpu-devices";
/// On nodes, as a label and the key of a taint: what runs pods there. The value
/// [`RUNTIME_PROCESS`] says that only Cumulo's runtime image does, as processes.
pub const RUNTIME: &str = "cumulo.dev/runtime";
/// The value of [`RUNTIME`] on nodes of Cumulo's own agent.
pub const RUNTIME_PROCESS: &str = "process";
/// On nodes: the flavor that quotas count them under.
pub const FLAVOR: &str = "cumulo.dev/flavor";
/// Label on pods: the Queue in which they wait for their turn.
pub const QUEUE: &str = "cumulo.dev/queue";
/// Label on pods: the gang of their namespace that starts as a whole or not at all.
pub const GANG: &str = "cumulo.dev/gang";
/// Annotation or label on pods of a gang: how many of them must start together.
pub const GANG_SIZE: &str = "cumulo.dev/gang-size";
/// Label on pods of a TrainJob that has several: which of them it is, counted from 0.
pub const RANK: &str = "cumulo.dev/rank";
/// Annotation on pods of a gang: the label of nodes whose value all of them must share.
pub const REQUIRED_TOPOLOGY: &str = "cumulo.dev/required-topology";
/// Annotation on pods of a gang: the label of nodes whose value they should share.
pub const PREFERRED_TOPOLOGY: &str = "cumulo.dev/preferred-topology";
/// Annotation on pods: how long they are expected to run, such as `2h`.
pub const ESTIMATED_DURATION: &str = "cumulo.dev/estimated-duration";
/// Annotation on pods in a Queue: a whole number from -1000 to 1000; higher goes first. A PriorityClass counts instead.
pub const PRIORITY: &str = "cumulo.dev/priority";
