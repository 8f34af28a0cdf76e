//! What a pod's ResourceClaims give it of this node's devices. Pure.

use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, ResourceClaim};

use super::convert::geometry_of;
use super::decide::{Held, Refusal, held_of};
use super::mig::{Given, Place};
use super::slices::{DRIVER, place_name};
use super::snapshot::{Gpu, Snapshot};
use crate::quantity::{milli, whole};
use cumulo_schedule::solver::WHOLE;

/// The devices that allocated claims name; of an instance that is yet to be made, its place.
///
/// # Errors
/// [`Refusal::Busy`] while a claim is not this pod's yet or names a device that
/// is not there; [`Refusal::Never`] for devices that another driver must prepare.
pub fn claimed(
    snapshot: &Snapshot,
    node: &str,
    pod_uid: &str,
    claims: &[ResourceClaim],
) -> Result<Vec<Given>, Refusal> {
    let mut all = Vec::new();
    for claim in claims {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let status = claim.status.clone().unwrap_or_default();
        let users = status.reserved_for.unwrap_or_default();
        let (Some(allocation), true) = (
            status.allocation,
            users.iter().any(|user| user.uid == pod_uid),
        ) else {
            return Err(Refusal::Busy(format!(
                "waits for ResourceClaim {name} to be given to it by a scheduler"
            )));
        };
        let results = allocation.devices.and_then(|devices| devices.results);
        let giver = format!("ResourceClaim {name}");
        let given = named(snapshot, node, &giver, results.unwrap_or_default())?;
        let given = given.into_iter();
        all.extend(given.map(|given| given.by(claim.metadata.uid.clone())));
    }
    Ok(all)
}

/// The devices that results of an allocation name; `giver` is what gives them.
///
/// # Errors
/// As [`claimed`].
pub fn named(
    snapshot: &Snapshot,
    node: &str,
    giver: &str,
    results: Vec<DeviceRequestAllocationResult>,
) -> Result<Vec<Given>, Refusal> {
    let mut all = Vec::new();
    for result in results {
        if result.driver != DRIVER {
            return Err(Refusal::Never(format!(
                "{giver} gives it a device of the driver {}; this node prepares those of {DRIVER} only",
                result.driver
            )));
        }
        if result.pool != node {
            return Err(Refusal::Never(format!(
                "{giver} gives it a device of node {}, and it runs on {node}",
                result.pool
            )));
        }
        let consumed = result.consumed_capacity.unwrap_or_default();
        let share = consumed
            .get("share")
            .or_else(|| consumed.get(&format!("{DRIVER}/share")));
        let memory = consumed
            .get("memory")
            .or_else(|| consumed.get(&format!("{DRIVER}/memory")));
        let held = find(
            snapshot,
            &result.device,
            // Hundredths of the GPU, with parts of them.
            share.and_then(|share| u32::try_from(milli(share)? / 100).ok()),
            memory.and_then(whole),
        );
        let given = match held {
            Some(Given::Held(held)) if result.admin_access == Some(true) => {
                Some(Given::Held(held.for_administration()))
            }
            // Nothing is made to be looked at.
            Some(Given::New { .. }) if result.admin_access == Some(true) => None,
            given => given,
        };
        all.push(given.ok_or_else(|| {
            Refusal::Busy(format!(
                "{giver} gives it {}, which this node does not have now",
                result.device
            ))
        })?);
    }
    Ok(all)
}

/// A device by the name it is published under: `gpu-0`, `gpu-0-mig-3` for an instance, or
/// `gpu-0-mig-1g-10gb-4` for a place of one; the share in thousandths.
fn find(snapshot: &Snapshot, name: &str, share: Option<u32>, memory: Option<u64>) -> Option<Given> {
    let rest = name.strip_prefix("gpu-")?;
    let (index, instance) = match rest.split_once("-mig-") {
        Some((index, instance)) => (index, Some(instance)),
        None => (rest, None),
    };
    let index: u32 = index.parse().ok()?;
    let gpu = snapshot.gpus.iter().find(|gpu| gpu.index == index)?;
    let Some(instance) = instance else {
        return gpu.instances().is_none().then(|| {
            Given::Held(Held {
                gpu: gpu.identity(),
                instance: None,
                milli: share.map_or(WHOLE, |share| share.clamp(1, WHOLE)),
                memory: memory
                    .unwrap_or_else(|| gpu.memory.total.saturating_sub(gpu.memory.reserved)),
                claim: None,
            })
        });
    };
    let Ok(id) = instance.parse::<u32>() else {
        return place(gpu, name).map(Given::at);
    };
    let instance = gpu.instances()?.iter().find(|instance| instance.id == id)?;
    Some(Given::Held(held_of(gpu, instance)))
}

fn place(gpu: &Gpu, name: &str) -> Option<Place> {
    let geometry = geometry_of(gpu)?;
    let mut slots = geometry.profiles.iter().flat_map(|profile| {
        let slots = profile.slots.iter();
        slots.map(move |slot| (profile.name.as_str(), slot.start))
    });
    let (profile, start) =
        slots.find(|(profile, start)| place_name(gpu, profile, *start) == name)?;
    Some(Place {
        gpu: gpu.identity(),
        profile: profile.to_owned(),
        start,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn recording(text: &str) -> Snapshot {
        serde_json::from_str(text).unwrap()
    }

    fn claim(results: Value) -> ResourceClaim {
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {}, "status": {
            "allocation": {"devices": {"results": results}},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}}))
        .unwrap()
    }

    fn result(device: &str, more: Value) -> Value {
        let mut result = json!({"request": "gpu", "driver": DRIVER, "pool": "n", "device": device});
        for (name, value) in more.as_object().unwrap() {
            result[name] = value.clone();
        }
        result
    }

    #[test]
    fn what_a_claim_names_is_what_the_pod_gets() {
        let machine = recording(include_str!("../../recordings/a100-8.json"));
        let share = json!({"consumedCapacity": {"share": "33300m", "memory": "10Gi"}});
        let given = claimed(
            &machine,
            "n",
            "u",
            &[claim(json!([
                result("gpu-2", share),
                result("gpu-5", json!({}))
            ]))],
        )
        .unwrap();
        let held = given.iter().map(|given| given.resolve(&machine).unwrap());
        let held: Vec<Held> = held.collect();
        assert_eq!(held[0].gpu, machine.gpus[2].identity());
        assert_eq!((held[0].milli, held[0].memory), (333, 10 << 30));
        assert_eq!(
            (held[1].gpu.clone(), held[1].milli),
            (machine.gpus[5].identity(), 1000)
        );

        let mig = recording(include_str!("../../recordings/mixed-mig.json"));
        let gpu = mig
            .gpus
            .iter()
            .find(|gpu| gpu.instances().is_some_and(|all| !all.is_empty()))
            .unwrap();
        let instance = &gpu.instances().unwrap()[0];
        let name = format!("gpu-{}-mig-{}", gpu.index, instance.id);
        let given = claimed(&mig, "n", "u", &[claim(json!([result(&name, json!({}))]))]).unwrap();
        assert_eq!(given[0].resolve(&mig).unwrap().visible(), instance.uuid);

        let name = format!("gpu-{}-mig-1g-10gb-me-5", gpu.index);
        let given = claimed(&mig, "n", "u", &[claim(json!([result(&name, json!({}))]))]).unwrap();
        let place = Place {
            gpu: gpu.identity(),
            profile: "1g.10gb+me".to_owned(),
            start: 5,
        };
        assert_eq!(given, [Given::at(place)]);
    }

    #[test]
    fn what_cannot_be_given_is_said() {
        let machine = recording(include_str!("../../recordings/a100-8.json"));
        let refused =
            |uid: &str, claim: ResourceClaim| claimed(&machine, "n", uid, &[claim]).unwrap_err();
        let fine = || claim(json!([result("gpu-0", json!({}))]));
        assert!(matches!(refused("another", fine()), Refusal::Busy(_)));
        assert!(matches!(
            refused("u", claim(json!([result("gpu-9", json!({}))]))),
            Refusal::Busy(_)
        ));
        let foreign = claim(json!([result(
            "gpu-0",
            json!({"driver": "gpu.nvidia.com"})
        )]));
        assert!(matches!(refused("u", foreign), Refusal::Never(_)));
        let elsewhere = claim(json!([result("gpu-0", json!({"pool": "m"}))]));
        assert!(matches!(refused("u", elsewhere), Refusal::Never(_)));
    }

    #[test]
    fn a_part_knows_its_claim_and_whether_it_is_only_looked_at() {
        let machine = recording(include_str!("../../recordings/a100-8.json"));
        let mut one = claim(json!([
            result("gpu-0", json!({})),
            result("gpu-1", json!({"adminAccess": true}))
        ]));
        one.metadata.uid = Some("claim".to_owned());
        let given = claimed(&machine, "n", "u", &[one]).unwrap();
        let [Given::Held(own), Given::Held(looked_at)] = &given[..] else {
            panic!("{given:?}")
        };
        assert_eq!(own.claim.as_deref(), Some("claim"));
        assert!(own.is_taken() && !looked_at.is_taken());
        assert_eq!(looked_at.visible(), machine.gpus[1].uuid);
    }
}
