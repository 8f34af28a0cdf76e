//! Who has which device of this node: read, decided and remembered in one place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cumulo_api::GpuAsk;
use cumulo_schedule::solver::WHOLE;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::decide::{Held, Holder, Refusal, decide};
use super::snapshot::Snapshot;
use super::{ReadError, Reader};

/// The devices of a node and who has them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// The node.
    pub node: String,
    /// What was read.
    pub snapshot: Snapshot,
    /// Pods with devices.
    pub holders: Vec<Holder>,
}

/// Who has which device. The pods' own records are what outlives a restart; this
/// is made from them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    reader: Arc<dyn Reader>,
    /// By the pod's uid.
    holders: Arc<Mutex<BTreeMap<String, Holder>>>,
}

impl Ledger {
    pub fn new(reader: Box<dyn Reader>) -> Self {
        Self {
            reader: reader.into(),
            holders: Arc::default(),
        }
    }

    /// Reads the devices, off the async threads.
    pub async fn read(&self) -> Result<Snapshot, ReadError> {
        let reader = Arc::clone(&self.reader);
        tokio::task::spawn_blocking(move || reader.read())
            .await
            .unwrap_or_else(|error| Err(ReadError::Driver(error.to_string())))
    }

    /// Gives a pod what it asks for. One that has something keeps it.
    pub async fn allocate(
        &self,
        uid: &str,
        namespace: &str,
        pod: &str,
        ask: &GpuAsk,
    ) -> Result<Vec<Held>, Refusal> {
        if let Some(holder) = self.holders.lock().get(uid) {
            return Ok(holder.held.clone());
        }
        let snapshot = self
            .read()
            .await
            .map_err(|error| Refusal::Busy(format!("asks for {ask}; {error}")))?;
        // Held while it is decided, so that no two pods are given the same.
        let mut holders = self.holders.lock();
        let others: Vec<&Holder> = holders.values().collect();
        let held = decide(&snapshot, &others, ask)?;
        let holder = Holder {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            held: held.clone(),
            energy: None,
        };
        holders.insert(uid.to_owned(), holder);
        Ok(held)
    }

    /// Gives a pod what was decided elsewhere, as long as no other holds it.
    pub async fn take(
        &self,
        uid: &str,
        namespace: &str,
        pod: &str,
        decided: impl FnOnce(&Snapshot) -> Result<Vec<Held>, Refusal>,
    ) -> Result<Vec<Held>, Refusal> {
        let snapshot = self
            .read()
            .await
            .map_err(|error| Refusal::Busy(error.to_string()))?;
        let held = decided(&snapshot)?;
        let mut holders = self.holders.lock();
        for one in &held {
            let others = holders.iter().filter(|(holder, _)| holder.as_str() != uid);
            let others = others.flat_map(|(_, holder)| &holder.held);
            let same = others.filter(|other| other.gpu == one.gpu);
            let (taken, instance) = same.fold((0u32, false), |(taken, instance), other| {
                let own = one.instance.is_some() && other.instance == one.instance;
                (taken.saturating_add(other.milli), instance || own)
            });
            // Pods without a scheduler of Cumulo get devices that nobody else knows of.
            let beyond = one.instance.is_none() && taken.saturating_add(one.milli) > WHOLE;
            if instance || beyond {
                return Err(Refusal::Busy(format!(
                    "it was given {}, of which other pods on this node have too much",
                    one.visible()
                )));
            }
        }
        let holder = Holder {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            held: held.clone(),
            energy: None,
        };
        holders.insert(uid.to_owned(), holder);
        Ok(held)
    }

    /// What a pod got from an earlier engine.
    pub fn adopt(&self, uid: &str, holder: Holder) {
        self.holders.lock().insert(uid.to_owned(), holder);
    }

    /// Who has what, by the pod's uid.
    pub fn holders(&self) -> BTreeMap<String, Holder> {
        self.holders.lock().clone()
    }

    /// The pod is over: others may have what it had. Whether it had something.
    pub fn free(&self, uid: &str) -> bool {
        self.holders.lock().remove(uid).is_some()
    }

    /// The files that give access to what is held: NVIDIA's device nodes, and what the
    /// kernel says of the devices.
    pub async fn device_files(&self, held: &[Held]) -> Vec<PathBuf> {
        let snapshot = self.read().await.unwrap_or_default();
        let mut files: Vec<PathBuf> = [
            "/dev/nvidiactl",
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
            "/dev/nvidia-caps",
        ]
        .map(PathBuf::from)
        .into();
        for gpu in &snapshot.gpus {
            if held.iter().any(|held| held.gpu == gpu.identity()) {
                files.extend(gpu.minor.map(|minor| format!("/dev/nvidia{minor}").into()));
                if !gpu.pci.bus_id.is_empty() {
                    files.push(Path::new("/sys/bus/pci/devices").join(&gpu.pci.bus_id));
                }
            }
        }
        files
    }
}
