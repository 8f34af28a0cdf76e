//! What is kept of a pod on disk, so that the next engine finds it again.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde::{Deserialize, Serialize};

use super::Worker;
use crate::devices::Held;
use crate::engine::lifecycle::Failure;
use crate::engine::status::Terminated;
use crate::record::{read_json, write_json};
use crate::{address, process};

/// The manifest as last seen, in the pod's folder.
pub(in crate::engine) const POD_FILE: &str = "pod.json";
/// Where a [`PodRecord`] is kept, beside it.
pub(super) const STATE_FILE: &str = "state.json";
/// What was last said of a pod, so that its times outlive this process.
const CONDITIONS_FILE: &str = "conditions.json";

/// What the engine remembers about a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodRecord {
    pub started_at: Timestamp,
    pub ip: Option<Ipv4Addr>,
    #[serde(default)]
    pub failure: Option<Failure>,
    #[serde(default)]
    pub finished: bool,
    /// What it has of the node's devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Held>,
    #[serde(default)]
    pub containers: BTreeMap<String, ContainerRecord>,
}

/// What it remembers about one of its containers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerRecord {
    /// The attempt that runs or ended last.
    pub attempt: Option<u32>,
    pub restarts: u32,
    /// Ends in a row, see `BackOff::ends`.
    pub ends: u32,
    /// How the attempt ended; `None` while it runs.
    pub ended: Option<Terminated>,
    /// How the one before ended.
    pub last: Option<Terminated>,
    /// Why the node killed the attempt.
    pub kill: Option<Failure>,
}

impl Worker {
    /// Makes the pod's folder, reads what an earlier engine left, and takes
    /// over what runs.
    pub(super) async fn prepare(&mut self) -> io::Result<()> {
        let folder = self.folder.clone();
        let (known, said) = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            let known = read_json::<PodRecord>(&folder.join(STATE_FILE))?;
            // Times are all that is lost with it.
            let said = read_json(&folder.join(CONDITIONS_FILE)).unwrap_or_default();
            io::Result::Ok((known, said.unwrap_or_default()))
        })
        .await
        .map_err(io::Error::other)??;
        if self.published.is_empty() {
            self.published = said;
        }
        if let Some(record) = known {
            self.record = record;
            if let Some(ip) = self.record.ip {
                self.shared.addresses.lock().insert(ip);
            }
            for index in 0..self.runs.len() {
                let name = &self.runs[index].declared.name;
                if let Some(record) = self.record.containers.remove(name) {
                    self.runs[index].record = record;
                    self.adopt(index).await;
                }
            }
        }
        if self.record.ip.is_none() && !self.record.finished {
            self.record.ip = Some(self.choose_address()?);
        }
        self.try_save().await
    }

    fn choose_address(&self) -> io::Result<Ipv4Addr> {
        if self.spec.host_network == Some(true) {
            return Ok(self.shared.options.host_ip);
        }
        let ports: Vec<u16> = self
            .runs
            .iter()
            .flat_map(|run| run.declared.ports.iter().flatten())
            .filter_map(|port| u16::try_from(port.container_port).ok())
            .collect();
        let mut addresses = self.shared.addresses.lock();
        let range = self.shared.options.pod_addresses;
        let address = address::choose(&self.uid, range, &addresses, |address| {
            address::ports_are_free(address, &ports)
        })
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("no address in {range} with the pod's ports free was found"),
            )
        })?;
        addresses.insert(address);
        Ok(address)
    }

    /// Keeps the manifest for an engine that starts while the API is away.
    pub(super) fn write_pod(&mut self, pod: &Arc<Pod>) {
        if self
            .written
            .as_ref()
            .is_some_and(|written| same_but_status(written, pod))
        {
            return;
        }
        let written = std::fs::create_dir_all(&self.folder)
            .and_then(|()| write_json(&self.folder.join(POD_FILE), pod.as_ref()));
        match written {
            Ok(()) => self.written = Some(Arc::clone(pod)),
            Err(error) => {
                tracing::warn!(pod = %self.name, namespace = %self.namespace, %error, "cannot write the pod's manifest");
            }
        }
    }

    pub(super) fn keep_published(&mut self, conditions: Vec<PodCondition>) {
        if self.published == conditions {
            return;
        }
        self.published = conditions;
        let path = self.folder.join(CONDITIONS_FILE);
        if let Err(error) = write_json(&path, &self.published) {
            tracing::warn!(pod = %self.name, namespace = %self.namespace, %error, "cannot write the pod's conditions");
        }
    }

    pub(super) async fn save(&mut self) {
        if let Err(error) = self.try_save().await {
            tracing::warn!(pod = %self.name, namespace = %self.namespace, %error, "cannot write the pod's state");
        }
    }

    pub(super) async fn try_save(&mut self) -> io::Result<()> {
        self.record.containers = self
            .runs
            .iter()
            .map(|run| (run.declared.name.clone(), run.record.clone()))
            .collect();
        let record = self.record.clone();
        let path = self.folder.join(STATE_FILE);
        tokio::task::spawn_blocking(move || write_json(&path, &record))
            .await
            .map_err(io::Error::other)?
    }

    /// Removes every trace of the pod.
    pub(super) async fn clean_up(self) {
        let (folder, uid) = (self.folder.clone(), self.uid.clone());
        let work = tokio::task::spawn_blocking(move || {
            process::kill_marked(&format!("{uid}/"));
            std::fs::remove_dir_all(folder)
        });
        match work.await {
            Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(pod = %self.name, namespace = %self.namespace, %error, "cannot remove the pod's folder");
            }
            _ => {}
        }
        if let Some(ip) = self.record.ip {
            self.shared.addresses.lock().remove(&ip);
        }
        self.free_devices();
        self.shared.pods.lock().remove(&self.uid);
    }
}

/// Compares what matters for running the pod.
fn same_but_status(one: &Pod, other: &Pod) -> bool {
    one.spec == other.spec
        && one.metadata.deletion_timestamp == other.metadata.deletion_timestamp
        && one.metadata.deletion_grace_period_seconds
            == other.metadata.deletion_grace_period_seconds
        && one.metadata.labels == other.metadata.labels
        && one.metadata.annotations == other.metadata.annotations
}
