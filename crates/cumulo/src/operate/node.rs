//! `cumulo node`: runs the pods that are bound to it, as processes.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio_util::sync::CancellationToken;

use super::reviews::Reviews;
use super::{SHUTDOWN, client, config, kubelet, tls};
use crate::cli::{NodeArgs, PlaceArgs};
use crate::home::Home;
use crate::platform::{Guard, bind, confine, listen, node_options};

/// Runs the role until it is told to end.
pub fn run(place: &PlaceArgs, home: &Home, arguments: &NodeArgs) -> Result<()> {
    home.create()?;
    let _lock = lock(home)?;
    // Files of pods are their owner's alone, whatever the shell's mask is.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    super::run(|shutdown| serve(place, home, arguments, shutdown))
}

/// Holds the folder: two agents on one would end each other's pods.
fn lock(home: &Home) -> Result<Flock<std::fs::File>> {
    let path = home.path("node.lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
            "another node runs on {}: name another folder with CUMULO_HOME",
            home.root().display()
        ),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

async fn serve(
    place: &PlaceArgs,
    home: &Home,
    arguments: &NodeArgs,
    shutdown: CancellationToken,
) -> Result<()> {
    let client = client(config(place).await?)?;
    let socket = bind(arguments.listen).await?;
    let address = socket.local_addr()?;
    let mut options = node_options(home)?;
    if let Some(name) = &arguments.name {
        options.node_name.clone_from(name);
    }
    options.host_ip = own_address(arguments, address.ip())?;
    options.kubelet_port = Some(address.port());
    options.pod_addresses = arguments.pod_cidr;
    options.runtime_images = arguments.runtime_image.clone();
    options.labels = arguments.labels.clone();
    options.tainted = !arguments.no_taint;
    options.max_pods = arguments.max_pods;
    options.host_path_roots = arguments.allowed_roots.clone();
    if let Some(cache) = &arguments.cache {
        options.cache.clone_from(cache);
    }
    let store = arguments.artifacts.as_deref().and_then(folder);
    confine(&mut options, store.as_deref(), &arguments.allowed_roots)?;
    let names = [options.node_name.clone()];
    let addresses = [IpAddr::V4(options.host_ip), address.ip()];
    let tls = tls::settings(
        &arguments.tls,
        &names,
        &addresses,
        arguments.client_ca_file.as_deref(),
    )?;
    tracing::info!(node = names[0], %address, pods = %arguments.pod_cidr, "node starts");

    let agent =
        cumulo_node::Agent::new(options, client.clone()).context("the node agent cannot start")?;
    let node = agent.handle();
    let guard = Guard::new(Reviews::new(client));
    // The agent goes on while the pods end, to tell of their ends.
    let agent_stop = CancellationToken::new();
    let running = tokio::spawn(agent.run(agent_stop.clone()));
    let serving = tokio::spawn(listen(
        socket,
        tls,
        kubelet::router(node.clone(), guard),
        shutdown.clone(),
    ));
    shutdown.cancelled().await;
    if let Some(within) = arguments.drain {
        tracing::info!(?within, "draining: pods end");
        node.drain(within).await;
    }
    agent_stop.cancel();
    let _ = tokio::time::timeout(SHUTDOWN, async {
        let _ = tokio::join!(running, serving);
    })
    .await;
    Ok(())
}

fn own_address(arguments: &NodeArgs, listened: IpAddr) -> Result<Ipv4Addr> {
    match (arguments.node_ip, listened) {
        (Some(own), _) => Ok(own),
        (None, IpAddr::V4(listened)) if !listened.is_unspecified() => Ok(listened),
        (None, listened) => bail!(
            "the node's own address does not follow from --listen {listened}: name it with --node-ip"
        ),
    }
}

/// The folder of a `file://` URL.
fn folder(url: &str) -> Option<PathBuf> {
    url::Url::parse(url).ok()?.to_file_path().ok()
}
