//! What was decided for a claim, as its status says it.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sha2::{Digest, Sha256};

use super::inventory::{Inventory, Reach};
use super::wish::{Class, Wish};
use crate::scheduling::pod::Toleration;
use crate::scheduling::quantity::canonical;

/// A device, or a part of one, that a request gets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Given {
    /// The request, or `request/alternative`.
    pub(crate) request: String,
    /// Position in the inventory.
    pub(crate) device: usize,
    /// For administration: others have it as well.
    pub(crate) admin: bool,
    /// What it takes of a shared device's capacity, in billionths.
    pub(crate) consumed: BTreeMap<String, i128>,
    pub(crate) tolerations: Vec<Toleration>,
}

/// The claim's `status.allocation`.
pub(crate) fn allocation(
    inventory: &Inventory,
    classes: &HashMap<String, Class>,
    claim: &api::ResourceClaim,
    wish: &Wish,
    given: &[Given],
    node: &str,
) -> api::AllocationResult {
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    api::AllocationResult {
        allocation_timestamp: None,
        node_selector: reach(inventory, given, node),
        devices: Some(api::DeviceAllocationResult {
            results: Some(results(inventory, uid, given)),
            config: config(classes, claim, wish, given),
        }),
    }
}

/// What a claim or a pod with this UID gets, device by device.
pub(crate) fn results(
    inventory: &Inventory,
    uid: &str,
    given: &[Given],
) -> Vec<api::DeviceRequestAllocationResult> {
    let results = given.iter().enumerate().map(|(number, given)| {
        let device = &inventory.devices[given.device];
        api::DeviceRequestAllocationResult {
            request: given.request.clone(),
            driver: device.id.driver.clone(),
            pool: device.id.pool.clone(),
            device: device.id.device.clone(),
            admin_access: given.admin.then_some(true),
            consumed_capacity: (device.shared && !given.admin).then(|| {
                given
                    .consumed
                    .iter()
                    .map(|(name, amount)| (name.clone(), Quantity(canonical(*amount))))
                    .collect()
            }),
            share_id: (device.shared && !given.admin)
                .then(|| share_id(uid, &given.request, number)),
            tolerations: (!given.tolerations.is_empty()).then(|| {
                given
                    .tolerations
                    .iter()
                    .map(|one| api::DeviceToleration {
                        key: one.key.clone(),
                        operator: one.operator.clone(),
                        value: one.value.clone(),
                        effect: one.effect.clone(),
                        toleration_seconds: None,
                    })
                    .collect()
            }),
            ..api::DeviceRequestAllocationResult::default()
        }
    });
    results.collect()
}

/// From where the devices can be reached: for those of a node, that node.
fn reach(inventory: &Inventory, given: &[Given], node: &str) -> Option<NodeSelector> {
    let mut selector = None;
    for given in given {
        match &inventory.devices[given.device].reach {
            Reach::Node(_) => {
                return Some(NodeSelector {
                    node_selector_terms: vec![NodeSelectorTerm {
                        match_expressions: None,
                        match_fields: Some(vec![NodeSelectorRequirement {
                            key: "metadata.name".to_owned(),
                            operator: "In".to_owned(),
                            values: Some(vec![node.to_owned()]),
                        }]),
                    }],
                });
            }
            Reach::Nodes(_, one) => match &selector {
                None => selector = Some((**one).clone()),
                Some(known) if *known == **one => {}
                // Two different sets: the one node that is known to be in both.
                Some(_) => return reach_one(node),
            },
            Reach::Everywhere => {}
        }
    }
    selector
}

fn reach_one(node: &str) -> Option<NodeSelector> {
    Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
        }],
    })
}

/// Configuration of the classes, then of the claim, for the requests that have it.
fn config(
    classes: &HashMap<String, Class>,
    claim: &api::ResourceClaim,
    wish: &Wish,
    given: &[Given],
) -> Option<Vec<api::DeviceAllocationConfiguration>> {
    let mut all = Vec::new();
    for request in &wish.requests {
        for alternative in &request.alternatives {
            let name = match &alternative.name {
                Some(sub) => format!("{}/{sub}", request.name),
                None => request.name.clone(),
            };
            if !given.iter().any(|given| given.request == name) {
                continue;
            }
            let class = classes.get(&alternative.class);
            for config in class.into_iter().flat_map(|class| &class.config) {
                all.push(api::DeviceAllocationConfiguration {
                    opaque: config.opaque.clone(),
                    requests: Some(vec![name.clone()]),
                    source: "FromClass".to_owned(),
                });
            }
        }
    }
    let devices = claim.spec.devices.as_ref();
    for config in devices
        .and_then(|devices| devices.config.as_ref())
        .into_iter()
        .flatten()
    {
        let named = config.requests.clone().filter(|names| !names.is_empty());
        let used = named.as_ref().is_none_or(|names| {
            given.iter().any(|given| {
                let request = given.request.split('/').next().unwrap_or_default();
                names
                    .iter()
                    .any(|name| *name == given.request || name == request)
            })
        });
        if used {
            all.push(api::DeviceAllocationConfiguration {
                opaque: config.opaque.clone(),
                requests: named,
                source: "FromClaim".to_owned(),
            });
        }
    }
    (!all.is_empty()).then_some(all)
}

/// A UUID (version 8) that follows from what it is for.
fn share_id(claim: &str, request: &str, number: usize) -> String {
    let hash = Sha256::digest(format!("{claim}/{request}/{number}"));
    let mut bytes: [u8; 16] = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex::encode(bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..]
    )
}
