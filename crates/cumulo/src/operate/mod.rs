//! The roles of a cluster, each a process of its own beside a real API server.
//!
//! ```text
//!                      kube-apiserver ◄──────────┬────────────┬───────────────┐
//!                            │ logs, exec, …     │            │               │
//!                            ▼                   │            │               │
//!   users ─► gateway ×n ─► node ×n: pods      operator ×n   tracking ◄────────┤
//!               ▲    ▲                          │  │  ▲      (reviews)        │
//!               │    └──────── demand ──────────┘  │  └ one leads: a Lease    │
//!               └ tracking's paths                 └─ registry ─► tracking    │
//!               └──────────────── TokenReview, SubjectAccessReview ───────────┘
//! ```

mod credential;
mod demand;
mod fleet;
mod follow;
mod gateway;
mod kubelet;
mod node;
mod operator;
mod registry;
mod registry_changes;
mod reviews;
mod serve;
mod tls;
mod tracking;
mod trust;
mod usage;

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::PlaceArgs;

pub use gateway::run as gateway;
pub use node::run as node;
pub use operator::run as operator;
pub use tracking::run as tracking;

/// How long a role may take to end.
const SHUTDOWN: Duration = Duration::from_secs(15);

/// Runs a role in this process until SIGTERM or SIGINT, which cancel its token.
fn run<F, R>(role: F) -> Result<()>
where
    F: FnOnce(CancellationToken) -> R,
    R: Future<Output = Result<()>>,
{
    crate::platform::log();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)),
        )
        .thread_name("cumulo")
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("going down");
            stop.cancel();
        });
        role(shutdown).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// How to reach the API server: the named kubeconfig, or the service account of
/// the pod that this runs in, or the usual kubeconfig.
async fn config(arguments: &PlaceArgs) -> Result<kube::Config> {
    let options = KubeConfigOptions {
        context: arguments.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = if let Some(path) = &arguments.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(path)
            .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
        kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .with_context(|| format!("the kubeconfig {} cannot be used", path.display()))?
    } else if arguments.context.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        kube::Config::incluster().context("the pod's service account cannot be used")?
    } else {
        kube::Config::from_kubeconfig(&options).await.context(
            "no API server is known: name a kubeconfig with --kubeconfig, or run in a pod with a service account",
        )?
    };
    config.connect_timeout = Some(Duration::from_secs(10));
    Ok(config)
}

/// A client for the API server.
fn client(config: kube::Config) -> Result<kube::Client> {
    kube::Client::try_from(config).context("the connection to the API server cannot be prepared")
}
