//! What to do about a Model. Pure.

mod requests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cumulo_api::model::{
    Evaluation, HoldoutBy, Model, ModelSpec, ModelStatus, ModelVersion, Promote,
};
use cumulo_api::train_job::{Phase, TrainJob};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;

use requests::train_key;

use super::decide::{Verdict, decide, summary};
use crate::action::{Action, Plan};
use crate::attempts::{Progress, leftovers, progress};
use crate::conditions::{self, Saying};
use crate::key::{hash, limited};
use crate::options::Options;
use crate::pods::label;
use crate::registry::{CANDIDATE, CHAMPION, RegisteredVersion, TRAIN_KEY_TAG};
use crate::train_job::{DatasetLookup, current_version};

/// On Models with `promote: manual`: the version that a person promotes.
pub(crate) const PROMOTE: &str = "cumulo.dev/promote";

/// Versions shown in the status.
const MOST_VERSIONS: usize = 20;
/// TrainJobs kept for their logs, the current one included.
const MOST_JOBS: usize = 5;

/// On evaluation pods: the candidate and the champion compared.
const COMPARED_CANDIDATE: &str = "cumulo.dev/candidate";
const COMPARED_CHAMPION: &str = "cumulo.dev/champion";

/// What the plan is made from.
pub(crate) struct Observed<'a> {
    pub(crate) model: &'a Model,
    /// The name under which the registry knows the Model.
    pub(crate) registered: &'a str,
    /// Datasets of the Model's namespace.
    pub(crate) dataset: &'a DatasetLookup<'a>,
    /// The Model's TrainJobs.
    pub(crate) jobs: &'a [Arc<TrainJob>],
    /// The Model's evaluation pods.
    pub(crate) pods: &'a [Arc<Pod>],
    /// Registered versions, oldest first.
    pub(crate) versions: &'a [RegisteredVersion],
    /// Where the aliases point.
    pub(crate) champion: Option<String>,
    pub(crate) candidate: Option<String>,
}

/// What an evaluation pod leaves as its message.
#[derive(Debug, Deserialize)]
struct Evaluated {
    candidate: Metrics,
    #[serde(default)]
    champion: Option<Metrics>,
    #[serde(default)]
    rows: Option<i64>,
}

/// Metrics, plain or under `metrics`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Metrics {
    Named { metrics: BTreeMap<String, f64> },
    Plain(BTreeMap<String, f64>),
}

impl Metrics {
    fn into_map(self) -> BTreeMap<String, f64> {
        match self {
            Self::Named { metrics } | Self::Plain(metrics) => metrics,
        }
    }
}

/// One planning; the parts write into it.
struct Planning<'a> {
    observed: &'a Observed<'a>,
    options: &'a Options,
    now: Timestamp,
    namespace: String,
    name: String,
    actions: Vec<Action>,
    status: ModelStatus,
    again: Option<Duration>,
}

/// The steps and the status that follow from what is observed.
pub(crate) fn plan(
    observed: &Observed<'_>,
    options: &Options,
    now: Timestamp,
) -> Plan<ModelStatus> {
    let mut status = observed.model.status.clone().unwrap_or_default();
    status.observed_generation = observed.model.metadata.generation;
    status.champion.clone_from(&observed.champion);
    status.candidate.clone_from(&observed.candidate);
    let mut planning = Planning {
        observed,
        options,
        now,
        namespace: observed.model.namespace().unwrap_or_default(),
        name: observed.model.name_any(),
        actions: Vec::new(),
        status,
        again: None,
    };
    planning.step();
    Plan {
        actions: planning.actions,
        status: planning.status,
        again: planning.again,
    }
}

/// A training that should exist.
struct Due {
    key: String,
    dataset_version: String,
}

/// Reasons of a Model that is not ready yet but on its way.
const UNDERWAY: &[&str] = &[
    "Evaluating",
    "PromotionPending",
    "Training",
    "WaitingForDataset",
];

impl Planning<'_> {
    fn spec(&self) -> &ModelSpec {
        &self.observed.model.spec
    }

    fn say(&mut self, saying: Saying) {
        let generation = self.observed.model.metadata.generation;
        let stuck = !saying.status && !UNDERWAY.contains(&saying.reason.as_str());
        conditions::set_ready(
            &mut self.status.conditions,
            saying,
            stuck,
            generation,
            self.now,
        );
    }

    fn step(&mut self) {
        let holdout = self.spec().evaluate.holdout.as_ref();
        if holdout.is_some_and(|one| one.by == HoldoutBy::Time && one.column.is_none()) {
            self.say(Saying::no(
                "SpecInvalid",
                "evaluate.holdout.column is missing: with `by: time` it names the time column",
            ));
            return;
        }
        let due = match self.due() {
            Ok(due) => due,
            Err(message) => {
                self.say(Saying::no("WaitingForDataset", message));
                return;
            }
        };
        self.status.train_key = Some(due.key.clone());
        if let Some(version) = self.trained(&due) {
            self.forget_old_jobs(&due);
            self.evaluate(&due, version);
        }
    }

    /// The training that the current spec and data ask for.
    fn due(&self) -> Result<Due, String> {
        let spec = self.spec();
        if !spec.retrain.on_data {
            // What was last trained for this very spec, on whatever data.
            let same = self
                .status
                .versions
                .iter()
                .rev()
                .find(|version| train_key(spec, &version.dataset_version) == version.train_key);
            if let Some(version) = same {
                return Ok(Due {
                    key: version.train_key.clone(),
                    dataset_version: version.dataset_version.clone(),
                });
            }
        }
        let dataset_version =
            current_version(self.observed.dataset, &self.namespace, &spec.dataset)?;
        Ok(Due {
            key: train_key(spec, &dataset_version),
            dataset_version,
        })
    }

    fn job_name(&self, due: &Due) -> String {
        limited(&self.name, &format!("-{}", &due.key[..8]))
    }

    /// The version that answers the training that is due; makes the TrainJob
    /// and says where it stands while there is none.
    fn trained(&mut self, due: &Due) -> Option<String> {
        let registered = self
            .observed
            .versions
            .iter()
            .rev()
            .find(|version| version.tags.get(TRAIN_KEY_TAG) == Some(&due.key))
            .map(|version| version.version.clone());
        let job_name = self.job_name(due);
        let job = self
            .observed
            .jobs
            .iter()
            .find(|job| job.name_any() == job_name);
        let job_status = job.and_then(|job| job.status.clone()).unwrap_or_default();
        let made = registered.or(match job_status.phase {
            Some(Phase::Succeeded) => job_status.model_version.clone(),
            _ => None,
        });
        if let Some(version) = made {
            self.status.train_job = job
                .map(|job| job.name_any())
                .or(self.status.train_job.take());
            if !self
                .status
                .versions
                .iter()
                .any(|known| known.version == version)
            {
                self.status.versions.push(ModelVersion {
                    version: version.clone(),
                    train_key: due.key.clone(),
                    dataset_version: due.dataset_version.clone(),
                    train_job: job_name,
                    metrics: job_status.metrics,
                    decision: None,
                    reason: None,
                });
                let surplus = self.status.versions.len().saturating_sub(MOST_VERSIONS);
                self.status.versions.drain(..surplus);
                self.actions.push(Action::note(
                    "Trained",
                    format!("version {version} was trained"),
                ));
            }
            return Some(version);
        }
        self.status.train_job = Some(job_name.clone());
        match job_status.phase {
            _ if job.is_none() => {
                let job = self.job(due, &job_name);
                self.actions.push(Action::note(
                    "Training",
                    format!(
                        "TrainJob {job_name} trains on version {} of Dataset {:?}",
                        due.dataset_version,
                        self.spec().dataset
                    ),
                ));
                self.actions.push(Action::CreateTrainJob(Box::new(job)));
                self.say(Saying::no(
                    "Training",
                    format!("TrainJob {job_name} is starting"),
                ));
            }
            Some(Phase::Failed) => {
                let message = job_status.message.unwrap_or_default();
                self.say(Saying::no(
                    "TrainingFailed",
                    format!(
                        "TrainJob {job_name} failed: {message}{} Delete the job to try again.",
                        stop(&message)
                    ),
                ));
            }
            Some(Phase::Succeeded) => {
                self.say(Saying::no(
                    "NothingRegistered",
                    format!(
                        "TrainJob {job_name} ended well but registered no model: \
                         the script must log one, such as with mlflow.sklearn.log_model"
                    ),
                ));
            }
            _ => {
                let message = job_status
                    .message
                    .unwrap_or_else(|| "is starting".to_owned());
                self.say(Saying::no(
                    "Training",
                    format!("TrainJob {job_name}: {message}"),
                ));
            }
        }
        None
    }

    fn forget_old_jobs(&mut self, due: &Due) {
        let current = self.job_name(due);
        let mut old: Vec<_> = self
            .observed
            .jobs
            .iter()
            .filter(|job| job.name_any() != current && job.metadata.deletion_timestamp.is_none())
            .collect();
        old.sort_by_key(|job| job.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let surplus = old.len().saturating_sub(MOST_JOBS - 1);
        self.actions.extend(
            old.iter()
                .take(surplus)
                .map(|job| Action::DeleteTrainJob(job.name_any())),
        );
    }

    /// Evaluates a version, decides on it once, and moves the aliases.
    fn evaluate(&mut self, due: &Due, version: String) {
        let decision = self
            .version_mut(&version)
            .and_then(|known| known.decision.clone());
        let champion = self.observed.champion.clone();
        match decision.as_deref() {
            Some("Promoted") => {
                self.ready_or_not(&version);
                return;
            }
            // Decided against; a change of the criteria may change that, and a
            // person may have promoted it.
            Some(_) if champion.as_ref() == Some(&version) => {
                self.record(
                    &version,
                    "Promoted",
                    "the alias champion was moved to it by hand",
                );
                self.ready_or_not(&version);
                return;
            }
            Some(_) => {
                if self.evaluated_against(&version, champion.as_deref()) {
                    self.conclude(&version);
                } else {
                    // Somebody moved the alias since: that is respected until
                    // there is a new version.
                    self.ready_or_not(&version);
                }
                return;
            }
            None => {}
        }
        if self.observed.candidate.as_ref() != Some(&version) {
            self.actions.push(Action::SetAlias {
                model: self.observed.registered.to_owned(),
                alias: CANDIDATE,
                version: version.clone(),
            });
            self.status.candidate = Some(version.clone());
        }
        // The champion that it was compared with before the platform stopped in
        // the moment of the promotion.
        let promoted = champion.as_ref() == Some(&version);
        let against = if promoted {
            let earlier = self.observed.pods.iter();
            earlier
                .filter(|pod| label(pod.as_ref(), COMPARED_CANDIDATE) == Some(&version))
                .find_map(|pod| label(pod.as_ref(), COMPARED_CHAMPION).map(str::to_owned))
        } else {
            champion
        };
        let body = self.evaluation(due, &version, against.as_deref());
        let key = hash(&body);
        let old = leftovers(&key, self.observed.pods);
        self.actions.extend(old.into_iter().map(Action::DeletePod));
        match progress(&key, self.observed.pods, &self.options.retry, self.now) {
            // Promoted by hand before it was evaluated: so it is.
            Progress::Start(1) if promoted => {
                self.record(
                    &version,
                    "Promoted",
                    "the alias champion was moved to it by hand",
                );
                self.ready_or_not(&version);
            }
            Progress::Start(attempt) => {
                let pod = self.pod(&version, against.as_deref(), &key, attempt, &body);
                self.actions.push(Action::CreatePod(Box::new(pod)));
                self.say(Saying::no(
                    "Evaluating",
                    format!("version {version} is being evaluated"),
                ));
            }
            Progress::Waiting { message, again, .. } => {
                self.again = again;
                let waits = message
                    .map(|message| format!(": {message}"))
                    .unwrap_or_default();
                self.say(Saying::no(
                    "Evaluating",
                    format!("version {version} is being evaluated{waits}"),
                ));
            }
            Progress::Running { .. } => {
                self.say(Saying::no(
                    "Evaluating",
                    format!("version {version} is being evaluated"),
                ));
            }
            Progress::BackOff { failure, wait, .. } => {
                self.again = Some(wait);
                self.say(Saying::no(
                    "Evaluating",
                    format!(
                        "evaluating version {version} failed and is tried again: {}",
                        failure.message
                    ),
                ));
            }
            Progress::Failed { failure, .. } => {
                self.say(Saying::no(
                    "EvaluationFailed",
                    format!("evaluating version {version} failed: {}", failure.message),
                ));
            }
            Progress::Succeeded { message, pod, .. } => {
                match serde_json::from_str::<Evaluated>(&message) {
                    Ok(evaluated) => {
                        self.take_in(&version, against, evaluated);
                        self.conclude(&version);
                    }
                    Err(error) => self.say(Saying::no(
                        "EvaluationFailed",
                        format!("pod {pod} ended well but what it said is unreadable ({error})"),
                    )),
                }
            }
        }
    }

    fn version_mut(&mut self, version: &str) -> Option<&mut ModelVersion> {
        self.status
            .versions
            .iter_mut()
            .find(|known| known.version == version)
    }

    fn record(&mut self, version: &str, decision: &str, reason: &str) {
        if let Some(known) = self.version_mut(version) {
            known.decision = Some(decision.to_owned());
            known.reason = Some(reason.to_owned());
        }
    }

    /// Whether the last evaluation is of this version against this champion.
    fn evaluated_against(&self, version: &str, champion: Option<&str>) -> bool {
        self.status
            .last_evaluation
            .as_ref()
            .is_some_and(|evaluation| {
                evaluation.version == version && evaluation.champion.as_deref() == champion
            })
    }

    fn take_in(&mut self, version: &str, champion: Option<String>, evaluated: Evaluated) {
        let metrics = evaluated.candidate.into_map();
        if let Some(known) = self.version_mut(version) {
            known.metrics.clone_from(&metrics);
        }
        self.status.last_evaluation = Some(Evaluation {
            version: version.to_owned(),
            champion,
            summary: summary(self.spec(), &metrics),
            champion_metrics: evaluated
                .champion
                .map(Metrics::into_map)
                .unwrap_or_default(),
            metrics,
            rows: evaluated.rows,
            decision: None,
        });
    }

    /// Decides on what was evaluated last.
    fn conclude(&mut self, version: &str) {
        let Some(mut evaluation) = self.status.last_evaluation.clone() else {
            return;
        };
        let champion = evaluation.champion.as_deref();
        let champion = champion.map(|champion| (champion, &evaluation.champion_metrics));
        let verdict = decide(self.spec(), &evaluation.metrics, champion);
        let before = self
            .version_mut(version)
            .and_then(|known| known.decision.clone());
        let wished = self.observed.model.annotations().get(PROMOTE);
        let already = self.observed.champion.as_deref() == Some(version);
        let (decision, reason) = match verdict {
            _ if already => ("Promoted", self.reason_of(&verdict)),
            _ if wished.is_some_and(|wished| wished == version) => {
                ("Promoted", "promoted by hand".to_owned())
            }
            Verdict::Promote(reason) if self.spec().promote == Promote::Automatic => {
                ("Promoted", reason)
            }
            Verdict::Promote(reason) => (
                "Pending",
                format!(
                    "{reason}; waits to be promoted: set the alias champion, or annotate the Model with {PROMOTE}={version}"
                ),
            ),
            Verdict::Keep(reason) => ("Kept", reason),
        };
        if decision == "Promoted" && !already {
            self.actions.push(Action::SetAlias {
                model: self.observed.registered.to_owned(),
                alias: CHAMPION,
                version: version.to_owned(),
            });
            self.status.champion = Some(version.to_owned());
        }
        if before.as_deref() != Some(decision) {
            self.actions.push(Action::note(
                decision,
                format!("version {version}: {reason}"),
            ));
        }
        evaluation.decision = Some(format!("{decision}: {reason}"));
        self.status.last_evaluation = Some(evaluation);
        self.record(version, decision, &reason);
        self.ready_or_not(version);
    }

    fn reason_of(&self, verdict: &Verdict) -> String {
        match verdict {
            Verdict::Promote(reason) | Verdict::Keep(reason) => reason.clone(),
        }
    }

    /// What the condition says once the newest version is decided on.
    fn ready_or_not(&mut self, version: &str) {
        let known = self.version_mut(version).cloned().unwrap_or_default();
        let decision = known.decision.unwrap_or_default();
        let reason = known.reason.unwrap_or_default();
        let shown = self
            .status
            .last_evaluation
            .as_ref()
            .and_then(|evaluation| evaluation.summary.clone())
            .map(|summary| format!(" ({summary})"))
            .unwrap_or_default();
        let saying = match self.status.champion.as_deref() {
            Some(champion) if champion == version => Saying::yes(
                "Promoted",
                format!("version {version} is the champion{shown}"),
            ),
            Some(champion) if decision == "Pending" => Saying::no(
                "PromotionPending",
                format!("version {version}: {reason}; champion {champion} serves until then"),
            ),
            Some(champion) => Saying::yes(
                "ChampionKept",
                format!("champion {champion} stays; version {version}: {reason}"),
            ),
            None if decision == "Pending" => {
                Saying::no("PromotionPending", format!("version {version}: {reason}"))
            }
            None => Saying::no(
                "CriteriaNotMet",
                format!("version {version} was not promoted: {reason}"),
            ),
        };
        self.say(saying);
    }
}

fn stop(sentence: &str) -> &'static str {
    if sentence.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    }
}
