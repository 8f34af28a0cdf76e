//! Options of the commands about objects.

use std::path::PathBuf;

use clap::Args;

use super::{NamespaceArgs, OutputArgs};

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
