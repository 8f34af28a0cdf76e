use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use proptest::prelude::*;
use serde_json::json;

use super::choose::{Node, Requests, choose};
use super::quantity::milli;

fn node(name: &str, cpu: &str, memory: &str) -> Node {
    let node: KubeNode = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"disk": "ssd"}},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap();
    Node::of(&node)
}

fn pod(cpu: &str, memory: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]},
    }))
    .unwrap()
}

fn try_on(nodes: &[Node], pod: &Pod) -> Result<String, String> {
    choose(pod, &Requests::of(pod), nodes)
}

#[test]
fn quantities() {
    for (text, value) in [
        ("1", 1000),
        ("500m", 500),
        ("1.5", 1500),
        ("1Ki", 1_024_000),
        ("2Gi", 2_147_483_648_000),
        ("1e3", 1_000_000),
        ("100u", 1),
        ("0", 0),
    ] {
        assert_eq!(milli(text), Some(value), "{text}");
    }
    for bad in ["", "x", "1Zi", "-5", "1 Gi"] {
        assert_eq!(milli(bad), None, "{bad}");
    }
}

#[test]
fn refusals_read_well() {
    let nodes = [node("laptop", "2", "8Gi")];
    insta::assert_snapshot!(
        try_on(&nodes, &pod("4", "1Gi")).unwrap_err(),
        @"no node has room for 4 cpu and 1.0 GiB memory: laptop has only 2 cpu"
    );
    let mut busy = nodes[0].clone();
    busy.take(&Requests::of(&pod("500m", "7Gi")));
    insta::assert_snapshot!(
        try_on(&[busy], &pod("500m", "2Gi")).unwrap_err(),
        @"no node has room for 0.5 cpu and 2.0 GiB memory: laptop has 1.0 GiB memory free of 8.0 GiB memory"
    );
    insta::assert_snapshot!(
        try_on(&[], &pod("1", "1Gi")).unwrap_err(),
        @"there is no node: start one with `cumulo up` or `cumulo node`"
    );
    let mut picky = pod("1", "1Gi");
    picky.spec.as_mut().unwrap().node_selector =
        Some([("gpu".to_owned(), "yes".to_owned())].into());
    insta::assert_snapshot!(
        try_on(&nodes, &picky).unwrap_err(),
        @"no node has room for 1 cpu and 1.0 GiB memory: laptop lacks the label gpu=yes"
    );
    assert_eq!(try_on(&nodes, &pod("2", "8Gi")), Ok("laptop".to_owned()));
}

#[test]
fn taints_are_for_those_who_tolerate_them() {
    let tainted: KubeNode = serde_json::from_value(json!({
        "metadata": {"name": "edge"},
        "spec": {"taints": [{"key": "edge", "value": "yes", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": "2", "memory": "2Gi"},
            "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap();
    let nodes = [Node::of(&tainted)];
    let mut pod = pod("1", "1Gi");
    assert!(
        try_on(&nodes, &pod)
            .unwrap_err()
            .contains("has the taint edge")
    );
    pod.spec.as_mut().unwrap().tolerations = Some(
        serde_json::from_value(json!([{"key": "edge", "operator": "Equal", "value": "yes"}]))
            .unwrap(),
    );
    assert_eq!(try_on(&nodes, &pod), Ok("edge".to_owned()));
}

proptest! {
    #[test]
    fn nothing_is_overcommitted(pods in prop::collection::vec((0u32..3000, 0u32..3000), 0..40)) {
        let mut nodes = vec![node("a", "4", "4Gi"), node("b", "2", "8Gi")];
        let mut used: std::collections::BTreeMap<String, (u128, u128)> = Default::default();
        for (cpu, memory) in pods {
            let pod = pod(&format!("{cpu}m"), &format!("{memory}Mi"));
            let requests = Requests::of(&pod);
            if let Ok(name) = choose(&pod, &requests, &nodes) {
                let node = nodes.iter_mut().find(|node| node.name == name).unwrap();
                node.take(&requests);
                let sum = used.entry(name).or_default();
                sum.0 += requests.cpu;
                sum.1 += requests.memory;
            } else {
                prop_assert!(nodes.iter().all(|node| {
                    node.free().cpu < requests.cpu || node.free().memory < requests.memory
                }), "refused although there was room");
            }
        }
        let gib = 1024u128.pow(3) * 1000;
        for (name, (cpu, memory)) in used {
            let (most_cpu, most_memory) = if name == "a" { (4000, 4 * gib) } else { (2000, 8 * gib) };
            prop_assert!(cpu <= most_cpu && memory <= most_memory);
        }
    }
}
