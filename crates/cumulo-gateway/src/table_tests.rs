use proptest::prelude::*;

use super::*;

fn service(revision: Option<&str>) -> ServiceRecord {
    ServiceRecord {
        key: ServiceKey::new("default", "flights"),
        active_revision: revision.map(String::from),
        model_version: None,
        waiting_for: None,
    }
}

fn pod(name: &str, revision: &str, ready: bool, deleting: bool) -> PodRecord {
    PodRecord {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        service: "flights".into(),
        revision: Some(revision.into()),
        address: Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
        ready,
        deleting,
    }
}

fn names(table: &Table) -> Vec<String> {
    table
        .route(&ServiceKey::new("default", "flights"))
        .map(|route| route.targets.into_iter().map(|target| target.pod).collect())
        .unwrap_or_default()
}

#[test]
fn the_switch_to_a_new_revision_is_one_event() {
    let mut table = Table::default();
    table.apply(Event::Service(service(Some("a"))));
    table.apply(Event::Pod(pod("a-0", "a", true, false)));
    table.apply(Event::Pod(pod("b-0", "b", true, false)));
    assert_eq!(names(&table), ["a-0"]);
    table.apply(Event::Service(service(Some("b"))));
    assert_eq!(names(&table), ["b-0"]);
    table.apply(Event::Pod(pod("a-0", "a", true, true)));
    assert_eq!(names(&table), ["b-0"]);
    table.apply(Event::Pod(pod("b-0", "b", false, false)));
    assert!(names(&table).is_empty());
}

#[test]
fn any_ready_pod_serves_while_no_revision_is_active() {
    let mut table = Table::default();
    table.apply(Event::Pods(vec![
        pod("a-0", "a", true, false),
        pod("b-0", "b", true, false),
        pod("c-0", "c", false, false),
        pod("d-0", "d", true, true),
    ]));
    table.apply(Event::Services(vec![service(None)]));
    assert_eq!(names(&table), ["a-0", "b-0"]);
}

#[test]
fn what_is_not_listed_again_is_gone() {
    let mut table = Table::default();
    table.apply(Event::Service(service(None)));
    table.apply(Event::Pod(pod("a-0", "a", true, false)));
    let changed = table.apply(Event::Pods(vec![]));
    assert_eq!(changed.len(), 1);
    assert!(names(&table).is_empty());
    assert_eq!(table.apply(Event::Services(vec![])).len(), 1);
    assert_eq!(table.route(&ServiceKey::new("default", "flights")), None);
}

#[test]
fn an_event_without_news_changes_nothing() {
    let mut table = Table::default();
    table.apply(Event::Service(service(None)));
    assert!(table.apply(Event::Service(service(None))).is_empty());
    table.apply(Event::Pod(pod("a-0", "a", true, false)));
    assert!(
        table
            .apply(Event::Pod(pod("a-0", "a", true, false)))
            .is_empty()
    );
}

proptest! {
    /// The route depends on the last state of each object alone, not on the
    /// order in which the objects' events came.
    #[test]
    fn order_does_not_matter(
        pods in proptest::collection::vec((0u8..5, 0u8..2, any::<bool>(), any::<bool>()), 0..30),
        active in proptest::option::of(0u8..2),
        split in 0usize..30,
    ) {
        let events: Vec<PodRecord> = pods.iter().map(|(name, revision, ready, deleting)| {
            pod(&format!("p-{name}"), &format!("r{revision}"), *ready, *deleting)
        }).collect();
        let service = service(active.map(|active| format!("r{active}")).as_deref());
        let mut one = Table::default();
        one.apply(Event::Service(service.clone()));
        for event in &events { one.apply(Event::Pod(event.clone())); }
        let mut other = Table::default();
        for (index, event) in events.iter().enumerate() {
            if index == split { other.apply(Event::Service(service.clone())); }
            other.apply(Event::Pod(event.clone()));
        }
        other.apply(Event::Service(service.clone()));
        prop_assert_eq!(one.route(&service.key), other.route(&service.key));
        let last: BTreeMap<String, PodRecord> = events.into_iter().map(|pod| (pod.name.clone(), pod)).collect();
        let mut listed = Table::default();
        listed.apply(Event::Pods(last.into_values().collect()));
        listed.apply(Event::Services(vec![service.clone()]));
        prop_assert_eq!(one.route(&service.key), listed.route(&service.key));
    }
}
