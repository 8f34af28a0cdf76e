//! Priority, preemption, disruption budgets, gangs and Queues.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::scheduling::testing::{World, asks, with};

fn running(node: &str, cpu: &str, priority: i32) -> Value {
    with(
        asks(cpu, "1Gi"),
        json!({"nodeName": node, "priority": priority}),
    )
}

fn wants(cpu: &str, priority: i32) -> Value {
    with(asks(cpu, "1Gi"), json!({"priority": priority}))
}

#[test]
fn the_higher_priority_ends_the_fewest_lower_ones() {
    let mut world = World::new();
    world
        .node("a", "4", "16Gi", json!({}))
        .node("b", "4", "16Gi", json!({}));
    world.pod("a1", running("a", "2", 0), json!({}));
    world.pod("a2", running("a", "2", 5), json!({}));
    world.pod("b1", running("b", "1", 0), json!({}));
    world.pod("b2", running("b", "1", 0), json!({}));
    world.pod("b3", running("b", "2", 10), json!({}));
    world.pod("urgent", wants("2", 10), json!({}));
    // One pod of a, not two of b.
    let told = world.told();
    let first = told.lines().next().unwrap();
    insta::assert_snapshot!(first, @"a1 ends for urgent on a");
    world.view.pods.pop();
    world.pod("equal", wants("2", 0), json!({}));
    world.pod(
        "meek",
        with(wants("2", 10), json!({"preemptionPolicy": "Never"})),
        json!({}),
    );
    let decision = world.decide();
    assert!(
        decision.preemptions.is_empty() && decision.binds.is_empty(),
        "{decision:?}"
    );
}

#[test]
fn a_promised_place_is_kept_while_others_leave_it() {
    let mut world = World::new();
    world.node("a", "4", "16Gi", json!({}));
    world.pod(
        "old",
        running("a", "4", 0),
        json!({"deletionTimestamp": "2027-01-15T08:00:00Z"}),
    );
    world.pod_with(
        "urgent",
        wants("4", 10),
        json!({}),
        json!({"nominatedNodeName": "a"}),
    );
    world.pod("small", wants("1", 0), json!({}));
    let told = world.told();
    assert!(
        told.contains("urgent waits: waits for pods on a to end, whose room it gets"),
        "{told}"
    );
    assert!(told.contains("small waits"), "{told}");
    world.view.pods.remove(0);
    assert!(world.told().contains("urgent → a"));
    // The promised node is gone.
    world.view.nodes.clear();
    world.node("c", "8", "16Gi", json!({}));
    let decision = world.decide();
    assert_eq!(decision.unpromised.len(), 1);
    assert_eq!(decision.binds.len(), 2);
}

#[test]
fn disruption_budgets_are_kept() {
    let mut world = World::new();
    world.node("a", "4", "16Gi", json!({}));
    for at in 0..4 {
        world.pod(
            &format!("web{at}"),
            running("a", "1", 0),
            json!({"labels": {"app": "web"}}),
        );
    }
    let budget = |allowed: i32| {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "b", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": {"disruptionsAllowed": allowed,
            "currentHealthy": 4, "desiredHealthy": 4, "expectedPods": 4}})).unwrap())
    };
    world.pod("urgent", wants("2", 10), json!({}));
    world.view.budgets = vec![budget(1)];
    assert!(
        world.decide().preemptions.is_empty(),
        "two would have to end, one may"
    );
    world.view.budgets = vec![budget(2)];
    assert_eq!(world.decide().preemptions[0].victims.len(), 2);
}

fn gang(name: &str, size: usize) -> Value {
    json!({"labels": {"cumulo.dev/gang": name}, "annotations": {"cumulo.dev/gang-size": size.to_string()}})
}

#[test]
fn a_gang_starts_whole_or_not_at_all() {
    let mut world = World::new();
    world
        .node("a", "2", "16Gi", json!({}))
        .node("b", "2", "16Gi", json!({}));
    world.pod("g0", asks("1", "1Gi"), gang("g", 4));
    world.pod("g1", asks("1", "1Gi"), gang("g", 4));
    world.pod("g2", asks("1", "1Gi"), gang("g", 4));
    assert!(world.told().contains(
        "g0 waits: its gang g starts with 4 pods, of which 3 are there and ready to start"
    ));
    world.pod("g3", asks("1", "1Gi"), gang("g", 4));
    assert_eq!(world.decide().binds.len(), 4);
    world.pod("other", running("b", "1", 0), json!({}));
    let decision = world.decide();
    assert!(
        decision.binds.is_empty(),
        "three of four would fit: {decision:?}"
    );
    assert_eq!(decision.waits.len(), 4);
    let mut nameless = gang("h", 1);
    nameless["annotations"] = json!({});
    world.pod("h", asks("1", "1Gi"), nameless);
    assert!(
        world
            .told()
            .contains("h waits: it belongs to gang h and says with cumulo.dev/gang-size")
    );
}

#[test]
fn a_gang_shares_a_domain() {
    let mut world = World::new();
    for (node, rack) in [("a", "r1"), ("b", "r1"), ("c", "r2"), ("d", "r2")] {
        world.node(node, "2", "16Gi", json!({"rack": rack}));
    }
    world.pod("busy", running("a", "1", 0), json!({}));
    let mut together = gang("g", 4);
    together["annotations"]["cumulo.dev/required-topology"] = json!("rack");
    for at in 0..4 {
        world.pod(&format!("g{at}"), asks("1", "1Gi"), together.clone());
    }
    let decision = world.decide();
    assert_eq!(decision.binds.len(), 4);
    assert!(
        decision
            .binds
            .iter()
            .all(|bind| ["c", "d"].contains(&bind.node.as_str()))
    );
}

#[test]
fn queues_have_quotas_and_places() {
    let mut world = World::new();
    world.node("a", "8", "64Gi", json!({}));
    world.queue(json!({"metadata": {"name": "team"}, "spec": {"quotas": [
        {"resources": {"cpu": {"nominal": "2", "borrowingLimit": "0"}}}]}}));
    let queued = |queue: &str, priority: &str| json!({"labels": {"cumulo.dev/queue": queue}, "annotations": {"cumulo.dev/priority": priority}});
    for (name, priority) in [("low", "0"), ("high", "5"), ("higher", "9")] {
        world.pod(name, asks("1", "1Gi"), queued("team", priority));
    }
    world.pod("lost", asks("1", "1Gi"), queued("nowhere", "0"));
    let decision = world.decide();
    let mut bound: Vec<&str> = decision.binds.iter().map(|bind| bind.pod.name()).collect();
    bound.sort();
    assert_eq!(bound, ["high", "higher"]);
    let low = decision
        .waits
        .iter()
        .find(|wait| wait.pod.name == "low")
        .unwrap();
    insta::assert_snapshot!(low.message(), @"the quota of queue team does not reach: needs 1 cpu of default, may still use 0; number 1 in queue team; would help: work of queue team or of those it borrows from that ends, or more quota");
    assert!(
        world
            .told()
            .contains("lost waits: waits for Queue nowhere, which does not exist")
    );
}

#[test]
fn what_was_lent_is_taken_back() {
    let mut world = World::new();
    world.node("a", "4", "64Gi", json!({}));
    for name in ["one", "two"] {
        world.queue(json!({"metadata": {"name": name}, "spec": {"quotas": [{"resources": {"cpu": {"nominal": "2"}}}]}}));
    }
    let of = |queue: &str| json!({"labels": {"cumulo.dev/queue": queue}});
    for at in 0..4 {
        world.pod(&format!("o{at}"), running("a", "1", 0), of("one"));
    }
    world.pod("t", asks("1", "1Gi"), of("two"));
    let decision = world.decide();
    assert_eq!(decision.preemptions.len(), 1);
    assert_eq!(decision.preemptions[0].victims.len(), 1);
    world.queue(
        json!({"metadata": {"name": "two"}, "spec": {"preemptionPolicy": "Never",
        "quotas": [{"resources": {"cpu": {"nominal": "2"}}}]}}),
    );
    assert!(world.decide().preemptions.is_empty());
}
