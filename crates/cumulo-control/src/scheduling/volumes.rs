//! Which nodes a pod's volumes can be reached from. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::pod::Pod;
use super::selector::{NodeTerm, node_terms};
use crate::key::ObjectKey;

/// The terms that a pod's volumes add, each a list of which one must hold.
///
/// # Errors
/// What is waited for, as a sentence without its beginning.
pub(crate) fn reach<'v>(
    pod: &Pod,
    claim: impl Fn(&ObjectKey) -> Option<&'v PersistentVolumeClaim>,
    volume: impl Fn(&str) -> Option<&'v PersistentVolume>,
    used: impl Fn(&ObjectKey) -> bool,
) -> Result<Vec<Vec<NodeTerm>>, String> {
    let ephemeral = pod.spec.ephemeral.iter();
    let names = ephemeral.map(|name| format!("{}-{name}", pod.name()));
    let mut reach = Vec::new();
    for name in pod.spec.volumes.iter().cloned().chain(names) {
        let key = ObjectKey::new(pod.namespace(), &name);
        let Some(found) = claim(&key) else {
            return Err(format!("waits for PersistentVolumeClaim {name}"));
        };
        if found.metadata.deletion_timestamp.is_some() {
            return Err(format!("PersistentVolumeClaim {name} is being deleted"));
        }
        let spec = found.spec.as_ref();
        let bound = spec.and_then(|spec| spec.volume_name.as_deref());
        let Some(bound) = bound.filter(|bound| !bound.is_empty()) else {
            return Err(format!(
                "waits for PersistentVolumeClaim {name}, which is not bound to a volume"
            ));
        };
        let modes = spec.and_then(|spec| spec.access_modes.as_ref());
        let alone = modes.is_some_and(|modes| modes.iter().any(|mode| mode == "ReadWriteOncePod"));
        if alone && used(&key) {
            return Err(format!(
                "PersistentVolumeClaim {name} is for one pod at a time, and another has it"
            ));
        }
        let Some(volume) = volume(bound) else {
            return Err(format!("waits for PersistentVolume {bound}"));
        };
        let affinity = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.node_affinity.as_ref());
        if let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) {
            let terms = node_terms(required)
                .map_err(|what| format!("the node affinity of PersistentVolume {bound}: {what}"))?;
            reach.push(terms);
        }
    }
    Ok(reach)
}
