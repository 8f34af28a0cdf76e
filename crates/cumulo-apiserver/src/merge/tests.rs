use proptest::prelude::*;
use serde_json::{Value, json};

use super::fieldset::FieldSet;
use super::*;
use crate::schema::for_builtin;

const MAIN: &[&str] = &["status"];

fn writer(manager: &str) -> Writer<'_> {
    Writer {
        manager,
        subresource: "",
        api_version: "v1",
        now: "2026-01-01T00:00:00Z",
        ignored: MAIN,
    }
}

fn config_map() -> std::sync::Arc<Schema> {
    for_builtin("", "v1", "ConfigMap").expect("served")
}

fn pod() -> std::sync::Arc<Schema> {
    for_builtin("", "v1", "Pod").expect("served")
}

fn data(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

/// The owners of an object, one a line: `manager operation fields`.
fn owners(object: &Value) -> String {
    let list = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let line = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let mut line = format!(
            "{} {} {}",
            text("manager"),
            text("operation"),
            entry["fieldsV1"]
        );
        if let Some(subresource) = entry["subresource"].as_str() {
            line.push_str(&format!(" /{subresource}"));
        }
        line + "\n"
    };
    list.iter().map(line).collect()
}

#[test]
fn json_patch_works_and_says_what_fails() {
    let target = json!({"spec": {"a": 1, "list": [1, 2]}});
    let patch = json!([{"op": "test", "path": "/spec/a", "value": 1}, {"op": "add", "path": "/spec/list/-", "value": 3},
        {"op": "remove", "path": "/spec/a"}]);
    assert_eq!(
        json_patch(&target, &patch),
        Ok(json!({"spec": {"list": [1, 2, 3]}}))
    );
    assert!(matches!(
        json_patch(&target, &json!({"op": "add"})),
        Err(PatchError::Malformed(_))
    ));
    let failing = json!([{"op": "test", "path": "/spec/a", "value": 2}]);
    assert!(matches!(
        json_patch(&target, &failing),
        Err(PatchError::Unprocessable(_))
    ));
}

#[test]
fn json_merge_patch_follows_the_rfc() {
    // RFC 7396, appendix A.
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": "b", "b": "c"}),
            json!({"a": null}),
            json!({"b": "c"}),
        ),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (json!(["a", "b"]), json!(["c"]), json!(["c"])),
        (
            json!({"e": null}),
            json!({"a": 1}),
            json!({"e": null, "a": 1}),
        ),
        (
            json!([1, 2]),
            json!({"a": "b", "c": null}),
            json!({"a": "b"}),
        ),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
    ];
    for (target, patch, wanted) in cases {
        assert_eq!(json_merge_patch(&target, &patch), wanted);
    }
}

#[test]
fn strategic_merge_knows_list_keys_and_directives() {
    let target = json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x"]}, "spec": {
        "containers": [{"name": "a", "image": "1", "env": [{"name": "E", "value": "1"}]}, {"name": "b", "image": "2"}],
        "tolerations": [{"key": "k"}], "volumes": [{"name": "v", "emptyDir": {}}],
    }});
    let patch = |patch: Value| strategic_merge_patch(&pod(), &target, &patch).expect("patched");
    let result = patch(
        json!({"spec": {"containers": [{"name": "b", "image": "3"}, {"name": "c", "image": "4"}]}}),
    );
    assert_eq!(
        result["spec"]["containers"],
        json!([
        {"name": "a", "image": "1", "env": [{"name": "E", "value": "1"}]}, {"name": "b", "image": "3"}, {"name": "c", "image": "4"}])
    );
    let result = patch(json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}));
    assert_eq!(
        result["spec"]["containers"],
        json!([{"name": "b", "image": "2"}])
    );
    let result = patch(json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}}));
    assert_eq!(result["spec"]["containers"], json!([{"name": "z"}]));
    let result = patch(
        json!({"spec": {"containers": [{"name": "a", "env": [{"name": "E", "value": null}, {"name": "F", "value": "2"}]}],
        "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
    );
    assert_eq!(
        result["spec"]["containers"],
        json!([{"name": "b", "image": "2"},
        {"name": "a", "image": "1", "env": [{"name": "E"}, {"name": "F", "value": "2"}]}])
    );
    // A list without a merge strategy is one value.
    assert_eq!(
        patch(json!({"spec": {"tolerations": [{"key": "z"}]}}))["spec"]["tolerations"],
        json!([{"key": "z"}])
    );
    let result = patch(
        json!({"metadata": {"finalizers": ["y"], "$deleteFromPrimitiveList/finalizers": ["x"], "labels": {"$patch": "replace", "b": "2"}}}),
    );
    assert_eq!(
        result["metadata"],
        json!({"labels": {"b": "2"}, "finalizers": ["y"]})
    );
    let result = patch(
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}),
    );
    assert_eq!(
        result["spec"]["volumes"],
        json!([{"name": "v", "hostPath": {"path": "/"}}])
    );
    let broken = strategic_merge_patch(
        &pod(),
        &target,
        &json!({"spec": {"containers": [{"image": "1"}]}}),
    );
    assert_eq!(
        broken.expect_err("no key").to_string(),
        r#"map: {"image":"1"} does not contain declared merge key: name"#
    );
}

#[test]
fn applying_creates_owns_and_gives_up() {
    let schema = config_map();
    let made = apply(
        &schema,
        None,
        &data(json!({"a": "1", "b": "2"})),
        &writer("me"),
        false,
    )
    .expect("applied");
    insta::assert_snapshot!(owners(&made), @r#"me Apply {"f:data":{"f:a":{},"f:b":{}}}"#);
    let less = apply(
        &schema,
        Some(&made),
        &data(json!({"a": "1"})),
        &writer("me"),
        false,
    )
    .expect("applied");
    assert_eq!(less["data"], json!({"a": "1"}));
    let none = apply(
        &schema,
        Some(&less),
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}),
        &writer("me"),
        false,
    )
    .expect("applied");
    assert_eq!(none.get("data"), None);
    assert_eq!(owners(&none), "");
}

#[test]
fn conflicts_name_owner_and_field() {
    let schema = config_map();
    let mut live = data(json!({"key": "1", "other": "1"}));
    track_update(
        &schema,
        None,
        &mut live,
        &writer("kubectl-client-side-apply"),
    );
    let refused = apply(
        &schema,
        Some(&live),
        &data(json!({"key": "2"})),
        &writer("me"),
        false,
    )
    .expect_err("conflict");
    assert_eq!(
        refused.to_string(),
        r#"Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using v1: .data.key"#
    );
    let ApplyError::Conflicts(conflicts) = refused else {
        panic!("conflicts")
    };
    assert_eq!(
        conflict_causes(&conflicts),
        json!([{"reason": "FieldManagerConflict",
        "message": r#"conflict with "kubectl-client-side-apply" using v1"#, "field": ".data.key"}])
    );
    let both = apply(
        &schema,
        Some(&live),
        &data(json!({"key": "2", "other": "2"})),
        &writer("me"),
        false,
    )
    .expect_err("conflict");
    insta::assert_snapshot!(both.to_string(), @r#"
    Apply failed with 2 conflicts: conflicts with "kubectl-client-side-apply" using v1:
    - .data.key
    - .data.other
    "#);
    let forced = apply(
        &schema,
        Some(&live),
        &data(json!({"key": "2"})),
        &writer("me"),
        true,
    )
    .expect("forced");
    assert_eq!(forced["data"], json!({"key": "2", "other": "1"}));
    insta::assert_snapshot!(owners(&forced), @r#"
    me Apply {"f:data":{"f:key":{}}}
    kubectl-client-side-apply Update {"f:data":{".":{},"f:other":{}}}
    "#);
    // The same value is shared, without a conflict.
    let shared = apply(
        &schema,
        Some(&live),
        &data(json!({"key": "1"})),
        &writer("me"),
        false,
    )
    .expect("shared");
    insta::assert_snapshot!(owners(&shared), @r#"
    me Apply {"f:data":{"f:key":{}}}
    kubectl-client-side-apply Update {"f:data":{".":{},"f:key":{},"f:other":{}}}
    "#);
}

#[test]
fn owned_fields_of_a_pod_look_as_in_kubernetes() {
    let mut made = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"app": "x"}}, "spec": {
        "restartPolicy": "Always", "securityContext": {},
        "containers": [{"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
    }});
    track_update(&pod(), None, &mut made, &writer("kubectl-create"));
    insta::assert_snapshot!(owners(&made), @r#"kubectl-create Update {"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},"f:resources":{}}},"f:restartPolicy":{},"f:securityContext":{}}}"#);
    let mut status = made.clone();
    status["status"] =
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let node = Writer {
        subresource: "status",
        ignored: &["spec", "metadata"],
        ..writer("node")
    };
    track_update(&pod(), Some(&made), &mut status, &node);
    insta::assert_snapshot!(owners(&status), @r#"
    kubectl-create Update {"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},"f:resources":{}}},"f:restartPolicy":{},"f:securityContext":{}}}
    node Update {"f:status":{"f:conditions":{".":{},"k:{\"type\":\"Ready\"}":{".":{},"f:status":{},"f:type":{}}},"f:phase":{}}} /status
    "#);
}

#[test]
fn list_elements_belong_to_whoever_applied_them() {
    let schema = pod();
    let pod = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
    let one = apply(
        &schema,
        None,
        &pod(json!([{"name": "a", "image": "1"}])),
        &writer("one"),
        false,
    )
    .expect("applied");
    let two = apply(
        &schema,
        Some(&one),
        &pod(json!([{"name": "b", "image": "2"}])),
        &writer("two"),
        false,
    )
    .expect("applied");
    assert_eq!(
        two["spec"]["containers"],
        json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}])
    );
    let gone = apply(&schema, Some(&two), &pod(json!([])), &writer("one"), false).expect("applied");
    assert_eq!(
        gone["spec"]["containers"],
        json!([{"name": "b", "image": "2"}])
    );
    // The key's default counts: TCP was meant.
    let ports = |extra: Value| pod(json!([{"name": "a", "ports": [extra]}]));
    let first = apply(
        &schema,
        None,
        &ports(json!({"containerPort": 1, "protocol": "TCP"})),
        &writer("one"),
        false,
    )
    .expect("applied");
    let second = apply(
        &schema,
        Some(&first),
        &ports(json!({"containerPort": 1, "name": "x"})),
        &writer("two"),
        false,
    )
    .expect("applied");
    assert_eq!(
        second["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 1, "protocol": "TCP", "name": "x"}])
    );
}

#[test]
fn status_is_not_applied_through_the_object() {
    let schema = pod();
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Failed"}});
    let made = apply(&schema, None, &object, &writer("me"), false).expect("applied");
    assert_eq!(made.get("status"), None);
    assert!(!owners(&made).contains("phase"));
}

#[test]
fn what_nobody_accounts_for_is_kept() {
    let schema = config_map();
    let live = data(json!({"old": "1"}));
    let result = apply(
        &schema,
        Some(&live),
        &data(json!({"new": "1"})),
        &writer("me"),
        false,
    )
    .expect("applied");
    assert_eq!(result["data"], json!({"old": "1", "new": "1"}));
    assert!(owners(&result).contains("before-first-apply Update"));
}

#[test]
fn kubectl_takes_over_its_own_client_side_fields() {
    let schema = config_map();
    let mut live = data(json!({"key": "1"}));
    let last = live.to_string();
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    track_update(
        &schema,
        None,
        &mut live,
        &writer("kubectl-client-side-apply"),
    );
    let applied = data(json!({"key": "2"}));
    assert!(apply(&schema, Some(&live), &applied, &writer("me"), false).is_err());
    let taken =
        apply(&schema, Some(&live), &applied, &writer("kubectl"), false).expect("taken over");
    assert_eq!(taken["data"]["key"], "2");
}

#[test]
fn updates_take_over_and_resets_forget() {
    let schema = config_map();
    let made = apply(
        &schema,
        None,
        &data(json!({"a": "1", "b": "1"})),
        &writer("me"),
        false,
    )
    .expect("applied");
    let mut changed = made.clone();
    changed["data"] = json!({"a": "2"});
    track_update(&schema, Some(&made), &mut changed, &writer("editor"));
    insta::assert_snapshot!(owners(&changed), @r#"editor Update {"f:data":{"f:a":{}}}"#);
    let mut untouched = made.clone();
    track_update(&schema, Some(&made), &mut untouched, &writer("editor"));
    assert!(is_noop(&made, &untouched));
    let mut left_out = changed.clone();
    left_out["metadata"]
        .as_object_mut()
        .expect("metadata")
        .shift_remove("managedFields");
    track_update(&schema, Some(&changed), &mut left_out, &writer("editor"));
    assert_eq!(
        left_out["metadata"]["managedFields"],
        changed["metadata"]["managedFields"]
    );
    let mut reset = changed.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track_update(&schema, Some(&changed), &mut reset, &writer("editor"));
    assert_eq!(owners(&reset), "");
}

#[test]
fn the_number_of_updaters_is_bounded() {
    let schema = config_map();
    let mut object = data(json!({}));
    for n in 0..30 {
        let before = object.clone();
        object["data"][format!("k{n}")] = json!("x");
        let (manager, now) = (format!("m{n}"), format!("2026-01-01T00:00:{n:02}Z"));
        track_update(
            &schema,
            Some(&before),
            &mut object,
            &Writer {
                now: &now,
                ..writer(&manager)
            },
        );
    }
    let list = object["metadata"]["managedFields"]
        .as_array()
        .expect("list");
    assert_eq!(list.len(), 10);
    assert!(
        list.iter()
            .any(|entry| entry["manager"] == "ancient-changes")
    );
    // Nothing was lost in joining them.
    let all = list
        .iter()
        .map(|e| FieldSet::from_json(&e["fieldsV1"]).expect("set"))
        .fold(FieldSet::default(), |all, set| all.union(&set));
    assert_eq!(
        all.describe()
            .iter()
            .filter(|field| field.starts_with(".data.k"))
            .count(),
        30
    );
}

#[test]
fn managed_fields_may_not_be_applied() {
    let mut object = data(json!({}));
    object["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    let refused = apply(&config_map(), None, &object, &writer("me"), false);
    assert_eq!(
        refused,
        Err(ApplyError::Invalid(
            "metadata.managedFields must be nil".into()
        ))
    );
}

fn field_sets() -> impl Strategy<Value = FieldSet> {
    let element = prop_oneof![
        "[a-c]".prop_map(|n| super::fieldset::PathElement::field(&n)),
        (0..3i32).prop_map(|n| super::fieldset::PathElement::value(&json!(n))),
        (0..3i32).prop_map(|n| super::fieldset::PathElement::key([("name", &json!(n))])),
    ];
    prop::collection::vec(prop::collection::vec(element, 1..4), 0..8).prop_map(|paths| {
        let mut set = FieldSet::default();
        for path in paths {
            set.insert(&path);
        }
        set
    })
}

/// Maps, keyed lists and sets, as in a pod.
fn pods() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[a-c]", "[0-2]", 0..3);
    let containers =
        prop::collection::btree_map("[a-c]", ("[0-2]", prop::option::of("[0-2]")), 0..3);
    let finalizers = prop::collection::btree_set("[a-c]", 0..3);
    (labels, containers, finalizers, prop::option::of("[0-2]")).prop_map(|(labels, containers, finalizers, node)| {
        let containers: Vec<Value> = containers.into_iter().map(|(name, (image, dir))| {
            let mut container = json!({"name": name, "image": image});
            if let Some(dir) = dir { container["workingDir"] = json!(dir); }
            container
        }).collect();
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": labels, "finalizers": finalizers}, "spec": {"containers": containers}});
        if let Some(node) = node { pod["spec"]["nodeName"] = json!(node); }
        pod
    })
}

fn applied_fields(object: &Value, manager: &str) -> FieldSet {
    let list = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    list.iter()
        .find(|entry| entry["manager"] == manager)
        .map_or_else(FieldSet::default, |entry| {
            FieldSet::from_json(&entry["fieldsV1"]).expect("set")
        })
}

proptest! {
    #[test]
    fn sets_obey_algebra(a in field_sets(), b in field_sets(), c in field_sets()) {
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.union(&b).union(&c), a.union(&b.union(&c)));
        prop_assert_eq!(a.union(&a), a.clone());
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(a.intersection(&b).union(&a.difference(&b)), a.clone());
        prop_assert!(a.difference(&b).intersection(&b).is_empty());
        prop_assert_eq!(a.difference(&b.union(&c)), a.difference(&b).difference(&c));
        prop_assert!(a.recursive_difference(&b).difference(&a.difference(&b)).is_empty());
        prop_assert_eq!(FieldSet::from_json(&a.to_json()), Some(a));
    }

    #[test]
    fn applying_twice_changes_nothing(object in pods(), live in pods()) {
        let schema = pod();
        let mut live = live;
        track_update(&schema, None, &mut live, &writer("other"));
        let once = apply(&schema, Some(&live), &object, &writer("me"), true).expect("applied");
        let later = Writer { now: "2027-01-01T00:00:00Z", ..writer("me") };
        let twice = apply(&schema, Some(&once), &object, &later, false).expect("no conflict");
        prop_assert_eq!(&once, &twice);
    }

    #[test]
    fn what_was_applied_is_there_and_others_keep_theirs(mine in pods(), first in pods(), theirs in pods()) {
        let schema = pod();
        let live = apply(&schema, None, &theirs, &writer("other"), false).expect("applied");
        let live = apply(&schema, Some(&live), &first, &writer("me"), true).expect("applied");
        let others = applied_fields(&live, "other");
        let result = apply(&schema, Some(&live), &mine, &writer("me"), true).expect("applied");
        let place = Some(schema.cursor());
        let has = super::typed::with_named_fields(place, &super::typed::field_set(place, &result));
        let wanted = applied_fields(&result, "me");
        prop_assert!(wanted.difference(&has).is_empty());
        // Leaves of what others owned are still there.
        for field in others.difference(&wanted).describe() {
            prop_assert!(has.describe().contains(&field), "{field} is gone");
        }
        // Of what I no longer apply and nobody else owns, nothing is left.
        let kept = wanted.union(&applied_fields(&result, "other"));
        let gone = applied_fields(&live, "me").difference(&super::typed::with_named_fields(place, &kept));
        for field in gone.describe() {
            prop_assert!(!has.describe().contains(&field), "{field} is left");
        }
    }

    #[test]
    fn merging_with_itself_and_comparing(a in pods(), b in pods()) {
        let schema = pod();
        let place = Some(schema.cursor());
        prop_assert_eq!(super::typed::merge(place, &a, &a), a.clone());
        let merged = super::typed::merge(place, &a, &b);
        prop_assert!(super::typed::compare(place, &b, &merged).modified.is_empty());
        prop_assert!(super::typed::compare(place, &a, &merged).removed.is_empty());
        let same = super::typed::compare(place, &a, &a);
        prop_assert!(same.written().is_empty() && same.removed.is_empty());
    }

    #[test]
    fn strategic_merge_of_anything_does_not_panic(target in pods(), patch in pods()) {
        let schema = pod();
        let result = strategic_merge_patch(&schema, &target, &patch).expect("patched");
        prop_assert_eq!(strategic_merge_patch(&schema, &result, &patch).expect("patched"), result);
    }
}
