use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn widget() -> Schema {
    Schema::from_crd_version(&json!({"schema": {"openAPIV3Schema": {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object",
                "required": ["query"],
                "properties": {
                    "query": {"type": "string", "minLength": 1, "maxLength": 20},
                    "replicas": {"type": "integer", "minimum": 0, "maximum": 10, "default": 1},
                    "mode": {"type": "string", "enum": ["fast", "slow"]},
                    "name": {"type": "string", "pattern": "^[a-z]+$"},
                    "port": {"x-kubernetes-int-or-string": true},
                    "when": {"type": "string", "format": "date-time", "nullable": true},
                    "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                    "sources": {"type": "object", "additionalProperties": {
                        "type": "object",
                        "required": ["uri"],
                        "properties": {"uri": {"type": "string"}, "format": {"type": "string", "default": "csv"}},
                    }},
                    "steps": {
                        "type": "array", "maxItems": 3,
                        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "items": {"type": "object", "required": ["name"], "properties": {
                            "name": {"type": "string"}, "weight": {"type": "number", "multipleOf": 0.5},
                        }},
                    },
                    "either": {
                        "type": "object",
                        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                    },
                    "anything": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                        "x-kubernetes-preserve-unknown-fields": true},
                },
                "x-kubernetes-validations": [{"rule": "self.replicas < 10", "message": "too many"}],
            },
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    }}}))
    .expect("structural")
}

/// Validates a widget's spec; one error a line.
fn problems(spec: Value) -> String {
    let mut object =
        json!({"apiVersion": "t/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    let schema = widget();
    default(&schema, &mut object);
    let errors = validate(&schema, &object, None);
    errors
        .iter()
        .map(|e| format!("{e} ({})\n", e.kind.reason()))
        .collect()
}

fn builtin_problems(group: &str, kind: &str, mut object: Value) -> String {
    let schema = for_builtin(group, "v1", kind).expect("served");
    default(&schema, &mut object);
    let errors = validate(&schema, &object, None);
    errors
        .iter()
        .map(|e| format!("{e} ({})\n", e.kind.reason()))
        .collect()
}

#[test]
fn mistakes_in_kubernetes_words() {
    insta::assert_snapshot!(problems(json!({
        "query": "", "replicas": "three", "mode": "medium", "name": "A1", "port": 1.5,
        "when": "yesterday", "tags": ["a", "b", "a"], "sources": {"x": {}},
        "steps": [{"name": "a", "weight": 0.7}, {"name": "a"}, {"weight": 1}, {"name": "b"}],
        "either": {}, "template": {"metadata": {}},
    })), @r#"
    spec.query: Invalid value: "": spec.query in body should be at least 1 chars long (FieldValueInvalid)
    spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string" (FieldValueTypeInvalid)
    spec.mode: Unsupported value: "medium": supported values: "fast", "slow" (FieldValueNotSupported)
    spec.name: Invalid value: "A1": spec.name in body should match '^[a-z]+$' (FieldValueInvalid)
    spec.port: Invalid value: "number": spec.port in body must be of type integer,string: "number" (FieldValueTypeInvalid)
    spec.when: Invalid value: "yesterday": spec.when in body must be of type date-time: "yesterday" (FieldValueInvalid)
    spec.tags[2]: Duplicate value: "a" (FieldValueDuplicate)
    spec.sources.x.uri: Required value (FieldValueRequired)
    spec.steps: Too many: 4: must have at most 3 items (FieldValueTooMany)
    spec.steps[0].weight: Invalid value: 0.7: spec.steps[0].weight in body should be a multiple of 0.5 (FieldValueInvalid)
    spec.steps[1]: Duplicate value: {"name":"a"} (FieldValueDuplicate)
    spec.steps[2].name: Required value (FieldValueRequired)
    spec.either: Invalid value: "object": spec.either in body must validate one and only one schema (oneOf) (FieldValueInvalid)
    spec.either.a: Required value (FieldValueRequired)
    spec.template.apiVersion: Required value: must not be empty (FieldValueRequired)
    spec.template.kind: Required value: must not be empty (FieldValueRequired)
    "#);
}

#[test]
fn limits_of_size() {
    insta::assert_snapshot!(problems(json!({
        "query": "much longer than twenty letters", "replicas": 11, "either": {"a": "1", "b": "2"},
    })), @r#"
    spec.query: Too long: may not be more than 20 bytes (FieldValueTooLong)
    spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10 (FieldValueInvalid)
    spec.either: Invalid value: "object": spec.either in body must validate one and only one schema (oneOf) (FieldValueInvalid)
    "#);
}

#[test]
fn what_is_right_is_left_alone() {
    assert_eq!(
        problems(json!({
            "query": "SELECT 1", "mode": "fast", "name": "abc", "port": "http", "when": null,
            "tags": ["a"], "sources": {"x": {"uri": "a.csv"}}, "steps": [{"name": "a", "weight": 1.5}],
            "either": {"a": "x"}, "anything": {"x": [1, null]},
            "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"q": 1}},
        })),
        ""
    );
}

#[test]
fn missing_parts_are_required() {
    let schema = widget();
    let object = json!({"metadata": {"labels": {"a": 1}}});
    assert_eq!(
        aggregate(&validate(&schema, &object, None)),
        "[spec: Required value, metadata.labels.a: Invalid value: \"integer\": metadata.labels.a in body must be of type string: \"integer\"]"
    );
    assert_eq!(
        causes(&validate(&schema, &object, None))[0],
        json!({"reason": "FieldValueRequired", "message": "Required value", "field": "spec"})
    );
}

#[test]
fn what_was_wrong_before_is_not_held_against_an_update() {
    let schema = widget();
    let old =
        json!({"spec": {"query": "x", "mode": "gone", "steps": [{"name": "a", "weight": 0.3}]}});
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(2);
    new["spec"]["steps"] = json!([{"name": "b"}, {"name": "a", "weight": 0.3}]);
    assert_eq!(validate(&schema, &new, Some(&old)), []);
    new["spec"]["mode"] = json!("also gone");
    assert_eq!(validate(&schema, &new, Some(&old)).len(), 1);
}

#[test]
fn unknown_fields_are_dropped_and_named() {
    let mut object = json!({
        "spec": {"qurey": "x", "query": "y", "zzz": 1, "anything": {"k": 1},
            "sources": {"x": {"uri": "a", "fromat": "b"}}, "steps": [{"name": "a", "Weight": 1}]},
        "metadata": {"name": "w", "lables": {}}, "status": {"x": 1},
    });
    let unknown = prune(&widget(), &mut object);
    let messages: Vec<String> = unknown.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(strict_decoding_error(&messages), @r#"strict decoding error: unknown field "spec.qurey", did you mean "query"?, unknown field "spec.zzz", unknown field "spec.sources.x.fromat", did you mean "format"?, unknown field "spec.steps[0].Weight", did you mean "weight"?, unknown field "metadata.lables", did you mean "labels"?"#);
    assert_eq!(
        object,
        json!({
            "spec": {"query": "y", "anything": {"k": 1}, "sources": {"x": {"uri": "a"}}, "steps": [{"name": "a"}]},
            "metadata": {"name": "w"}, "status": {"x": 1},
        })
    );
}

#[test]
fn defaults_of_a_custom_resource() {
    let mut object = json!({"spec": {"query": "x", "replicas": null, "when": null, "mode": null, "sources": {"a": {"uri": "u"}}}});
    default(&widget(), &mut object);
    assert_eq!(
        object,
        json!({"spec": {"query": "x", "when": null, "replicas": 1, "sources": {"a": {"uri": "u", "format": "csv"}}}})
    );
}

#[test]
fn rules_are_collected() {
    assert_eq!(
        widget().rules(),
        [CollectedRule {
            path: ".spec".into(),
            rule: "self.replicas < 10".into(),
            message: Some("too many".into()),
        }]
    );
}

#[test]
fn schemas_that_are_not_structural() {
    let read = |schema: Value| {
        Schema::from_crd_version(&json!({"schema": {"openAPIV3Schema": schema}}))
            .expect_err("refused")
            .to_string()
    };
    let errors = [
        read(json!({"type": "string"})),
        read(json!({"type": "object", "properties": {"a": {}}})),
        read(json!({"type": "object", "properties": {"a": {"type": "array"}}})),
        read(json!({"type": "object", "properties": {"a": {"type": "text"}}})),
        read(json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}})),
        read(
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}}}),
        ),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
    schema.openAPIV3Schema.type: Required value: must be object at the root
    schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields
    schema.openAPIV3Schema.properties[a].items: Required value: must be specified
    schema.openAPIV3Schema.properties[a].type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string"
    schema.openAPIV3Schema.properties[a].pattern: Invalid value: "(": must be a valid regular expression
    schema.openAPIV3Schema.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map
    "#);
}

#[test]
fn a_pod_gets_what_kubernetes_fills_in() {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "creationTimestamp": null},
        "spec": {
            "containers": [{"name": "c", "image": "python:3.12", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}},
                "resources": {"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": 0.5}}}],
            "volumes": [{"name": "scratch"}, {"name": "s", "secret": {"secretName": "x"}}],
        },
    });
    default(&for_builtin("", "v1", "Pod").expect("pod"), &mut pod);
    insta::assert_snapshot!(serde_json::to_string_pretty(&pod).expect("json"), @r#"
    {
      "apiVersion": "v1",
      "kind": "Pod",
      "metadata": {
        "name": "p"
      },
      "spec": {
        "containers": [
          {
            "name": "c",
            "image": "python:3.12",
            "ports": [
              {
                "containerPort": 80,
                "protocol": "TCP"
              }
            ],
            "livenessProbe": {
              "httpGet": {
                "port": 80,
                "path": "/",
                "scheme": "HTTP"
              },
              "failureThreshold": 3,
              "periodSeconds": 10,
              "successThreshold": 1,
              "timeoutSeconds": 1
            },
            "resources": {
              "limits": {
                "cpu": "1",
                "memory": "1Gi"
              },
              "requests": {
                "cpu": "500m",
                "memory": "1Gi"
              }
            },
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent"
          }
        ],
        "volumes": [
          {
            "name": "scratch",
            "emptyDir": {}
          },
          {
            "name": "s",
            "secret": {
              "secretName": "x",
              "defaultMode": 420
            }
          }
        ],
        "dnsPolicy": "ClusterFirst",
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30
      }
    }
    "#);
}

#[test]
fn mistakes_in_built_in_kinds() {
    insta::assert_snapshot!(builtin_problems("", "Pod", json!({
        "spec": {
            "restartPolicy": "Sometimes",
            "containers": [
                {"image": "x", "ports": [{"containerPort": "eighty"}], "resources": {"requests": {"memory": "lots"}}},
                {"name": "b", "volumeMounts": [{"name": "v"}]},
            ],
        },
    })), @r#"
    spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure" (FieldValueNotSupported)
    spec.containers[0].name: Required value (FieldValueRequired)
    spec.containers[0].ports[0].containerPort: Invalid value: "string": spec.containers[0].ports[0].containerPort in body must be of type integer: "string" (FieldValueTypeInvalid)
    spec.containers[0].resources.requests.memory: Invalid value: "lots": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$' (FieldValueInvalid)
    spec.containers[1].volumeMounts[0].mountPath: Required value (FieldValueRequired)
    "#);
    insta::assert_snapshot!(builtin_problems("apps", "Deployment", json!({
        "spec": {"replicas": "3", "template": {"spec": {"containers": []}}},
    })), @r#"
    spec.selector: Required value (FieldValueRequired)
    spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string" (FieldValueTypeInvalid)
    spec.template.spec.containers: Required value (FieldValueRequired)
    "#);
    insta::assert_snapshot!(builtin_problems("", "ConfigMap", json!({"data": {"a": 1}, "binaryData": {"b": "§"}})), @r#"
    data.a: Invalid value: "integer": data.a in body must be of type string: "integer" (FieldValueTypeInvalid)
    binaryData.b: Invalid value: "§": binaryData.b in body must be of type byte: "§" (FieldValueInvalid)
    "#);
}

#[test]
fn status_may_be_written_in_part() {
    let mut pod = json!({"spec": {"containers": [{"name": "c"}]}, "status": {
        "containerStatuses": [{"name": "c", "state": {"running": {}}}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    let schema = for_builtin("", "v1", "Pod").expect("pod");
    default(&schema, &mut pod);
    assert_eq!(validate(&schema, &pod, None), []);
    assert_eq!(
        pod["status"]["containerStatuses"][0]["restartCount"],
        json!(0)
    );
}

#[test]
fn every_served_kind_has_a_schema() {
    for (group, kind) in [
        ("", "Pod"),
        ("", "Event"),
        ("events.k8s.io", "Event"),
        ("apps", "Deployment"),
        ("batch", "CronJob"),
        ("coordination.k8s.io", "Lease"),
        ("discovery.k8s.io", "EndpointSlice"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        ("rbac.authorization.k8s.io", "ClusterRole"),
        ("policy", "PodDisruptionBudget"),
        ("policy", "Eviction"),
        ("scheduling.k8s.io", "PriorityClass"),
        ("resource.k8s.io", "ResourceSlice"),
        ("storage.k8s.io", "StorageClass"),
        ("networking.k8s.io", "Ingress"),
        ("autoscaling", "Scale"),
        ("authentication.k8s.io", "TokenReview"),
        ("authorization.k8s.io", "SelfSubjectAccessReview"),
        ("", "Binding"),
    ] {
        assert!(for_builtin(group, "v1", kind).is_some(), "{group}/{kind}");
    }
    assert!(for_builtin("", "v1", "Nothing").is_none());
}

#[test]
fn a_definition_of_a_custom_resource_is_itself_checked() {
    let mut crd = json!({
        "metadata": {"name": "widgets.t.dev"},
        "spec": {"group": "t.dev", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
                    "a": {"type": "array", "items": {"type": "string", "x-unheard": 1}}}}}}}}]},
    });
    let schema =
        for_builtin("apiextensions.k8s.io", "v1", "CustomResourceDefinition").expect("crd");
    let unknown = prune(&schema, &mut crd);
    default(&schema, &mut crd);
    assert_eq!(validate(&schema, &crd, None), []);
    assert_eq!(unknown, []);
    assert_eq!(crd["spec"]["names"]["singular"], "widget");
    assert_eq!(crd["spec"]["conversion"]["strategy"], "None");
}

#[test]
fn quantities_and_durations() {
    for good in ["1", "500m", "1.5Gi", "-3", "1e3", "+.5", "0", "12E", "1E2"] {
        assert!(format::is_quantity(good), "{good}");
    }
    for bad in ["", "Gi", "1 Gi", "1.2.3", "1Kib", "one", ".", "1e"] {
        assert!(!format::is_quantity(bad), "{bad}");
    }
    for good in ["1h30m", "250ms", "0", "1.5s", "3 weeks"] {
        assert!(format::is_duration(good), "{good}");
    }
    for bad in ["", "h", "5", "1x"] {
        assert!(!format::is_duration(bad), "{bad}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(
                (
                    "(spec|query|replicas|steps|sources|name|either|tags|status|metadata|a)",
                    inner
                ),
                0..4
            )
            .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever comes in: no panic, and pruning and defaulting settle at once.
    #[test]
    fn pruning_and_defaulting_settle(object in any_json()) {
        for schema in [std::sync::Arc::new(widget()), for_builtin("", "v1", "Pod").expect("pod")] {
            let mut once = object.clone();
            prune(&schema, &mut once);
            default(&schema, &mut once);
            validate(&schema, &once, None);
            let mut twice = once.clone();
            prop_assert_eq!(prune(&schema, &mut twice), []);
            default(&schema, &mut twice);
            prop_assert_eq!(&once, &twice);
            prop_assert_eq!(validate(&schema, &once, Some(&once)), vec![]);
        }
    }
}
