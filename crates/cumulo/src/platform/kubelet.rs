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

use std::path::PathBuf;
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
    let executable = std::env::current_exe().context("cannot tell where this program lies")?;
    let mut options = cumulo_node::Options::new(home.root(), executable);
    options.host_path_roots = config.allowed_roots.clone();
    options.over_memory = config.gpu_memory_exceeded;
    options.sandbox.roles = roles(home, config, &options.base_environment);
    for folder in options.sandbox.roles.iter().flat_map(|role| &role.write) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Agent::new(options, client).context("the node agent cannot start")
}

/// What this program's own commands reach when they run as pods: of the
/// platform's folder the artifact store and the cache, nothing else. What they
/// write into the store but for datasets goes through the tracking server.
fn roles(
    home: &Home,
    config: &Config,
    environment: &[(String, String)],
) -> Vec<cumulo_node::sandbox::RoleAccess> {
    use cumulo_node::sandbox::{RoleAccess, software};
    let store = home.path("artifacts");
    let role = |words: &[&str], read: Vec<PathBuf>, write: Vec<PathBuf>| RoleAccess {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        read,
        write,
    };
    // uv's settings and wheels, ONNX Runtime's library, as the owner set them.
    let mut building = software::named_paths(environment);
    building.push(store.clone());
    let cache = home.path("cache");
    let sources = config.allowed_roots.iter().cloned();
    vec![
        role(
            &["data", "build"],
            sources.chain([store.clone()]).collect(),
            vec![store.join("datasets")],
        ),
        role(&["learn"], building.clone(), vec![cache.clone()]),
        role(&["exec"], building.clone(), vec![cache.clone()]),
        role(&["serve"], building, vec![cache]),
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
