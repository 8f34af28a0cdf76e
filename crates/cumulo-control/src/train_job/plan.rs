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
use crate::attempts::{Progress, leftovers, newest, progress_together};
use crate::conditions::{self, Saying, whole_second};
use crate::dataset_uri;
use crate::key::{hash, label_value, limited};
use crate::options::{Options, Retry};
use crate::outcome::Failure;
use crate::pods::{
    ATTEMPT, Mould, REQUEST, Runs, carried, cast, deleting, enqueue, finished, label, owner,
};
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

    if nodes(job) > 1 && built_in(job) {
        let failure = Failure {
            reason: "NodesUnsupported".to_owned(),
            message: format!(
                "{:?} runs in one pod: leave out spec.nodes, or give a script or a command of your own",
                job.spec.command.join(" ")
            ),
            detail: None,
            finished: None,
        };
        end_failed(&mut status, &mut actions, failure, generation, now);
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
    let nodes = nodes(job);
    match progress_together(&request, observed.pods, nodes as usize, &retry, now) {
        Progress::Start(attempt) => match inputs(observed, &status) {
            Err(message) => {
                stand(&mut status, Phase::Pending, "WaitingForDataset", message);
            }
            Ok(inputs) => {
                let pods: Vec<Pod> = (0..nodes)
                    .map(|rank| pod(job, &request, (attempt, rank), &inputs, options))
                    .collect();
                let first = pods[0].name_any();
                status.inputs = inputs;
                status.pod = Some(first.clone());
                status.attempts = Some(attempt as i32);
                // Seen before the pod is made, so that a restart in between
                // gives the retry the same inputs.
                actions.push(Action::note(
                    "Started",
                    match nodes {
                        1 => format!("attempt {attempt} in pod {first}"),
                        _ => format!("attempt {attempt} in {nodes} pods, of which {first} leads"),
                    },
                ));
                actions.extend(pods.into_iter().map(|pod| Action::CreatePod(Box::new(pod))));
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
            again: wait,
        } => {
            again = wait;
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
            actions.extend(abandoned(&request, observed.pods));
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
            actions.extend(abandoned(&request, observed.pods));
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

/// How many pods run it together.
fn nodes(job: &TrainJob) -> u32 {
    // The schema's bounds have let only such numbers through.
    job.spec
        .nodes
        .and_then(|nodes| u32::try_from(nodes).ok())
        .unwrap_or(1)
        .max(1)
}

/// Whether it runs a trainer of Cumulo's own.
fn built_in(job: &TrainJob) -> bool {
    let spec = &job.spec;
    spec.script.is_none() && spec.command.first().is_some_and(|word| word == "cumulo")
}

/// What still runs of an attempt of which a pod has failed.
fn abandoned(request: &str, pods: &[Arc<Pod>]) -> impl Iterator<Item = Action> {
    newest(request, pods)
        .into_iter()
        .filter(|pod| !finished(pod) && !deleting(pod))
        .map(|pod| Action::DeletePod(pod.name_any()))
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
    let mut work = json!({
        "inputs": spec.inputs,
        "environment": spec.environment,
        "script": spec.script,
        "command": spec.command,
        "arguments": spec.arguments,
        "files": spec.files,
        "env": spec.env,
        "experiment": spec.experiment,
        "output": spec.output,
    });
    if nodes(job) > 1 {
        work["nodes"] = json!(nodes(job));
    }
    hash(&work)
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
    (attempt, rank): (u32, u32),
    inputs: &BTreeMap<String, String>,
    options: &Options,
) -> Pod {
    let nodes = nodes(job);
    let namespace = job.namespace().unwrap_or_default();
    let name = job.name_any();
    let spec = &job.spec;
    let mut env: Vec<(String, String)> = spec
        .env
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();

    let command = if built_in(job) {
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
        let mut request = json!({
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
        if nodes > 1 {
            request["together"] = json!({"nodes": nodes, "rank": rank, "attempt": attempt});
        }
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
    let group = |suffix: String| limited(&name, &format!("-{}-{attempt}{suffix}", &request[..5]));
    let mut annotations = carried(job);
    let mut pod_name = group(String::new());
    if nodes > 1 {
        pod_name = group(format!("-{rank}"));
        labels.insert(labels::RANK.to_owned(), rank.to_string());
        labels.insert(labels::GANG.to_owned(), group(String::new()));
        let annotations = annotations.get_or_insert_default();
        annotations.insert(labels::GANG_SIZE.to_owned(), nodes.to_string());
        for near in [labels::REQUIRED_TOPOLOGY, labels::PREFERRED_TOPOLOGY] {
            if let Some(level) = job.annotations().get(near) {
                annotations.insert(near.to_owned(), level.clone());
            }
        }
    }
    let mut pod = cast(
        Mould {
            name: pod_name,
            namespace,
            owner: owner(job),
            annotations,
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
