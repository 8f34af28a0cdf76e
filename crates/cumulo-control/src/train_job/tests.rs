use std::collections::BTreeMap;
use std::sync::Arc;

use cumulo_api::train_job::{Phase, TrainJobStatus};
use cumulo_api::{Dataset, TrainJob};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::plan::{Observed, plan};
use crate::action::Plan;
use crate::registry::RunSummary;
use crate::testing::{at, ended, made, object, options, phase, shown};

fn job(spec: Value) -> TrainJob {
    object(json!({
        "apiVersion": "cumulo.dev/v1alpha1", "kind": "TrainJob",
        "metadata": {"name": "fit", "namespace": "default", "uid": "job-uid", "generation": 1},
        "spec": spec,
    }))
}

fn script() -> TrainJob {
    job(json!({
        "script": "train.py", "arguments": ["--depth", "6"], "retries": 1, "deadline": "8h",
        "inputs": {"train": {"dataset": "flights"}},
        "environment": {"packages": ["scikit-learn"]},
        "files": [{"path": "train.py", "uri": "cumulo:blobs/sha256/aa/train.py"}],
        "output": {"model": "late"},
    }))
}

fn dataset(version: Option<&str>) -> Arc<Dataset> {
    Arc::new(object(json!({
        "metadata": {"name": "flights", "namespace": "default"},
        "spec": {"sources": {}, "query": "SELECT 1"},
        "status": {"version": version, "conditions": [{"type": "Ready", "status": "False",
            "reason": "QueryInvalid", "message": "line 1: no table \"x\"",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    })))
}

fn step(
    job: &mut TrainJob,
    pods: &[Arc<Pod>],
    dataset: Option<Arc<Dataset>>,
    run: Option<RunSummary>,
    second: i64,
) -> Plan<TrainJobStatus> {
    let observed = Observed {
        job,
        pods,
        dataset: &|name| dataset.clone().filter(|_| name == "flights"),
        run,
    };
    let plan = plan(&observed, &options(), at(second));
    job.status = Some(plan.status.clone());
    plan
}

fn standing(status: &TrainJobStatus) -> String {
    format!(
        "{:?} {}: {}",
        status.phase.unwrap(),
        status.reason.as_deref().unwrap_or_default(),
        status.message.as_deref().unwrap_or_default()
    )
}

#[test]
fn waits_for_its_inputs_with_a_reason() {
    let mut job = script();
    let plan = step(&mut job, &[], None, None, 0);
    assert!(plan.actions.is_empty());
    insta::assert_snapshot!(standing(&plan.status), @r#"Pending WaitingForDataset: waits for Dataset "flights" in namespace default"#);
    let plan = step(&mut job, &[], Some(dataset(None)), None, 0);
    insta::assert_snapshot!(standing(&plan.status), @r#"Pending WaitingForDataset: waits for Dataset "flights" in namespace default, which has no version yet: line 1: no table "x""#);
}

#[test]
fn a_script_runs_in_its_environment_and_ends_well() {
    let mut job = script();
    let plan = step(&mut job, &[], Some(dataset(Some("v1"))), None, 0);
    insta::assert_snapshot!(shown(&plan), @r"
    event Started: attempt 1 in pod fit-e2a71-1
    create pod fit-e2a71-1: cumulo exec
    ");
    let pod = made(&plan).remove(0);
    let spec = pod.spec.clone().unwrap();
    assert_eq!(spec.active_deadline_seconds, Some(8 * 3600));
    let env = spec.containers[0].env.clone().unwrap();
    let request = env
        .iter()
        .find(|variable| variable.name == "CUMULO_EXEC")
        .unwrap();
    let request: Value = serde_json::from_str(request.value.as_deref().unwrap()).unwrap();
    insta::assert_json_snapshot!(request, @r#"
    {
      "namespace": "default",
      "name": "fit",
      "uid": "job-uid",
      "environment": {
        "packages": [
          "scikit-learn"
        ]
      },
      "files": [
        {
          "path": "train.py",
          "uri": "cumulo:blobs/sha256/aa/train.py"
        }
      ],
      "inputs": {
        "train": {
          "uri": "cumulo:datasets/default/flights/v1",
          "version": "v1",
          "dataset": "flights"
        }
      },
      "command": [
        "python",
        "train.py",
        "--depth",
        "6"
      ],
      "output": {
        "model": "late"
      },
      "experiment": "fit",
      "trainKey": null
    }
    "#);

    // The dataset moves on meanwhile; the job does not.
    let run = RunSummary {
        id: "run1".into(),
        metrics: BTreeMap::from([("loss".into(), 0.5)]),
    };
    let running = phase(pod.clone(), "Running", false);
    let plan = step(
        &mut job,
        &[running],
        Some(dataset(Some("v2"))),
        Some(run),
        5,
    );
    insta::assert_snapshot!(standing(&plan.status), @"Running Running: attempt 1 runs in pod fit-e2a71-1");
    assert_eq!(plan.status.inputs["train"], "v1");
    assert_eq!(plan.status.metrics["loss"], 0.5);

    let told = r#"{"run":"run1","model":{"name":"late","version":"3"},"metrics":{"auc":0.7}}"#;
    let done = [ended(pod, "Succeeded", 0, told, at(60))];
    let plan = step(&mut job, &done, None, None, 60);
    insta::assert_snapshot!(shown(&plan), @r"
    event Completed: ended well; model version 3
    Complete=True Completed: ended well; model version 3
    ");
    assert_eq!(plan.status.phase, Some(Phase::Succeeded));
    assert_eq!(plan.status.model_version.as_deref(), Some("3"));
    let again = step(&mut job, &done, None, None, 70);
    assert_eq!((again.actions.len(), &again.status), (0, &plan.status));
}

#[test]
fn a_failure_is_tried_again_with_the_same_inputs_and_then_told() {
    let mut job = script();
    let first = made(&step(&mut job, &[], Some(dataset(Some("v1"))), None, 0)).remove(0);
    let failed = ended(first, "Failed", 3, "", at(10));
    let plan = step(
        &mut job,
        std::slice::from_ref(&failed),
        Some(dataset(Some("v2"))),
        None,
        11,
    );
    insta::assert_snapshot!(standing(&plan.status), @"Running ExitCode: attempt 1 of 2 failed and is tried again: it ended with exit code 3");
    assert!(plan.again.is_some());
    let plan = step(
        &mut job,
        std::slice::from_ref(&failed),
        Some(dataset(Some("v2"))),
        None,
        16,
    );
    let second = made(&plan).remove(0);
    assert_ne!(failed.metadata.name, second.metadata.name);
    assert_eq!(plan.status.inputs["train"], "v1");
    let pods = [
        failed,
        ended(
            second,
            "Failed",
            1,
            r#"{"reason":"Raised","message":"ValueError: no column \"x\" (train.py line 7)"}"#,
            at(30),
        ),
    ];
    let plan = step(&mut job, &pods, None, None, 30);
    insta::assert_snapshot!(shown(&plan), @r#"
    delete pod fit-e2a71-1
    event (warning) Raised: ValueError: no column "x" (train.py line 7)
    Failed=True Raised: ValueError: no column "x" (train.py line 7)
    "#);
    assert_eq!(plan.status.attempts, Some(2));
}

#[test]
fn what_cannot_succeed_is_not_tried_again() {
    let mut job = script();
    let pod = made(&step(&mut job, &[], Some(dataset(Some("v1"))), None, 0)).remove(0);
    let told = r#"{"reason":"EnvironmentUnresolvable","message":"numpy 1.26 and numpy 2 exclude each other"}"#;
    let plan = step(
        &mut job,
        &[ended(pod, "Failed", 1, told, at(1))],
        None,
        None,
        1,
    );
    assert_eq!(plan.status.phase, Some(Phase::Failed));
    insta::assert_snapshot!(standing(&plan.status), @"Failed EnvironmentUnresolvable: numpy 1.26 and numpy 2 exclude each other");
}

#[test]
fn changed_work_begins_anew_and_other_changes_do_not() {
    let mut job = job(json!({"command": ["python", "-c", "1"]}));
    let pod = made(&step(&mut job, &[], None, None, 0)).remove(0);
    let done = [ended(pod, "Succeeded", 0, "", at(1))];
    step(&mut job, &done, None, None, 1);
    job.spec.retries = Some(5);
    assert!(made(&step(&mut job, &done, None, None, 2)).is_empty());
    job.spec.command = ["python", "-c", "2"].map(String::from).to_vec();
    job.metadata.generation = Some(2);
    let plan = step(&mut job, &done, None, None, 3);
    assert_eq!(made(&plan).len(), 1);
    assert_eq!(plan.status.phase, Some(Phase::Pending));
    assert_eq!(plan.status.completion_time, None);
}

#[test]
fn a_built_in_trainer_is_run_as_it_is() {
    let mut job =
        job(json!({"command": ["cumulo", "learn", "train"], "env": {"CUMULO_TRAIN": "{}"}}));
    let plan = step(&mut job, &[], None, None, 0);
    let pod = made(&plan).remove(0);
    let container = &pod.spec.as_ref().unwrap().containers[0];
    assert_eq!(
        container.command.as_ref().unwrap().join(" "),
        "cumulo learn train"
    );
    let names: Vec<_> = container
        .env
        .iter()
        .flatten()
        .map(|one| one.name.as_str())
        .collect();
    assert!(names.contains(&"CUMULO_TRAIN") && !names.contains(&"CUMULO_EXEC"));
}

fn together(retries: i32) -> TrainJob {
    job(json!({"script": "train.py", "nodes": 3, "retries": retries}))
}

#[test]
fn several_pods_run_it_together_or_not_at_all() {
    let mut job = together(1);
    job.metadata.annotations = Some(BTreeMap::from([(
        "cumulo.dev/required-topology".to_owned(),
        "rack".to_owned(),
    )]));
    let plan = step(&mut job, &[], None, None, 0);
    insta::assert_snapshot!(shown(&plan), @r"
    event Started: attempt 1 in 3 pods, of which fit-3ee85-1-0 leads
    create pod fit-3ee85-1-0: cumulo exec
    create pod fit-3ee85-1-1: cumulo exec
    create pod fit-3ee85-1-2: cumulo exec
    ");
    let pods = made(&plan);
    let first = &pods[0].metadata;
    let (labels, annotations) = (
        first.labels.clone().unwrap(),
        first.annotations.clone().unwrap(),
    );
    assert!(pods.iter().all(
        |pod| pod.metadata.labels.as_ref().unwrap()["cumulo.dev/gang"] == labels["cumulo.dev/gang"]
    ));
    assert_eq!(annotations["cumulo.dev/gang-size"], "3");
    assert_eq!(annotations["cumulo.dev/required-topology"], "rack");

    // One that is missing is made as long as nobody has begun, under its own name.
    let there: Vec<_> = pods[..2]
        .iter()
        .map(|pod| phase(pod.clone(), "Pending", false))
        .collect();
    let plan = step(&mut job, &there, None, None, 1);
    assert_eq!(made(&plan)[2].metadata.name, pods[2].metadata.name);
    assert_eq!(plan.status.attempts, Some(1));
    let mut mixed: Vec<_> = pods
        .iter()
        .map(|pod| phase(pod.clone(), "Running", false))
        .collect();
    mixed[2] = phase(pods[2].clone(), "Pending", false);
    assert_eq!(
        step(&mut job, &mixed, None, None, 2).status.phase,
        Some(Phase::Pending)
    );
    mixed[2] = phase(pods[2].clone(), "Running", false);
    let plan = step(&mut job, &mixed, None, None, 3);
    assert_eq!(plan.status.phase, Some(Phase::Running));

    // All must end well, and the first one's message counts.
    let end = |at_rank: usize, message: &str| {
        ended(pods[at_rank].clone(), "Succeeded", 0, message, at(9))
    };
    mixed[0] = end(0, r#"{"run":"run1","metrics":{"auc":0.7}}"#);
    mixed[1] = end(1, r#"{"run":"run1"}"#);
    assert_eq!(
        step(&mut job, &mixed, None, None, 9).status.phase,
        Some(Phase::Running)
    );
    mixed[2] = end(2, r#"{"run":"run1"}"#);
    let plan = step(&mut job, &mixed, None, None, 10);
    assert_eq!(plan.status.phase, Some(Phase::Succeeded));
    assert_eq!(plan.status.metrics["auc"], 0.7);
}

#[test]
fn one_that_fails_ends_the_attempt_of_all() {
    let mut job = together(1);
    let pods = made(&step(&mut job, &[], None, None, 0));
    let mut there: Vec<_> = pods
        .iter()
        .map(|pod| phase(pod.clone(), "Running", false))
        .collect();
    there[1] = ended(pods[1].clone(), "Failed", 3, "", at(10));
    let plan = step(&mut job, &there, None, None, 10);
    insta::assert_snapshot!(shown(&plan), @r"
    delete pod fit-3ee85-1-0
    delete pod fit-3ee85-1-2
    again in 5s
    ");
    insta::assert_snapshot!(standing(&plan.status), @"Running ExitCode: attempt 1 of 2 failed and is tried again: it ended with exit code 3");
    // After the back-off all are made again.
    let plan = step(&mut job, &there, None, None, 60);
    let again = made(&plan);
    assert_eq!((again.len(), plan.status.attempts), (3, Some(2)));
    let mut second: Vec<_> = again
        .iter()
        .map(|pod| phase(pod.clone(), "Running", false))
        .collect();
    second[2] = ended(again[2].clone(), "Failed", 4, "", at(70));
    let plan = step(&mut job, &second, None, None, 70);
    insta::assert_snapshot!(standing(&plan.status), @"Failed ExitCode: it ended with exit code 4");

    // One that is deleted while the others run would never be missed by them.
    let mut job = together(0);
    step(&mut job, &[], None, None, 0);
    let plan = step(&mut job, &there[..1], None, None, 5);
    assert_eq!((made(&plan).len(), plan.status.attempts), (3, Some(2)));
}

#[test]
fn a_built_in_trainer_has_one_pod() {
    let mut job = job(json!({"command": ["cumulo", "learn", "train"], "nodes": 2}));
    let plan = step(&mut job, &[], None, None, 0);
    insta::assert_snapshot!(standing(&plan.status), @r#"Failed NodesUnsupported: "cumulo learn train" runs in one pod: leave out spec.nodes, or give a script or a command of your own"#);
}
