//! GPUs asked for in one word, of what Cumulo's node agents publish.

use serde_json::{Value, json};

use crate::scheduling::testing::{World, asks, with};

/// A node with GPUs that can be shared.
fn gpus(world: &mut World, node: &str, model: &str, count: usize, memory: &str) {
    world.node(node, "64", "512Gi", json!({}));
    let all = |value: &str, least: &str| {
        json!({"value": value, "requestPolicy": {"default": value,
            "validRange": {"min": least, "step": least, "max": value}}})
    };
    let devices: Vec<Value> = (0..count)
        .map(|at| {
            json!({"name": format!("gpu-{at}"), "allowMultipleAllocations": true,
                "attributes": {"type": {"string": "gpu"}, "productName": {"string": model}},
                "capacity": {"memory": all(memory, "1Mi"), "share": all("100", "1")}})
        })
        .collect();
    slice(world, node, json!(devices));
}

fn slice(world: &mut World, node: &str, devices: Value) {
    world.slice(
        json!({"metadata": {"name": format!("{node}-gpu.cumulo.dev-0")}, "spec": {
        "driver": "gpu.cumulo.dev", "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": devices}}),
    );
}

fn wants(world: &mut World, name: &str, gpu: &str) {
    let annotations = json!({"annotations": {"cumulo.dev/gpu": gpu}});
    let spec = with(asks("1", "1Gi"), json!({"schedulerName": "cumulo"}));
    world.pod(name, spec, annotations);
}

/// Pods with their node and what they were given of it.
fn given(world: &mut World) -> Vec<String> {
    let decision = world.decide();
    let mut given: Vec<String> = decision
        .binds
        .iter()
        .map(|bind| {
            let devices = bind.annotations.get("cumulo.dev/gpu-devices");
            let devices: Vec<Value> =
                devices.map_or_else(Vec::new, |text| serde_json::from_str(text).unwrap());
            let devices: Vec<String> = devices
                .iter()
                .map(|one| {
                    let consumed = &one["consumedCapacity"];
                    let part = |name: &str| {
                        let part = consumed[format!("gpu.cumulo.dev/{name}")].as_str();
                        part.unwrap_or("-").to_owned()
                    };
                    let device = one["device"].as_str().unwrap();
                    format!("{device} share {} memory {}", part("share"), part("memory"))
                })
                .collect();
            format!(
                "{} on {}: {}",
                bind.pod.name(),
                bind.node,
                match devices.as_slice() {
                    [] => "what the node decides".to_owned(),
                    _ => devices.join(", "),
                }
            )
        })
        .collect();
    given.sort();
    given.extend(
        decision
            .waits
            .iter()
            .map(|wait| format!("{} waits: {}", wait.pod.name, wait.message())),
    );
    given
}

#[test]
fn a_share_finds_a_node_with_a_gpu_that_has_it() {
    let mut world = World::new();
    world.node("bare", "64", "512Gi", json!({}));
    gpus(&mut world, "small", "NVIDIA A100-SXM4-40GB", 1, "40Gi");
    gpus(&mut world, "large", "NVIDIA H100 80GB HBM3", 2, "80Gi");
    wants(&mut world, "third", "0.3");
    wants(&mut world, "two-thirds", "0.6");
    wants(&mut world, "memory", "60Gi");
    wants(&mut world, "hopper", "{share: 0.5, model: H100}");
    insta::assert_snapshot!(given(&mut world).join("\n"), @r"
    hopper on large: gpu-1 share 50 memory 40Gi
    memory on large: gpu-0 share 75 memory 60Gi
    third on small: gpu-0 share 30 memory 12Gi
    two-thirds on small: gpu-0 share 60 memory 24Gi
    ");
}

#[test]
fn what_pods_were_given_counts_for_those_who_come_after() {
    let mut world = World::new();
    gpus(&mut world, "one", "A100", 1, "40Gi");
    let results = json!([{"request": "gpu", "driver": "gpu.cumulo.dev", "pool": "one", "device": "gpu-0",
        "consumedCapacity": {"gpu.cumulo.dev/share": "60", "gpu.cumulo.dev/memory": "24Gi"}}]);
    world.pod(
        "runs",
        json!({"nodeName": "one", "containers": [{"name": "main"}]}),
        json!({"annotations": {"cumulo.dev/gpu": "0.6", "cumulo.dev/gpu-devices": results.to_string()}}),
    );
    wants(&mut world, "fits", "0.4");
    wants(&mut world, "waits", "0.4");
    insta::assert_snapshot!(given(&mut world).join("\n"), @r"
    fits on one: gpu-0 share 40 memory 16Gi
    waits waits: no node has room for 1 cpu, 1.0 GiB memory and 0.4 of a GPU: one has not enough free for 0.4 of a GPU; would help: running work that ends, or more nodes
    ");
}

/// On a real GPU the memory is no round number.
#[test]
fn parts_that_add_up_to_a_gpu_fit_beside_each_other() {
    let mut world = World::new();
    gpus(&mut world, "one", "H200", 1, "143155Mi");
    for (name, gpu) in [("a", "0.3"), ("b", "0.5"), ("c", "0.2")] {
        wants(&mut world, name, gpu);
    }
    insta::assert_snapshot!(given(&mut world).join("\n"), @r"
    a on one: gpu-0 share 30 memory 42946Mi
    b on one: gpu-0 share 50 memory 71577Mi
    c on one: gpu-0 share 20 memory 28631Mi
    ");
    let mut world = World::new();
    gpus(&mut world, "one", "H200", 1, "46068Mi");
    for at in 0..24 {
        wants(&mut world, &format!("p{at:02}"), "2000Mi");
    }
    assert_eq!(world.decide().binds.len(), 23);
    let mut world = World::new();
    gpus(&mut world, "one", "H200", 1, "46068Mi");
    for at in 0..4 {
        wants(&mut world, &format!("p{at}"), "0.333");
    }
    assert_eq!(world.decide().binds.len(), 3);
}

/// On a laptop no other node comes: the one there is says what is wrong, and fails it.
#[test]
fn what_no_node_has_waits_on_a_cluster_and_is_told_at_once_on_a_laptop() {
    let mut world = World::new();
    gpus(&mut world, "one", "A100", 1, "40Gi");
    wants(&mut world, "greedy", "2");
    wants(&mut world, "choosy", "{model: H200}");
    assert_eq!(world.decide().binds.len(), 2);
    world.view.ours.default_scheduler = false;
    insta::assert_snapshot!(given(&mut world).join("\n"), @r"
    greedy waits: no node has room for 1 cpu, 1.0 GiB memory and 2 GPUs: one never has 2 GPUs; would help: asking for less, or nodes, devices or quota that hold it
    choosy waits: no node has room for 1 cpu, 1.0 GiB memory and a GPU (H200): one has no GPU that could serve a GPU (H200); would help: asking for less, or nodes, devices or quota that hold it
    ");
}

#[test]
fn partitions_by_profile_and_whole_gpus_stay_apart() {
    let mut world = World::new();
    world.node("mixed", "64", "512Gi", json!({}));
    let mig = |name: &str, profile: &str, memory: &str, share: &str| {
        json!({"name": name, "attributes": {"type": {"string": "mig"}, "profile": {"string": profile},
            "productName": {"string": "A100"}},
            "capacity": {"memory": {"value": memory}, "share": {"value": share}}})
    };
    slice(
        &mut world,
        "mixed",
        json!([
            mig("gpu-0-mig-3", "4g.20gb", "20Gi", "57100m"),
            mig("gpu-0-mig-1", "1g.5gb", "5Gi", "14300m"),
            mig("gpu-0-mig-2", "3g.20gb", "20Gi", "50")
        ]),
    );
    wants(&mut world, "profile", "3g.20gb");
    wants(&mut world, "share", "0.3");
    wants(&mut world, "memory", "4Gi");
    wants(&mut world, "late", "{memory: 4Gi}");
    insta::assert_snapshot!(given(&mut world).join("\n"), @r"
    memory on mixed: gpu-0-mig-1 share - memory -
    profile on mixed: gpu-0-mig-2 share - memory -
    share on mixed: gpu-0-mig-3 share - memory -
    late waits: no node has room for 1 cpu, 1.0 GiB memory and 4Gi of a GPU's memory: mixed has not enough free for 4Gi of a GPU's memory; would help: asking for less, or nodes, devices or quota that hold it
    ");
}

/// A GPU that its node divides as pods come: a place for each instance that could be.
fn divisible(world: &mut World, node: &str, gpus: usize) {
    world.node(node, "64", "512Gi", json!({}));
    let slices = |from: usize, count: usize| -> Value {
        let taken =
            (from..from + count).map(|at| (format!("memory-slice-{at}"), json!({"value": "1"})));
        taken.collect::<serde_json::Map<_, _>>().into()
    };
    let (mut sets, mut devices) = (Vec::new(), Vec::new());
    for gpu in 0..gpus {
        let set = format!("gpu-{gpu}-slices");
        let mut all = slices(0, 8);
        all["compute-slices"] = json!({"value": "7"});
        sets.push(json!({"name": set, "counters": all}));
        for (profile, compute, size, starts, memory, share) in [
            ("7g.80gb", 7, 8, &[0][..], "80Gi", "100"),
            ("4g.40gb", 4, 4, &[0], "40Gi", "57100m"),
            ("3g.40gb", 3, 4, &[0, 4], "40Gi", "50"),
            ("2g.20gb", 2, 2, &[0, 2, 4], "20Gi", "28500m"),
            ("1g.10gb", 1, 1, &[0, 1, 2, 3, 4, 5, 6], "10Gi", "14300m"),
        ] {
            for start in starts {
                let mut taken = slices(*start, size);
                taken["compute-slices"] = json!({"value": compute.to_string()});
                devices.push(
                    json!({"name": format!("gpu-{gpu}-mig-{}-{start}", profile.replace('.', "-")),
                    "attributes": {"type": {"string": "mig"}, "profile": {"string": profile}},
                    "capacity": {"memory": {"value": memory}, "share": {"value": share}},
                    "consumesCounters": [{"counterSet": set, "counters": taken}]}),
                );
            }
        }
    }
    for (number, content) in [json!({"sharedCounters": sets}), json!({"devices": devices})]
        .into_iter()
        .enumerate()
    {
        let mut spec = json!({"driver": "gpu.cumulo.dev", "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 2}});
        spec.as_object_mut()
            .unwrap()
            .extend(content.as_object().unwrap().clone());
        let name = format!("{node}-gpu.cumulo.dev-{number}");
        world.slice(json!({"metadata": {"name": name}, "spec": spec}));
    }
}

#[test]
fn instances_lie_where_large_ones_remain_possible() {
    let mut world = World::new();
    divisible(&mut world, "mig", 2);
    world.node("amd", "64", "512Gi", json!({}));
    slice(
        &mut world,
        "amd",
        json!([{"name": "gpu-0", "attributes": {"type": {"string": "gpu"},
            "productName": {"string": "AMD Instinct MI300X"}}, "capacity": {"memory": {"value": "192Gi"}}}]),
    );
    wants(&mut world, "whole", "{model: MI300X}");
    // The smallest that does, and all small ones on one GPU, from its end.
    for (name, gpu) in [
        ("a", "0.1"),
        ("b", "1g.10gb"),
        ("c", "15Gi"),
        ("d", "3g.40gb"),
        ("e", "7g.80gb"),
        ("f", "1g.10gb"),
        ("g", "2g.20gb"),
    ] {
        wants(&mut world, name, gpu);
    }
    insta::assert_snapshot!(given(&mut world).join("\n"), @r"
    a on mig: gpu-0-mig-1g-10gb-6 share - memory -
    b on mig: gpu-0-mig-1g-10gb-4 share - memory -
    c on mig: gpu-0-mig-2g-20gb-0 share - memory -
    d on mig: gpu-1-mig-3g-40gb-4 share - memory -
    f on mig: gpu-0-mig-1g-10gb-5 share - memory -
    g on mig: gpu-0-mig-2g-20gb-2 share - memory -
    whole on amd: gpu-0 share - memory -
    e waits: no node has room for 1 cpu, 1.0 GiB memory and a 7g.80gb partition of a GPU: amd has no GPU that could serve a 7g.80gb partition of a GPU, mig has not enough free for a 7g.80gb partition of a GPU; would help: asking for less, or nodes, devices or quota that hold it
    ");
}

#[test]
fn quotas_count_thousandths_of_gpus() {
    let mut world = World::new();
    gpus(&mut world, "one", "A100", 2, "40Gi");
    world.queue(json!({"metadata": {"name": "team"}, "spec": {"quotas": [
        {"resources": {"gpu.cumulo.dev": {"nominal": 1, "borrowingLimit": 0}}}]}}));
    for (name, gpu) in [("a", "0.6"), ("b", "0.5"), ("c", "10Gi")] {
        world.pod(
            name,
            asks("1", "1Gi"),
            json!({"labels": {"cumulo.dev/queue": "team"}, "annotations": {"cumulo.dev/gpu": gpu}}),
        );
    }
    insta::assert_snapshot!(given(&mut world).join("\n"), @r"
    a on one: gpu-0 share 60 memory 24Gi
    c on one: gpu-0 share 25 memory 10Gi
    b waits: the quota of queue team does not reach: needs 500 thousandths of a GPU of default, may still use 400; number 1 in queue team; would help: work of queue team or of those it borrows from that ends, or more quota
    ");
}

#[test]
fn the_less_important_end_for_gpus_and_only_as_many_as_it_takes() {
    let mut world = World::new();
    gpus(&mut world, "one", "A100", 2, "40Gi");
    let holds = |device: &str, share: &str| {
        let results = json!([{"request": "gpu", "driver": "gpu.cumulo.dev", "pool": "one", "device": device,
            "consumedCapacity": {"gpu.cumulo.dev/share": share, "gpu.cumulo.dev/memory": "4Gi"}}]);
        json!({"annotations": {"cumulo.dev/gpu": "0.5", "cumulo.dev/gpu-devices": results.to_string()}})
    };
    let runs = |priority: i32| {
        with(
            asks("1", "1Gi"),
            json!({"nodeName": "one", "priority": priority}),
        )
    };
    world.pod("a", runs(0), holds("gpu-0", "50"));
    world.pod("b", runs(0), holds("gpu-0", "50"));
    world.pod("c", runs(5), holds("gpu-1", "30"));
    world.pod("d", runs(20), holds("gpu-1", "30"));
    let urgent = with(
        asks("1", "1Gi"),
        json!({"priority": 10, "schedulerName": "cumulo"}),
    );
    world.pod(
        "half",
        urgent.clone(),
        json!({"annotations": {"cumulo.dev/gpu": "0.5"}}),
    );
    insta::assert_snapshot!(world.told(), @r"
    b ends for half on one
    half waits: waits for room on one: ending 1 pod of default/b (priority 0, 2 h since its last checkpoint) lets default/half (priority 10) run
    ");
    world.view.pods.pop();
    // Two must end for a whole one, and nobody does for two.
    world.pod(
        "whole",
        urgent.clone(),
        json!({"annotations": {"cumulo.dev/gpu": "1"}}),
    );
    insta::assert_snapshot!(world.told(), @r"
    a, b ends for whole on one
    whole waits: waits for room on one: ending 1 pod of default/a (priority 0, 2 h since its last checkpoint) lets default/whole (priority 10) run; 1 more for devices that it needs
    ");
    world.view.pods.pop();
    world.pod(
        "two",
        urgent,
        json!({"annotations": {"cumulo.dev/gpu": "2"}}),
    );
    insta::assert_snapshot!(world.told(), @"two waits: no node has room for 1 cpu, 1.0 GiB memory and 2 GPUs: one has not enough free for 2 GPUs");
}

/// Until the devices of those who end are free, the place is kept and nobody else ends.
#[test]
fn a_promise_of_devices_is_kept_until_their_claim_is_freed() {
    let mut world = World::new();
    gpus(&mut world, "one", "A100", 1, "40Gi");
    world.class(json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [
        {"cel": {"expression": "device.driver == 'gpu.cumulo.dev'"}}]}}));
    let claim = |name: &str| {
        json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}}})
    };
    let mut taken = claim("taken");
    taken["status"] = json!({
        "allocation": {"devices": {"results": [{"request": "gpu", "driver": "gpu.cumulo.dev", "pool": "one",
            "device": "gpu-0", "consumedCapacity": {"gpu.cumulo.dev/share": "100", "gpu.cumulo.dev/memory": "40Gi"}}]}},
        "reservedFor": [{"resource": "pods", "name": "low", "uid": "uid-low"}]});
    world.claim(taken);
    world.claim(claim("wanted"));
    let uses = |claim: &str, more: Value| {
        let own = json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": claim}]});
        with(with(asks("1", "1Gi"), own), more)
    };
    world.pod("low", uses("taken", json!({"nodeName": "one"})), json!({}));
    world.pod("high", uses("wanted", json!({"priority": 10})), json!({}));
    insta::assert_snapshot!(world.told(), @r"
    high waits: waits for room on one: ending 1 pod of default/low (priority 0, 2 h since its last checkpoint) lets default/high (priority 10) run
    low ends for high on one
    ");
    // It has ended, and its claim still has the device.
    world.view.pods.clear();
    world.pod_with(
        "high",
        uses("wanted", json!({"priority": 10})),
        json!({}),
        json!({"nominatedNodeName": "one"}),
    );
    insta::assert_snapshot!(world.told(), @"high waits: waits for pods on one to end, whose room it gets");
}
