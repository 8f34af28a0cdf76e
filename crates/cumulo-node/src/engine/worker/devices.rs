//! The pod's devices: asked for before its first container starts, written down
//! with the pod's state, given back at its end.

use std::path::Path;

use cumulo_api::{Gpu, labels};
use k8s_openapi::api::core::v1::Pod;

use super::Worker;
use super::kept::{POD_FILE, PodRecord, STATE_FILE};
use crate::devices::{Held, Holder, Ledger, Refusal};
use crate::engine::lifecycle::Failure;
use crate::record::read_json;

/// Why a container waits for a device that others have.
pub(super) const WAITING: &str = "WaitingForGpu";
/// Why a pod fails whose wish this node can never fulfil.
pub(super) const UNAVAILABLE: &str = "GpuUnavailable";

/// Tells the ledger what a pod of an earlier engine has.
pub(in crate::engine) fn adopt_devices(folder: &Path, ledger: &Ledger) {
    let record = read_json::<PodRecord>(&folder.join(STATE_FILE));
    let pod = read_json::<Pod>(&folder.join(POD_FILE));
    let (Ok(Some(record)), Ok(Some(pod))) = (record, pod) else {
        return;
    };
    let uid = pod.metadata.uid.unwrap_or_default();
    if !record.finished && !record.devices.is_empty() {
        let holder = Holder {
            namespace: pod.metadata.namespace.unwrap_or_default(),
            pod: pod.metadata.name.unwrap_or_default(),
            held: record.devices,
        };
        ledger.adopt(&uid, holder);
    }
}

impl Worker {
    /// What the pod has of the node's devices: given now, if it asks for some and
    /// has none. The caller writes it down before anything starts.
    pub(super) async fn devices(&mut self, pod: &Pod) -> Result<Vec<Held>, Refusal> {
        if !self.record.devices.is_empty() {
            return Ok(self.record.devices.clone());
        }
        let annotations = pod.metadata.annotations.as_ref();
        let Some(text) = annotations.and_then(|all| all.get(labels::GPU)) else {
            return Ok(Vec::new());
        };
        let ask = text
            .parse::<Gpu>()
            .and_then(|gpu| gpu.ask())
            .map_err(|error| Refusal::Never(error.to_string()))?;
        let shared = std::sync::Arc::clone(&self.shared);
        let held = shared
            .devices
            .allocate(&self.uid, &self.namespace, &self.name, &ask)
            .await?;
        let names: Vec<&str> = held.iter().map(Held::visible).collect();
        let message = format!("gave it {ask}: {}", names.join(", "));
        self.notice(None, false, "GpuAllocated", message);
        self.record.devices.clone_from(&held);
        Ok(held)
    }

    /// Fails the whole pod.
    pub(super) async fn fail(&mut self, reason: &str, message: String) {
        self.notice(None, true, "Failed", message.clone());
        self.record.failure = Some(Failure {
            reason: reason.to_owned(),
            message,
        });
        self.save().await;
    }
}
