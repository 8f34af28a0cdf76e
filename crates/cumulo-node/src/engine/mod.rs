//! The pod engine: pods in, processes and statuses out. It knows no API
//! client; [`crate::agent`] connects it to one.
//!
//! Every pod has a folder and one task that owns it (`worker`). What to do
//! next and what to report are pure functions ([`lifecycle`], [`status`]); the
//! worker observes, asks them, and acts. Closing the engine, or
//! killing the platform, leaves all containers running; the next engine on the
//! same folder adopts them.

pub mod attach;
pub mod container_environment;
mod devices;
mod disk;
pub mod exec;
pub mod lifecycle;
mod limits;
pub mod logs;
pub mod measure;
mod probe;
pub mod source;
mod start;
pub mod status;
mod streams;
mod tasks;
pub mod terminal;
mod usage;
mod volumes;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::devices::{Inventory, Ledger, ReadError, reader};
use crate::options::Options;
use crate::process;
use crate::record::{Started, read_json};
use exec::{ExecError, ExecTarget};
use lifecycle::Failure;
use measure::{NodeUsage, Running};
use source::ConfigSource;
use worker::Worker;

/// Logs that may be read at the same time; each takes a thread.
const MAX_LOG_READERS: usize = 64;

/// Why the engine refuses something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine's folder is not usable.
    #[error("the node agent's folder {path}: {error}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The client for HTTP probes cannot be built.
    #[error("cannot prepare HTTP probes: {0}")]
    Http(#[from] reqwest::Error),
    /// A pod without uid, namespace or name.
    #[error("a pod needs metadata.uid, metadata.namespace and metadata.name")]
    Anonymous,
    /// There is no such pod here.
    #[error("pod {namespace}/{name} does not run on this node")]
    NoPod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The pod has no such container.
    #[error("pod {pod} has no container {container:?}; it has: {known}")]
    NoContainer {
        /// The pod.
        pod: String,
        /// What was asked for.
        container: String,
        /// What there is.
        known: String,
    },
    /// The container has no log yet.
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    NotStarted {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// Why it waits.
        reason: String,
    },
    /// The container was started only once.
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// `exec` needs a running container.
    #[error("container {container:?} in pod {pod:?} is not running")]
    NotRunning {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// `attach` with an input that the container does not have.
    #[error(
        "container {container:?} in pod {pod:?} reads no standard input: set stdin: true in its manifest, or attach without -i"
    )]
    NoStdin {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// The container closed its standard input, or it ended with its first client (`stdinOnce`).
    #[error("container {container:?} in pod {pod:?} reads its standard input no more: {error}")]
    StdinClosed {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// The system's answer.
        error: io::Error,
    },
    /// The pod has no address yet, or none any more.
    #[error("pod {pod:?} is not running")]
    PodNotRunning {
        /// The pod.
        pod: String,
    },
    /// Too many at a time.
    #[error("{MAX_LOG_READERS} logs are being read already; try again when one has ended")]
    TooManyReaders,
    /// The command could not be run.
    #[error(transparent)]
    Exec(#[from] ExecError),
}

/// What is wanted of a pod.
#[derive(Debug, Clone)]
struct Desired {
    pod: Arc<Pod>,
    /// The object is gone: stop what runs and remove every trace.
    removed: bool,
    /// Stop all containers within this time, whatever the manifest says.
    stop_within: Option<Duration>,
    /// The node is going down: the pod has failed, so that another is made elsewhere.
    drained: bool,
    /// What it is told of its devices.
    devices: devices::Told,
}

/// What the engine reports about a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The status to publish.
    pub status: PodStatus,
    /// The pod is being deleted and nothing of it runs any more: the object
    /// can go.
    pub deleted: bool,
    /// Nothing runs and nothing will.
    pub finished: bool,
    containers: Vec<ContainerSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ContainerSnapshot {
    name: String,
    attempt: Option<u32>,
    running: Option<Started>,
    exec: Option<ExecTarget>,
    waiting: String,
}

/// Something worth telling about a pod: becomes a Kubernetes event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The pod.
    pub namespace: String,
    /// The pod.
    pub name: String,
    /// The pod.
    pub uid: String,
    /// The container, when it is about one.
    pub container: Option<String>,
    /// A warning, or just information.
    pub warning: bool,
    /// `Started`, `BackOff`, `Unhealthy`, `Killing`, …
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

struct PodEntry {
    namespace: String,
    name: String,
    desired: watch::Sender<Desired>,
    snapshot: watch::Receiver<Option<Snapshot>>,
}

struct Shared {
    options: Options,
    source: Arc<dyn ConfigSource>,
    pods: Mutex<BTreeMap<String, PodEntry>>,
    addresses: Mutex<BTreeSet<Ipv4Addr>>,
    http: reqwest::Client,
    sampler: usage::Sampler,
    notices: broadcast::Sender<Notice>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    readers: Arc<Semaphore>,
    meter: measure::Meter,
    devices: Ledger,
    keeper: Arc<devices::Keeper>,
    /// Processors and bytes of memory.
    capacity: (u64, u64),
}

/// Runs pods as processes. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl Engine {
    /// Opens the engine's folder and takes over the pods in it. Call inside a
    /// tokio runtime.
    pub fn open(options: Options, source: Arc<dyn ConfigSource>) -> Result<Self, EngineError> {
        let pods = options.root.join("pods");
        prepare_folders(&options).map_err(|error| EngineError::Folder {
            path: options.root.clone(),
            error,
        })?;
        let shared = Arc::new(Shared {
            http: probe::client()?,
            source,
            pods: Mutex::default(),
            addresses: Mutex::default(),
            sampler: usage::Sampler::default(),
            notices: broadcast::channel(256).0,
            tracker: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            readers: Arc::new(Semaphore::new(MAX_LOG_READERS)),
            meter: measure::Meter::default(),
            devices: Ledger::new(
                reader(options.devices.as_deref()),
                options.root.join("mig.json"),
                options.mig_instances,
            ),
            keeper: Arc::new(devices::Keeper::new(&options)),
            capacity: node_capacity(),
            options,
        });
        let engine = Self { shared };
        let sampler = engine.shared.sampler.clone();
        engine.shared.tracker.spawn(sampler.run(
            engine.shared.options.memory_interval,
            engine.shared.shutdown.clone(),
        ));
        let entries = fs::read_dir(&pods).map_err(|error| EngineError::Folder {
            path: pods.clone(),
            error,
        })?;
        let folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        // Before any pod goes on: none may be given what another has.
        for folder in &folders {
            worker::adopt_devices(folder, &engine.shared.devices);
        }
        for folder in &folders {
            engine.adopt(folder);
        }
        let keep = devices::keep(Arc::downgrade(&engine.shared));
        engine.shared.tracker.spawn(keep);
        Ok(engine)
    }

    /// Takes over a pod that an earlier engine ran.
    fn adopt(&self, folder: &std::path::Path) {
        match read_json::<Pod>(&folder.join(worker::POD_FILE)) {
            Ok(Some(pod)) => {
                if let Err(error) = self.apply(pod) {
                    tracing::warn!(folder = %folder.display(), %error, "cannot adopt pod");
                }
            }
            other => {
                // Never completely made, so no container of it was started.
                tracing::warn!(folder = %folder.display(), error = ?other.err(), "removing a pod folder without manifest");
                if let Some(uid) = folder.file_name().and_then(|name| name.to_str()) {
                    process::kill_marked(&format!("{uid}/"));
                }
                let _ = fs::remove_dir_all(folder);
            }
        }
    }

    /// Accepts a pod, or a new version of it. One with a deletion timestamp
    /// is stopped.
    pub fn apply(&self, pod: Pod) -> Result<(), EngineError> {
        let metadata = &pod.metadata;
        let (Some(uid), Some(namespace), Some(name)) =
            (&metadata.uid, &metadata.namespace, &metadata.name)
        else {
            return Err(EngineError::Anonymous);
        };
        if uid.is_empty() || uid.contains(['/', '\0']) || uid.starts_with('.') {
            return Err(EngineError::Anonymous);
        }
        let (uid, namespace, name) = (uid.clone(), namespace.clone(), name.clone());
        let pod = Arc::new(pod);
        let mut pods = self.shared.pods.lock();
        if let Some(entry) = pods.get(&uid) {
            entry.desired.send_if_modified(|desired| {
                let changed = *desired.pod != *pod;
                desired.pod = Arc::clone(&pod);
                changed
            });
            return Ok(());
        }
        let folder = self.shared.options.root.join("pods").join(&uid);
        let known = folder.exists();
        let active = pods
            .values()
            .filter(|entry| {
                !entry
                    .snapshot
                    .borrow()
                    .as_ref()
                    .is_some_and(|snapshot| snapshot.finished)
            })
            .count();
        let limit = self.shared.options.max_pods;
        let refused = if !known && active >= limit {
            Some(Failure {
                reason: "OutOfpods".to_owned(),
                message: format!(
                    "the node runs {active} pods already, as many as its settings allow"
                ),
            })
        } else {
            worker::refusal(&pod, &self.shared.options)
        };
        let (desired, desired_receiver) = watch::channel(Desired {
            pod,
            removed: false,
            stop_within: None,
            drained: false,
            devices: devices::Told::default(),
        });
        let (snapshot_sender, snapshot) = watch::channel(None);
        pods.insert(
            uid.clone(),
            PodEntry {
                namespace,
                name,
                desired,
                snapshot,
            },
        );
        let worker = Worker::new(
            Arc::clone(&self.shared),
            uid,
            folder,
            desired_receiver,
            snapshot_sender,
            refused,
        );
        self.shared.tracker.spawn(worker.run());
        Ok(())
    }

    /// The pod's object is gone: stops what runs and removes every trace.
    pub fn remove(&self, uid: &str) {
        if let Some(entry) = self.shared.pods.lock().get(uid) {
            entry
                .desired
                .send_if_modified(|desired| !std::mem::replace(&mut desired.removed, true));
        }
    }

    /// Uids of all pods that the engine holds.
    pub fn pods(&self) -> Vec<String> {
        self.shared.pods.lock().keys().cloned().collect()
    }

    /// Namespace and name of a pod.
    pub fn name_of(&self, uid: &str) -> Option<(String, String)> {
        let pods = self.shared.pods.lock();
        pods.get(uid)
            .map(|entry| (entry.namespace.clone(), entry.name.clone()))
    }

    /// Follows a pod's status.
    pub fn subscribe(&self, uid: &str) -> Option<watch::Receiver<Option<Snapshot>>> {
        let pods = self.shared.pods.lock();
        pods.get(uid).map(|entry| entry.snapshot.clone())
    }

    /// Follows what happens to pods. Slow readers miss the oldest.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.shared.notices.subscribe()
    }

    /// What the machine and the running containers use.
    pub async fn measure(&self) -> NodeUsage {
        let mut running = Vec::new();
        for (uid, entry) in self.shared.pods.lock().iter() {
            let snapshot = entry.snapshot.borrow();
            for container in snapshot.iter().flat_map(|now| &now.containers) {
                if let Some(started) = &container.running {
                    running.push(Running {
                        uid: uid.clone(),
                        container: container.name.clone(),
                        supervisor: started.supervisor,
                        started_at: started.started_at,
                    });
                }
            }
        }
        self.shared.meter.measure(running).await
    }

    /// The devices and who has them, read anew.
    pub async fn devices(&self) -> Result<Inventory, ReadError> {
        let snapshot = self.shared.devices.read().await?;
        let holders = self.shared.devices.holders().into_iter();
        Ok(Inventory {
            node: self.shared.options.node_name.clone(),
            snapshot,
            holders: holders
                .map(|(uid, mut holder)| {
                    holder.energy = self.shared.keeper.energy(&uid);
                    holder
                })
                .collect(),
            managed: self.shared.devices.managed(),
        })
    }

    /// Processors and bytes of memory of the machine.
    pub fn capacity(&self) -> (u64, u64) {
        self.shared.capacity
    }

    /// Stops the containers of all pods, at most `within`; for shutting the
    /// whole platform down. Finishes when nothing runs any more.
    pub async fn stop_all(&self, within: Duration) {
        self.stop(within, false).await;
    }

    /// Ends all pods as failed, because the node goes down.
    pub async fn drain(&self, within: Duration) {
        self.stop(within, true).await;
    }

    async fn stop(&self, within: Duration, drained: bool) {
        let mut receivers = Vec::new();
        for entry in self.shared.pods.lock().values() {
            entry.desired.send_modify(|desired| {
                desired.stop_within = Some(within);
                desired.drained |= drained;
            });
            receivers.push(entry.snapshot.clone());
        }
        for mut receiver in receivers {
            let _ = receiver
                .wait_for(|snapshot| {
                    snapshot.as_ref().is_none_or(|snapshot| {
                        snapshot
                            .containers
                            .iter()
                            .all(|container| container.running.is_none())
                    })
                })
                .await;
        }
    }

    /// Ends the engine's own tasks. Containers go on running; the next engine
    /// on this folder adopts them.
    pub async fn close(&self) {
        self.shared.shutdown.cancel();
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
        // Pods that were stopped just before need their daemons no more.
        self.shared.keeper.settle(&self.shared.devices).await;
    }
}

impl Shared {
    fn container_folder(&self, uid: &str, container: &str) -> PathBuf {
        self.options
            .root
            .join("pods")
            .join(uid)
            .join("containers")
            .join(container)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn prepare_folders(options: &Options) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, symlink};
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(options.root.join("pods"))?;
    builder.create(options.root.join("bin"))?;
    builder.create(&options.cache)?;
    // `cumulo` is found in a container's PATH, also from within a shell.
    let link = options.root.join("bin").join("cumulo");
    if fs::read_link(&link).is_ok_and(|target| target == options.executable) {
        return Ok(());
    }
    let fresh = options.root.join("bin").join(".cumulo.new");
    let _ = fs::remove_file(&fresh);
    symlink(&options.executable, &fresh)?;
    fs::rename(&fresh, &link)
}

fn node_capacity() -> (u64, u64) {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let memory = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kibibytes| kibibytes * 1024);
    (processors, memory)
}
