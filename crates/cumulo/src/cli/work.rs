//! Options of the commands about data, training and predictions.

use std::path::PathBuf;

use clap::Args;

use super::{NamespaceArgs, OutputArgs};

/// Options of `predict`.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// The InferenceService.
    pub service: String,
    /// The rows.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Print the requests (Open Inference Protocol, one JSON a line) instead of sending them.
    #[arg(long)]
    pub print_request: bool,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `sql`.
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// One SELECT.
    pub query: String,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// The most rows to print.
    #[arg(long, default_value_t = 1000)]
    pub limit: usize,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The Python script.
    pub script: PathBuf,
    /// Requirements, such as scikit-learn,mlflow.
    #[arg(long, value_delimiter = ',')]
    pub packages: Vec<String>,
    /// A requirements.txt.
    #[arg(long, value_name = "FILE", conflicts_with = "packages")]
    pub requirements: Option<PathBuf>,
    /// The Python version, such as 3.11.
    #[arg(long)]
    pub python: Option<String>,
    /// Datasets that the script reads, NAME or INPUT=NAME; CUMULO_INPUT_<INPUT> holds each one's path.
    #[arg(long, value_delimiter = ',')]
    pub data: Vec<String>,
    /// The job's name; from the script's name when absent.
    #[arg(long)]
    pub name: Option<String>,
    /// Register what the script logs as a model under this name.
    #[arg(long)]
    pub model: Option<String>,
    /// CPU cores, such as 2.
    #[arg(long)]
    pub cpu: Option<String>,
    /// GPUs: a share (0.3), a count (2), memory (10Gi), a profile (1g.10gb), or {count: 2, model: [A100, H100]}.
    #[arg(long)]
    pub gpu: Option<cumulo_api::Gpu>,
    /// Memory, such as 4Gi; a script that uses more is ended.
    #[arg(long)]
    pub memory: Option<String>,
    /// How many pods run the script together; each finds RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub nodes: Option<i32>,
    /// The Queue in which it waits for its turn.
    #[arg(long)]
    pub queue: Option<String>,
    /// Its place among the work of its Queue, from -1000 to 1000; higher goes first.
    #[arg(long, requires = "queue", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub priority: Option<i32>,
    /// How often a failed run is tried again.
    #[arg(long, default_value_t = 0)]
    pub retries: i32,
    /// The longest one attempt may take, such as 8h.
    #[arg(long)]
    pub deadline: Option<String>,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Return once the job is created.
    #[arg(long)]
    pub detach: bool,
    /// Arguments of the script.
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

/// Options of `models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// One model: its versions.
    pub name: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `runs`.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Only runs of this experiment.
    #[arg(long)]
    pub experiment: Option<String>,
    /// Only runs that match, in MLflow's filter language, such as "metrics.auc > 0.7".
    #[arg(long)]
    pub filter: Option<String>,
    /// The most runs to list.
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    #[command(flatten)]
    pub output: OutputArgs,
}
