//! What to do about a Dataset. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use cumulo_api::dataset::{CheckResult, Column, Dataset, DatasetSpec, DatasetStatus};
use cumulo_api::labels;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::action::{Action, Plan};
use crate::attempts::{Progress, leftovers, progress};
use crate::conditions::{self, Saying};
use crate::key::{hash, label_value, limited};
use crate::options::Options;
use crate::outcome::Failure;
use crate::pods::{ATTEMPT, Mould, REQUEST, Runs, carried, cast, owner};

/// Setting this annotation to another value builds the same request again.
pub(crate) const REBUILD: &str = "cumulo.dev/rebuild";

/// Columns shown in the status.
const MOST_COLUMNS: usize = 100;

/// What a build pod leaves as its message.
#[derive(Debug, Deserialize)]
struct Built {
    version: String,
    rows: i64,
    bytes: i64,
    #[serde(default)]
    schema: Vec<(String, String)>,
    #[serde(default)]
    checks: Vec<CheckResult>,
}

/// The steps and the status that follow from what is observed.
pub(crate) fn plan(
    dataset: &Dataset,
    pods: &[Arc<Pod>],
    options: &Options,
    now: Timestamp,
) -> Plan<DatasetStatus> {
    let namespace = dataset.namespace().unwrap_or_default();
    let name = dataset.name_any();
    let body = request(&namespace, &name, &dataset.spec);
    let key = hash(&(&body, dataset.annotations().get(REBUILD)));

    let before = dataset.status.clone().unwrap_or_default();
    let mut status = before.clone();
    status.observed_generation = dataset.metadata.generation;
    let mut actions: Vec<Action> = leftovers(&key, pods)
        .into_iter()
        .map(Action::DeletePod)
        .collect();
    let mut again = None;
    let set_ready = |status: &mut DatasetStatus, saying: Saying, stuck: bool| {
        let generation = dataset.metadata.generation;
        conditions::set_ready(&mut status.conditions, saying, stuck, generation, now);
    };
    let say = |status: &mut DatasetStatus, saying: Saying| set_ready(status, saying, false);
    let give_up = |status: &mut DatasetStatus, saying: Saying| set_ready(status, saying, true);

    if before.request.as_deref() == Some(key.as_str()) {
        // Built, or failed for good: nothing to do until the request changes.
        for known in &mut status.conditions {
            known.observed_generation = dataset.metadata.generation;
        }
        return Plan {
            actions,
            status,
            again,
        };
    }

    match progress(&key, pods, &options.retry, now) {
        Progress::Start(attempt) => {
            let pod = pod(dataset, &key, attempt, &body, options);
            let pod_name = pod.name_any();
            actions.push(Action::CreatePod(Box::new(pod)));
            status.attempts = Some(attempt as i32);
            say(
                &mut status,
                Saying::no("Building", format!("pod {pod_name} builds the snapshot")),
            );
        }
        Progress::Waiting {
            attempt,
            pod,
            message,
            again: wait,
        } => {
            again = wait;
            status.attempts = Some(attempt as i32);
            let message = message.map_or_else(
                || format!("pod {pod} builds the snapshot"),
                |message| format!("pod {pod} waits: {message}"),
            );
            say(&mut status, Saying::no("Building", message));
        }
        Progress::Running { attempt, pod } => {
            status.attempts = Some(attempt as i32);
            say(
                &mut status,
                Saying::no("Building", format!("pod {pod} builds the snapshot")),
            );
        }
        Progress::BackOff {
            attempt,
            failure,
            wait,
            ..
        } => {
            status.attempts = Some(attempt as i32);
            again = Some(wait);
            let all = options.retry.attempts;
            let message = format!(
                "attempt {attempt} of {all} failed and is tried again: {}",
                failure.message
            );
            say(&mut status, Saying::no(&failure.reason, message));
        }
        Progress::Failed {
            attempt, failure, ..
        } => fail(&mut status, &mut actions, give_up, &key, attempt, failure),
        Progress::Succeeded {
            attempt,
            message,
            pod,
        } => match serde_json::from_str::<Built>(&message) {
            Ok(built) => {
                let told = format!("version {} with {} rows", built.version, built.rows);
                status.uri = Some(uri(&namespace, &name, &built.version));
                status.version = Some(built.version);
                status.rows = Some(built.rows);
                status.bytes = Some(built.bytes);
                status.schema = built
                    .schema
                    .into_iter()
                    .take(MOST_COLUMNS)
                    .map(|(name, data_type)| Column { name, data_type })
                    .collect();
                status.checks = built.checks;
                status.request = Some(key);
                status.attempts = Some(attempt as i32);
                actions.push(Action::note("Built", told.clone()));
                say(&mut status, Saying::yes("Built", told));
            }
            Err(error) => {
                let failure = Failure {
                    reason: "ResultUnreadable".to_owned(),
                    message: format!(
                        "pod {pod} ended well but what it said of its result is unreadable ({error}): \
                         is its image as old as this controller?"
                    ),
                    detail: None,
                    finished: None,
                };
                fail(&mut status, &mut actions, give_up, &key, attempt, failure);
            }
        },
    }
    Plan {
        actions,
        status,
        again,
    }
}

fn fail(
    status: &mut DatasetStatus,
    actions: &mut Vec<Action>,
    give_up: impl Fn(&mut DatasetStatus, Saying),
    key: &str,
    attempt: u32,
    failure: Failure,
) {
    status.request = Some(key.to_owned());
    status.attempts = Some(attempt as i32);
    let checks = failure
        .detail
        .as_ref()
        .and_then(|detail| detail.get("checks"));
    if let Some(checks) = checks
        && let Ok(checks) = serde_json::from_value(checks.clone())
    {
        status.checks = checks;
    }
    let message = match &status.version {
        Some(version) => format!("{} — version {version} stays current", failure.message),
        None => failure.message,
    };
    actions.push(Action::warn(&failure.reason, message.clone()));
    give_up(status, Saying::no(&failure.reason, message));
}

/// Where a version lies in the artifact store.
pub(crate) fn uri(namespace: &str, name: &str, version: &str) -> String {
    format!("cumulo:datasets/{namespace}/{name}/{version}")
}

/// What `cumulo data build` is asked for.
fn request(namespace: &str, name: &str, spec: &DatasetSpec) -> Value {
    let sources: Vec<Value> = spec
        .sources
        .iter()
        .map(|(name, source)| {
            let mut request = json!({"name": name, "uris": source.all_uris()});
            if let Some(format) = source.format {
                request["format"] = json!(format);
            }
            let mut options = serde_json::Map::new();
            if let Some(delimiter) = &source.delimiter {
                options.insert("delimiter".to_owned(), json!(delimiter));
            }
            if let Some(header) = source.header {
                options.insert("header".to_owned(), json!(header));
            }
            if let Some(null_values) = &source.null_values {
                options.insert("nullValues".to_owned(), json!(null_values));
            }
            if !options.is_empty() {
                request["options"] = Value::Object(options);
            }
            request
        })
        .collect();
    json!({
        "namespace": namespace,
        "name": name,
        "sources": sources,
        "query": spec.query,
        "checks": spec.checks,
    })
}

fn pod(dataset: &Dataset, key: &str, attempt: u32, body: &Value, options: &Options) -> Pod {
    let name = dataset.name_any();
    cast(
        Mould {
            name: limited(&name, &format!("-build-{}-{attempt}", &key[..8])),
            namespace: dataset.namespace().unwrap_or_default(),
            owner: owner(dataset),
            annotations: carried(dataset),
            labels: BTreeMap::from([
                (labels::DATASET.to_owned(), label_value(&name)),
                (REQUEST.to_owned(), key.to_owned()),
                (ATTEMPT.to_owned(), attempt.to_string()),
            ]),
            command: ["cumulo", "data", "build"].map(String::from).to_vec(),
            env: std::iter::once(("CUMULO_DATASET".to_owned(), body.to_string()))
                .chain(options.dataset_environment.iter().cloned())
                .collect(),
            resources: None,
            default_requests: [("cpu", "250m"), ("memory", "256Mi")],
            runs: Runs::Once {
                deadline_seconds: None,
            },
        },
        options,
    )
}
