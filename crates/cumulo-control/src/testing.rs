//! Builders for the tests of the plans.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::action::{Action, Plan};
use crate::options::Options;

pub(crate) fn options() -> Options {
    Options::new("http://127.0.0.1:8700", "file:///artifacts")
}

/// A moment, in seconds after a fixed one.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// An object from its JSON.
pub(crate) fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// The pods that a plan makes.
pub(crate) fn made<S>(plan: &Plan<S>) -> Vec<Pod> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::CreatePod(pod) => Some(Pod::clone(pod)),
            _ => None,
        })
        .collect()
}

/// A pod in a phase, its container ended with a code and a message.
pub(crate) fn ended(
    mut pod: Pod,
    phase: &str,
    code: i32,
    message: &str,
    when: Timestamp,
) -> Arc<Pod> {
    pod.status = Some(object(json!({"phase": phase, "containerStatuses": [{
        "name": "main", "ready": false, "restartCount": 0, "image": "", "imageID": "",
        "state": {"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
            "message": message, "finishedAt": when.to_string()}}}]})));
    Arc::new(pod)
}

/// A pod in a phase.
pub(crate) fn phase(mut pod: Pod, phase: &str, ready: bool) -> Arc<Pod> {
    let ready = if ready { "True" } else { "False" };
    pod.status = Some(object(
        json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}),
    ));
    Arc::new(pod)
}

/// A plan's steps and conditions, a line each.
pub(crate) fn shown<S: serde::Serialize>(plan: &Plan<S>) -> String {
    let mut lines: Vec<String> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::CreatePod(pod) => format!(
                "create pod {}: {}",
                pod.metadata.name.as_deref().unwrap_or_default(),
                pod.spec.as_ref().unwrap().containers[0]
                    .command
                    .as_ref()
                    .unwrap()
                    .join(" ")
            ),
            Action::DeletePod(name) => format!("delete pod {name}"),
            Action::CreateTrainJob(job) => {
                format!(
                    "create TrainJob {}",
                    job.metadata.name.as_deref().unwrap_or_default()
                )
            }
            Action::DeleteTrainJob(name) => format!("delete TrainJob {name}"),
            Action::SetAlias {
                model,
                alias,
                version,
            } => {
                format!("set alias {model}@{alias} = {version}")
            }
            Action::Event(note) => format!(
                "event{} {}: {}",
                if note.warning { " (warning)" } else { "" },
                note.reason,
                note.message
            ),
        })
        .collect();
    let status = serde_json::to_value(&plan.status).unwrap();
    for condition in status["conditions"].as_array().into_iter().flatten() {
        lines.push(format!(
            "{}={} {}: {}",
            condition["type"].as_str().unwrap(),
            condition["status"].as_str().unwrap(),
            condition["reason"].as_str().unwrap(),
            condition["message"].as_str().unwrap()
        ));
    }
    if let Some(again) = plan.again {
        lines.push(format!("again in {again:?}"));
    }
    lines.join("\n")
}
