//! What holds of every decision, checked on the objects' own text by code that
//! shares nothing with the scheduler.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::scheduling::testing::World;

/// What a pod is like.
#[derive(Debug, Clone)]
struct Wanted {
    cpu: u64,
    memory: u64,
    port: Option<u16>,
    zone: Option<u8>,
    devices: u8,
    app: u8,
    /// Keeps away from this app, by node or zone.
    away: Option<(u8, bool)>,
    spread: bool,
    gang: Option<u8>,
    unknown: bool,
    priority: i32,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    (
        (1u64..8, 1u64..8),
        prop::option::weighted(0.2, 8000u16..8003),
        prop::option::weighted(0.3, 0u8..3),
        0u8..3,
        (0u8..3, prop::option::weighted(0.2, (0u8..3, any::<bool>()))),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, 0u8..2),
        (prop::bool::weighted(0.05), 0i32..3),
    )
        .prop_map(
            |(
                (cpu, memory),
                port,
                zone,
                devices,
                (app, away),
                spread,
                gang,
                (unknown, priority),
            )| Wanted {
                cpu,
                memory,
                port,
                zone,
                devices,
                app,
                away,
                spread,
                gang,
                unknown,
                priority,
            },
        )
}

/// Pods of a gang, all of which must start together.
const GANG: usize = 3;

fn world(nodes: &[(u64, u8)], pods: &[Wanted]) -> World {
    let mut world = World::new();
    world.class(json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [
        {"cel": {"expression": "device.driver == 'gpu.example.com'"}}]}}));
    for (at, (cpu, devices)) in nodes.iter().enumerate() {
        let name = format!("n{at}");
        let zone = format!("z{}", at % 3);
        world.node(
            &name,
            &cpu.to_string(),
            "16Gi",
            json!({"zone": zone, "host": name}),
        );
        let devices: Vec<Value> = (0..*devices)
            .map(|at| json!({"name": format!("gpu-{at}")}))
            .collect();
        world.slice(json!({"metadata": {"name": format!("s{at}")}, "spec": {"driver": "gpu.example.com", "nodeName": name,
            "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}, "devices": devices}}));
    }
    for (at, pod) in pods.iter().enumerate() {
        let name = format!("p{at}");
        let mut spec = json!({"priority": pod.priority, "containers": [{"name": "c", "resources": {"requests": {
            "cpu": format!("{}", pod.cpu), "memory": format!("{}Gi", pod.memory)}}}]});
        if let Some(port) = pod.port {
            spec["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": port}]);
        }
        if let Some(zone) = pod.zone {
            spec["nodeSelector"] = json!({"zone": format!("z{zone}")});
        }
        if let Some((app, by_zone)) = pod.away {
            spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                "labelSelector": {"matchLabels": {"app": app.to_string()}},
                "topologyKey": if by_zone { "zone" } else { "host" }}]}});
        }
        if pod.spread {
            spec["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"spread": "yes"}}}]);
        }
        if pod.devices > 0 {
            world.claim(json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"devices": {"requests": [
                {"name": "x", "exactly": {"deviceClassName": "gpu", "count": pod.devices}}]}}}));
            spec["resourceClaims"] = json!([{"name": "x", "resourceClaimName": name}]);
        }
        if pod.unknown {
            spec["onlyWhen"] = json!("later");
        }
        let mut labels =
            json!({"app": pod.app.to_string(), "spread": if pod.spread { "yes" } else { "no" }});
        let mut annotations = json!({});
        if let Some(gang) = pod.gang {
            labels["cumulo.dev/gang"] = json!(format!("g{gang}"));
            annotations["cumulo.dev/gang-size"] = json!(GANG.to_string());
        }
        world.pod(
            &name,
            spec,
            json!({"labels": labels, "annotations": annotations}),
        );
    }
    world
}

/// What is wrong with places, if anything.
fn wrong(nodes: &[(u64, u8)], pods: &[Wanted], places: &BTreeMap<usize, usize>) -> Option<String> {
    let zone = |node: usize| node % 3;
    for (node, (cpu, _)) in nodes.iter().enumerate() {
        let here: Vec<&Wanted> = places
            .iter()
            .filter(|(_, at)| **at == node)
            .map(|(pod, _)| &pods[*pod])
            .collect();
        if here.iter().map(|pod| pod.cpu).sum::<u64>() > *cpu
            || here.iter().map(|pod| pod.memory).sum::<u64>() > 16
        {
            return Some(format!("node {node} is overcommitted"));
        }
        let ports: Vec<u16> = here.iter().filter_map(|pod| pod.port).collect();
        if ports.iter().collect::<BTreeSet<_>>().len() != ports.len() {
            return Some(format!("a port of node {node} is taken twice"));
        }
    }
    for (pod, node) in places {
        let wanted = &pods[*pod];
        if wanted
            .zone
            .is_some_and(|zone_wanted| usize::from(zone_wanted) != zone(*node))
        {
            return Some(format!("pod {pod} is in the wrong zone"));
        }
        if wanted.unknown {
            return Some(format!("pod {pod} has an unknown field"));
        }
        if let Some((app, by_zone)) = wanted.away {
            let other = places.iter().find(|(other, at)| {
                *other != pod
                    && pods[**other].app == app
                    && if by_zone {
                        zone(**at) == zone(*node)
                    } else {
                        *at == node
                    }
            });
            if let Some((other, _)) = other {
                return Some(format!("pod {pod} is near {other}"));
            }
        }
    }
    for gang in 0..2 {
        let started = places
            .keys()
            .filter(|pod| pods[**pod].gang == Some(gang))
            .count();
        if started > 0 && started < GANG {
            return Some(format!("{started} pods of gang {gang} started"));
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_decision_breaks_a_rule(
        nodes in prop::collection::vec((4u64..17, 0u8..5), 1..7),
        pods in prop::collection::vec(wanted(), 1..24),
    ) {
        let mut world = world(&nodes, &pods);
        let mut places: BTreeMap<usize, usize> = BTreeMap::new();
        // Again and again, until nothing more is decided.
        for _ in 0..4 {
            let decision = world.decide();
            if decision.binds.is_empty() {
                break;
            }
            for bind in &decision.binds {
                let pod: usize = bind.pod.name()[1..].parse().unwrap();
                let node: usize = bind.node[1..].parse().unwrap();
                prop_assert!(places.insert(pod, node).is_none(), "bound twice");
            }
            world.apply(&decision);
            prop_assert_eq!(wrong(&nodes, &pods, &places), None);
        }
        // Each device has one owner, on the node of the owner's pod.
        let mut devices = BTreeSet::new();
        for (key, claim) in &world.view.claims {
            let Some(allocation) = claim.object.status.as_ref().and_then(|status| status.allocation.as_ref()) else {
                continue;
            };
            let pod: usize = key.name[1..].parse().unwrap();
            let results = allocation.devices.as_ref().unwrap().results.as_ref().unwrap();
            prop_assert_eq!(results.len(), usize::from(pods[pod].devices));
            for result in results {
                prop_assert_eq!(&result.pool, &format!("n{}", places[&pod]));
                prop_assert!(devices.insert((result.pool.clone(), result.device.clone())), "given twice");
            }
        }
        // The same world, the same decision.
        prop_assert_eq!(world.told(), world.told());
    }
}
