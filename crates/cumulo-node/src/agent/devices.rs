//! The node's devices as ResourceSlices, kept up to date.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

use super::{answered, limited};
use crate::devices::{DRIVER, Inventory, slices, vendor_driver};
use crate::engine::Engine;
use crate::options::Options;

/// Every so many looks the slices are compared with what the API has, though
/// nothing changed here: somebody may have deleted one.
const COMPARE_EVERY: u32 = 10;
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Looks at the devices and publishes what changed; never ends.
pub(super) async fn keep(client: &Client, engine: &Engine, options: &Options) {
    let mut published: Option<Vec<ResourceSlice>> = None;
    let mut told = String::new();
    let mut looks = 0u32;
    loop {
        let mut wait = options.device_interval;
        match engine.devices().await {
            Ok(inventory) => {
                told.clear();
                let wanted = slices(&inventory.snapshot, &options.node_name, &inventory.managed);
                let compare = looks.is_multiple_of(COMPARE_EVERY) && !wanted.is_empty();
                if published.as_ref() != Some(&wanted) || compare {
                    match publish(client, &inventory).await {
                        Ok(true) => published = Some(wanted),
                        Ok(false) => wait = wait.min(RETRY),
                        Err(error) => {
                            tracing::warn!(%error, "cannot publish the node's devices, trying again");
                            wait = wait.min(RETRY);
                        }
                    }
                }
            }
            Err(error) => {
                // Said once: it is tried again at each look.
                let error = error.to_string();
                if told != error {
                    tracing::warn!(error, "cannot read the node's devices, trying again");
                    told = error;
                }
            }
        }
        looks = looks.wrapping_add(1);
        tokio::time::sleep(wait).await;
    }
}

/// Brings the API's slices of this node up to date. Writes only what differs.
/// `false` as long as there is no Node object that they could belong to.
async fn publish(client: &Client, inventory: &Inventory) -> Result<bool, kube::Error> {
    let node_name = &inventory.node;
    let api: Api<ResourceSlice> = Api::all(client.clone());
    let of_node = ListParams::default().fields(&format!("spec.nodeName={node_name}"));
    let there = limited(api.list(&of_node)).await?.items;
    let vendors: Vec<_> = there
        .iter()
        .filter_map(|slice| vendor_driver(&slice.spec.driver))
        .collect();
    let mut left = inventory.snapshot.clone();
    left.gpus.retain(|gpu| !vendors.contains(&gpu.vendor));
    let mut wanted = slices(&left, node_name, &inventory.managed);
    let ours: Vec<ResourceSlice> = there
        .into_iter()
        .filter(|slice| slice.spec.driver == DRIVER)
        .collect();
    if same(&ours, &wanted) {
        return Ok(true);
    }
    let Some(owner) = owner(client, node_name).await? else {
        return Ok(false);
    };
    // A pool's slices change together, and the number tells which belong together.
    let generation = ours
        .iter()
        .map(|slice| slice.spec.pool.generation)
        .max()
        .unwrap_or(0)
        .saturating_add(1);
    for slice in &mut wanted {
        slice.spec.pool.generation = generation;
        slice.metadata.owner_references = Some(vec![owner.clone()]);
        let name = slice.name_any();
        match ours.iter().find(|known| known.name_any() == name) {
            Some(known) => {
                slice.metadata.resource_version = known.resource_version();
                limited(api.replace(&name, &PostParams::default(), slice)).await?;
            }
            None => {
                limited(api.create(&PostParams::default(), slice)).await?;
            }
        }
    }
    for old in &ours {
        let name = old.name_any();
        if wanted.iter().all(|slice| slice.name_any() != name) {
            match limited(api.delete(&name, &DeleteParams::default())).await {
                Ok(_) => {}
                Err(error) if answered(&error, 404) => {}
                Err(error) => return Err(error),
            }
        }
    }
    tracing::info!(slices = wanted.len(), "published the node's devices");
    Ok(true)
}

/// Whether slices say the same, whatever their generation.
fn same(ours: &[ResourceSlice], wanted: &[ResourceSlice]) -> bool {
    ours.len() == wanted.len()
        && wanted.iter().all(|slice| {
            ours.iter().any(|known| {
                let mut known_spec = known.spec.clone();
                known_spec.pool.generation = slice.spec.pool.generation;
                known.name_any() == slice.name_any() && known_spec == slice.spec
            })
        })
}

/// The Node object, so that slices of a node that is deleted go with it.
async fn owner(client: &Client, node_name: &str) -> Result<Option<OwnerReference>, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = limited(nodes.get_opt(node_name)).await?;
    Ok(node.and_then(|node| {
        Some(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node_name.to_owned(),
            uid: node.metadata.uid?,
            ..OwnerReference::default()
        })
    }))
}
