//! Claims and devices.

use serde_json::{Value, json};

use crate::scheduling::testing::World;

/// A class of everything that a driver has.
fn class(name: &str, expression: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selectors": [{"cel": {"expression": expression}}]}})
}

fn slice(node: &str, devices: Value) -> Value {
    json!({"metadata": {"name": format!("{node}-slice")}, "spec": {
        "driver": "gpu.example.com", "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": devices}})
}

fn gpu(name: &str, model: &str, root: &str) -> Value {
    json!({"name": name, "attributes": {"model": {"string": model}, "root": {"string": root},
        "driverVersion": {"version": "1.2.3"}}, "capacity": {"memory": {"value": "40Gi"}}})
}

fn claim(name: &str, devices: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"devices": devices}})
}

fn exactly(name: &str, more: Value) -> Value {
    let mut exactly = json!({"deviceClassName": "gpu"});
    for (field, value) in more.as_object().unwrap() {
        exactly[field] = value.clone();
    }
    json!({"name": name, "exactly": exactly})
}

fn uses(claims: &[&str]) -> Value {
    let claims: Vec<Value> = claims
        .iter()
        .map(|name| json!({"name": name, "resourceClaimName": name}))
        .collect();
    json!({"resourceClaims": claims})
}

/// Two nodes with four devices each, of two models and on two roots.
fn world() -> World {
    let mut world = World::new();
    world.class(class("gpu", "device.driver == 'gpu.example.com'"));
    for node in ["a", "b"] {
        world.node(node, "32", "64Gi", json!({}));
        let model = |at: usize| {
            if node == "a" || at < 2 {
                "A100"
            } else {
                "H100"
            }
        };
        let devices: Vec<Value> = (0..4)
            .map(|at| gpu(&format!("gpu-{at}"), model(at), ["r0", "r1"][at / 2]))
            .collect();
        world.slice(slice(node, json!(devices)));
    }
    world
}

#[test]
fn counts_selectors_and_constraints() {
    let mut world = world();
    let h100 = json!({"count": 2, "selectors": [{"cel": {"expression":
        "device.attributes['gpu.example.com'].model == 'H100' && device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('20Gi')) && device.attributes['gpu.example.com'].driverVersion.isGreaterThan(semver('1.2.0'))"}}]});
    world.claim(claim("h", json!({"requests": [exactly("two", h100)]})));
    world.pod("needs-h100", uses(&["h"]), json!({}));
    world.claim(claim(
        "same",
        json!({
        "requests": [exactly("x", json!({})), exactly("y", json!({}))],
        "constraints": [{"matchAttribute": "gpu.example.com/root"}]}),
    ));
    world.pod("same-root", uses(&["same"]), json!({}));
    world.claim(claim(
        "differ",
        json!({
        "requests": [exactly("x", json!({"count": 2}))],
        "constraints": [{"distinctAttribute": "gpu.example.com/root"}]}),
    ));
    world.pod("two-roots", uses(&["differ"]), json!({}));
    world.claim(claim(
        "five",
        json!({"requests": [exactly("x", json!({"count": 5}))]}),
    ));
    world.pod("too-many", uses(&["five"]), json!({}));
    insta::assert_snapshot!(world.told(), @r"
    needs-h100 → b two=b/gpu-2 two=b/gpu-3
    same-root → b x=b/gpu-0 y=b/gpu-1
    too-many waits: no node has room for 0 cpu and 0 MiB memory: 2 nodes: each has 4 of 5 devices of class gpu that the claim selects
    two-roots → a x=a/gpu-0 x=a/gpu-2
    ");
}

#[test]
fn all_devices_or_the_first_that_can_be_had() {
    let mut world = world();
    world.claim(claim("all", json!({"requests": [exactly("x", json!({"allocationMode": "All",
        "selectors": [{"cel": {"expression": "device.attributes['gpu.example.com'].model == 'H100'"}}]}))]})));
    world.pod("all-h100", uses(&["all"]), json!({}));
    world.claim(claim("first", json!({"requests": [{"name": "x", "firstAvailable": [
        {"name": "best", "deviceClassName": "gpu", "selectors": [{"cel": {"expression": "device.attributes['gpu.example.com'].model == 'B200'"}}]},
        {"name": "good", "deviceClassName": "gpu", "count": 2}]}]})));
    world.pod("one-of", uses(&["first"]), json!({}));
    insta::assert_snapshot!(world.told(), @r"
    all-h100 → b x=b/gpu-2 x=b/gpu-3
    one-of → b x/good=b/gpu-0 x/good=b/gpu-1
    ");
}

#[test]
fn administration_takes_nothing_from_anybody() {
    let mut world = world();
    world.claim(claim(
        "every",
        json!({"requests": [exactly("x", json!({"count": 4}))]}),
    ));
    world.claim(claim(
        "each",
        json!({"requests": [exactly("x", json!({"count": 4}))]}),
    ));
    world.claim(claim(
        "look",
        json!({"requests": [exactly("x", json!({"allocationMode": "All", "adminAccess": true}))]}),
    ));
    for (pod, uses_claim) in [("one", "every"), ("two", "each"), ("admin", "look")] {
        world.pod(pod, uses(&[uses_claim]), json!({}));
    }
    let told = world.told();
    assert!(
        told.contains("one → ") && told.contains("two → ") && told.contains("admin → "),
        "{told}"
    );
}

#[test]
fn partitions_share_counters_and_keep_large_ones_possible() {
    let mut world = World::new();
    world.node("n", "32", "64Gi", json!({}));
    world.class(class("gpu", "device.driver == 'gpu.example.com'"));
    let part = |name: &str, size: &str, slots: &[u32]| {
        let counters: serde_json::Map<String, Value> = slots
            .iter()
            .map(|slot| (format!("slot-{slot}"), json!({"value": "1"})))
            .collect();
        json!({"name": name, "attributes": {"size": {"string": size}},
            "consumesCounters": [{"counterSet": "card", "counters": counters}]})
    };
    let mut slice = slice(
        "n",
        json!([
            part("half-0", "half", &[0, 1]),
            part("half-1", "half", &[2, 3]),
            part("q-0", "quarter", &[0]),
            part("q-1", "quarter", &[1]),
            part("q-2", "quarter", &[2]),
            part("q-3", "quarter", &[3])
        ]),
    );
    slice["spec"]["sharedCounters"] = json!([{"name": "card", "counters": {
        "slot-0": {"value": "1"}, "slot-1": {"value": "1"}, "slot-2": {"value": "1"}, "slot-3": {"value": "1"}}}]);
    world.slice(slice);
    let wants = |size: &str| {
        json!({"requests": [exactly("x", json!({"selectors": [{"cel": {"expression":
        format!("device.attributes['gpu.example.com'].size == '{size}'")}}]}))]})
    };
    for (name, size) in [
        ("q1", "quarter"),
        ("q2", "quarter"),
        ("h1", "half"),
        ("h2", "half"),
    ] {
        world.claim(claim(name, wants(size)));
        world.pod(name, uses(&[name]), json!({}));
    }
    insta::assert_snapshot!(world.told(), @r"
    h1 → n x=n/half-1
    h2 waits: no node has room for 0 cpu and 0 MiB memory: n has too few free devices of class gpu
    q1 → n x=n/q-0
    q2 → n x=n/q-1
    ");
}

/// KAI #416 admitted 24 × 2000 MiB on a device of 46068 MiB.
#[test]
fn shares_of_a_device_are_counted_in_its_own_units() {
    let mut world = World::new();
    world.node("n", "64", "64Gi", json!({}));
    world.class(class("gpu", "device.driver == 'gpu.example.com'"));
    world.slice(slice(
        "n",
        json!([{"name": "gpu-0", "allowMultipleAllocations": true, "capacity": {
        "memory": {"value": "46068Mi", "requestPolicy": {"default": "46068Mi",
            "validRange": {"min": "1Mi", "max": "46068Mi", "step": "1Mi"}}}}}]),
    ));
    for at in 0..24 {
        let name = format!("p{at:02}");
        world.claim(claim(&name, json!({"requests": [exactly("x", json!({"capacity": {"requests": {"memory": "2000Mi"}}}))]})));
        world.pod(&name, uses(&[&name]), json!({}));
    }
    let decision = world.decide();
    assert_eq!(decision.binds.len(), 23, "23 × 2000 MiB fit 46068 MiB");
    world.apply(&decision);
    assert!(world.decide().binds.is_empty());
    // An amount that is between two steps takes the next one.
    world.claim(claim("odd", json!({"requests": [exactly("x", json!({"capacity": {"requests": {"memory": "1500Ki"}}}))]})));
    world.pod("odd", uses(&["odd"]), json!({}));
    insta::assert_snapshot!(world.told().lines().next().unwrap(), @"odd → n x=n/gpu-0 gpu.example.com/memory:2Mi");
}

#[test]
fn tainted_incomplete_and_unknown_devices_are_not_given() {
    let mut world = World::new();
    world.node("n", "64", "64Gi", json!({}));
    world.class(class("gpu", "device.driver == 'gpu.example.com'"));
    world.slice(slice(
        "n",
        json!([
        {"name": "sick", "taints": [{"key": "broken", "effect": "NoExecute"}]},
        {"name": "odd", "attributes": {"x": {"list": ["1"]}}},
        {"name": "slow", "bindingConditions": ["ready"], "bindingFailureConditions": ["no"]}]),
    ));
    let mut partial = slice("n", json!([{"name": "half"}]));
    partial["metadata"]["name"] = json!("other");
    partial["spec"]["pool"] = json!({"name": "other", "generation": 1, "resourceSliceCount": 2});
    world.slice(partial);
    world.claim(claim("any", json!({"requests": [exactly("x", json!({}))]})));
    world.pod("any", uses(&["any"]), json!({}));
    world.claim(claim("brave", json!({"requests": [exactly("x", json!({"tolerations": [{"key": "broken", "operator": "Exists"}]}))]})));
    world.pod("brave", uses(&["brave"]), json!({}));
    insta::assert_snapshot!(world.told(), @r"
    any waits: no node has room for 0 cpu and 0 MiB memory: n has 0 of 1 devices of class gpu that the claim selects
    brave waits: no node has room for 0 cpu and 0 MiB memory: n has 0 of 1 devices of class gpu that the claim selects
    ");
}

#[test]
fn what_is_not_understood_waits_with_a_reason() {
    let mut world = world();
    world.claim(claim(
        "newer",
        json!({"requests": [exactly("x", json!({"onlyOn": "moon"}))]}),
    ));
    world.claim(claim("neither", json!({"requests": [{"name": "x"}]})));
    world.claim(claim(
        "mode",
        json!({"requests": [exactly("x", json!({"allocationMode": "Some"}))]}),
    ));
    world.claim(claim("syntax", json!({"requests": [exactly("x", json!({"selectors": [{"cel": {"expression": "device.("}}]}))]})));
    world.claim(claim("field", json!({"requests": [exactly("x", json!({"selectors": [{"cel": {"expression": "device.attributes['gpu.example.com'].color == 'red'"}}]}))]})));
    world.claim(claim(
        "loops",
        json!({"requests": [exactly("x", json!({"selectors": [{"cel": {"expression":
        "[1].all(a, [1].all(b, [1].all(c, true)))"}}]}))]}),
    ));
    let mut other = claim("class", json!({"requests": [exactly("x", json!({}))]}));
    other["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] = json!("tpu");
    world.claim(other);
    for name in [
        "newer", "neither", "mode", "syntax", "field", "loops", "class", "missing",
    ] {
        world.pod(name, uses(&[name]), json!({}));
    }
    world.pod(
        "unmade",
        json!({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]}),
        json!({}),
    );
    insta::assert_snapshot!(world.told());
}

#[test]
fn a_shared_claim_takes_its_pods_to_its_devices() {
    let mut world = world();
    world.claim(claim(
        "ours",
        json!({"requests": [exactly("x", json!({}))]}),
    ));
    world.pod("first", uses(&["ours"]), json!({}));
    world.pod("second", uses(&["ours"]), json!({}));
    let decision = world.decide();
    assert_eq!(decision.binds.len(), 1);
    let node = decision.binds[0].node.clone();
    world.apply(&decision);
    let decision = world.decide();
    assert_eq!(decision.binds.len(), 1);
    assert_eq!(decision.binds[0].node, node);
    assert!(decision.binds[0].allocations.is_empty());
}

#[test]
fn devices_where_their_only_user_cannot_go_are_given_back() {
    let mut world = world();
    let mut allocated = claim("c", json!({"requests": [exactly("x", json!({}))]}));
    allocated["status"] = json!({"allocation": {
        "devices": {"results": [{"request": "x", "driver": "gpu.example.com", "pool": "gone", "device": "gpu-0"}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]}},
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "uid-p"}]});
    world.claim(allocated);
    world.pod("p", uses(&["c"]), json!({}));
    let decision = world.decide();
    assert!(decision.binds.is_empty());
    assert_eq!(decision.release.len(), 1, "{decision:?}");
}

/// NVIDIA's example manifests against the slices of one node, unchanged.
#[test]
fn nvidias_examples_get_their_devices() {
    let slices: Vec<Value> = serde_json::from_str(include_str!(
        "../../../../../tests/peers/dra-examples/slices.json"
    ))
    .unwrap();
    let classes = include_str!("../../../../../tests/peers/dra-examples/classes.yaml");
    let examples = [
        include_str!("../../../../../tests/peers/dra-examples/gpu-test1.yaml"),
        include_str!("../../../../../tests/peers/dra-examples/gpu-test2.yaml"),
        include_str!("../../../../../tests/peers/dra-examples/gpu-test3.yaml"),
        include_str!("../../../../../tests/peers/dra-examples/gpu-test4.yaml"),
        include_str!("../../../../../tests/peers/dra-examples/gpu-test5.yaml"),
        include_str!("../../../../../tests/peers/dra-examples/gpu-test6.yaml"),
    ];
    let documents = |text: &str| -> Vec<Value> {
        text.split("\n---\n")
            .map(|one| serde_saphyr::from_str(one).unwrap())
            .collect()
    };
    let mut all = Vec::new();
    for example in examples {
        let mut world = World::new();
        world.node("node-a", "64", "256Gi", json!({}));
        for slice in &slices {
            world.slice(slice.clone());
        }
        for class in documents(classes) {
            world.class(class);
        }
        let documents = documents(example);
        for document in &documents {
            if document["kind"] == "ResourceClaim" {
                world.claim(document.clone());
            }
        }
        for pod in documents
            .iter()
            .filter(|document| document["kind"] == "Pod")
        {
            // What the controller of claims makes from a template.
            let name = pod["metadata"]["name"].as_str().unwrap();
            let mut statuses = Vec::new();
            for wanted in pod["spec"]["resourceClaims"].as_array().unwrap() {
                let Some(template) = wanted["resourceClaimTemplateName"].as_str() else {
                    continue;
                };
                let template = documents
                    .iter()
                    .find(|one| {
                        one["kind"] == "ResourceClaimTemplate"
                            && one["metadata"]["name"] == template
                    })
                    .unwrap();
                let made = format!("{name}-{}", wanted["name"].as_str().unwrap());
                world.claim(json!({"metadata": {"name": made, "namespace": pod["metadata"]["namespace"], "uid": made,
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": format!("uid-{name}")}]},
                    "spec": template["spec"]["spec"]}));
                statuses.push(json!({"name": wanted["name"], "resourceClaimName": made}));
            }
            world.pod_with(
                name,
                pod["spec"].clone(),
                json!({"namespace": pod["metadata"]["namespace"]}),
                json!({"resourceClaimStatuses": statuses}),
            );
        }
        let decision = world.decide();
        let mut told = vec![
            documents[0]["metadata"]["name"]
                .as_str()
                .unwrap()
                .to_owned(),
        ];
        told.push(crate::scheduling::testing::told(&decision));
        let config = decision
            .binds
            .iter()
            .flat_map(|bind| &bind.allocations)
            .filter_map(|(_, allocation)| {
                Some(serde_json::to_string(allocation.devices.as_ref()?.config.as_ref()?).unwrap())
            });
        told.extend(config);
        world.apply(&decision);
        let next = world.told();
        if !next.is_empty() {
            told.push(format!("then: {next}"));
        }
        all.push(told.join("\n"));
    }
    insta::assert_snapshot!(all.join("\n\n"));
}
