//! A local port whose connections end in a pod: what `kubectl port-forward` does.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Connections that are bridged at the same time.
const CONNECTIONS: usize = 64;

/// A forwarded port; it is closed when this is dropped.
pub struct Forward {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// Listens on a free port of the loopback address for one port of a pod.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn open(pods: Api<Pod>, pod: String, port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("no local port can be opened")?;
        let address = listener.local_addr()?;
        let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        let task = tokio::spawn(async move {
            loop {
                let Ok(permit) = permits.clone().acquire_owned().await else {
                    return;
                };
                let Ok((connection, _)) = listener.accept().await else {
                    return;
                };
                let (pods, pod) = (pods.clone(), pod.clone());
                tokio::spawn(async move {
                    if let Err(error) = bridge(connection, &pods, &pod, port).await {
                        eprintln!("connection to pod {pod}: {error:#}");
                    }
                    drop(permit);
                });
            }
        });
        Ok(Self { address, task })
    }

    /// The URL of the local port.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn bridge(mut local: TcpStream, pods: &Api<Pod>, pod: &str, port: u16) -> Result<()> {
    let mut forwarder = pods
        .portforward(pod, &[port])
        .await
        .map_err(|error| crate::project::apply::api_error(&error))?;
    let mut remote = forwarder
        .take_stream(port)
        .context("the API server opened no stream")?;
    // Whoever closes first ends it; what the other side still had to say has been read.
    let _ = tokio::io::copy_bidirectional(&mut local, &mut remote).await;
    drop(remote);
    forwarder.abort();
    Ok(())
}
