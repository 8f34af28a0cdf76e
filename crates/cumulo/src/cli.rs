//! The command line's grammar and its help.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod cluster;

pub use cluster::{GatewayArgs, NodeArgs, OperatorArgs, TlsArgs, TrackingArgs};

/// From data to a monitored, autoscaled model in one process.
#[derive(Debug, Parser)]
#[command(
    name = "cumulo",
    version,
    max_term_width = 100,
    after_help = "Start with:\n  cumulo up\n  cumulo run examples/flights\n  cumulo predict flights --data examples/flights/tomorrow.csv\n\nAll state lies in one folder: ~/.cumulo, or what CUMULO_HOME names."
)]
pub struct Cli {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which platform a command speaks to; without these, the one of this machine.
#[derive(Clone, Debug, Default, Args)]
pub struct PlaceArgs {
    /// The kubeconfig's context to use instead of this machine's platform.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Another platform"
    )]
    pub context: Option<String>,
    /// The kubeconfig to use; without it what KUBECONFIG names, or ~/.kube/config.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Another platform"
    )]
    pub kubeconfig: Option<PathBuf>,
}

impl PlaceArgs {
    /// Whether this machine's platform is meant.
    pub fn is_empty(&self) -> bool {
        self.context.is_none() && self.kubeconfig.is_none()
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the platform on this machine.
    #[command(
        after_help = "The platform is one process that serves the Kubernetes API, tracking, registry and inference at one address.\nIt goes to the background once it is ready; --foreground stays, for systemd or a container."
    )]
    Up(UpArgs),
    /// Stop the platform and everything that it runs.
    Down(DownArgs),
    /// Show whether the platform runs, and what it runs.
    Status(OutputArgs),
    /// Apply a project and follow it to a served model.
    #[command(
        after_help = "PROJECT is a folder of manifests, or one manifest. Files that it names are uploaded, addressed by their content.\nRun again with nothing changed, it changes nothing.\n\nExample:\n  cumulo run examples/flights"
    )]
    Run(RunArgs),
    /// Apply manifests and return at once.
    #[command(
        after_help = "Like `kubectl apply --server-side`, and it uploads the files that the manifests name.\n\nExample:\n  cumulo apply -f examples/flights"
    )]
    Apply(ApplyArgs),
    /// List objects.
    #[command(
        after_help = "Examples:\n  cumulo get cumulo -A          all of Cumulo's kinds\n  cumulo get model late-flights -o yaml\n  cumulo get pods -w"
    )]
    Get(GetArgs),
    /// Show one object in full, with its events.
    Describe(DescribeArgs),
    /// Say why a pod waits, its place, and what would let it run; or where it runs, with which devices.
    #[command(
        after_help = "More: docs/scheduling.md.\n\nExamples:\n  cumulo explain pod/train-1\n  cumulo explain trainjob/quickstart"
    )]
    Explain(ExplainArgs),
    /// Delete objects; what they made goes with them, except published versions.
    Delete(DeleteArgs),
    /// Print the logs of a pod, or of what a Dataset, TrainJob, Model or InferenceService runs.
    #[command(
        after_help = "Examples:\n  cumulo logs -f trainjob/quickstart\n  cumulo logs flights --tail 20"
    )]
    Logs(LogsArgs),
    /// Rows in, predictions out.
    #[command(
        after_help = "The file is CSV or JSON lines; columns that the model does not know are ignored.\n\nExamples:\n  cumulo predict flights --data examples/flights/tomorrow.csv\n  cumulo predict flights --data rows.csv --print-request > request.json     to send with curl"
    )]
    Predict(PredictArgs),
    /// Ask SQL of the current snapshots of the Datasets.
    #[command(
        after_help = "Each Dataset is a table of its name (dashes need quotes: \"late-flights\").\n\nExample:\n  cumulo sql 'SELECT origin, avg(arr_delay) FROM flights GROUP BY 1'"
    )]
    Sql(SqlArgs),
    /// Run any Python script as a tracked TrainJob, and follow its log.
    #[command(
        after_help = "The script runs unmodified in its own environment; MLflow finds the tracking server by itself.\n\nExample:\n  cumulo train examples/quickstart/train.py --packages scikit-learn,mlflow"
    )]
    Train(Box<TrainArgs>),
    /// List registered models and their versions.
    Models(ModelsArgs),
    /// List tracked runs.
    Runs(RunsArgs),
    /// Show the node's GPUs: who has what, how they are, what would fit.
    #[command(
        after_help = "Bars: █ held by pods, ░ free; with MIG ▒ is an idle instance, · belongs to none.\nMore: docs/gpus.md.\n\nExamples:\n  cumulo gpus\n  cumulo gpus fits 0.3\n  cumulo gpus fits '{memory: 10Gi, model: [A100, H100]}'"
    )]
    Gpus(GpusArgs),
    /// Say who may use the platform besides its owner.
    #[command(
        subcommand,
        after_help = "A user has a name, a token and a role. The token stands in the kubeconfig that `add` prints, and nowhere else.\n\nExample:\n  cumulo user add ada --role edit --namespace team > ada.kubeconfig\n  kubectl --kubeconfig ada.kubeconfig auth can-i --list"
    )]
    User(UserCommand),
    /// Copy the whole platform to a file or an object store, while it runs.
    #[command(
        after_help = "Objects, tracking and registry are as one moment left them, with the artifacts that they name.\nThe file holds every secret of the platform and is readable by its owner only.\n\nExamples:\n  cumulo backup cumulo.tar\n  cumulo backup s3://backups/cumulo.tar     credentials: docs/storage.md"
    )]
    Backup {
        /// A file, or s3://bucket/path/name.tar.
        #[arg(value_name = "FILE|URL")]
        to: String,
    },
    /// Make a platform out of a backup, in an empty folder.
    #[command(
        after_help = "Example:\n  CUMULO_HOME=~/restored cumulo restore cumulo.tar && CUMULO_HOME=~/restored cumulo up"
    )]
    Restore {
        /// What `cumulo backup` wrote.
        #[arg(value_name = "FILE|URL")]
        from: String,
    },
    /// Replay a trace of a cluster: how much of its GPUs each packing policy can use.
    #[command(
        after_help = "TRACE is a folder with one *node*.csv and one or more *pod*.csv, or the files themselves, nodes first.\nBoth the Alibaba release (cluster-trace-gpu-v2023) and plain CSV are read; columns are found by name:\n  nodes: name (or sn), cpu_milli, memory_mib, gpu, model\n  pods:  name, cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec (allowed models, A|B; may be empty)\n\nPods are sorted by name, shuffled with each seed, and more are drawn until demand is --inflate times the\ncluster's GPUs. They come one by one; none leaves, none is tried again. --motion adds a cluster in motion.\n\nExamples:\n  cumulo simulate --trace traces/fgd --policy ours,fgd,bestfit --out results\n  cumulo simulate --trace nodes.csv pods.csv --seeds 1-3 --motion"
    )]
    Simulate(SimulateArgs),
    /// Role on a cluster: the controllers.
    #[command(
        after_help = "Any number may run; one leads (a Lease). Roles on a cluster: docs/roles.md."
    )]
    Operator(Box<OperatorArgs>),
    /// Role on a cluster: experiment tracking, model registry and artifacts, as MLflow's REST API.
    #[command(
        after_help = "Who may is asked of the cluster: get and update of models/tracking (docs/access.md)."
    )]
    Tracking(Box<TrackingArgs>),
    /// Role on a cluster: the way in for inference. Any number may run.
    #[command(
        after_help = "Who may is asked of the cluster: create of inferenceservices/predict (docs/access.md)."
    )]
    Gateway(Box<GatewayArgs>),
    /// Role on a cluster: a node that runs Cumulo's pods as processes of this machine.
    #[command(
        after_help = "State lies below CUMULO_HOME: two nodes on one machine need a folder and a --pod-cidr each.

Example:
  cumulo node --kubeconfig admin.kubeconfig --name worker-1 --listen 192.0.2.7:10250"
    )]
    Node(Box<NodeArgs>),
    /// Print what is to be installed on a Kubernetes cluster.
    #[command(
        after_help = manifests_help()
    )]
    Manifests(ManifestsArgs),
    /// Look at what this machine, or a cluster, has and lacks.
    #[command(
        after_help = "Each line is ok, warn or fail, and what is not ok comes with what to do. The exit code is 1 when something fails.\n\nExamples:\n  cumulo doctor\n  cumulo doctor cluster                        the kubeconfig's current context\n  cumulo doctor cluster --context staging --set database.secret=postgres -o json"
    )]
    Doctor(DoctorArgs),
    /// Run the scheduler alone, on any Kubernetes API server: for pods with `schedulerName: cumulo`.
    #[command(
        after_help = "`cumulo up` has it inside. On a cluster several may run; the one that holds the Lease works.\nMore: docs/scheduling.md.\n\nExample:\n  cumulo scheduler --kubeconfig ~/.kube/config --context prod"
    )]
    Scheduler(SchedulerArgs),
    /// Print the shell's completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Roles that pods run: build a Dataset's snapshot.
    #[command(subcommand, hide = true)]
    Data(DataRole),
    /// Roles that pods run: train and evaluate.
    #[command(subcommand, hide = true)]
    Learn(LearnRole),
    /// Role that pods run: a command in a Python environment, tracked.
    #[command(hide = true)]
    Exec(ExecArgs),
    /// Serve one model over the Open Inference Protocol.
    #[command(hide = true)]
    Serve(ServeArgs),
    /// Say how to go on with a service that is ready.
    #[command(hide = true)]
    Hints {
        /// The InferenceService.
        service: String,
        /// A file of rows to name in the examples.
        #[arg(long, value_name = "FILE", default_value = "FILE")]
        data: PathBuf,
    },
    /// Print the command-line reference as Markdown.
    #[command(hide = true)]
    Reference,
    /// Print the CustomResourceDefinitions.
    #[command(hide = true)]
    Crds,
}

/// Options of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Stay in the foreground and log to standard error.
    #[arg(long)]
    pub foreground: bool,
    /// The address and port to listen on.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = crate::home::DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    /// Print only errors.
    #[arg(long, short)]
    pub quiet: bool,
    /// Serve the Kubernetes API alone: the other roles run as processes of their own (docs/roles.md).
    #[arg(long)]
    pub api_only: bool,
}

/// Options of `down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// Leave pods running; the next `cumulo up` takes them over.
    #[arg(long)]
    pub keep_pods: bool,
}

/// Options of `manifests`.
#[derive(Debug, Args)]
pub struct ManifestsArgs {
    /// The namespace to install into.
    #[arg(long, short, default_value = crate::place::SYSTEM_NAMESPACE)]
    pub namespace: String,
    /// The image of Cumulo's roles, best with its digest: NAME@sha256:….
    #[arg(long)]
    pub image: Option<String>,
    /// A setting; those there are stand below.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

fn manifests_help() -> String {
    format!(
        "{}\nNothing is asked of any cluster: `cumulo doctor cluster` does that, and docs/cluster.md goes through all of it.\n\nExample:\n  cumulo manifests --image registry.example.org/cumulo@sha256:… --set artifacts=s3://models/cumulo \\\n    --set artifacts.secret=object-store --set database.secret=postgres | kubectl apply --server-side -f -",
        crate::manifests::settings::help()
    )
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// What to look at instead of this machine.
    #[command(subcommand)]
    pub command: Option<DoctorCommand>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What `doctor` looks at.
#[derive(Debug, Subcommand)]
pub enum DoctorCommand {
    /// A cluster: whether it has what an installation needs, before anything is installed.
    Cluster(DoctorClusterArgs),
}

/// Options of `doctor cluster`.
#[derive(Debug, Args)]
pub struct DoctorClusterArgs {
    /// The namespace to install into.
    #[arg(long, short)]
    pub namespace: Option<String>,
    /// A setting of `cumulo manifests`, which may need more or less of the cluster.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `gpus`.
#[derive(Debug, Args)]
pub struct GpusArgs {
    /// What to do instead of listing.
    #[command(subcommand)]
    pub command: Option<GpusCommand>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Commands about GPUs.
#[derive(Debug, Subcommand)]
pub enum GpusCommand {
    /// Say whether and where a pod that asks for this would get it now; the exit code is 1 for no.
    Fits {
        /// A share (0.3), a count (2), memory (10Gi), a profile (1g.10gb), or {count: 2, model: [A100, H100]}.
        ask: cumulo_api::Gpu,
    },
}

/// Commands about users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user, and print a kubeconfig with their token.
    #[command(
        after_help = "The kubeconfig is printed once; the platform keeps only a hash of its token. A token that got lost is replaced by removing and adding the user again.\n\nRoles, each with what the one before it has:\n  view            read objects, tracking and the list of services; no Secrets\n  edit            write objects and tracking, read Secrets, ask for predictions\n  admin           give roles in the namespace\n  cluster-admin   everything\n\nWithout --namespace a role holds everywhere. Tracking, the registry and artifacts are in no namespace: a user of one namespace cannot use them.\nMore, and finer, with `kubectl create rolebinding`: docs/access.md.\n\nExamples:\n  cumulo user add ada --role view > ada.kubeconfig\n  cumulo user add bob --role edit --namespace team > bob.kubeconfig\n\nThe same token is for MLflow (MLFLOW_TRACKING_TOKEN) and for predictions (Authorization: Bearer)."
    )]
    Add(UserAddArgs),
    /// List users with their roles.
    List,
    /// Remove a user: the token is refused from now on, and the role is taken back.
    Remove {
        /// The user.
        name: String,
    },
}

/// Options of `user add`.
#[derive(Debug, Args)]
pub struct UserAddArgs {
    /// The name: letters, digits, '-', '_' and '.'.
    pub name: String,
    /// What the user may do.
    #[arg(long, value_enum)]
    pub role: UserRole,
    /// The only namespace in which the role holds. It has to exist.
    #[arg(long, short)]
    pub namespace: Option<String>,
}

/// The roles that `user add` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UserRole {
    /// Read.
    View,
    /// Read and write.
    Edit,
    /// Read, write and give roles.
    Admin,
    /// Everything.
    ClusterAdmin,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// All columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Names only.
    Name,
    /// Comma-separated values.
    Csv,
}

/// Options of everything that prints.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// How to print.
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: Format,
}

/// Options of everything that lies in a namespace.
#[derive(Clone, Debug, Args)]
pub struct NamespaceArgs {
    /// The namespace; the context's own, or `default`, when absent.
    #[arg(long, short)]
    pub namespace: Option<String>,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The project's folder, or one manifest.
    pub project: PathBuf,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Give up after this long (such as 10m). Without it, follow until done.
    #[arg(long, value_parser = cumulo_api::parse_duration)]
    pub timeout: Option<std::time::Duration>,
}

/// Options of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// A manifest, or a folder of them.
    #[arg(long = "file", short, value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Let the server check everything and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The type: a plural, singular, short name, kind, or the category `cumulo`. Also TYPE/NAME.
    #[arg(value_name = "TYPE")]
    pub resource: String,
    /// One object.
    pub name: Option<String>,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// All namespaces.
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Only objects with these labels, such as `app=a,tier!=b`.
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Go on printing changes.
    #[arg(long, short)]
    pub watch: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// The type, or TYPE/NAME.
    #[arg(value_name = "TYPE")]
    pub resource: String,
    /// The object.
    pub name: Option<String>,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
}

/// Options of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// pod/NAME, trainjob/NAME, inferenceservice/NAME or gang/NAME; or the type alone.
    #[arg(value_name = "TYPE/NAME")]
    pub resource: String,
    /// The object, where it is not named with the type.
    pub name: Option<String>,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
}

/// Options of `scheduler`.
#[derive(Debug, Args)]
pub struct SchedulerArgs {
    /// The `schedulerName` of the pods that it places.
    #[arg(long, value_name = "NAME", default_value = cumulo_control::SCHEDULER_NAME)]
    pub name: String,
    /// Place pods of the default scheduler as well: only where no other scheduler does.
    #[arg(long)]
    pub default_scheduler: bool,
    /// Make ResourceClaims from templates and free those that nobody uses: only where kube-controller-manager does not.
    #[arg(long)]
    pub claim_controller: bool,
    /// Answer /healthz, /livez and /readyz here.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Most pods that are being bound at the same time.
    #[arg(long, value_name = "COUNT", default_value_t = 128)]
    pub requests: usize,
    /// Schedule without asking whether another does: only where no other runs, as two may give one device twice.
    #[arg(long)]
    pub no_leader_election: bool,
    /// Namespace of the Lease.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub lease_namespace: String,
    /// This process's name in the Lease; the machine's name and a random word when absent.
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
}

/// Options of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The type, or TYPE/NAME.
    #[arg(value_name = "TYPE", required_unless_present = "files")]
    pub resource: Option<String>,
    /// The objects.
    pub names: Vec<String>,
    /// Delete what these manifests describe.
    #[arg(long = "file", short, value_name = "PATH")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Return without waiting until they are gone.
    #[arg(long)]
    pub no_wait: bool,
}

/// Options of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// NAME, or TYPE/NAME.
    pub target: String,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Go on as lines come.
    #[arg(long, short)]
    pub follow: bool,
    /// Only the last lines.
    #[arg(long)]
    pub tail: Option<u64>,
    /// The container's run before this one.
    #[arg(long)]
    pub previous: bool,
    /// Show when each line was written.
    #[arg(long)]
    pub timestamps: bool,
}

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

/// Roles around data.
#[derive(Debug, Subcommand)]
pub enum DataRole {
    /// Build the snapshot that CUMULO_DATASET (JSON) describes.
    Build,
}

/// Roles around learning.
#[derive(Debug, Subcommand)]
pub enum LearnRole {
    /// Train what CUMULO_TRAIN (JSON) describes.
    Train,
    /// Evaluate what CUMULO_EVALUATE (JSON) describes.
    Evaluate,
}

/// Options of `simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// A folder, or the nodes' file and then pods' files.
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    pub trace: Vec<PathBuf>,
    /// Policies, with commas; all when none is named.
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(cumulo_schedule::packing::Policy::ALL.map(cumulo_schedule::packing::Policy::name)))]
    pub policy: Vec<String>,
    /// Seeds: a range or a list, such as 42-51 or 1,2,3.
    #[arg(long, default_value = "42-51")]
    pub seeds: Seeds,
    /// Demand at the end, as a multiple of the cluster's GPUs.
    #[arg(long, value_name = "TIMES", default_value_t = 1.3)]
    pub inflate: f64,
    /// Replay `ours` again and let it move at most this many percent of the pods; 0 for no second replay.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    pub moved: f64,
    /// Do not compute the upper bounds.
    #[arg(long)]
    pub no_bound: bool,
    /// Simulate arrivals and departures too: utilisation, waits, fairness.
    #[arg(long)]
    pub motion: bool,
    /// With --motion: GPUs that the stream asks for, in percent of the cluster.
    #[arg(long, value_name = "PERCENT", default_value_t = 90.0)]
    pub load: f64,
    /// With --motion: how long to measure, once the cluster has run in for three lifetimes.
    #[arg(long, default_value_t = 168.0)]
    pub hours: f64,
    /// With --motion: mean lifetime of a pod, in hours.
    #[arg(long, value_name = "HOURS", default_value_t = 24.0)]
    pub lifetime: f64,
    /// Write the table, the curves and the plots into this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Seeds of replays.
#[derive(Clone, Debug)]
pub struct Seeds(pub Vec<u64>);

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is no list of seeds; expected 42-51 or 1,2,3");
        let number = |word: &str| word.trim().parse::<u64>().map_err(|_| expected());
        let mut seeds = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last || last - first >= 1000 {
                        return Err(expected());
                    }
                    seeds.extend(first..=last);
                }
                None => seeds.push(number(part)?),
            }
        }
        Ok(Self(seeds))
    }
}

/// Options of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// A requirements.txt: run COMMAND in an environment that satisfies it, untracked.
    #[arg(long, value_name = "FILE")]
    pub requirements: Option<PathBuf>,
    /// The Python version of that environment.
    #[arg(long)]
    pub python: Option<String>,
    /// A file or folder that COMMAND reads; in a pod it reads nothing else of the machine.
    #[arg(long, value_name = "PATH")]
    pub read: Vec<PathBuf>,
    /// The command; without it, CUMULO_EXEC (JSON) says everything.
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The name that requests use.
    #[arg(long)]
    pub name: String,
    /// The registered model's name.
    #[arg(long)]
    pub model_name: Option<String>,
    /// Its version.
    #[arg(long)]
    pub model_version: Option<String>,
    /// Where the model lies: models:/NAME/VERSION, a folder, or an .onnx file.
    #[arg(long)]
    pub model_uri: String,
    /// What runs it.
    #[arg(long, default_value = "auto")]
    pub runtime: String,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub address: SocketAddr,
}
