//! What to do about an InferenceService. Pure.
//!
//! A *revision* is a model version with the settings that shape its server. The
//! active revision takes requests. When another one is wanted, its replicas are
//! started beside the active ones; once they are ready, one status write makes
//! it the active revision, and only after that write the old replicas go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cumulo_api::inference_service::Runtime;
use cumulo_api::{
    InferenceService, InferenceServiceSpec, InferenceServiceStatus, labels, parse_duration,
};
use cumulo_scale::{Decision, Policy, Target};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use crate::action::{Action, Plan};
use crate::attempts::elapsed;
use crate::conditions::{self, Saying};
use crate::key::{hash, label_value, limited, registered_name};
use crate::options::Options;
use crate::outcome::{PodOutcome, crashing, outcome};
use crate::pods::{
    Mould, Runs, SERVE_PORT, carried, cast, deleting, ended_at, enqueue, finished, label, owner,
    ready,
};

/// A replica that ended for good is replaced after this long, so that one that
/// cannot live does not keep the machine busy.
const REPLACE_AFTER: Duration = Duration::from_secs(10);

/// A reference to a registered model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) model: String,
    pub(crate) pointer: Pointer,
}

/// What picks the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pointer {
    Alias(String),
    Version(String),
}

impl Reference {
    /// Reads `models:/name@alias` or `models:/name/version`.
    pub(crate) fn parse(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix("models:/")?;
        let (model, pointer) = if let Some((model, alias)) = rest.split_once('@') {
            (model, Pointer::Alias(alias.to_owned()))
        } else {
            let (model, version) = rest.split_once('/')?;
            (model, Pointer::Version(version.to_owned()))
        };
        let text = match &pointer {
            Pointer::Alias(text) | Pointer::Version(text) => text,
        };
        (!model.is_empty() && !text.is_empty() && !text.contains('/')).then(|| Self {
            model: model.to_owned(),
            pointer,
        })
    }
}

/// What the reference leads to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Resolved {
    /// A version of a registered model.
    Version { model: String, version: String },
    /// Nothing yet; the sentence says what is waited for.
    Missing(String),
    /// The registry did not answer.
    Unknown(String),
    /// The reference cannot be read.
    Invalid(String),
}

/// What the plan is made from.
pub(crate) struct Observed<'a> {
    pub(crate) service: &'a InferenceService,
    /// The service's pods, of all revisions.
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) model: Resolved,
    /// Replicas by demand.
    pub(crate) scale: Decision,
}

/// Scaling as the spec asks for it.
pub(crate) fn policy(spec: &InferenceServiceSpec) -> Policy {
    let min = spec.replicas.min.max(0) as u32;
    let usual = Policy::default();
    let idle = spec
        .scale_to_zero_after
        .as_deref()
        .and_then(|text| parse_duration(text).ok());
    Policy {
        min,
        max: (spec.replicas.max.max(1) as u32).max(min),
        target: match (
            spec.objective.requests_per_second,
            spec.objective.concurrency,
        ) {
            (Some(rate), None) => Target::RequestsPerSecond(f64::from(rate.max(1))),
            (_, Some(concurrency)) => Target::Concurrency(f64::from(concurrency.max(1))),
            (None, None) => usual.target,
        },
        scale_to_zero_after: idle.unwrap_or(usual.scale_to_zero_after),
        ..usual
    }
}

/// A pod that serves or may come to.
fn alive(pod: &Pod) -> bool {
    !deleting(pod) && !finished(pod)
}

fn of_revision<'a>(pods: &'a [Arc<Pod>], revision: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
    pods.iter()
        .filter(move |pod| label(pod.as_ref(), labels::REVISION) == Some(revision))
}

/// Replicas of the active revision, ready or starting; those of all revisions
/// before one is active.
pub(crate) fn live(service: &InferenceService, pods: &[Arc<Pod>]) -> u32 {
    let active = service
        .status
        .as_ref()
        .and_then(|status| status.active_revision.as_deref());
    let count = match active {
        Some(active) => of_revision(pods, active).filter(|pod| alive(pod)).count(),
        None => pods.iter().filter(|pod| alive(pod)).count(),
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The steps and the status that follow from what is observed.
pub(crate) fn plan(
    observed: &Observed<'_>,
    options: &Options,
    now: Timestamp,
) -> Plan<InferenceServiceStatus> {
    let service = observed.service;
    let generation = service.metadata.generation;
    let mut status = service.status.clone().unwrap_or_default();
    status.observed_generation = generation;
    status.url = Some(url(service, options));
    let mut actions = Vec::new();
    let mut again = observed.scale.next_check;

    let wanted = match &observed.model {
        Resolved::Version { model, version } => Some(Revision {
            id: revision(&service.spec, model, version),
            model: model.clone(),
            version: version.clone(),
        }),
        // What serves goes on serving, and waking, whatever became of the alias.
        Resolved::Missing(_) | Resolved::Unknown(_) => active_revision(service),
        Resolved::Invalid(_) => None,
    };
    let active = status.active_revision.clone();
    let ready_of = |revision: &str| {
        of_revision(observed.pods, revision)
            .filter(|pod| !deleting(pod) && ready(pod))
            .count()
    };

    // The switch: the replicas of the wanted revision can carry what there is.
    let mut switched = false;
    if let Some(wanted) = &wanted
        && active.as_ref() != Some(&wanted.id)
    {
        let carrying = active.as_deref().map_or(0, ready_of);
        let needed = (observed.scale.replicas as usize).min(carrying).max(1);
        if ready_of(&wanted.id) >= needed {
            status.active_revision = Some(wanted.id.clone());
            status.model_version = Some(wanted.version.clone());
            status.next_revision = None;
            switched = true;
            actions.push(Action::note(
                "Switched",
                format!(
                    "requests go to version {} of {} now",
                    wanted.version, wanted.model
                ),
            ));
        } else {
            status.next_revision = Some(wanted.id.clone());
        }
    } else if wanted.is_some() {
        status.next_revision = None;
    }

    let mut keep: BTreeSet<&str> = BTreeSet::new();
    if let Some(active) = &active {
        keep.insert(active);
        // Without the model's name and version no more of them can be made; but
        // then nothing was lost, for they stay as they are.
        let own = wanted.as_ref().filter(|wanted| wanted.id == *active);
        let mut least = observed.scale.replicas;
        if own.is_none() && wanted.is_some() {
            // They go with the switch; until then none is taken away.
            least = least.max(count_alive(observed.pods, active));
        }
        let wish = Wish {
            revision: active,
            replicas: least,
            make: own,
        };
        scale(observed, options, &wish, now, &mut actions, &mut again);
    }
    if let Some(wanted) = &wanted {
        keep.insert(&wanted.id);
        if active.as_ref() != Some(&wanted.id) {
            let wish = Wish {
                revision: &wanted.id,
                replicas: observed.scale.replicas.max(1),
                make: Some(wanted),
            };
            scale(observed, options, &wish, now, &mut actions, &mut again);
        }
    }
    for pod in observed.pods {
        let revision = label(pod.as_ref(), labels::REVISION).unwrap_or_default();
        if !keep.contains(revision) && !deleting(pod) && (wanted.is_some() || active.is_some()) {
            actions.push(Action::DeletePod(pod.name_any()));
        }
    }

    let shown = status.active_revision.clone();
    let (replicas, ready_replicas) = match &shown {
        Some(active) => (count_alive(observed.pods, active), ready_of(active)),
        None => (0, 0),
    };
    status.replicas = Some(i32::try_from(replicas).unwrap_or(i32::MAX));
    status.ready_replicas = Some(i32::try_from(ready_replicas).unwrap_or(i32::MAX));
    let before = conditions::find(&status.conditions, "Ready").map(|known| known.reason.clone());
    let saying = readiness(observed, &status, wanted.as_ref(), ready_replicas);
    if !saying.status
        && before.as_deref() != Some(saying.reason.as_str())
        && saying.reason == "ReplicaFailing"
    {
        actions.push(Action::warn("ReplicaFailing", saying.message.clone()));
    }
    conditions::set(&mut status.conditions, "Ready", saying, generation, now);
    match rollout(observed, &status, wanted.as_ref()) {
        Some(saying) => {
            conditions::set(
                &mut status.conditions,
                "Progressing",
                saying,
                generation,
                now,
            );
        }
        None => conditions::clear(&mut status.conditions, "Progressing"),
    }
    if switched {
        // The old replicas are deleted only once the switch is written.
        actions.retain(|action| !matches!(action, Action::DeletePod(_)));
    }
    Plan {
        actions,
        status,
        again,
    }
}

/// A model version with the settings that shape its server.
struct Revision {
    id: String,
    model: String,
    version: String,
}

/// How many replicas a revision should have.
struct Wish<'a> {
    revision: &'a str,
    replicas: u32,
    /// What new ones are made from; `None` when none can be made.
    make: Option<&'a Revision>,
}

fn count_alive(pods: &[Arc<Pod>], revision: &str) -> u32 {
    let count = of_revision(pods, revision).filter(|pod| alive(pod)).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn scale(
    observed: &Observed<'_>,
    options: &Options,
    wish: &Wish<'_>,
    now: Timestamp,
    actions: &mut Vec<Action>,
    again: &mut Option<Duration>,
) {
    let mut taken: BTreeSet<u32> = BTreeSet::new();
    let mut living: Vec<(bool, u32, &Arc<Pod>)> = Vec::new();
    let mut resting = 0;
    for pod in of_revision(observed.pods, wish.revision) {
        let index = index(pod);
        taken.insert(index);
        if alive(pod) {
            living.push((ready(pod), index, pod));
        } else if !deleting(pod) {
            // Ended for good (evicted, its node lost): replaced after a rest.
            let rested = ended_at(pod).map_or(REPLACE_AFTER, |ended| elapsed(ended, now));
            if rested >= REPLACE_AFTER {
                actions.push(Action::DeletePod(pod.name_any()));
            } else {
                resting += 1;
                let rest = REPLACE_AFTER - rested;
                *again = Some(again.map_or(rest, |again| again.min(rest)));
            }
        }
    }
    let wanted = wish.replicas as usize;
    if living.len() > wanted {
        // Those that do not serve first, then the youngest.
        living.sort_by_key(|(ready, index, _)| (*ready, std::cmp::Reverse(*index)));
        let surplus = living.len() - wanted;
        for (_, _, pod) in living.iter().take(surplus) {
            actions.push(Action::DeletePod(pod.name_any()));
        }
        actions.push(Action::note(
            "ScaledDown",
            format!("to {wanted} replicas: {}", observed.scale.reason.describe()),
        ));
    } else if let Some(revision) = wish.make {
        let missing = wanted.saturating_sub(living.len() + resting);
        let free = (0..).filter(|index| !taken.contains(index));
        for index in free.take(missing) {
            let pod = pod(observed.service, revision, index, options);
            actions.push(Action::CreatePod(Box::new(pod)));
        }
        if missing > 0 && !living.is_empty() {
            actions.push(Action::note(
                "ScaledUp",
                format!("to {wanted} replicas: {}", observed.scale.reason.describe()),
            ));
        }
    }
}

/// The number at the end of a replica's name.
fn index(pod: &Pod) -> u32 {
    let name = pod.name_any();
    let digits = name.rsplit('-').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

/// What the condition `Ready` says.
fn readiness(
    observed: &Observed<'_>,
    status: &InferenceServiceStatus,
    wanted: Option<&Revision>,
    ready_replicas: usize,
) -> Saying {
    let Some(active) = &status.active_revision else {
        return match (&observed.model, wanted) {
            (Resolved::Missing(message), _) => Saying::no("WaitingForModel", message.clone()),
            (Resolved::Unknown(message), _) => Saying::no("RegistryUnavailable", message.clone()),
            (Resolved::Invalid(message), _) => Saying::no("ModelInvalid", message.clone()),
            (_, Some(wanted)) => match failing(observed.pods, &wanted.id) {
                Some(message) => Saying::no("ReplicaFailing", message),
                None => Saying::no(
                    "Starting",
                    starting(
                        observed.pods,
                        &wanted.id,
                        &format!("version {} of {} is starting", wanted.version, wanted.model),
                    ),
                ),
            },
            (_, None) => Saying::no("Starting", "is starting".to_owned()),
        };
    };
    let version = status.model_version.as_deref().unwrap_or("?");
    if ready_replicas > 0 {
        return Saying::yes("Serving", format!("version {version} answers"));
    }
    if let Some(message) = failing(observed.pods, active) {
        return Saying::no("ReplicaFailing", message);
    }
    // A replica that sleeps or wakes holds the request until it can answer.
    Saying::yes(
        "Sleeping",
        format!("version {version} answers; no replica is running, the next request wakes one"),
    )
}

/// What the condition `Progressing` says while a revision is rolled out.
fn rollout(
    observed: &Observed<'_>,
    status: &InferenceServiceStatus,
    wanted: Option<&Revision>,
) -> Option<Saying> {
    status.active_revision.as_ref()?;
    match &observed.model {
        Resolved::Missing(message) => return Some(Saying::no("WaitingForModel", message.clone())),
        Resolved::Invalid(message) => return Some(Saying::no("ModelInvalid", message.clone())),
        // Passes by itself; a status that flickers would help nobody.
        Resolved::Unknown(_) => {
            return conditions::find(&status.conditions, "Progressing").map(|known| Saying {
                status: known.status == "True",
                reason: known.reason.clone(),
                message: known.message.clone(),
            });
        }
        Resolved::Version { .. } => {}
    }
    let next = status.next_revision.as_ref()?;
    let wanted = wanted.filter(|wanted| wanted.id == *next)?;
    let old = status.model_version.as_deref().unwrap_or("?");
    Some(match failing(observed.pods, next) {
        Some(message) => Saying::no(
            "ReplicaFailing",
            format!(
                "version {} cannot start, version {old} goes on serving: {message}",
                wanted.version
            ),
        ),
        None => Saying::yes(
            "RollingOut",
            starting(
                observed.pods,
                next,
                &format!(
                    "version {} is starting, version {old} serves until it is ready",
                    wanted.version
                ),
            ),
        ),
    })
}

/// Why no replica of a revision comes up, if one says so.
fn failing(pods: &[Arc<Pod>], revision: &str) -> Option<String> {
    of_revision(pods, revision)
        .filter(|pod| !deleting(pod))
        .find_map(|pod| {
            let failure = match outcome(pod) {
                PodOutcome::Failed(failure) => Some(failure),
                _ => crashing(pod),
            }?;
            Some(format!(
                "replica {}: {}: {}",
                pod.name_any(),
                failure.reason,
                failure.message
            ))
        })
}

/// What is told of replicas that start: why one waits, if one says so.
fn starting(pods: &[Arc<Pod>], revision: &str, usual: &str) -> String {
    let waits = of_revision(pods, revision)
        .filter(|pod| alive(pod))
        .find_map(|pod| match outcome(pod) {
            PodOutcome::Waiting(Some(message)) => Some(format!(
                "{usual}; replica {} waits: {message}",
                pod.name_any()
            )),
            _ => None,
        });
    waits.unwrap_or_else(|| usual.to_owned())
}

/// Where users send requests.
fn url(service: &InferenceService, options: &Options) -> String {
    let base = options.gateway_url.trim_end_matches('/');
    let name = service.name_any();
    match service.namespace().as_deref() {
        None | Some("default" | "") => format!("{base}/v2/models/{name}/infer"),
        Some(namespace) => format!("{base}/namespaces/{namespace}/v2/models/{name}/infer"),
    }
}

/// The active revision, made again from the status.
fn active_revision(service: &InferenceService) -> Option<Revision> {
    let status = service.status.as_ref()?;
    let (id, version) = (
        status.active_revision.clone()?,
        status.model_version.clone()?,
    );
    let reference = Reference::parse(&service.spec.model)?;
    let namespace = service.namespace().unwrap_or_default();
    [
        registered_name(&namespace, &reference.model),
        reference.model,
    ]
    .into_iter()
    .find(|model| revision(&service.spec, model, &version) == id)
    .map(|model| Revision { id, model, version })
}

fn revision(spec: &InferenceServiceSpec, model: &str, version: &str) -> String {
    let settings = json!({
        "model": model,
        "version": version,
        "runtime": spec.runtime,
        "resources": spec.resources,
    });
    hash(&settings)[..8].to_owned()
}

fn pod(service: &InferenceService, revision: &Revision, index: u32, options: &Options) -> Pod {
    let name = service.name_any();
    let mut command: Vec<String> = [
        "cumulo",
        "serve",
        "--name",
        &name,
        "--model-name",
        &revision.model,
        "--model-version",
        &revision.version,
        "--model-uri",
        &format!("models:/{}/{}", revision.model, revision.version),
        "--address",
        &format!("$(POD_IP):{SERVE_PORT}"),
    ]
    .map(str::to_owned)
    .to_vec();
    let runtime = match service.spec.runtime {
        Runtime::Auto => None,
        Runtime::Onnx => Some("onnx"),
        Runtime::Lightgbm => Some("lightgbm"),
        Runtime::Python => Some("python"),
    };
    if let Some(runtime) = runtime {
        command.extend(["--runtime".to_owned(), runtime.to_owned()]);
    }
    let mut pod = cast(
        Mould {
            name: limited(&name, &format!("-{}-{index}", revision.id)),
            namespace: service.namespace().unwrap_or_default(),
            owner: owner(service),
            annotations: carried(service),
            labels: BTreeMap::from([
                (labels::INFERENCE_SERVICE.to_owned(), label_value(&name)),
                (labels::REVISION.to_owned(), revision.id.clone()),
            ]),
            command,
            env: Vec::new(),
            resources: service.spec.resources.as_ref(),
            default_requests: [("cpu", "50m"), ("memory", "64Mi")],
            runs: Runs::Serving,
        },
        options,
    );
    enqueue(
        &mut pod,
        service.spec.queue.as_deref(),
        service.spec.priority,
    );
    pod
}
