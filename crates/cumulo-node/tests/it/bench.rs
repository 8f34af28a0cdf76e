//! An engine in a temporary folder, and what tests do with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cumulo_node::engine::source::{ConfigSource, Data, SourceError};
use cumulo_node::engine::{Engine, Snapshot};
use cumulo_node::{LogOptions, Options};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ContainerStatus;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// ConfigMaps and Secrets in memory.
#[derive(Default)]
pub struct Objects {
    pub config_maps: Mutex<BTreeMap<String, Data>>,
    pub secrets: Mutex<BTreeMap<String, Data>>,
}

#[async_trait]
impl ConfigSource for Objects {
    async fn config_map(&self, _: &str, name: &str) -> Result<Option<Data>, SourceError> {
        Ok(self.config_maps.lock().get(name).cloned())
    }
    async fn secret(&self, _: &str, name: &str) -> Result<Option<Data>, SourceError> {
        Ok(self.secrets.lock().get(name).cloned())
    }
}

pub fn data(entries: &[(&str, &str)]) -> Data {
    entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
        .collect()
}

pub struct Bench {
    pub folder: tempfile::TempDir,
    pub options: Options,
    pub objects: Arc<Objects>,
    pub engine: Engine,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(folder.path(), "/bin/echo");
        options.node_name = "test".to_owned();
        options.supervisor = vec![env!("CARGO_BIN_EXE_cumulo-shim").into()];
        options.restart_base = Duration::from_millis(200);
        options.memory_interval = Duration::from_millis(50);
        change(&mut options);
        let objects = Arc::new(Objects::default());
        let engine = Engine::open(options.clone(), Arc::clone(&objects) as _).unwrap();
        Self {
            folder,
            options,
            objects,
            engine,
        }
    }

    /// Closes the engine, as the platform's end would, and opens the next.
    pub async fn reopen(&mut self) {
        self.engine.close().await;
        self.engine = Engine::open(self.options.clone(), Arc::clone(&self.objects) as _).unwrap();
    }

    pub fn apply(&self, pod: Value) {
        self.engine
            .apply(serde_json::from_value(pod).unwrap())
            .unwrap();
    }

    /// Applies the pod anew as one that is being deleted.
    pub fn delete(&self, mut pod: Value, grace: i64) {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.apply(pod);
    }

    /// Waits until the pod's snapshot is as wanted.
    pub async fn until(&self, uid: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let mut receiver = self.engine.subscribe(uid).expect("the pod is known");
        let last = receiver.clone();
        let result = tokio::time::timeout(
            PATIENCE,
            receiver.wait_for(|snapshot| snapshot.as_ref().is_some_and(&wanted)),
        )
        .await;
        match result {
            Ok(Ok(snapshot)) => snapshot.clone().unwrap(),
            _ => panic!("not reached; the last state was {:#?}", *last.borrow()),
        }
    }

    pub async fn until_phase(&self, uid: &str, phase: &str) -> Snapshot {
        self.until(uid, |snapshot| {
            snapshot.status.phase.as_deref() == Some(phase)
        })
        .await
    }

    pub async fn until_ready(&self, uid: &str) -> Snapshot {
        self.until(uid, |snapshot| condition(snapshot, "Ready") == "True")
            .await
    }

    /// Reads a log to its end.
    pub async fn log(&self, pod: &str, container: &str, options: LogOptions) -> String {
        let stream = self
            .engine
            .logs("default", pod, container, options)
            .unwrap();
        let pieces: Vec<_> = tokio::time::timeout(PATIENCE, stream.collect::<Vec<_>>())
            .await
            .expect("the log ends");
        let bytes: Vec<u8> = pieces
            .into_iter()
            .flat_map(|piece| piece.unwrap())
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    /// Removes all pods and waits until nothing of them is left.
    pub async fn end(self) {
        for uid in self.engine.pods() {
            self.engine.remove(&uid);
        }
        eventually("all pods are removed", || self.engine.pods().is_empty()).await;
        let left = std::fs::read_dir(self.options.root.join("pods"))
            .unwrap()
            .count();
        assert_eq!(left, 0, "folders are left");
        self.engine.close().await;
    }
}

pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            std::time::Instant::now() < deadline,
            "never happened: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A pod with one container that runs a shell script. In a manifest `$$`
/// stands for one `$`.
pub fn shell(name: &str, policy: &str, script: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {
            "restartPolicy": policy,
            "containers": [{
                "name": "main",
                "image": "cumulo.dev/runtime:latest",
                "command": ["sh", "-c", script.replace("$$", "$$$$")],
            }],
        },
    })
}

pub fn condition(snapshot: &Snapshot, kind: &str) -> String {
    snapshot
        .status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
        .map_or_else(String::new, |condition| condition.status.clone())
}

pub fn container(snapshot: &Snapshot) -> ContainerStatus {
    snapshot.status.container_statuses.clone().unwrap()[0].clone()
}

/// Process ids that a script wrote into a file of its working folder.
pub fn pids_in(bench: &Bench, pod: &str, file: &str) -> Vec<i32> {
    let path = bench
        .options
        .root
        .join("pods")
        .join(format!("uid-{pod}"))
        .join("containers/main/work")
        .join(file);
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

pub fn is_alive(pid: i32) -> bool {
    cumulo_node::process::start_ticks(pid).is_some()
}
