//! The devices of a cluster, as their drivers publish them (`resource.k8s.io/v1`):
//! what `cumulo gpus` shows where more than one node has them.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, ResourceClaim, ResourceSlice};
use kube::Client;
use kube::api::{Api, ListParams};
use serde::Serialize;

use super::print::{columns, header};
use crate::cli::{Format, OutputArgs};
use crate::project::apply::api_error;

/// A device and who has it.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Row {
    node: String,
    driver: String,
    device: String,
    model: String,
    memory: String,
    /// `NAMESPACE/CLAIM` of each allocation.
    holders: Vec<String>,
}

/// Lists all devices.
pub async fn run(client: &Client, output: OutputArgs) -> Result<()> {
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    let claims: Api<ResourceClaim> = Api::all(client.clone());
    let slices = slices
        .list(&ListParams::default())
        .await
        .map_err(|error| api_error(&error))?;
    let claims = claims
        .list(&ListParams::default())
        .await
        .map_err(|error| api_error(&error))?;
    let rows = rows(&slices.items, &claims.items);
    match output.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
        Format::Yaml => print!("{}", serde_saphyr::to_string(&rows)?),
        _ => print!("{}", table(&rows)),
    }
    Ok(())
}

fn rows(slices: &[ResourceSlice], claims: &[ResourceClaim]) -> Vec<Row> {
    // A pool's older generation is not there any more.
    let mut newest: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for slice in slices {
        let pool = &slice.spec.pool;
        let known = newest.entry((&slice.spec.driver, &pool.name)).or_default();
        *known = (*known).max(pool.generation);
    }
    let mut holders: BTreeMap<(&str, &str, &str), Vec<String>> = BTreeMap::new();
    for claim in claims {
        let name = format!(
            "{}/{}",
            claim.metadata.namespace.as_deref().unwrap_or_default(),
            claim.metadata.name.as_deref().unwrap_or_default()
        );
        let allocated = claim
            .status
            .iter()
            .flat_map(|status| &status.allocation)
            .flat_map(|allocation| &allocation.devices)
            .flat_map(|devices| devices.results.iter().flatten());
        for result in allocated {
            let key = (
                result.driver.as_str(),
                result.pool.as_str(),
                result.device.as_str(),
            );
            holders.entry(key).or_default().push(name.clone());
        }
    }
    let mut rows = Vec::new();
    for slice in slices {
        let spec = &slice.spec;
        let pool = spec.pool.name.as_str();
        if newest.get(&(spec.driver.as_str(), pool)) != Some(&spec.pool.generation) {
            continue;
        }
        for device in spec.devices.iter().flatten() {
            let key = (spec.driver.as_str(), pool, device.name.as_str());
            rows.push(Row {
                node: spec.node_name.clone().unwrap_or_default(),
                driver: spec.driver.clone(),
                device: device.name.clone(),
                model: model(device),
                memory: device
                    .capacity
                    .iter()
                    .flatten()
                    .find(|(name, _)| plain(name) == "memory")
                    .map(|(_, capacity)| capacity.value.0.clone())
                    .unwrap_or_default(),
                holders: holders.remove(&key).unwrap_or_default(),
            });
        }
    }
    rows.sort_by(|a, b| (&a.node, &a.driver, &a.device).cmp(&(&b.node, &b.driver, &b.device)));
    rows
}

/// A name without the domain of whoever defined it.
fn plain(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// What a driver says that a device is, and the profile of a part of one.
fn model(device: &Device) -> String {
    let attributes: BTreeMap<&str, &DeviceAttribute> = device
        .attributes
        .iter()
        .flatten()
        .map(|(name, value)| (plain(name), value))
        .collect();
    let text = |name: &str| attributes.get(name).and_then(|value| value.string.clone());
    let product = ["productName", "model", "type"]
        .into_iter()
        .find_map(text)
        .unwrap_or_default();
    match text("profile") {
        Some(profile) => format!("{product} {profile}"),
        None => product,
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no driver publishes a device (`cumulo doctor cluster` says whether the cluster knows ResourceSlices)\n".to_owned();
    }
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.node.clone(),
                row.device.clone(),
                row.model.clone(),
                row.memory.clone(),
                row.driver.clone(),
                if row.holders.is_empty() {
                    "free".to_owned()
                } else {
                    row.holders.join(", ")
                },
            ]
        })
        .collect();
    columns(
        &header(&["NODE", "DEVICE", "MODEL", "MEMORY", "DRIVER", "HELD BY"]),
        &lines,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn devices_are_shown_with_their_holders_and_old_generations_are_not() {
        let slice = |generation: i64, device: &str| -> ResourceSlice {
            serde_json::from_value(json!({"spec": {
                "driver": "gpu.nvidia.com", "nodeName": "b", "pool": {"name": "b", "generation": generation, "resourceSliceCount": 1},
                "devices": [{
                    "name": device,
                    "attributes": {"productName": {"string": "A100"}, "gpu.nvidia.com/profile": {"string": "1g.10gb"}},
                    "capacity": {"memory": {"value": "10Gi"}},
                }],
            }}))
            .unwrap()
        };
        let claim: ResourceClaim = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "team"}, "spec": {},
            "status": {"allocation": {"devices": {"results": [
                {"driver": "gpu.nvidia.com", "pool": "b", "device": "gpu-0", "request": "r"}
            ]}}},
        }))
        .unwrap();
        let rows = rows(
            &[slice(1, "gone"), slice(2, "gpu-1"), slice(2, "gpu-0")],
            &[claim],
        );
        insta::assert_snapshot!(table(&rows), @r"
        NODE   DEVICE   MODEL          MEMORY   DRIVER           HELD BY
        b      gpu-0    A100 1g.10gb   10Gi     gpu.nvidia.com   team/c
        b      gpu-1    A100 1g.10gb   10Gi     gpu.nvidia.com   free
        ");
        assert!(table(&[]).starts_with("no driver"));
    }
}
