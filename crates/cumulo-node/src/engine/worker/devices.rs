//! The pod's devices: asked for before its first container starts, written down
//! with the pod's state, given back at its end.

use std::path::Path;

use cumulo_api::{Gpu, labels};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;

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
        let claims = self.claims(pod).await?;
        if !claims.is_empty() {
            let shared = std::sync::Arc::clone(&self.shared);
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let held = shared
                .devices
                .claim(
                    &self.uid,
                    &self.namespace,
                    &self.name,
                    node.unwrap_or_default(),
                    &claims,
                )
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
            claims.push(
                found.ok_or_else(|| Refusal::Busy(format!("waits for ResourceClaim {object}")))?,
            );
        }
        Ok(claims)
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
