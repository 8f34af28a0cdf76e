//! The node agent of this process, and its answers for pods: logs, exec, attach
//! and port-forward.

mod channels;
mod connection;
mod headers;
mod log_query;
mod port_channels;
mod port_forward;
mod proxy;
mod remote_spdy;
mod spdy;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cumulo_apiserver::KubeletProxy;
use cumulo_node::agent::{Agent, Handle};

use self::proxy::NodeProxy;
use crate::home::{Config, Home};

/// How long pods may take to end when the platform goes down.
const STOP: Duration = Duration::from_secs(35);

/// The agent that runs pods as processes of this machine.
pub async fn agent(home: &Home, config: &Config, client: kube::Client) -> Result<Agent> {
    let mut options = node_options(home)?;
    options.host_path_roots = config.allowed_roots.clone();
    options.over_memory = config.gpu_memory_exceeded;
    options.mig_instances = config.mig_instances;
    let store = home.path("artifacts");
    confine(&mut options, Some(&store), &config.allowed_roots)?;
    Agent::new(options, client).context("the node agent cannot start")
}

/// The usual settings of an agent whose state lies below a folder.
pub fn node_options(home: &Home) -> Result<cumulo_node::Options> {
    let executable = std::env::current_exe().context("cannot tell where this program lies")?;
    Ok(cumulo_node::Options::new(home.root(), executable))
}

/// Says what this program's own commands reach when they run as pods, and makes
/// the folders among it. `store` is the artifact store, if it is a folder.
pub fn confine(
    options: &mut cumulo_node::Options,
    store: Option<&Path>,
    sources: &[PathBuf],
) -> Result<()> {
    options.sandbox.roles = roles(store, &options.cache, sources, &options.base_environment);
    for folder in options.sandbox.roles.iter().flat_map(|role| &role.write) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(())
}

/// What this program's own commands reach when they run as pods: of the
/// platform's folder the artifact store and the cache, nothing else. What they
/// write into the store but for datasets goes through the tracking server.
fn roles(
    store: Option<&Path>,
    cache: &Path,
    sources: &[PathBuf],
    environment: &[(String, String)],
) -> Vec<cumulo_node::sandbox::RoleAccess> {
    use cumulo_node::sandbox::{RoleAccess, software};
    let role = |words: &[&str], read: Vec<PathBuf>, write: Vec<PathBuf>| RoleAccess {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        read,
        write,
    };
    let stored = || store.map(Path::to_owned);
    // uv's settings and wheels, ONNX Runtime's library, as the owner set them.
    let mut building = software::named_paths(environment);
    building.extend(stored());
    let cache = || vec![cache.to_owned()];
    vec![
        role(
            &["data", "build"],
            sources.iter().cloned().chain(stored()).collect(),
            stored()
                .map(|store| store.join("datasets"))
                .into_iter()
                .collect(),
        ),
        role(&["learn"], building.clone(), cache()),
        role(&["exec"], building.clone(), cache()),
        role(&["serve"], building, cache()),
    ]
}

/// Ends all pods.
pub async fn stop_pods(node: &Handle) {
    node.stop_all(STOP).await;
}

/// The proxy as the API server takes it.
pub fn proxy(node: Handle) -> Arc<dyn KubeletProxy> {
    Arc::new(NodeProxy::new(node))
}
