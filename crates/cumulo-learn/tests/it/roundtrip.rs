//! Train, write, load, predict.

use cumulo_learn::features::Task;
use cumulo_learn::table::Table;
use cumulo_learn::train::score_holdout;
use cumulo_learn::{Column, Columns, LoadedModel, TrainOutcome, TrainRequest, artifact, train};

use crate::sample::{self, Stopwatch, TARGETS};

pub fn trained(task: Task, target: &str) -> (TrainRequest, TrainOutcome) {
    let mut request = TrainRequest::new(task, target);
    request.features.exclude = TARGETS
        .iter()
        .filter(|t| **t != target)
        .map(|t| (*t).to_owned())
        .collect();
    request.max_trials = Some(2);
    request.threads = Some(1);
    let outcome = train(
        &request,
        &[sample::batch(4_000, 0)],
        &mut Stopwatch::start(),
    )
    .expect("the sample can be learned");
    (request, outcome)
}

#[test]
fn a_folder_predicts_as_the_model_that_was_trained() {
    let folder = tempfile::tempdir().expect("a folder");
    let (request, outcome) = trained(Task::Classification, "late");
    artifact::write(folder.path(), &outcome, &sample::identity()).expect("the folder is written");
    let model = LoadedModel::open(folder.path()).expect("the folder is loaded");
    let scores =
        score_holdout(&model, &[sample::batch(4_000, 0)], &request).expect("rows are scored");
    let metrics = scores.outcomes().all();
    assert!((metrics["auc"] - outcome.metrics["auc"]).abs() < 1e-12);
    assert!(metrics["auc"] > 0.8, "{metrics:?}");

    let table = Table::from_batches(&[sample::batch(50, 9_000)]).expect("a table");
    let rows: Vec<u32> = (0..50).collect();
    let columns = table.to_columns(&rows);
    let together = model.predict(&columns).expect("rows are predicted");
    let Some(Column::F64(probabilities)) = together.get("probability") else {
        panic!("two classes have a probability")
    };
    // One row alone is predicted as among others, from any number of threads at once.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for row in &rows {
                    let alone = model
                        .predict(&table.to_columns(&[*row]))
                        .expect("a row is predicted");
                    assert_eq!(
                        alone.get("probability"),
                        Some(&Column::F64(vec![probabilities[*row as usize]]))
                    );
                }
            });
        }
    });
}

#[test]
fn times_may_come_as_text() {
    let (_, outcome) = trained(Task::Regression, "amount");
    let model = outcome.model().expect("a model");
    let table = Table::from_batches(&[sample::batch(30, 500)]).expect("a table");
    let columns = table.to_columns(&(0..30).collect::<Vec<_>>());
    let as_text = Columns::new(
        columns
            .iter()
            .map(|(name, column)| {
                let column = match column {
                    Column::Timestamp(values) => Column::Str(
                        values
                            .iter()
                            .map(|value| {
                                let time = chrono::DateTime::from_timestamp_micros((*value)?)?;
                                Some(time.to_rfc3339())
                            })
                            .collect(),
                    ),
                    other => other.clone(),
                };
                (name.to_owned(), column)
            })
            .collect(),
    )
    .expect("columns");
    assert_eq!(model.predict(&columns), model.predict(&as_text));
}

#[test]
fn damaged_folders_are_refused_with_the_file_and_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, outcome) = trained(Task::Classification, "grade");
    artifact::write(folder.path(), &outcome, &sample::identity()).expect("the folder is written");
    let refusal = || {
        LoadedModel::open(folder.path())
            .expect_err("the folder is damaged")
            .to_string()
    };
    let trees = std::fs::read_to_string(folder.path().join("model.lgb")).expect("the trees");

    std::fs::write(folder.path().join("model.lgb"), &trees[..trees.len() / 2]).expect("a write");
    assert!(
        refusal().contains("cut off") || refusal().contains("is wrong"),
        "{}",
        refusal()
    );
    let (_, other) = trained(Task::Classification, "late");
    std::fs::write(folder.path().join("model.lgb"), &other.trees).expect("a write");
    assert!(refusal().contains("different models"), "{}", refusal());
    std::fs::write(folder.path().join("features.json"), "{}").expect("a write");
    assert!(
        refusal().contains("not valid JSON of its kind"),
        "{}",
        refusal()
    );
    std::fs::remove_file(folder.path().join("features.json")).expect("a removal");
    assert!(refusal().contains("features.json"), "{}", refusal());
}
