//! The pod's devices: asked for before its first container starts, written down
//! with the pod's state, given back at its end.

use std::path::Path;

use cumulo_api::{Gpu, labels};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use nix::sys::signal::Signal;

use super::Worker;
use super::kept::{POD_FILE, PodRecord, STATE_FILE};
use crate::devices::{Held, Holder, Ledger, Method, Refusal, claimed, named};
use crate::engine::devices::Told;
use crate::engine::lifecycle::Failure;
use crate::process;
use crate::record::read_json;

/// Why a container waits for a device that others have.
pub(super) const WAITING: &str = "WaitingForGpu";
/// Why a pod fails whose wish this node can never fulfil.
pub(super) const UNAVAILABLE: &str = "GpuUnavailable";

/// What a pod that uses more of a GPU's memory than its share is told, and fails with
/// where it is ended for it.
const MEMORY_EXCEEDED: &str = "GpuMemoryExceeded";

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
            energy: None,
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
        let claims = self.claims(pod).await?;
        if !claims.is_empty() {
            let shared = std::sync::Arc::clone(&self.shared);
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let node = node.unwrap_or_default();
            let held = shared
                .devices
                .take(&self.uid, &self.namespace, &self.name, |snapshot| {
                    claimed(snapshot, node, &self.uid, &claims)
                })
                .await?;
            let names: Vec<&str> = held.iter().map(Held::visible).collect();
            let message = format!("gave it what its claims name: {}", names.join(", "));
            self.notice(None, false, "GpuAllocated", message);
            self.record.devices.clone_from(&held);
            return Ok(held);
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
        let decided = annotations.and_then(|all| all.get(labels::GPU_DEVICES));
        let held = match decided {
            Some(decided) => {
                let results = serde_json::from_str(decided).map_err(|error| {
                    Refusal::Never(format!(
                        "{} is not understood: {error}",
                        labels::GPU_DEVICES
                    ))
                })?;
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                let node = node.unwrap_or_default();
                let take = |snapshot: &_| named(snapshot, node, "the scheduler", results);
                shared
                    .devices
                    .take(&self.uid, &self.namespace, &self.name, take)
                    .await?
            }
            None => {
                shared
                    .devices
                    .allocate(&self.uid, &self.namespace, &self.name, &ask)
                    .await?
            }
        };
        let names: Vec<&str> = held.iter().map(Held::visible).collect();
        let message = format!("gave it {ask}: {}", names.join(", "));
        self.notice(None, false, "GpuAllocated", message);
        self.record.devices.clone_from(&held);
        Ok(held)
    }

    /// The pod's ResourceClaims, as they are now.
    async fn claims(&self, pod: &Pod) -> Result<Vec<ResourceClaim>, Refusal> {
        let wanted = pod
            .spec
            .iter()
            .flat_map(|spec| spec.resource_claims.iter().flatten());
        let made = pod.status.as_ref();
        let made = made.and_then(|status| status.resource_claim_statuses.as_ref());
        let mut claims = Vec::new();
        for one in wanted {
            let generated = made
                .into_iter()
                .flatten()
                .find(|made| made.name == one.name);
            let object = match (&one.resource_claim_name, generated) {
                (Some(object), _) => object,
                // No claim is needed.
                (None, Some(generated)) if generated.resource_claim_name.is_none() => continue,
                (None, Some(generated)) => {
                    generated.resource_claim_name.as_ref().unwrap_or(&one.name)
                }
                (None, None) => {
                    return Err(Refusal::Busy(format!(
                        "waits for the ResourceClaim {} to be made from its template",
                        one.name
                    )));
                }
            };
            let found = self.shared.source.claim(&self.namespace, object).await;
            let found = found.map_err(|error| Refusal::Busy(error.to_string()))?;
            let found =
                found.ok_or_else(|| Refusal::Busy(format!("waits for ResourceClaim {object}")))?;
            // A pod may have one under two names.
            let known = |known: &ResourceClaim| known.metadata.name == found.metadata.name;
            if !claims.iter().any(known) {
                claims.push(found);
            }
        }
        Ok(claims)
    }

    /// Does what the watch over the devices says of this pod.
    pub(super) async fn heed(&mut self, told: &Told) {
        if self.heeded == *told {
            return;
        }
        let before = std::mem::replace(&mut self.heeded, told.clone());
        let verdict = &told.verdict;
        match (&before.verdict.excess, &verdict.excess) {
            (None, Some(excess)) => {
                self.notice(None, true, MEMORY_EXCEEDED, format!("the pod {excess}"));
            }
            (Some(_), None) => {
                let message = "the pod keeps to its share of the GPU's memory again";
                self.notice(None, false, "GpuMemoryWithinShare", message.to_owned());
            }
            _ => {}
        }
        if before.verdict.paused != verdict.paused {
            let signal = if verdict.paused {
                Signal::SIGSTOP
            } else {
                Signal::SIGCONT
            };
            self.signal_all(signal);
        }
        if let Some(excess) = verdict.excess.as_ref().filter(|_| verdict.end)
            && self.record.failure.is_none()
        {
            let message = format!("the pod {excess}");
            self.fail(MEMORY_EXCEEDED, message).await;
            self.signal_all(Signal::SIGKILL);
        }
    }

    /// Signals what runs of the pod.
    pub(super) fn signal_all(&self, signal: Signal) {
        for live in self.runs.iter().filter_map(|run| run.live.as_ref()) {
            process::signal_group(&live.started, signal);
        }
    }

    /// Gives back what the pod had.
    pub(super) fn free_devices(&self) {
        let energy = self.shared.keeper.energy(&self.uid);
        if !self.shared.devices.free(&self.uid) {
            return;
        }
        self.shared.keeper.changed();
        let used = energy.map_or_else(String::new, |energy| {
            let method = match energy.method {
                Method::Share => "its share",
                Method::Utilization => "how much it computed",
                Method::ShareAndUtilization => {
                    "its share, and by how much it computed where that was known"
                }
            };
            format!(
                "; it used {:.1} kJ of the GPU's energy, counted by {method}",
                energy.millijoules as f64 / 1e6
            )
        });
        self.notice(
            None,
            false,
            "GpuReleased",
            format!("gave its GPU back{used}"),
        );
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
