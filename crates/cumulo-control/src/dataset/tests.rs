use std::sync::Arc;

use cumulo_api::Dataset;
use cumulo_api::dataset::DatasetStatus;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::json;

use super::plan::{REBUILD, plan};
use crate::action::{Action, Plan};
use crate::testing::{at, ended, made, object, options, phase, shown};

const BUILT: &str = r#"{"version":"9f1c2d3e4a5b6c7d","rows":327346,"bytes":4000000,"columns":2,
    "schema":[["origin","Utf8"],["late","Int64"]],
    "checks":[{"name":"late is not null","passed":true,"failedRows":0}]}"#;

fn flights() -> Dataset {
    object(json!({
        "apiVersion": "cumulo.dev/v1alpha1", "kind": "Dataset",
        "metadata": {"name": "flights", "namespace": "default", "uid": "u", "generation": 1},
        "spec": {
            "sources": {"flights": {"uri": "cumulo:blobs/sha256/aa/flights.csv", "nullValues": ["NA"]}},
            "query": "SELECT * FROM flights",
            "checks": [{"column": "late", "notNull": true}],
        },
    }))
}

fn step(dataset: &mut Dataset, pods: &[Arc<Pod>], second: i64) -> Plan<DatasetStatus> {
    let plan = plan(dataset, pods, &options(), at(second));
    dataset.status = Some(plan.status.clone());
    plan
}

#[test]
fn a_new_dataset_is_built_once() {
    let mut dataset = flights();
    let first = step(&mut dataset, &[], 0);
    insta::assert_snapshot!(shown(&first), @r"
    create pod flights-build-4fe1136b-1: cumulo data build
    Ready=False Building: pod flights-build-4fe1136b-1 builds the snapshot
    ");
    let pod = made(&first).remove(0);
    insta::assert_json_snapshot!(pod, @r#"
    {
      "apiVersion": "v1",
      "kind": "Pod",
      "metadata": {
        "labels": {
          "app.kubernetes.io/managed-by": "cumulo",
          "cumulo.dev/attempt": "1",
          "cumulo.dev/dataset": "flights",
          "cumulo.dev/request": "4fe1136bd453ab30"
        },
        "name": "flights-build-4fe1136b-1",
        "namespace": "default",
        "ownerReferences": [
          {
            "apiVersion": "cumulo.dev/v1alpha1",
            "controller": true,
            "kind": "Dataset",
            "name": "flights",
            "uid": "u"
          }
        ]
      },
      "spec": {
        "automountServiceAccountToken": false,
        "containers": [
          {
            "command": [
              "cumulo",
              "data",
              "build"
            ],
            "env": [
              {
                "name": "POD_NAME",
                "valueFrom": {
                  "fieldRef": {
                    "apiVersion": "v1",
                    "fieldPath": "metadata.name"
                  }
                }
              },
              {
                "name": "POD_NAMESPACE",
                "valueFrom": {
                  "fieldRef": {
                    "apiVersion": "v1",
                    "fieldPath": "metadata.namespace"
                  }
                }
              },
              {
                "name": "POD_IP",
                "valueFrom": {
                  "fieldRef": {
                    "apiVersion": "v1",
                    "fieldPath": "status.podIP"
                  }
                }
              },
              {
                "name": "CUMULO_ARTIFACTS",
                "value": "file:///artifacts"
              },
              {
                "name": "MLFLOW_TRACKING_URI",
                "value": "http://127.0.0.1:8700"
              },
              {
                "name": "CUMULO_DATASET",
                "value": "{\"namespace\":\"default\",\"name\":\"flights\",\"sources\":[{\"name\":\"flights\",\"uris\":[\"cumulo:blobs/sha256/aa/flights.csv\"],\"options\":{\"nullValues\":[\"NA\"]}}],\"query\":\"SELECT * FROM flights\",\"checks\":[{\"column\":\"late\",\"notNull\":true}]}"
              }
            ],
            "envFrom": [
              {
                "secretRef": {
                  "name": "cumulo-artifacts",
                  "optional": true
                }
              }
            ],
            "image": "cumulo.dev/runtime",
            "name": "main",
            "resources": {
              "requests": {
                "cpu": "250m",
                "memory": "256Mi"
              }
            }
          }
        ],
        "enableServiceLinks": false,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 30,
        "tolerations": [
          {
            "effect": "NoSchedule",
            "key": "cumulo.dev/runtime",
            "operator": "Exists"
          },
          {
            "effect": "NoExecute",
            "key": "node.kubernetes.io/not-ready",
            "operator": "Exists",
            "tolerationSeconds": 30
          },
          {
            "effect": "NoExecute",
            "key": "node.kubernetes.io/unreachable",
            "operator": "Exists",
            "tolerationSeconds": 30
          }
        ]
      }
    }
    "#);

    let running = step(&mut dataset, &[phase(pod.clone(), "Running", false)], 1);
    insta::assert_snapshot!(shown(&running), @"Ready=False Building: pod flights-build-4fe1136b-1 builds the snapshot");

    let pods = [ended(pod, "Succeeded", 0, BUILT, at(2))];
    let built = step(&mut dataset, &pods, 2);
    insta::assert_snapshot!(shown(&built), @r"
    event Built: version 9f1c2d3e4a5b6c7d with 327346 rows
    Ready=True Built: version 9f1c2d3e4a5b6c7d with 327346 rows
    ");
    insta::assert_json_snapshot!(built.status, @r#"
    {
      "version": "9f1c2d3e4a5b6c7d",
      "rows": 327346,
      "bytes": 4000000,
      "uri": "cumulo:datasets/default/flights/9f1c2d3e4a5b6c7d",
      "schema": [
        {
          "name": "origin",
          "type": "Utf8"
        },
        {
          "name": "late",
          "type": "Int64"
        }
      ],
      "checks": [
        {
          "name": "late is not null",
          "passed": true,
          "failedRows": 0
        }
      ],
      "request": "4fe1136bd453ab30",
      "attempts": 1,
      "observedGeneration": 1,
      "conditions": [
        {
          "lastTransitionTime": "2027-01-15T08:00:02Z",
          "message": "version 9f1c2d3e4a5b6c7d with 327346 rows",
          "observedGeneration": 1,
          "reason": "Built",
          "status": "True",
          "type": "Ready"
        }
      ]
    }
    "#);
    let again = step(&mut dataset, &pods, 3);
    assert_eq!(again.status, built.status);
    assert!(again.actions.is_empty() && again.again.is_none());
    // The pod gone, too, changes nothing.
    assert!(step(&mut dataset, &[], 4).actions.is_empty());
}

#[test]
fn a_failed_check_keeps_the_version_that_was_good() {
    let mut dataset = flights();
    let pod = made(&step(&mut dataset, &[], 0)).remove(0);
    let old = ended(pod, "Succeeded", 0, BUILT, at(2));
    step(&mut dataset, std::slice::from_ref(&old), 2);

    dataset.spec.query = "SELECT origin FROM flights".into();
    dataset.metadata.generation = Some(2);
    let plan = step(&mut dataset, std::slice::from_ref(&old), 10);
    insta::assert_snapshot!(shown(&plan), @r"
    create pod flights-build-c658e910-1: cumulo data build
    Ready=False Building: pod flights-build-c658e910-1 builds the snapshot
    ");
    let told = r#"{"reason":"CheckFailed","message":"check \"late is not null\" failed: 12 of 100 rows",
        "checks":[{"name":"late is not null","passed":false,"failedRows":12}]}"#;
    let failed = ended(made(&plan).remove(0), "Failed", 1, told, at(11));
    let plan = step(&mut dataset, &[old, failed.clone()], 11);
    insta::assert_snapshot!(shown(&plan), @r#"
    delete pod flights-build-4fe1136b-1
    event (warning) CheckFailed: check "late is not null" failed: 12 of 100 rows — version 9f1c2d3e4a5b6c7d stays current
    Ready=False CheckFailed: check "late is not null" failed: 12 of 100 rows — version 9f1c2d3e4a5b6c7d stays current
    Degraded=True CheckFailed: check "late is not null" failed: 12 of 100 rows — version 9f1c2d3e4a5b6c7d stays current
    "#);
    assert_eq!(plan.status.version.as_deref(), Some("9f1c2d3e4a5b6c7d"));
    assert_eq!(plan.status.checks[0].failed_rows, 12);
    assert!(
        step(&mut dataset, &[failed], 1000).actions.is_empty(),
        "not tried again"
    );
}

#[test]
fn a_build_that_fails_is_tried_again_a_few_times() {
    let mut dataset = flights();
    let mut pods: Vec<Arc<Pod>> = Vec::new();
    let mut attempts = 0;
    let mut second = 0;
    for _ in 0..40 {
        let plan = step(&mut dataset, &pods, second);
        for action in &plan.actions {
            if let Action::DeletePod(name) = action {
                pods.retain(|pod| pod.metadata.name.as_ref() != Some(name));
            }
        }
        for pod in made(&plan) {
            attempts += 1;
            pods.push(ended(pod, "Failed", 137, "", at(second)));
        }
        if second == 0 {
            let back_off = step(&mut dataset, &pods, 1);
            insta::assert_snapshot!(shown(&back_off), @r"
            Ready=False ExitCode: attempt 1 of 4 failed and is tried again: it ended with exit code 137
            again in 4s
            ");
        }
        second += 15;
    }
    assert_eq!(attempts, 4);
    assert_eq!(pods.len(), 1, "the last one is kept for its log");
    assert_eq!(dataset.status.as_ref().unwrap().attempts, Some(4));
}

#[test]
fn an_annotation_builds_again() {
    let mut dataset = flights();
    let pod = made(&step(&mut dataset, &[], 0)).remove(0);
    let pods = [ended(
        pod,
        "Failed",
        1,
        r#"{"reason":"SourceMissing","message":"m"}"#,
        at(1),
    )];
    step(&mut dataset, &pods, 1);
    assert!(made(&step(&mut dataset, &pods, 2)).is_empty());
    dataset.metadata.annotations = Some([(REBUILD.to_owned(), "now".to_owned())].into());
    assert_eq!(made(&step(&mut dataset, &pods, 3)).len(), 1);
}

#[test]
fn a_pod_without_a_place_is_told_of() {
    let mut dataset = flights();
    let mut pod = made(&step(&mut dataset, &[], 0)).remove(0);
    pod.status = Some(object(
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled",
        "status": "False", "reason": "Unschedulable", "message": "there is no node"}]}),
    ));
    let plan = step(&mut dataset, &[Arc::new(pod)], 1);
    insta::assert_snapshot!(shown(&plan), @"Ready=False Building: pod flights-build-4fe1136b-1 waits: there is no node");
}

proptest! {
    /// Whatever becomes of the pods, planning twice from the same state makes
    /// nothing twice, and names never collide with what exists.
    #[test]
    fn nothing_is_made_twice(events in prop::collection::vec(0u8..6, 1..40)) {
        let mut dataset = flights();
        let mut pods: Vec<Arc<Pod>> = Vec::new();
        let mut second = 0;
        for event in events {
            second += 7;
            let plan = step(&mut dataset, &pods, second);
            for action in &plan.actions {
                if let Action::DeletePod(name) = action {
                    pods.retain(|pod| pod.metadata.name.as_ref() != Some(name));
                }
            }
            for pod in made(&plan) {
                prop_assert!(pods.iter().all(|known| known.metadata.name != pod.metadata.name));
                pods.push(Arc::new(pod));
            }
            prop_assert!(pods.len() <= 2);
            let repeated = step(&mut dataset, &pods, second);
            prop_assert!(made(&repeated).is_empty());
            if let Some(last) = pods.last_mut() {
                let pod = Pod::clone(last);
                match event {
                    0 => *last = phase(pod, "Running", false),
                    1 => *last = ended(pod, "Succeeded", 0, BUILT, at(second)),
                    2 => *last = ended(pod, "Failed", 3, "", at(second)),
                    3 => { pods.pop(); }
                    4 => dataset.spec.query.push(' '),
                    _ => {}
                }
            }
        }
    }
}
