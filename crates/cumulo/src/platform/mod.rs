//! The platform: every role in one process, behind one address.
//!
//! ```text
//!                       ┌ /api /apis /openapi … ─► API server ◄─ kube::Client ─┬─ controllers
//! TLS or plain ─► access┼ /api/2.0/mlflow…      ─► tracking, registry          ├─ gateway
//!                       ├ /gpus                 ─► node agent                  │
//!                       └ /v2/…                 ─► gateway ─► model servers    └─ node agent ─► pods
//! ```

mod access;
mod backup;
mod certificate;
mod definitions;
mod demand;
mod devices;
mod guard;
mod kubelet;
mod registry;
mod routes;
mod signer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::home::{Credentials, Home, Running};

pub use devices::router as devices;
pub use guard::{Access, Guard, Unavailable};
pub use kubelet::{confine, node_options, proxy};
pub use registry::registered;
pub use routes::{Part, answer, nobody, part};

/// The Secret, in every namespace that has pods, with the token that pods use.
pub const TRACKING_SECRET: &str = "cumulo-tracking";
/// Its key there.
pub const TRACKING_SECRET_KEY: &str = "token";
/// How long roles may take to end.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Runs the platform in this process until SIGTERM or SIGINT.
///
/// SIGTERM ends the pods as well; SIGINT leaves them, and the next start takes them over.
/// With `api_only` the Kubernetes API is served and nothing else runs.
///
/// # Errors
/// When another platform holds the folder, the port is taken, or the state cannot be read.
pub fn run(home: &Home, listen: SocketAddr, api_only: bool) -> Result<()> {
    log();
    let lock = lock(home)?;
    // Files of the platform are its owner's alone, whatever the shell's mask is.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)),
        )
        .thread_name("cumulo")
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(home, listen, api_only));
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(lock);
    result
}

/// Logs to standard error, as `CUMULO_LOG` says.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CUMULO_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("info,kube=warn,hyper=warn,sqlx=warn")
    });
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}

/// Holds the folder: two platforms on one state would destroy it.
fn lock(home: &Home) -> Result<Flock<std::fs::File>> {
    let path = home.path("platform.lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let holder = home
                .running()
                .map(|running| format!(" (process {} at {})", running.pid, running.address))
                .unwrap_or_default();
            bail!(
                "another platform runs on {}{holder}: `cumulo down` stops it, CUMULO_HOME names another folder",
                home.root().display()
            )
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Opens a port.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{listen} is taken by another program: choose another with --listen ADDRESS:PORT"
        ),
        std::io::ErrorKind::AddrNotAvailable => anyhow::anyhow!(
            "{listen} is not an address of this machine: choose another with --listen ADDRESS:PORT"
        ),
        _ => anyhow::anyhow!("cannot listen on {listen}: {error}"),
    })
}

/// Serves a router until the shutdown. A client's certificate, where there is
/// one, says who asks.
pub async fn listen(
    socket: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: axum::Router,
    shutdown: CancellationToken,
) {
    cumulo_apiserver::listener::serve(socket, tls, signer::user_of, router, shutdown).await;
}

async fn serve(home: &Home, listen_on: SocketAddr, api_only: bool) -> Result<()> {
    let started = std::time::Instant::now();
    let listener = bind(listen_on).await?;
    let address = listener.local_addr()?;
    let credentials = home.credentials()?;
    let tls = certificate::load(home, address.ip())?;
    home.write_kubeconfig(&address.to_string(), &tls.authority, &credentials.admin)?;
    let platform_url = format!("http://{address}");

    let parts = Parts::default();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let mut api_options = access::api_options(home, &credentials)?;
    api_options.authority = Some(tls.authority.clone());
    let (api_server, api) = cumulo_apiserver::Server::open(api_options)
        .await
        .context("the API server's state cannot be opened")?;
    spawn(
        &parts.stores,
        "api server",
        api_server.run(parts.store_shutdown.clone()),
    );
    let client = kube::Client::new(api.client_service(), "default");
    definitions::install(&client).await?;

    spawn(
        &parts.roles,
        "certificate signer",
        signer::run(client.clone(), tls.issuer.clone(), parts.shutdown.clone()),
    );

    let (router, node) = if api_only {
        (routes::api_only(api.router()), None)
    } else {
        let (router, node) = others(home, platform_url, &credentials, &api, client, &parts).await?;
        (router, Some(node))
    };
    spawn(
        &parts.roles,
        "listener",
        listen(listener, tls.config, router, parts.shutdown.clone()),
    );
    home.write_running(&Running {
        address: address.to_string(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })?;
    info!(
        address = %address,
        folder = %home.root().display(),
        milliseconds = started.elapsed().as_millis() as u64,
        "platform is up"
    );

    let keep_pods = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => true,
    };
    info!(keep_pods, "platform is going down");
    if let Some(node) = node.filter(|_| !keep_pods) {
        kubelet::stop_pods(&node).await;
    }
    for (token, tasks) in [
        (parts.shutdown, parts.roles),
        (parts.store_shutdown, parts.stores),
    ] {
        token.cancel();
        tasks.close();
        if tokio::time::timeout(SHUTDOWN, tasks.wait()).await.is_err() {
            error!("some roles did not end in time");
        }
    }
    let _ = std::fs::remove_file(home.path("platform.json"));
    info!("platform is down");
    Ok(())
}

/// What runs, and how it is told to end.
#[derive(Default)]
struct Parts {
    shutdown: CancellationToken,
    roles: TaskTracker,
    /// The object store outlives the roles that write to it.
    store_shutdown: CancellationToken,
    stores: TaskTracker,
}

/// Starts every role beside the API server: gives the routes of all, and the node.
async fn others(
    home: &Home,
    platform_url: String,
    credentials: &Credentials,
    api: &cumulo_apiserver::Handle,
    client: kube::Client,
    parts: &Parts,
) -> Result<(axum::Router, cumulo_node::Handle)> {
    let tracking = cumulo_track::Handle::open(&cumulo_track::Options::below(home.root()))
        .await
        .context("the tracking database cannot be opened")?;
    spawn(
        &parts.stores,
        "tracking",
        tracking.clone().run(parts.store_shutdown.clone()),
    );

    let gateway = cumulo_gateway::Gateway::new(cumulo_gateway::Options::default());
    let gateway_handle = gateway.handle();
    spawn(
        &parts.roles,
        "gateway",
        gateway.run(client.clone(), parts.shutdown.clone()),
    );

    let config = home.config()?;
    let agent = kubelet::agent(home, &config, client.clone()).await?;
    let node = agent.handle();
    api.set_kubelet(kubelet::proxy(node.clone()));
    spawn(
        &parts.roles,
        "node agent",
        agent.run(parts.shutdown.clone()),
    );

    let mut options = cumulo_control::Options::new(platform_url, home.artifacts_url()?);
    options.tracking_secret = Some(cumulo_control::TrackingSecret {
        name: TRACKING_SECRET.to_owned(),
        key: TRACKING_SECRET_KEY.to_owned(),
        token: Some(cumulo_control::TokenSource::Fixed(
            cumulo_control::Token::new(credentials.workload.clone()),
        )),
    });
    options.dataset_environment = dataset_environment(&config.allowed_roots, &config.allowed_hosts);
    options.scheduler = Some(cumulo_control::SchedulerOptions {
        default_scheduler: true,
        claim_controller: true,
        ..cumulo_control::SchedulerOptions::default()
    });
    spawn(
        &parts.roles,
        "controllers",
        cumulo_control::run(
            client,
            options,
            Arc::new(registry::TrackRegistry::new(tracking.clone())),
            Arc::new(demand::GatewayDemand::new(gateway_handle.clone())),
            parts.shutdown.clone(),
        ),
    );

    let router = routes::router(
        api.router(),
        tracking.router(),
        gateway_handle.router(),
        devices::router(node.clone()),
        backup::router(home, api.clone(), tracking.clone()),
        guard::Guard::new(api.clone()),
    );
    Ok((router, node))
}

/// What Datasets may read, as the pods that build them are told.
pub fn dataset_environment(roots: &[PathBuf], hosts: &[String]) -> Vec<(String, String)> {
    let roots: Vec<String> = roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    vec![
        ("CUMULO_ALLOWED_ROOTS".to_owned(), roots.join(":")),
        ("CUMULO_ALLOWED_HOSTS".to_owned(), hosts.join(",")),
    ]
}

/// Starts a role under its name; one that ends with an error says so once.
fn spawn<F, E>(roles: &TaskTracker, name: &'static str, role: F)
where
    F: std::future::Future<Output = E> + Send + 'static,
    E: RoleEnd + Send,
{
    roles.spawn(async move {
        if let Some(problem) = role.await.problem() {
            error!(role = name, problem, "role ended");
        }
    });
}

/// How a role ends: with nothing to say, or with an error.
trait RoleEnd {
    fn problem(self) -> Option<String>;
}

impl RoleEnd for () {
    fn problem(self) -> Option<String> {
        None
    }
}

impl<E: std::fmt::Display> RoleEnd for std::result::Result<(), E> {
    fn problem(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}
