//! `cumulo scheduler`: the scheduler as a role of its own, on any API server.

use std::process::ExitCode;

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::get;
use cumulo_control::{LeaderOptions, SchedulerOptions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cli::{PlaceArgs, SchedulerArgs};

/// Name of the Lease of those who may schedule under one name.
const LEASE: &str = "cumulo-scheduler";

/// Schedules until SIGTERM or SIGINT.
///
/// # Errors
/// When the kubeconfig is wrong, the server does not answer, or the address is taken.
pub fn run(place: &PlaceArgs, arguments: SchedulerArgs) -> Result<ExitCode> {
    crate::platform::log();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("cumulo-scheduler")
        .enable_all()
        .build()?;
    runtime.block_on(serve(place, arguments))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(place: &PlaceArgs, arguments: SchedulerArgs) -> Result<()> {
    let client = kube::Client::try_from(config(place).await?)?;
    let version = client
        .apiserver_version()
        .await
        .context("the API server does not answer: see --kubeconfig and --context")?;
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if let Some(address) = arguments.listen {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}: choose another with --listen"))?;
        let routes = ["/healthz", "/readyz", "/livez"];
        let router = routes.iter().fold(Router::new(), |router, path| {
            router.route(path, get(|| async { "ok" }))
        });
        let stop = shutdown.clone();
        tokio::spawn(async move {
            let served =
                axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "health checks are not answered any more");
            }
        });
    }
    let leader = (!arguments.no_leader_election).then(|| {
        let identity = arguments.identity.clone().unwrap_or_else(identity);
        let lease = if arguments.name == cumulo_control::SCHEDULER_NAME {
            LEASE.to_owned()
        } else {
            format!("{LEASE}-{}", arguments.name)
        };
        LeaderOptions::new(&arguments.lease_namespace, lease, identity)
    });
    let options = SchedulerOptions {
        name: arguments.name.clone(),
        default_scheduler: arguments.default_scheduler,
        claim_controller: arguments.claim_controller,
        leader,
        requests: arguments.requests,
    };
    info!(
        server = version.git_version,
        name = arguments.name,
        "scheduler connected"
    );
    let scheduling = cumulo_control::run_scheduler(client, options, shutdown.clone());
    tokio::pin!(scheduling);
    tokio::select! {
        () = &mut scheduling => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
    scheduling.await;
    Ok(())
}

/// A name that no other process has.
fn identity() -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let started = started.map_or(0, |since| since.as_nanos());
    format!("{}-{}-{started:x}", machine.trim(), std::process::id())
}

/// From the files and variables that kubectl uses, or from the pod's own account.
async fn config(arguments: &PlaceArgs) -> Result<kube::Config> {
    let options = KubeConfigOptions {
        context: arguments.context.clone(),
        ..KubeConfigOptions::default()
    };
    match &arguments.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?)
        }
        None if arguments.context.is_some() => Ok(kube::Config::from_kubeconfig(&options).await?),
        None => kube::Config::infer()
            .await
            .context("no cluster is known: name one with --kubeconfig FILE"),
    }
}
