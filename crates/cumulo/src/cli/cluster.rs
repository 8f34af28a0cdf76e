//! The roles that run on a cluster, each a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// The certificate of what a role serves.
#[derive(Clone, Debug, Default, Args)]
pub struct TlsArgs {
    /// Certificate chain (PEM); without it, one that this process signs itself.
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
}

/// Whom a role trusts when it calls another one over TLS.
#[derive(Clone, Debug, Default, Args)]
pub struct TrustArgs {
    /// Authorities or certificates (PEM) by which other roles are trusted, besides the machine's authorities.
    #[arg(long, value_name = "FILE", env = "CUMULO_CERTIFICATE_AUTHORITY")]
    pub certificate_authority: Option<PathBuf>,
}

/// Options of `operator`.
#[derive(Debug, Args)]
pub struct OperatorArgs {
    /// Where health (/healthz, /readyz) and metrics (/metrics) are served.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "CUMULO_LISTEN",
        default_value = "0.0.0.0:8710"
    )]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Namespace of the Lease by which one of several operators leads.
    #[arg(long, env = "CUMULO_NAMESPACE", default_value = "cumulo-system")]
    pub namespace: String,
    /// This replica's name in the election; from the machine's name when absent.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// The tracking server, for this process and for pods.
    #[arg(long, value_name = "URL", env = "CUMULO_TRACKING_URI")]
    pub tracking_uri: String,
    /// The gateway as users reach it: the URLs of services begin with it.
    #[arg(long, value_name = "URL", env = "CUMULO_GATEWAY_URL")]
    pub gateway_url: String,
    /// All replicas of the gateway, asked for demand: URLs with commas, or service/NAMESPACE/NAME.
    #[arg(
        long,
        value_name = "GATEWAYS",
        env = "CUMULO_GATEWAYS",
        default_value = "service/cumulo-system/cumulo-gateway"
    )]
    pub gateways: String,
    /// Root of the artifact store as pods see it: s3://BUCKET/PREFIX or file:///FOLDER.
    #[arg(long, value_name = "URL", env = "CUMULO_ARTIFACTS")]
    pub artifacts: String,
    /// The image of the pods that are made.
    #[arg(long, env = "CUMULO_IMAGE", default_value = cumulo_api::RUNTIME_IMAGE)]
    pub image: String,
    /// The scheduler of those pods; the cluster's default one when absent.
    #[arg(long, env = "CUMULO_SCHEDULER_NAME")]
    pub scheduler_name: Option<String>,
    /// The service account whose tokens pods get for tracking.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        env = "CUMULO_WORKLOAD_ACCOUNT",
        default_value = "cumulo-system/cumulo-workload"
    )]
    pub workload_account: String,
    /// How long such a token is asked to be good; it is renewed at half of its time.
    #[arg(
        long,
        value_name = "TIME",
        env = "CUMULO_WORKLOAD_TOKEN_LIFETIME",
        default_value = "168h",
        value_parser = cumulo_api::parse_duration
    )]
    pub workload_token_lifetime: Duration,
    /// A file with the bearer token for tracking and gateways; the API server's own when absent.
    #[arg(long, value_name = "FILE", env = "CUMULO_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Hosts that Datasets may read from.
    #[arg(
        long,
        value_name = "HOSTS",
        env = "CUMULO_ALLOWED_HOSTS",
        value_delimiter = ','
    )]
    pub allowed_hosts: Vec<String>,
    /// Folders of the nodes that Datasets may read.
    #[arg(
        long,
        value_name = "FOLDERS",
        env = "CUMULO_ALLOWED_ROOTS",
        value_delimiter = ':'
    )]
    pub allowed_roots: Vec<PathBuf>,
}

/// Options of `tracking`.
#[derive(Debug, Args)]
pub struct TrackingArgs {
    /// The address and port to listen on, for TLS and plain HTTP.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "CUMULO_LISTEN",
        default_value = "0.0.0.0:8720"
    )]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// The database.
    #[arg(long, value_name = "URL", env = "CUMULO_DATABASE")]
    pub database: String,
    /// Root of the artifact store.
    #[arg(long, value_name = "URL", env = "CUMULO_ARTIFACTS")]
    pub artifacts: String,
}

/// Options of `gateway`.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// The address and port to listen on, for TLS and plain HTTP.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "CUMULO_LISTEN",
        default_value = "0.0.0.0:8700"
    )]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Pass requests for tracking, registry and artifacts on to this server, so that users need one address.
    #[arg(long, value_name = "URL", env = "CUMULO_TRACKING_URI")]
    pub tracking_uri: Option<String>,
}

/// Options of `node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Name of the Node; the machine's when absent.
    #[arg(long, env = "CUMULO_NODE_NAME")]
    pub name: Option<String>,
    /// Where the API server reaches this node for logs, exec and port-forward; over TLS only.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "CUMULO_LISTEN",
        default_value = "0.0.0.0:10250"
    )]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// The node's own address; that of --listen when absent.
    #[arg(long, value_name = "ADDRESS", env = "CUMULO_NODE_IP")]
    pub node_ip: Option<std::net::Ipv4Addr>,
    /// Pods get their addresses out of this range, which has to be local to the machine.
    #[arg(
        long,
        value_name = "RANGE",
        env = "CUMULO_POD_CIDR",
        default_value = "127.64.0.0/10"
    )]
    pub pod_cidr: cumulo_node::address::Range,
    /// Authorities (PEM) whose client certificates are trusted, as kube-apiserver's --kubelet-client-certificate.
    #[arg(long, value_name = "FILE", env = "CUMULO_CLIENT_CA_FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Images that mean this program, whatever their tag or digest.
    #[arg(
        long,
        value_name = "IMAGES",
        env = "CUMULO_RUNTIME_IMAGES",
        value_delimiter = ',',
        default_value = cumulo_api::RUNTIME_IMAGE
    )]
    pub runtime_image: Vec<String>,
    /// Root of the artifact store, where it is a folder of this machine: Cumulo's own pods may reach it.
    #[arg(long, value_name = "URL", env = "CUMULO_ARTIFACTS")]
    pub artifacts: Option<String>,
    /// Folder of Python environments and downloads, shared by the pods; below CUMULO_HOME when absent.
    #[arg(long, value_name = "FOLDER", env = "CUMULO_NODE_CACHE")]
    pub cache: Option<PathBuf>,
    /// Folders that Datasets and hostPath volumes may read.
    #[arg(
        long,
        value_name = "FOLDERS",
        env = "CUMULO_ALLOWED_ROOTS",
        value_delimiter = ':'
    )]
    pub allowed_roots: Vec<PathBuf>,
    /// Further labels, NAME=VALUE.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Do not keep other pods away with the taint cumulo.dev/runtime=process:NoSchedule.
    #[arg(long)]
    pub no_taint: bool,
    /// Most pods at a time.
    #[arg(long, default_value_t = 110)]
    pub max_pods: usize,
    /// At SIGTERM, let the pods end within this time and leave; without it they go on, and the next start takes them over.
    #[arg(
        long,
        value_name = "TIME",
        env = "CUMULO_DRAIN",
        value_parser = cumulo_api::parse_duration
    )]
    pub drain: Option<Duration>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label: expected NAME=VALUE")),
    }
}
