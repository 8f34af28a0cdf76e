use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::*;

fn now() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-01-02T00:00:00Z")
        .expect("time")
        .with_timezone(&Utc)
}

/// Column names over cells, wide columns in parentheses.
fn show(printer: &Printer, object: &Value) -> String {
    let table = render(printer, &[object], &json!({}), IncludeObject::None, now());
    let names: Vec<String> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .map(|column| {
            let name = column["name"].as_str().unwrap_or_default().to_uppercase();
            if column["priority"] == 0 {
                name
            } else {
                format!("({name})")
            }
        })
        .collect();
    let cells: Vec<String> = table["rows"][0]["cells"]
        .as_array()
        .expect("cells")
        .iter()
        .map(Value::to_string)
        .collect();
    format!("{}\n{}", names.join(" | "), cells.join(" | "))
}

fn made(kind: &str, rest: Value) -> Value {
    let mut object = json!({"kind": kind, "metadata": {"name": "x", "creationTimestamp": "2026-01-01T23:55:00Z"}});
    if let (Some(object), Some(rest)) = (object.as_object_mut(), rest.as_object()) {
        object.extend(rest.clone());
    }
    object
}

#[test]
fn durations_as_kubectl_writes_them() {
    let shown: Vec<String> = [
        -5,
        -1,
        0,
        119,
        120,
        200,
        599,
        600,
        7200,
        10799,
        10800,
        28799,
        28800,
        172_799,
        172_800,
        183_600,
        691_200,
        63_072_000,
        70_000_000,
        400_000_000,
    ]
    .map(human_duration)
    .to_vec();
    insta::assert_snapshot!(shown.join(" "), @r#"<invalid> 0s 0s 119s 2m 3m20s 9m59s 10m 120m 179m 3h 7h59m 8h 47h 2d 2d3h 8d 2y 2y80d 12y"#);
}

#[test]
fn pods() {
    let pod = |status: Value| {
        show(
            &builtin("", "Pod"),
            &made(
                "Pod",
                json!({
        "spec": {"nodeName": "n", "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}, "status": status}),
            ),
        )
    };
    insta::assert_snapshot!(pod(json!({"phase": "Running", "podIP": "127.1.2.3",
        "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}],
        "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 3, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T23:58:00Z"}}},
            {"name": "b", "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]})), @r#"
    NAME | READY | STATUS | RESTARTS | AGE | (IP) | (NODE) | (NOMINATED NODE) | (READINESS GATES)
    "x" | "1/2" | "CrashLoopBackOff" | "3 (2m ago)" | "5m" | "127.1.2.3" | "n" | "<none>" | "<none>"
    "#);
    let status = |status: Value| pod(status).lines().last().unwrap_or_default().to_owned();
    let lines = [
        status(json!({"phase": "Pending"})),
        status(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
        ),
        status(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1}}}]}),
        ),
        status(
            json!({"phase": "Succeeded", "containerStatuses": [{"name": "a", "state": {"terminated": {"reason": "Completed"}}}]}),
        ),
        status(
            json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 3}}}]}),
        ),
        status(json!({"phase": "Failed", "reason": "Evicted"})),
    ];
    insta::assert_snapshot!(lines.join("\n"), @r#"
    "x" | "0/2" | "Pending" | "0" | "5m" | "<none>" | "n" | "<none>" | "<none>"
    "x" | "0/2" | "Init:0/1" | "0" | "5m" | "<none>" | "n" | "<none>" | "<none>"
    "x" | "0/2" | "Init:ExitCode:1" | "0" | "5m" | "<none>" | "n" | "<none>" | "<none>"
    "x" | "0/2" | "Completed" | "0" | "5m" | "<none>" | "n" | "<none>" | "<none>"
    "x" | "0/2" | "ExitCode:3" | "0" | "5m" | "<none>" | "n" | "<none>" | "<none>"
    "x" | "0/2" | "Evicted" | "0" | "5m" | "<none>" | "n" | "<none>" | "<none>"
    "#);
}

#[test]
fn other_kinds() {
    let shown = [
        show(
            &builtin("", "Namespace"),
            &made("Namespace", json!({"status": {"phase": "Active"}})),
        ),
        show(
            &builtin("", "ConfigMap"),
            &made(
                "ConfigMap",
                json!({"data": {"a": "1"}, "binaryData": {"b": ""}}),
            ),
        ),
        show(
            &builtin("", "Secret"),
            &made("Secret", json!({"type": "Opaque", "data": {"a": ""}})),
        ),
        show(
            &builtin("", "Node"),
            &made(
                "Node",
                json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}}),
            ),
        ),
        show(
            &builtin("", "Service"),
            &made(
                "Service",
                json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "ports": [{"port": 80, "protocol": "TCP"}], "selector": {"a": "b"}}}),
            ),
        ),
        show(
            &builtin("apps", "Deployment"),
            &made(
                "Deployment",
                json!({"spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}, "status": {"readyReplicas": 1}}),
            ),
        ),
        show(
            &builtin("batch", "Job"),
            &made(
                "Job",
                json!({"spec": {"completions": 1}, "status": {"succeeded": 1, "startTime": "2026-01-01T23:55:00Z", "completionTime": "2026-01-01T23:56:01Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
            ),
        ),
        show(
            &builtin("", "Event"),
            &made(
                "Event",
                json!({"type": "Normal", "reason": "Started", "message": "hello", "involvedObject": {"kind": "Pod", "name": "p"}, "lastTimestamp": "2026-01-01T23:59:30Z", "source": {"component": "node", "host": "h"}}),
            ),
        ),
        show(
            &builtin("events.k8s.io", "Event"),
            &made(
                "Event",
                json!({"type": "Normal", "reason": "Started", "note": "hello", "regarding": {"kind": "Pod", "name": "p"}, "eventTime": "2026-01-01T23:59:30Z"}),
            ),
        ),
        show(
            &builtin("resource.k8s.io", "DeviceClass"),
            &made("DeviceClass", json!({})),
        ),
    ];
    insta::assert_snapshot!(shown.join("\n"), @r#"
    NAME | STATUS | AGE
    "x" | "Active" | "5m"
    NAME | DATA | AGE
    "x" | 2 | "5m"
    NAME | TYPE | DATA | AGE
    "x" | "Opaque" | 1 | "5m"
    NAME | STATUS | ROLES | AGE | VERSION | (INTERNAL-IP) | (EXTERNAL-IP) | (OS-IMAGE) | (KERNEL-VERSION) | (CONTAINER-RUNTIME)
    "n" | "Ready,SchedulingDisabled" | "control-plane" | "<unknown>" | "<none>" | "127.0.0.1" | "<none>" | "<unknown>" | "<unknown>" | "<unknown>"
    NAME | TYPE | CLUSTER-IP | EXTERNAL-IP | PORT(S) | AGE | (SELECTOR)
    "x" | "ClusterIP" | "None" | "<none>" | "80/TCP" | "5m" | "a=b"
    NAME | READY | UP-TO-DATE | AVAILABLE | AGE | (CONTAINERS) | (IMAGES) | (SELECTOR)
    "x" | "1/2" | 0 | 0 | "5m" | "c" | "i" | "a=b"
    NAME | STATUS | COMPLETIONS | DURATION | AGE | (CONTAINERS) | (IMAGES) | (SELECTOR)
    "x" | "Complete" | "1/1" | "61s" | "5m" | "<none>" | "<none>" | "<none>"
    LAST SEEN | TYPE | REASON | OBJECT | (SUBOBJECT) | (SOURCE) | MESSAGE | (FIRST SEEN) | (COUNT) | (NAME)
    "30s" | "Normal" | "Started" | "pod/p" | "" | "node, h" | "hello" | "<unknown>" | 1 | "x"
    LAST SEEN | TYPE | REASON | OBJECT | (SUBOBJECT) | (SOURCE) | MESSAGE | (FIRST SEEN) | (COUNT) | (NAME)
    "30s" | "Normal" | "Started" | "pod/p" | "" | "" | "hello" | "30s" | 1 | "x"
    NAME | AGE
    "x" | "5m"
    "#);
}

#[test]
fn columns_of_a_custom_resource() {
    let printer = Printer::from_crd_version(&json!({"additionalPrinterColumns": [
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
        {"name": "Rows", "type": "integer", "jsonPath": ".status.rows"},
        {"name": "Auc", "type": "number", "jsonPath": ".status.auc"},
        {"name": "Note", "type": "string", "jsonPath": ".metadata.annotations.example\\.com/note", "priority": 1},
        {"name": "First", "type": "string", "jsonPath": ".spec.list[0]['a']"},
        {"name": "Labels", "type": "string", "jsonPath": ".metadata.labels"},
        {"name": "Missing", "type": "string", "jsonPath": ".spec.no.such"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]})).expect("columns");
    let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T23:55:00Z", "annotations": {"example.com/note": "hi"}, "labels": {"a": "b"}},
        "spec": {"list": [{"a": 5}]}, "status": {"rows": 7.0, "auc": 0.5, "conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]}});
    insta::assert_snapshot!(show(&printer, &object), @r#"
    NAME | READY | ROWS | AUC | (NOTE) | FIRST | LABELS | MISSING | AGE
    "x" | "True" | 7 | 0.5 | "hi" | "5" | "{\"a\":\"b\"}" | null | "5m"
    "#);
    insta::assert_snapshot!(show(&Printer::from_crd_version(&json!({})).expect("columns"), &object), @r#"
    NAME | AGE
    "x" | "5m"
    "#);
    let broken = |path: &str| {
        Printer::from_crd_version(&json!({"additionalPrinterColumns": [{"name": "a", "type": "string", "jsonPath": path}]})).is_err()
    };
    assert!(broken("spec"));
    assert!(broken(".spec[0"));
    assert!(broken(".spec[?(@.a==]"));
    assert!(broken(""));
}

#[test]
fn a_whole_table() {
    let object = made("Namespace", json!({"status": {"phase": "Active"}}));
    let table = |include| {
        render(
            &builtin("", "Namespace"),
            &[&object],
            &json!({"resourceVersion": "7"}),
            include,
            now(),
        )
    };
    assert_eq!(table(IncludeObject::Object)["rows"][0]["object"], object);
    assert_eq!(table(IncludeObject::None)["rows"][0]["object"], Value::Null);
    insta::assert_snapshot!(serde_json::to_string_pretty(&table(IncludeObject::Metadata)).expect("json"), @r#"
    {
      "kind": "Table",
      "apiVersion": "meta.k8s.io/v1",
      "metadata": {
        "resourceVersion": "7"
      },
      "columnDefinitions": [
        {
          "name": "Name",
          "type": "string",
          "format": "name",
          "description": "Name must be unique within a namespace.",
          "priority": 0
        },
        {
          "name": "Status",
          "type": "string",
          "format": "",
          "description": "",
          "priority": 0
        },
        {
          "name": "Age",
          "type": "string",
          "format": "",
          "description": "Time since the object was created.",
          "priority": 0
        }
      ],
      "rows": [
        {
          "cells": [
            "x",
            "Active",
            "5m"
          ],
          "object": {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": {
              "name": "x",
              "creationTimestamp": "2026-01-01T23:55:00Z"
            }
          }
        }
      ]
    }
    "#);
    assert_eq!("Object".parse(), Ok(IncludeObject::Object));
    assert!("All".parse::<IncludeObject>().is_err());
}
