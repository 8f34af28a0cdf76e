//! What a Model asks for: trainings, evaluations, and the keys that tell them apart.

use std::collections::BTreeMap;
use std::time::Duration;

use cumulo_api::model::{HoldoutBy, ModelSpec};
use cumulo_api::train_job::{Input, Output, TrainJob, TrainJobSpec};
use cumulo_api::{labels, parse_duration};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{COMPARED_CANDIDATE, COMPARED_CHAMPION, Due, Planning};
use crate::dataset_uri;
use crate::key::{hash, label_value, limited};
use crate::pods::{ATTEMPT, Mould, REQUEST, Runs, carried, cast, owner};
use crate::train_job::TRAIN_KEY;

/// The search's budget when none is given.
const USUAL_BUDGET: Duration = Duration::from_secs(60);

impl Planning<'_> {
    /// The TrainJob that makes the version that is due.
    pub(super) fn job(&self, due: &Due, name: &str) -> TrainJob {
        let spec = self.spec();
        let job = match &spec.train.job {
            Some(template) => self.own_job(due, template),
            None => self.automl_job(due, name),
        };
        TrainJob {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([
                    (labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned()),
                    (labels::MODEL.to_owned(), label_value(&self.name)),
                    (TRAIN_KEY.to_owned(), due.key.clone()),
                ])),
                annotations: carried(self.observed.model),
                owner_references: owner(self.observed.model).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: job,
            status: None,
        }
    }

    /// The user's own job, its inputs pinned.
    fn own_job(&self, due: &Due, template: &TrainJobSpec) -> TrainJobSpec {
        let dataset = &self.spec().dataset;
        let mut job = template.clone();
        if job.inputs.is_empty() {
            job.inputs.insert(
                "train".to_owned(),
                Input {
                    dataset: dataset.clone(),
                    version: None,
                },
            );
        }
        for input in job.inputs.values_mut() {
            if input.dataset == *dataset && input.version.is_none() {
                input.version = Some(due.dataset_version.clone());
            }
        }
        job.output = Some(Output {
            model: self.observed.registered.to_owned(),
        });
        if job.experiment.is_none() {
            job.experiment = Some(self.observed.registered.to_owned());
        }
        job
    }

    fn automl_job(&self, due: &Due, name: &str) -> TrainJobSpec {
        let spec = self.spec();
        let automl = spec.train.automl.clone().unwrap_or_default();
        // The schema's pattern has let only durations through.
        let budget = automl
            .budget
            .as_deref()
            .and_then(|text| parse_duration(text).ok());
        let budget = budget.unwrap_or(USUAL_BUDGET);
        let mut request = json!({
            "namespace": self.namespace,
            "name": name,
            "model": self.observed.registered,
            "dataset": self.dataset_of(due),
            "target": spec.target,
            "task": spec.task,
            "features": spec.features.clone().unwrap_or_default(),
            "holdout": holdout(spec),
            "budgetSeconds": budget.as_secs_f64(),
            "metric": automl.metric,
            "seed": automl.seed.unwrap_or(1),
            "trainKey": due.key,
        });
        if let Some(trials) = automl.trials {
            request["maxTrials"] = json!(trials);
        }
        // Reading, refitting and registering come on top of the search.
        let deadline = budget.as_secs().saturating_mul(3).saturating_add(900);
        TrainJobSpec {
            inputs: BTreeMap::from([(
                "train".to_owned(),
                Input {
                    dataset: spec.dataset.clone(),
                    version: Some(due.dataset_version.clone()),
                },
            )]),
            command: ["cumulo", "learn", "train"].map(String::from).to_vec(),
            env: BTreeMap::from([
                ("CUMULO_TRAIN".to_owned(), request.to_string()),
                // Threads that spin while they wait take the cores from those that
                // work; on a busy machine that costs most of the search.
                ("OMP_WAIT_POLICY".to_owned(), "passive".to_owned()),
            ]),
            resources: spec.train.resources.clone(),
            retries: Some(2),
            deadline: Some(format!("{deadline}s")),
            experiment: Some(self.observed.registered.to_owned()),
            output: Some(Output {
                model: self.observed.registered.to_owned(),
            }),
            ..TrainJobSpec::default()
        }
    }

    fn dataset_of(&self, due: &Due) -> Value {
        let dataset = &self.spec().dataset;
        json!({
            "name": dataset,
            "version": due.dataset_version,
            "uri": dataset_uri(&self.namespace, dataset, &due.dataset_version),
        })
    }

    /// What `cumulo learn evaluate` is asked for.
    pub(super) fn evaluation(&self, due: &Due, version: &str, champion: Option<&str>) -> Value {
        let spec = self.spec();
        json!({
            "model": self.observed.registered,
            "candidate": version,
            "champion": champion,
            "dataset": self.dataset_of(due),
            "target": spec.target,
            "task": spec.task,
            "features": spec.features.clone().unwrap_or_default(),
            "holdout": holdout(spec),
            "metric": spec.train.automl.as_ref().and_then(|automl| automl.metric.clone()),
            "slices": spec.evaluate.slices,
        })
    }

    pub(super) fn pod(
        &self,
        version: &str,
        champion: Option<&str>,
        key: &str,
        attempt: u32,
        body: &Value,
    ) -> Pod {
        let mut labels = BTreeMap::from([
            (labels::MODEL.to_owned(), label_value(&self.name)),
            (COMPARED_CANDIDATE.to_owned(), version.to_owned()),
            (REQUEST.to_owned(), key.to_owned()),
            (ATTEMPT.to_owned(), attempt.to_string()),
        ]);
        if let Some(champion) = champion {
            labels.insert(COMPARED_CHAMPION.to_owned(), champion.to_owned());
        }
        cast(
            Mould {
                name: limited(&self.name, &format!("-evaluate-{}-{attempt}", &key[..5])),
                namespace: self.namespace.clone(),
                owner: owner(self.observed.model),
                annotations: carried(self.observed.model),
                labels,
                command: ["cumulo", "learn", "evaluate"].map(String::from).to_vec(),
                env: vec![("CUMULO_EVALUATE".to_owned(), body.to_string())],
                resources: self.spec().train.resources.as_ref(),
                default_requests: [("cpu", "500m"), ("memory", "256Mi")],
                runs: Runs::Once {
                    deadline_seconds: Some(3600),
                },
            },
            self.options,
        )
    }
}

/// The key of a training: what it learns from and how.
pub(super) fn train_key(spec: &ModelSpec, dataset_version: &str) -> String {
    hash(&json!({
        "dataset": spec.dataset,
        "version": dataset_version,
        "target": spec.target,
        "task": spec.task,
        "features": spec.features.clone().unwrap_or_default(),
        "holdout": holdout(spec),
        "automl": spec.train.automl.clone().filter(|_| spec.train.job.is_none()).unwrap_or_default(),
        "job": spec.train.job,
    }))
}

/// Which rows are held out, as the trainer takes it.
fn holdout(spec: &ModelSpec) -> Value {
    let holdout = spec.evaluate.holdout.as_ref();
    let fraction = holdout.and_then(|holdout| holdout.fraction).unwrap_or(0.2);
    match holdout.map(|holdout| (holdout.by, &holdout.column)) {
        Some((HoldoutBy::Time, column)) => {
            json!({"by": "time", "column": column, "fraction": fraction})
        }
        _ => json!({"by": "hash", "fraction": fraction}),
    }
}
