use std::collections::BTreeMap;
use std::sync::Arc;

use cumulo_api::model::ModelStatus;
use cumulo_api::{Dataset, Model, TrainJob};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::{Verdict, decide};
use super::plan::{Observed, PROMOTE, plan};
use crate::action::{Action, Plan};
use crate::registry::{CHAMPION, RegisteredVersion, TRAIN_KEY_TAG};
use crate::testing::{at, ended, made, object, options, shown};

/// A Model with all that it sees, played forward by hand.
struct World {
    model: Model,
    dataset: Option<&'static str>,
    jobs: Vec<Arc<TrainJob>>,
    pods: Vec<Arc<Pod>>,
    versions: Vec<RegisteredVersion>,
    aliases: BTreeMap<String, String>,
    second: i64,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut all = json!({
            "dataset": "flights", "target": "late", "task": "classification",
            "features": {"exclude": ["arr_delay"]},
            "train": {"automl": {"budget": "30s"}},
            "evaluate": {"metrics": {"auc": ">= 0.68"},
                "holdout": {"by": "time", "column": "time_hour", "fraction": 0.1667}},
        });
        for (name, value) in spec.as_object().unwrap() {
            all[name] = value.clone();
        }
        Self {
            model: object(json!({
                "apiVersion": "cumulo.dev/v1alpha1", "kind": "Model",
                "metadata": {"name": "late-flights", "namespace": "default", "uid": "u", "generation": 1},
                "spec": all,
            })),
            dataset: Some("v1"),
            jobs: Vec::new(),
            pods: Vec::new(),
            versions: Vec::new(),
            aliases: BTreeMap::new(),
            second: 0,
        }
    }

    /// Plans and carries out, as the I/O does.
    fn step(&mut self) -> Plan<ModelStatus> {
        self.second += 1;
        let dataset: Option<Arc<Dataset>> = self.dataset.map(|version| {
            Arc::new(object(json!({
                "metadata": {"name": "flights", "namespace": "default"},
                "spec": {"sources": {}, "query": "SELECT 1"}, "status": {"version": version},
            })))
        });
        let observed = Observed {
            model: &self.model,
            registered: "late-flights",
            dataset: &|_| dataset.clone(),
            jobs: &self.jobs,
            pods: &self.pods,
            versions: &self.versions,
            champion: self.aliases.get("champion").cloned(),
            candidate: self.aliases.get("candidate").cloned(),
        };
        let plan = plan(&observed, &options(), at(self.second));
        for action in &plan.actions {
            match action {
                Action::CreatePod(pod) => self.pods.push(Arc::new(Pod::clone(pod))),
                Action::DeletePod(name) => {
                    self.pods
                        .retain(|pod| pod.metadata.name.as_ref() != Some(name));
                }
                Action::CreateTrainJob(job) => self.jobs.push(Arc::new(TrainJob::clone(job))),
                Action::DeleteTrainJob(name) => {
                    self.jobs
                        .retain(|job| job.metadata.name.as_ref() != Some(name));
                }
                Action::SetAlias { alias, version, .. } => {
                    self.aliases.insert((*alias).to_owned(), version.clone());
                }
                Action::Event(_) => {}
            }
        }
        self.model.status = Some(plan.status.clone());
        plan
    }

    /// The newest TrainJob ends well.
    fn train(&mut self) {
        let version = (self.versions.len() + 1).to_string();
        let mut job = TrainJob::clone(self.jobs.last().unwrap());
        let key = job.metadata.labels.as_ref().unwrap()["cumulo.dev/train-key"].clone();
        job.status = Some(object(
            json!({"phase": "Succeeded", "modelVersion": version}),
        ));
        *self.jobs.last_mut().unwrap() = Arc::new(job);
        self.versions.push(RegisteredVersion {
            version,
            source: String::new(),
            tags: BTreeMap::from([(TRAIN_KEY_TAG.to_owned(), key)]),
        });
    }

    /// The newest evaluation ends with these values of auc.
    fn evaluate(&mut self, candidate: f64, champion: Option<f64>) {
        let pod = Pod::clone(self.pods.last().unwrap());
        let told = json!({
            "candidate": {"metrics": {"auc": candidate}},
            "champion": champion.map(|auc| json!({"metrics": {"auc": auc}})),
            "rows": 54558,
        });
        *self.pods.last_mut().unwrap() =
            ended(pod, "Succeeded", 0, &told.to_string(), at(self.second));
    }

    /// The first version, trained, evaluated and promoted.
    fn promoted(spec: Value) -> Self {
        let mut world = Self::new(spec);
        world.step();
        world.train();
        world.step();
        world.evaluate(0.69, None);
        world.step();
        world
    }

    fn ready(&self) -> String {
        let status = self.model.status.as_ref().unwrap();
        let ready = &status.conditions[0];
        format!("{} {}: {}", ready.status, ready.reason, ready.message)
    }
}

#[test]
fn from_nothing_to_a_champion() {
    let mut world = World::new(json!({}));
    world.dataset = None;
    insta::assert_snapshot!(shown(&world.step()), @r#"Ready=False WaitingForDataset: waits for Dataset "flights" in namespace default"#);
    world.dataset = Some("v1");
    insta::assert_snapshot!(shown(&world.step()), @r#"
    event Training: TrainJob late-flights-4bc7bc46 trains on version v1 of Dataset "flights"
    create TrainJob late-flights-4bc7bc46
    Ready=False Training: TrainJob late-flights-4bc7bc46 is starting
    "#);
    let request: Value = serde_json::from_str(&world.jobs[0].spec.env["CUMULO_TRAIN"]).unwrap();
    insta::assert_json_snapshot!(request, @r#"
    {
      "namespace": "default",
      "name": "late-flights-4bc7bc46",
      "model": "late-flights",
      "dataset": {
        "name": "flights",
        "version": "v1",
        "uri": "cumulo:datasets/default/flights/v1"
      },
      "target": "late",
      "task": "classification",
      "features": {
        "exclude": [
          "arr_delay"
        ]
      },
      "holdout": {
        "by": "time",
        "column": "time_hour",
        "fraction": 0.1667
      },
      "budgetSeconds": 30.0,
      "metric": null,
      "seed": 1,
      "trainKey": "4bc7bc46dfbb3c8c"
    }
    "#);
    assert!(world.step().actions.is_empty());
    world.train();
    insta::assert_snapshot!(shown(&world.step()), @r"
    event Trained: version 1 was trained
    set alias late-flights@candidate = 1
    create pod late-flights-evaluate-eafc8-1: cumulo learn evaluate
    Ready=False Evaluating: version 1 is being evaluated
    ");
    world.evaluate(0.6912, None);
    insta::assert_snapshot!(shown(&world.step()), @r"
    set alias late-flights@champion = 1
    event Promoted: version 1: auc 0.6912 is >= 0.68; there is no champion to beat
    Ready=True Promoted: version 1 is the champion (auc 0.6912)
    ");
    insta::assert_json_snapshot!(world.model.status, @r#"
    {
      "champion": "1",
      "candidate": "1",
      "versions": [
        {
          "version": "1",
          "trainKey": "4bc7bc46dfbb3c8c",
          "datasetVersion": "v1",
          "trainJob": "late-flights-4bc7bc46",
          "metrics": {
            "auc": 0.6912
          },
          "decision": "Promoted",
          "reason": "auc 0.6912 is >= 0.68; there is no champion to beat"
        }
      ],
      "lastEvaluation": {
        "version": "1",
        "metrics": {
          "auc": 0.6912
        },
        "rows": 54558,
        "summary": "auc 0.6912",
        "decision": "Promoted: auc 0.6912 is >= 0.68; there is no champion to beat"
      },
      "trainKey": "4bc7bc46dfbb3c8c",
      "trainJob": "late-flights-4bc7bc46",
      "observedGeneration": 1,
      "conditions": [
        {
          "lastTransitionTime": "2027-01-15T08:00:05Z",
          "message": "version 1 is the champion (auc 0.6912)",
          "observedGeneration": 1,
          "reason": "Promoted",
          "status": "True",
          "type": "Ready"
        }
      ]
    }
    "#);
    // Nothing changed: nothing to do.
    let before = world.model.status.clone();
    for _ in 0..3 {
        let plan = world.step();
        assert!(plan.actions.is_empty() && plan.again.is_none(), "{plan:?}");
    }
    assert_eq!(world.model.status, before);
}

#[test]
fn criteria_that_are_not_met_leave_nothing_champion() {
    let mut world = World::new(json!({}));
    world.step();
    world.train();
    world.step();
    world.evaluate(0.5, None);
    world.step();
    insta::assert_snapshot!(world.ready(), @"False CriteriaNotMet: version 1 was not promoted: auc is 0.5000 and must be >= 0.68");
    assert!(!world.aliases.contains_key("champion"));
    // A lower bar is looked at without training or evaluating again.
    world.model.spec.evaluate.metrics = BTreeMap::from([("auc".into(), ">= 0.4".into())]);
    insta::assert_snapshot!(shown(&world.step()), @r"
    set alias late-flights@champion = 1
    event Promoted: version 1: auc 0.5000 is >= 0.4; there is no champion to beat
    Ready=True Promoted: version 1 is the champion (auc 0.5000)
    ");
    assert_eq!(world.aliases["champion"], "1");
}

#[test]
fn new_data_trains_a_candidate_that_must_beat_the_champion() {
    let mut world = World::promoted(json!({}));
    world.dataset = Some("v2");
    insta::assert_snapshot!(shown(&world.step()), @r#"
    event Training: TrainJob late-flights-47d9e924 trains on version v2 of Dataset "flights"
    create TrainJob late-flights-47d9e924
    Ready=False Training: TrainJob late-flights-47d9e924 is starting
    "#);
    world.train();
    world.step();
    world.evaluate(0.70, Some(0.72));
    insta::assert_snapshot!(shown(&world.step()), @r"
    delete pod late-flights-evaluate-eafc8-1
    event Kept: version 2: not better than the champion: auc 0.7000 against 0.7200 of champion 1 on the same rows
    Ready=True ChampionKept: champion 1 stays; version 2: not better than the champion: auc 0.7000 against 0.7200 of champion 1 on the same rows
    ");
    assert_eq!(world.aliases["champion"], "1");
    assert!(world.step().actions.is_empty());
    world.dataset = Some("v3");
    world.step();
    world.train();
    world.step();
    world.evaluate(0.73, Some(0.72));
    world.step();
    insta::assert_snapshot!(world.ready(), @"True Promoted: version 3 is the champion (auc 0.7300)");
    assert_eq!(world.aliases["champion"], "3");
    // Rolled back by hand: respected.
    world.aliases.insert("champion".into(), "1".into());
    for _ in 0..3 {
        assert!(world.step().actions.is_empty());
    }
    insta::assert_snapshot!(world.ready(), @"True ChampionKept: champion 1 stays; version 3: auc 0.7300 is >= 0.68; auc 0.7300 against 0.7200 of champion 1 on the same rows");
}

#[test]
fn data_that_came_back_is_not_trained_on_again() {
    let mut world = World::promoted(json!({}));
    world.dataset = Some("v2");
    world.step();
    world.train();
    world.step();
    world.evaluate(0.75, Some(0.72));
    world.step();
    let jobs = world.jobs.len();
    world.dataset = Some("v1");
    world.step();
    assert_eq!(world.jobs.len(), jobs);
}

#[test]
fn without_on_data_new_data_is_not_trained_on() {
    let mut world = World::promoted(json!({"retrain": {"onData": false}}));
    world.dataset = Some("v2");
    assert!(world.step().actions.is_empty());
    world.model.spec.target = "very_late".into();
    world.step();
    assert_eq!(world.jobs.len(), 2, "another target is another model");
}

#[test]
fn manual_promotion_waits_for_a_person() {
    let mut world = World::new(json!({"promote": "manual"}));
    world.step();
    world.train();
    world.step();
    world.evaluate(0.69, None);
    world.step();
    insta::assert_snapshot!(world.ready(), @"False PromotionPending: version 1: auc 0.6900 is >= 0.68; there is no champion to beat; waits to be promoted: set the alias champion, or annotate the Model with cumulo.dev/promote=1");
    world.model.metadata.annotations = Some([(PROMOTE.to_owned(), "1".to_owned())].into());
    world.step();
    assert_eq!(world.aliases["champion"], "1");
    insta::assert_snapshot!(world.ready(), @"True Promoted: version 1 is the champion (auc 0.6900)");
}

#[test]
fn a_promotion_by_any_client_counts() {
    let mut world = World::new(json!({"promote": "manual"}));
    world.step();
    world.train();
    world.step();
    world.evaluate(0.69, None);
    world.step();
    world.aliases.insert(CHAMPION.to_owned(), "1".into());
    world.step();
    insta::assert_snapshot!(world.ready(), @"True Promoted: version 1 is the champion (auc 0.6900)");
}

/// Stopped after the alias was set and before the status was written.
#[test]
fn a_promotion_is_finished_after_a_restart() {
    let mut world = World::promoted(json!({}));
    world.dataset = Some("v2");
    world.step();
    world.train();
    world.step();
    world.evaluate(0.75, Some(0.72));
    let before = world.model.status.clone();
    world.step();
    let finished = world.model.status.clone().unwrap();
    world.model.status = before;
    let plan = world.step();
    assert!(made(&plan).is_empty(), "nothing is evaluated again");
    assert_eq!(world.aliases["champion"], "2");
    let after = world.model.status.clone().unwrap();
    assert_eq!(after.versions, finished.versions);
    assert_eq!(after.last_evaluation, finished.last_evaluation);
}

#[test]
fn a_failed_training_is_told_and_not_repeated() {
    let mut world = World::new(json!({}));
    world.step();
    let mut job = TrainJob::clone(&world.jobs[0]);
    job.status = Some(object(json!({"phase": "Failed", "reason": "TargetInvalid",
        "message": "there is no column \"late\"; did you mean \"lates\"?"})));
    world.jobs[0] = Arc::new(job);
    let plan = world.step();
    insta::assert_snapshot!(shown(&plan), @r#"
    Ready=False TrainingFailed: TrainJob late-flights-4bc7bc46 failed: there is no column "late"; did you mean "lates"? Delete the job to try again.
    Degraded=True TrainingFailed: TrainJob late-flights-4bc7bc46 failed: there is no column "late"; did you mean "lates"? Delete the job to try again.
    "#);
    assert!(world.step().actions.is_empty());
}

#[test]
fn a_holdout_by_time_wants_a_column() {
    let mut world = World::new(json!({"evaluate": {"holdout": {"by": "time"}}}));
    assert!(world.step().actions.is_empty());
    insta::assert_snapshot!(world.ready(), @"False SpecInvalid: evaluate.holdout.column is missing: with `by: time` it names the time column");
}

#[test]
fn an_own_job_is_pinned_and_registered() {
    let mut world = World::new(json!({"train": {"job": {"script": "train.py"}}}));
    world.step();
    insta::assert_json_snapshot!(world.jobs[0].spec, @r#"
    {
      "inputs": {
        "train": {
          "dataset": "flights",
          "version": "v1"
        }
      },
      "script": "train.py",
      "experiment": "late-flights",
      "output": {
        "model": "late-flights"
      }
    }
    "#);
}

fn verdict(metrics: Value, candidate: Value, champion: Option<Value>) -> String {
    let world = World::new(json!({"evaluate": {"metrics": metrics}}));
    let map = |value: Value| -> BTreeMap<String, f64> { object(value) };
    let champion = champion.map(map);
    let compared = champion.as_ref().map(|metrics| ("1", metrics));
    match decide(&world.model.spec, &map(candidate), compared) {
        Verdict::Promote(reason) => format!("promote: {reason}"),
        Verdict::Keep(reason) => format!("keep: {reason}"),
    }
}

#[test]
fn verdicts_read_well() {
    insta::assert_snapshot!(verdict(json!({}), json!({"auc": 0.7}), None), @"promote: no criterion is set; there is no champion to beat");
    insta::assert_snapshot!(verdict(json!({"auc": ">= 0.6", "logloss": "< 0.5"}), json!({"auc": 0.7, "logloss": 0.4}), Some(json!({"auc": 0.69}))), @"promote: auc 0.7000 is >= 0.6, logloss 0.4000 is < 0.5; auc 0.7000 against 0.6900 of champion 1 on the same rows");
    insta::assert_snapshot!(verdict(json!({"logloss": "< 0.5"}), json!({"logloss": 0.4}), Some(json!({"logloss": 0.3}))), @"keep: not better than the champion: logloss 0.4000 against 0.3000 of champion 1 on the same rows");
    insta::assert_snapshot!(verdict(json!({"acc": ">= 0.6"}), json!({"auc": 0.7}), None), @r#"keep: the evaluation has no metric "acc"; it has auc"#);
    insta::assert_snapshot!(verdict(json!({"auc": "at least 0.6"}), json!({"auc": 0.7}), None), @r#"keep: evaluate.metrics.auc: "at least 0.6" must begin with >=, >, <= or <, such as ">= 0.75""#);
    insta::assert_snapshot!(verdict(json!({"auc": ">= x"}), json!({"auc": 0.7}), None), @r#"keep: evaluate.metrics.auc: "x" is not a number, in ">= x""#);
    insta::assert_snapshot!(verdict(json!({}), json!({"auc": f64::MIN_POSITIVE}), Some(json!({"auc": 0.5}))), @"keep: not better than the champion: auc 2.225e-308 against 0.5000 of champion 1 on the same rows");
}

proptest! {
    #[test]
    fn a_better_candidate_is_never_judged_worse(
        a in 0.0f64..1.0, b in 0.0f64..1.0, champion in 0.0f64..1.0, bound in 0.0f64..1.0,
    ) {
        let world = World::new(json!({"evaluate": {"metrics": {"auc": format!(">= {bound}")}}}));
        let one = |auc: f64| BTreeMap::from([("auc".to_owned(), auc)]);
        let champion = one(champion);
        let promotes = |auc| matches!(
            decide(&world.model.spec, &one(auc), Some(("1", &champion))), Verdict::Promote(_)
        );
        let (low, high) = (a.min(b), a.max(b));
        prop_assert!(promotes(high) || !promotes(low));
        prop_assert_eq!(promotes(a), a >= bound && a > champion["auc"]);
    }
}
