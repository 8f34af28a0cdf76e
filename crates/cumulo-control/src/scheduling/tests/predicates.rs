//! Each predicate: who goes where, and who waits and why.

use serde_json::json;

use crate::scheduling::testing::{World, asks, with};

fn two_nodes() -> World {
    let mut world = World::new();
    world.node(
        "a",
        "4",
        "8Gi",
        json!({"zone": "x", "disk": "ssd", "cores": "4"}),
    );
    world.node("b", "8", "16Gi", json!({"zone": "y", "cores": "8"}));
    world
}

#[test]
fn resources_of_containers_sidecars_and_the_pod() {
    let mut world = World::new();
    world.node("n", "4", "8Gi", json!({}));
    let container = |cpu: &str| json!({"name": cpu, "resources": {"requests": {"cpu": cpu}}});
    // A sidecar counts beside the others; an init container only if it is larger.
    world.pod(
        "sidecar",
        json!({"containers": [container("1")],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
                container("2")]}),
        json!({}),
    );
    let sum = |world: &World, name: &str| {
        let pod = world
            .view
            .pods
            .iter()
            .find(|pod| pod.name() == name)
            .unwrap();
        pod.spec.requests.clone()
    };
    assert_eq!(sum(&world, "sidecar").cpu, 3000);
    world.pod(
        "whole",
        json!({"containers": [container("1")], "resources": {"requests": {"cpu": "2"}},
            "overhead": {"cpu": "250m", "memory": "64Mi"}}),
        json!({}),
    );
    assert_eq!(sum(&world, "whole").cpu, 2250);
    assert_eq!(sum(&world, "whole").memory, 64 << 20);
    world.pod(
        "limited",
        json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "nvidia.com/gpu": "1"}}}]}),
        json!({}),
    );
    assert_eq!(sum(&world, "limited").cpu, 500);
    insta::assert_snapshot!(world.told(), @r"
    limited waits: no node has room for 0.5 cpu and 0 MiB memory: n has only 0 nvidia.com/gpu
    sidecar → n
    whole waits: no node has room for 2.25 cpu and 64 MiB memory: n has 1 cpu free of 4 cpu
    ");
}

#[test]
fn selectors_affinity_and_taints() {
    let mut world = two_nodes();
    world.node_of(json!({
        "metadata": {"name": "t"}, "spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": "64", "memory": "64Gi"}, "conditions": [{"type": "Ready", "status": "True"}]}}));
    world.pod("ssd", json!({"nodeSelector": {"disk": "ssd"}}), json!({}));
    let above = |cores: &str| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": [cores]}]}]}}}})
    };
    world.pod("above4", above("4"), json!({}));
    world.pod("above8", above("8"), json!({}));
    world.pod("big", asks("16", "1Gi"), json!({}));
    let tolerant = json!({"tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes"}]});
    world.pod("tolerant", with(asks("16", "1Gi"), tolerant), json!({}));
    let field = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
    world.pod("named", field, json!({}));
    insta::assert_snapshot!(world.told(), @r"
    above4 → b
    above8 waits: no node has room for 0 cpu and 0 MiB memory: 2 nodes: each does not match the node affinity, t has the taint gpu=yes:NoSchedule
    big waits: no node has room for 16 cpu and 1.0 GiB memory: 2 nodes lack cpu (16 cpu asked; most free: 8 cpu on b), t has the taint gpu=yes:NoSchedule
    named → b
    ssd → a
    tolerant → t
    ");
}

#[test]
fn pods_near_and_apart_in_both_directions() {
    let mut world = two_nodes();
    let term = |app: &str, topology: &str| json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": topology});
    let affinity = |kind: &str, app: &str, topology: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term(app, topology)]}}});
    world.pod(
        "db",
        json!({"nodeName": "b"}),
        json!({"labels": {"app": "db"}}),
    );
    world.pod(
        "loner",
        with(
            affinity("podAntiAffinity", "web", "zone"),
            json!({"nodeName": "a"}),
        ),
        json!({"labels": {"app": "loner"}}),
    );
    world.pod("near-db", affinity("podAffinity", "db", "zone"), json!({}));
    world.pod(
        "far-from-db",
        affinity("podAntiAffinity", "db", "zone"),
        json!({}),
    );
    // The loner on a does not want it there.
    world.pod("web", json!({}), json!({"labels": {"app": "web"}}));
    // The first of its kind may come though none of its kind is there.
    world.pod(
        "self",
        affinity("podAffinity", "self", "zone"),
        json!({"labels": {"app": "self"}}),
    );
    world.pod(
        "nobody",
        affinity("podAffinity", "nobody", "zone"),
        json!({}),
    );
    let told = world.told();
    for line in ["near-db → b", "far-from-db → a", "web → b", "self → "] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(told.contains("nobody waits: no node has room for 0 cpu and 0 MiB memory: 2 nodes: each runs none of the pods of its pod affinity nearby"), "{told}");
}

#[test]
fn namespaces_of_pod_terms() {
    let mut world = two_nodes();
    world.view.namespaces = std::sync::Arc::new(
        [(
            "team".to_owned(),
            [("tier".to_owned(), "x".to_owned())].into(),
        )]
        .into(),
    );
    world.pod(
        "other",
        json!({"nodeName": "b"}),
        json!({"namespace": "team", "labels": {"app": "db"}}),
    );
    let near = |more: serde_json::Value| {
        let term = with(
            json!({"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone"}),
            more,
        );
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    };
    world.pod("own-only", near(json!({})), json!({}));
    world.pod("named", near(json!({"namespaces": ["team"]})), json!({}));
    world.pod(
        "selected",
        near(json!({"namespaceSelector": {"matchLabels": {"tier": "x"}}})),
        json!({}),
    );
    let told = world.told();
    assert!(
        told.contains("own-only waits")
            && told.contains("named → b")
            && told.contains("selected → b"),
        "{told}"
    );
}

#[test]
fn topology_spread() {
    let mut world = two_nodes();
    let spread = |more: serde_json::Value| {
        let constraint = with(
            json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "s"}}}),
            more,
        );
        json!({"topologySpreadConstraints": [constraint]})
    };
    for at in 0..4 {
        world.pod(
            &format!("s{at}"),
            spread(json!({})),
            json!({"labels": {"app": "s"}}),
        );
    }
    let decision = world.decide();
    let on = |node: &str| {
        decision
            .binds
            .iter()
            .filter(|bind| bind.node == node)
            .count()
    };
    assert_eq!((on("a"), on("b")), (2, 2));
    // With fewer zones than it wants, each may have one only.
    let mut world = two_nodes();
    for at in 0..3 {
        world.pod(
            &format!("m{at}"),
            spread(json!({"minDomains": 3})),
            json!({"labels": {"app": "s"}}),
        );
    }
    assert_eq!(world.decide().binds.len(), 2);
    let mut world = two_nodes();
    world.pod(
        "odd",
        spread(json!({"whenUnsatisfiable": "Perhaps"})),
        json!({"labels": {"app": "s"}}),
    );
    insta::assert_snapshot!(world.told(), @r#"odd waits: it has constraints that this scheduler does not understand: spec.topologySpreadConstraints: whenUnsatisfiable "Perhaps""#);
}

#[test]
fn ports_of_the_node() {
    let mut world = World::new();
    world.node("n", "4", "8Gi", json!({}));
    let port = |ip: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080, "hostIP": ip}]}]});
    world.pod("one", port("127.0.0.1"), json!({}));
    world.pod("two", port(""), json!({}));
    insta::assert_snapshot!(world.told(), @r"
    one → n
    two waits: no node has room for 0 cpu and 0 MiB memory: n has its port 8080/TCP taken
    ");
}

#[test]
fn volumes_wait_or_lead_to_their_node() {
    let mut world = two_nodes();
    let claim = |name: &str, volume: &str| {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"},
            "spec": {"volumeName": volume, "accessModes": ["ReadWriteOnce"]}}))
        .unwrap()
    };
    for (name, volume) in [("local", "disk-a"), ("lost", "gone"), ("unbound", "")] {
        let key = crate::key::ObjectKey::new("default", name);
        world
            .view
            .volume_claims
            .insert(key, std::sync::Arc::new(claim(name, volume)));
    }
    let volume = serde_json::from_value(json!({"metadata": {"name": "disk-a"}, "spec": {"nodeAffinity": {"required":
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}}}})).unwrap();
    world
        .view
        .volumes
        .insert("disk-a".to_owned(), std::sync::Arc::new(volume));
    for name in ["local", "lost", "unbound", "missing"] {
        world.pod(
            name,
            json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]}),
            json!({}),
        );
    }
    insta::assert_snapshot!(world.told(), @r"
    local → a
    lost waits: waits for PersistentVolume gone
    missing waits: waits for PersistentVolumeClaim missing
    unbound waits: waits for PersistentVolumeClaim unbound, which is not bound to a volume
    ");
}

#[test]
fn what_is_not_known_waits_and_what_is_gated_is_left_alone() {
    let mut world = two_nodes();
    world.pod("newer", json!({"onlyWhen": {"moon": "full"}}), json!({}));
    world.pod("deeper", json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}], "matchMoon": []}, {"matchSun": {"x": 1}}]}}}}), json!({}));
    world.pod(
        "workload",
        json!({"workloadRef": {"name": "w", "podGroup": "g"}}),
        json!({}),
    );
    world.pod(
        "gated",
        json!({"schedulingGates": [{"name": "later"}]}),
        json!({}),
    );
    world.pod("other", json!({"schedulerName": "other"}), json!({}));
    insta::assert_snapshot!(world.told(), @r"
    deeper waits: it has constraints that this scheduler does not understand: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].matchSun
    newer waits: it has constraints that this scheduler does not understand: spec.onlyWhen
    workload waits: it has constraints that this scheduler does not understand: spec.workloadRef
    ");
}

#[test]
fn cordoned_and_failing_nodes() {
    let mut world = World::new();
    world.node_of(json!({"metadata": {"name": "cordoned"}, "spec": {"unschedulable": true},
        "status": {"allocatable": {"cpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}]}}));
    world.node_of(json!({"metadata": {"name": "lost"},
        "status": {"allocatable": {"cpu": "4"}, "conditions": [{"type": "Ready", "status": "Unknown"}]}}));
    world.pod("p", asks("1", "0"), json!({}));
    insta::assert_snapshot!(world.told(), @"p waits: no node has room for 1 cpu and 0 MiB memory: cordoned takes no new pods, lost is not ready");
    // A DaemonSet's pod comes all the same.
    let everywhere = json!({"tolerations": [{"operator": "Exists"}]});
    world.pod("daemon", with(json!({}), everywhere), json!({}));
    assert!(world.told().contains("daemon → "));
}
