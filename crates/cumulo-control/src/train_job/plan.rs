//! What to do about a TrainJob. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cumulo_api::train_job::{Phase, TrainJob, TrainJobStatus};
use cumulo_api::{Dataset, labels, parse_duration};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::json;

use crate::action::{Action, Plan};
use crate::attempts::{Progress, leftovers, progress};
use crate::conditions::{self, Saying, whole_second};
use crate::dataset_uri;
use crate::key::{hash, label_value, limited};
use crate::options::{Options, Retry};
use crate::outcome::Failure;
use crate::pods::{ATTEMPT, Mould, REQUEST, Runs, carried, cast, enqueue, label, owner};
use crate::registry::RunSummary;

/// On TrainJobs that a Model made: the key of the training.
pub(crate) const TRAIN_KEY: &str = "cumulo.dev/train-key";

/// How often the run's metrics are looked at while the job runs.
const LOOK_AT_RUN: Duration = Duration::from_secs(5);
/// How soon the run is looked for while it is not known.
const LOOK_FOR_RUN: Duration = Duration::from_secs(2);

/// Finds a Dataset of the planned object's namespace by its name.
pub(crate) type DatasetLookup<'a> = dyn Fn(&str) -> Option<Arc<Dataset>> + Sync + 'a;

/// What the plan is made from.
pub(crate) struct Observed<'a> {
    pub(crate) job: &'a TrainJob,
    pub(crate) pods: &'a [Arc<Pod>],
    /// Datasets of the job's namespace.
    pub(crate) dataset: &'a DatasetLookup<'a>,
    /// The tracked run, looked up while the job runs.
    pub(crate) run: Option<RunSummary>,
}

/// What a training pod leaves as its message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Trained {
    run: Option<String>,
    model: Option<TrainedModel>,
    metrics: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
struct TrainedModel {
    version: String,
}

/// The steps and the status that follow from what is observed.
pub(crate) fn plan(
    observed: &Observed<'_>,
    options: &Options,
    now: Timestamp,
) -> Plan<TrainJobStatus> {
    let job = observed.job;
    let generation = job.metadata.generation;
    let request = request(job);
    let mut status = job.status.clone().unwrap_or_default();
    let mut actions: Vec<Action> = leftovers(&request, observed.pods)
        .into_iter()
        .map(Action::DeletePod)
        .collect();

    if status.request.as_deref() != Some(request.as_str()) {
        // A new job, or one whose work was changed: begin anew.
        status = TrainJobStatus {
            request: Some(request.clone()),
            phase: Some(Phase::Pending),
            ..TrainJobStatus::default()
        };
    }
    status.observed_generation = generation;
    if matches!(status.phase, Some(Phase::Succeeded | Phase::Failed)) {
        return Plan {
            actions,
            status,
            again: None,
        };
    }

    let retry = Retry {
        attempts: job.spec.retries.unwrap_or(0).max(0) as u32 + 1,
        ..options.retry.clone()
    };
    let mut again = None;
    match progress(&request, observed.pods, &retry, now) {
        Progress::Start(attempt) => match inputs(observed, &status) {
            Err(message) => {
                stand(&mut status, Phase::Pending, "WaitingForDataset", message);
            }
            Ok(inputs) => {
                let pod = pod(job, &request, attempt, &inputs, options);
                status.inputs = inputs;
                status.pod = Some(pod.name_any());
                status.attempts = Some(attempt as i32);
                // Seen before the pod is made, so that a restart in between
                // gives the retry the same inputs.
                actions.push(Action::note(
                    "Started",
                    format!("attempt {attempt} in pod {}", pod.name_any()),
                ));
                actions.push(Action::CreatePod(Box::new(pod)));
                stand(
                    &mut status,
                    Phase::Pending,
                    "Starting",
                    format!("attempt {attempt} is starting"),
                );
            }
        },
        Progress::Waiting {
            attempt,
            pod,
            message,
        } => {
            begun(&mut status, observed.pods, attempt, &pod);
            let message = message.unwrap_or_else(|| format!("attempt {attempt} is starting"));
            stand(&mut status, Phase::Pending, "Starting", message);
        }
        Progress::Running { attempt, pod } => {
            begun(&mut status, observed.pods, attempt, &pod);
            if status.start_time.is_none() {
                status.start_time = Some(Time(whole_second(now)));
            }
            stand(
                &mut status,
                Phase::Running,
                "Running",
                format!("attempt {attempt} runs in pod {pod}"),
            );
            again = Some(match &observed.run {
                None => LOOK_FOR_RUN,
                Some(run) => {
                    status.run = Some(run.id.clone());
                    status.metrics.clone_from(&run.metrics);
                    LOOK_AT_RUN
                }
            });
        }
        Progress::BackOff {
            attempt,
            pod,
            failure,
            wait,
        } => {
            begun(&mut status, observed.pods, attempt, &pod);
            again = Some(wait);
            let message = format!(
                "attempt {attempt} of {} failed and is tried again: {}",
                retry.attempts, failure.message
            );
            stand(&mut status, Phase::Running, &failure.reason, message);
        }
        Progress::Failed {
            attempt,
            pod,
            failure,
        } => {
            begun(&mut status, observed.pods, attempt, &pod);
            end_failed(&mut status, &mut actions, failure, generation, now);
        }
        Progress::Succeeded {
            attempt,
            pod,
            message,
        } => {
            begun(&mut status, observed.pods, attempt, &pod);
            // A command that is no tracked training may leave nothing.
            let trained = if message.trim().is_empty() {
                Ok(Trained::default())
            } else {
                serde_json::from_str::<Trained>(&message)
            };
            match trained {
                Ok(trained) => {
                    end_well(&mut status, &mut actions, trained, generation, now);
                }
                Err(error) => {
                    let failure = Failure {
                        reason: "ResultUnreadable".to_owned(),
                        message: format!(
                            "pod {pod} ended well but its message is unreadable ({error})"
                        ),
                        detail: None,
                        finished: None,
                    };
                    end_failed(&mut status, &mut actions, failure, generation, now);
                }
            }
        }
    }
    Plan {
        actions,
        status,
        again,
    }
}

fn stand(status: &mut TrainJobStatus, phase: Phase, reason: &str, message: impl Into<String>) {
    status.phase = Some(phase);
    status.reason = Some(reason.to_owned());
    status.message = Some(message.into());
}

/// What is known once a pod exists.
fn begun(status: &mut TrainJobStatus, pods: &[Arc<Pod>], attempt: u32, pod: &str) {
    status.attempts = Some(attempt as i32);
    status.pod = Some(pod.to_owned());
    let made = pods.iter().find(|known| known.name_any() == pod);
    if status.inputs.is_empty()
        && let Some(recorded) = made.and_then(|pod| pod.annotations().get(INPUTS).cloned())
    {
        status.inputs = serde_json::from_str(&recorded).unwrap_or_default();
    }
    if status.start_time.is_none() {
        let started = made.and_then(|pod| pod.status.as_ref()?.start_time.clone());
        status.start_time = started.map(|time| Time(whole_second(time.0)));
    }
}

fn end_well(
    status: &mut TrainJobStatus,
    actions: &mut Vec<Action>,
    trained: Trained,
    generation: Option<i64>,
    now: Timestamp,
) {
    status.run = trained.run.or(status.run.take());
    if !trained.metrics.is_empty() {
        status.metrics = trained.metrics;
    }
    status.model_version = trained.model.map(|model| model.version);
    status.completion_time = Some(Time(whole_second(now)));
    let message = match &status.model_version {
        Some(version) => format!("ended well; model version {version}"),
        None => "ended well".to_owned(),
    };
    stand(status, Phase::Succeeded, "Completed", message.clone());
    conditions::set(
        &mut status.conditions,
        "Complete",
        Saying::yes("Completed", message.clone()),
        generation,
        now,
    );
    conditions::clear(&mut status.conditions, "Failed");
    actions.push(Action::note("Completed", message));
}

fn end_failed(
    status: &mut TrainJobStatus,
    actions: &mut Vec<Action>,
    failure: Failure,
    generation: Option<i64>,
    now: Timestamp,
) {
    // A run that was told of is worth showing even if it failed.
    let run = failure
        .detail
        .as_ref()
        .and_then(|detail| detail.get("run")?.as_str());
    if let Some(run) = run {
        status.run = Some(run.to_owned());
    }
    status.completion_time = Some(Time(whole_second(now)));
    stand(
        status,
        Phase::Failed,
        &failure.reason,
        failure.message.clone(),
    );
    conditions::set(
        &mut status.conditions,
        "Failed",
        Saying::yes(&failure.reason, failure.message.clone()),
        generation,
        now,
    );
    conditions::clear(&mut status.conditions, "Complete");
    actions.push(Action::warn(&failure.reason, failure.message));
}

/// What makes it another piece of work: retries, deadline and resources do not.
fn request(job: &TrainJob) -> String {
    let spec = &job.spec;
    hash(&json!({
        "inputs": spec.inputs,
        "environment": spec.environment,
        "script": spec.script,
        "command": spec.command,
        "arguments": spec.arguments,
        "files": spec.files,
        "env": spec.env,
        "experiment": spec.experiment,
        "output": spec.output,
    }))
}

/// The version of each input, or what is waited for. Versions that an earlier
/// attempt used are used again.
fn inputs(
    observed: &Observed<'_>,
    status: &TrainJobStatus,
) -> Result<BTreeMap<String, String>, String> {
    let namespace = observed.job.namespace().unwrap_or_default();
    let mut versions = BTreeMap::new();
    for (name, input) in &observed.job.spec.inputs {
        let version = match (&input.version, status.inputs.get(name)) {
            (Some(pinned), _) => pinned.clone(),
            (None, Some(used)) => used.clone(),
            (None, None) => current_version(observed.dataset, &namespace, &input.dataset)?,
        };
        versions.insert(name.clone(), version);
    }
    Ok(versions)
}

/// The current version of a Dataset, or a sentence that says what is waited for.
pub(crate) fn current_version(
    dataset: &DatasetLookup<'_>,
    namespace: &str,
    name: &str,
) -> Result<String, String> {
    let Some(dataset) = dataset(name) else {
        return Err(format!(
            "waits for Dataset {name:?} in namespace {namespace}"
        ));
    };
    let status = dataset.status.as_ref();
    if let Some(version) = status.and_then(|status| status.version.clone()) {
        return Ok(version);
    }
    let ready = status.and_then(|status| conditions::find(&status.conditions, "Ready"));
    Err(match ready {
        Some(ready) if ready.reason != "Building" => format!(
            "waits for Dataset {name:?} in namespace {namespace}, which has no version yet: {}",
            ready.message
        ),
        _ => format!("waits for Dataset {name:?} in namespace {namespace}, which is being built"),
    })
}

/// On pods: the versions of the inputs, so that a status lost before it was
/// written can be made again.
const INPUTS: &str = "cumulo.dev/inputs";

fn pod(
    job: &TrainJob,
    request: &str,
    attempt: u32,
    inputs: &BTreeMap<String, String>,
    options: &Options,
) -> Pod {
    let namespace = job.namespace().unwrap_or_default();
    let name = job.name_any();
    let spec = &job.spec;
    let mut env: Vec<(String, String)> = spec
        .env
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();

    let built_in =
        spec.script.is_none() && spec.command.first().is_some_and(|word| word == "cumulo");
    let command = if built_in {
        spec.command
            .iter()
            .chain(&spec.arguments)
            .cloned()
            .collect()
    } else {
        let own: Vec<String> = match &spec.script {
            Some(script) => vec!["python".to_owned(), script.clone()],
            None => spec.command.clone(),
        };
        let own: Vec<String> = own.iter().chain(&spec.arguments).cloned().collect();
        let inputs: BTreeMap<&String, _> = inputs
            .iter()
            .filter_map(|(input, version)| {
                let dataset = &spec.inputs.get(input)?.dataset;
                let uri = dataset_uri(&namespace, dataset, version);
                Some((
                    input,
                    json!({"uri": uri, "version": version, "dataset": dataset}),
                ))
            })
            .collect();
        let request = json!({
            "namespace": namespace,
            "name": name,
            "uid": job.metadata.uid,
            "environment": spec.environment,
            "files": spec.files,
            "inputs": inputs,
            "command": own,
            "output": spec.output,
            "experiment": spec.experiment.as_ref().unwrap_or(&name),
            "trainKey": label(job, TRAIN_KEY),
        });
        env.push(("CUMULO_EXEC".to_owned(), request.to_string()));
        ["cumulo", "exec"].map(String::from).to_vec()
    };
    env.push((
        "CUMULO_TRAIN_JOB_UID".to_owned(),
        job.metadata.uid.clone().unwrap_or_default(),
    ));

    let mut labels = BTreeMap::from([
        (labels::TRAIN_JOB.to_owned(), label_value(&name)),
        (REQUEST.to_owned(), request.to_owned()),
        (ATTEMPT.to_owned(), attempt.to_string()),
    ]);
    if let Some(model) = label(job, labels::MODEL) {
        labels.insert(labels::MODEL.to_owned(), model.to_owned());
    }
    // The schema's pattern has let only durations through.
    let deadline = spec
        .deadline
        .as_deref()
        .and_then(|text| parse_duration(text).ok());
    let mut pod = cast(
        Mould {
            name: limited(&name, &format!("-{}-{attempt}", &request[..5])),
            namespace,
            owner: owner(job),
            annotations: carried(job),
            labels,
            command,
            env,
            resources: spec.resources.as_ref(),
            default_requests: [("cpu", "500m"), ("memory", "256Mi")],
            runs: Runs::Once {
                deadline_seconds: deadline.map(|deadline| deadline.as_secs().max(1) as i64),
            },
        },
        options,
    );
    enqueue(&mut pod, spec.queue.as_deref(), spec.priority);
    if !inputs.is_empty() {
        let recorded = json!(inputs).to_string();
        pod.annotations_mut().insert(INPUTS.to_owned(), recorded);
    }
    pod
}
