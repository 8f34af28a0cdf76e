//! The engine's connection to a Kubernetes API server.
//!
//! The agent registers the Node and renews its lease, watches the pods bound
//! to it, hands them to the engine, and writes back what the engine reports.
//! Every pod has a task of its own for that, which writes only changes and
//! tries again until they are written.

mod devices;
mod events;
mod node;
mod source;
mod sync;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::devices::{Inventory, ReadError};
use crate::engine::attach::Attached;
use crate::engine::exec::ExecSession;
use crate::engine::logs::LogOptions;
use crate::engine::measure::NodeUsage;
use crate::engine::{Engine, EngineError};
use crate::options::Options;

/// Requests to the API that take longer are given up and tried again.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// How long the ends of drained pods are told.
const TELL_LIMIT: Duration = Duration::from_secs(10);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The engine cannot be opened.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The node agent. [`Agent::run`] serves until told to stop.
pub struct Agent {
    options: Options,
    client: Client,
    engine: Engine,
    drained: watch::Sender<bool>,
}

/// Asks a running agent. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    engine: Engine,
    node_name: Arc<str>,
    drained: watch::Sender<bool>,
}

impl Agent {
    /// Opens the agent's folder and takes over the pods that run. Call inside
    /// a tokio runtime.
    pub fn new(options: Options, client: Client) -> Result<Self, AgentError> {
        let source = Arc::new(source::ApiSource::new(client.clone()));
        let engine = Engine::open(options.clone(), source)?;
        Ok(Self {
            options,
            client,
            engine,
            drained: watch::Sender::new(false),
        })
    }

    /// A handle to this agent.
    pub fn handle(&self) -> Handle {
        Handle {
            engine: self.engine.clone(),
            node_name: self.options.node_name.as_str().into(),
            drained: self.drained.clone(),
        }
    }

    /// Serves the node until `shutdown`. Containers go on running then; stop
    /// them before with [`Handle::stop_all`] if they shall not.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AgentError> {
        let tracker = TaskTracker::new();
        // Not a child: drained pods are told of after the shutdown.
        let stop = CancellationToken::new();
        let syncs = Arc::new(sync::Syncs {
            client: self.client.clone(),
            engine: self.engine.clone(),
            running: Mutex::default(),
            written: Mutex::default(),
            tracker: tracker.clone(),
            shutdown: stop.clone(),
        });
        for uid in self.engine.pods() {
            syncs.follow(&uid);
        }
        let work = async {
            tokio::join!(
                node::keep(&self.client, &self.options, self.engine.capacity()),
                events::publish(
                    self.client.clone(),
                    self.engine.notices(),
                    &self.options.node_name
                ),
                devices::keep(&self.client, &self.engine, &self.options),
                self.watch(&syncs),
            );
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
        if *self.drained.borrow() {
            let told = syncs.told_everything();
            if tokio::time::timeout(TELL_LIMIT, told).await.is_err() {
                tracing::warn!("the ends of some pods could not be told");
            }
        }
        stop.cancel();
        tracker.close();
        tracker.wait().await;
        self.engine.close().await;
        Ok(())
    }

    /// Hands the pods of this node to the engine.
    async fn watch(&self, syncs: &Arc<sync::Syncs>) {
        let api: Api<Pod> = Api::all(self.client.clone());
        let selector = format!("spec.nodeName={}", self.options.node_name);
        let config = watcher::Config::default().fields(&selector);
        let mut stream = Box::pin(watcher(api, config).default_backoff());
        let mut listed = BTreeSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    listed.extend(pod.uid());
                    self.accept(pod, syncs).await;
                }
                Ok(watcher::Event::InitDone) => {
                    // What the API no longer knows was deleted while nobody
                    // watched.
                    for uid in self.engine.pods() {
                        if !listed.contains(&uid) {
                            tracing::info!(uid, "pod is gone from the api, removing it");
                            self.engine.remove(&uid);
                        }
                    }
                    listed.clear();
                }
                Ok(watcher::Event::Apply(pod)) => self.accept(pod, syncs).await,
                Ok(watcher::Event::Delete(pod)) => {
                    if let Some(uid) = pod.uid() {
                        self.engine.remove(&uid);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "watching pods failed, trying again");
                }
            }
        }
    }

    async fn accept(&self, pod: Pod, syncs: &Arc<sync::Syncs>) {
        let Some(uid) = pod.uid() else { return };
        let known = self.engine.subscribe(&uid).is_some();
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if !known && matches!(phase, Some("Succeeded" | "Failed")) {
            // It ended here, and its folder is gone: nothing is started again.
            if pod.metadata.deletion_timestamp.is_some() {
                let name = pod.name_any();
                let namespace = pod.namespace().unwrap_or_default();
                sync::delete(&self.client, &namespace, &name, &uid).await;
            }
            return;
        }
        match self.engine.apply(pod) {
            Ok(()) => syncs.follow(&uid),
            Err(error) => tracing::warn!(uid, %error, "pod was not accepted"),
        }
    }
}

impl Handle {
    /// Name of the node.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Reads a container's log; see [`Engine::logs`].
    pub fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        options: LogOptions,
    ) -> Result<ReceiverStream<io::Result<Bytes>>, EngineError> {
        self.engine.logs(namespace, pod, container, options)
    }

    /// Runs a command in a container; see [`Engine::exec`].
    pub fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[String],
        stdin: bool,
        tty: bool,
    ) -> Result<ExecSession, EngineError> {
        self.engine
            .exec(namespace, pod, container, command, stdin, tty)
    }

    /// Whether a container can be attached to; see [`Engine::attachable`].
    pub fn attachable(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        stdin: bool,
    ) -> Result<(), EngineError> {
        self.engine.attachable(namespace, pod, container, stdin)
    }

    /// Attaches to a running container; see [`Engine::attach`].
    pub async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        stdin: bool,
    ) -> Result<Attached, EngineError> {
        self.engine.attach(namespace, pod, container, stdin).await
    }

    /// The address of a running pod; see [`Engine::address`].
    pub fn address(&self, namespace: &str, pod: &str) -> Result<IpAddr, EngineError> {
        self.engine.address(namespace, pod)
    }

    /// The node's devices and who has them; see [`Engine::devices`].
    pub async fn devices(&self) -> Result<Inventory, ReadError> {
        self.engine.devices().await
    }

    /// What the node and its containers use; see [`Engine::measure`].
    pub async fn measure(&self) -> NodeUsage {
        self.engine.measure().await
    }

    /// Namespace and name of a pod.
    pub fn name_of(&self, uid: &str) -> Option<(String, String)> {
        self.engine.name_of(uid)
    }

    /// Ends all pods as failed, so that others are made on other nodes. The
    /// agent tells of it before it ends.
    pub async fn drain(&self, within: Duration) {
        self.engine.drain(within).await;
        self.drained.send_replace(true);
    }

    /// Stops all containers, for shutting the platform down for good.
    pub async fn stop_all(&self, within: Duration) {
        self.engine.stop_all(within).await;
    }
}

/// Whether the API answered with this HTTP status.
fn answered(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Runs a request with a limit; a timeout becomes an error like others.
async fn limited<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    tokio::time::timeout(REQUEST_LIMIT, request)
        .await
        .unwrap_or_else(|_| {
            Err(kube::Error::Service(
                io::Error::from(io::ErrorKind::TimedOut).into(),
            ))
        })
}
