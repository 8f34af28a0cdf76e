//! From a table to a served model that answers, on a small table: AutoML,
//! registry, serving, promotion under load, waking from zero, crashes.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Platform, Text, wait_for};

/// A table whose target follows from its columns, with some noise; made, not measured.
fn table(rows: u64, seed: u64) -> String {
    let mut state = seed;
    let mut random = || {
        // A plain linear congruential generator: the same rows on every machine.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1_u32 << 31)
    };
    let mut text = String::from("x,y,city,late\n");
    for _ in 0..rows {
        let (x, y, noise) = (random() * 10.0, random(), random());
        let city = ["Rome", "Oslo", "Lima"][(random() * 3.0) as usize % 3];
        let late = u8::from(x + if city == "Oslo" { 3.0 } else { 0.0 } + 2.0 * noise > 7.0);
        text.push_str(&format!("{x:.4},{y:.4},{city},{late}\n"));
    }
    text
}

/// A project on such a table.
pub fn project(folder: &Path, replicas: &str) {
    fs::write(folder.join("t.csv"), table(3_000, 1)).unwrap();
    fs::write(
        folder.join("project.yaml"),
        format!(
            "apiVersion: cumulo.dev/v1alpha1
kind: Dataset
metadata: {{name: trips}}
spec:
  sources: {{t: {{uri: t.csv}}}}
  query: SELECT * FROM t
---
apiVersion: cumulo.dev/v1alpha1
kind: Model
metadata: {{name: late}}
spec:
  dataset: trips
  target: late
  task: classification
  train: {{automl: {{budget: 2s}}}}
  evaluate: {{metrics: {{auc: '>= 0.8'}}}}
---
apiVersion: cumulo.dev/v1alpha1
kind: InferenceService
metadata: {{name: trips}}
spec:
  model: models:/late@champion
  replicas: {replicas}
  scaleToZeroAfter: 1s
"
        ),
    )
    .unwrap();
}

fn infer(platform: &Platform) -> (u16, Value) {
    platform.post(
        "/v2/models/trips/infer",
        &json!({"inputs": [
            {"name": "x", "datatype": "FP64", "shape": [2], "data": [9.5, 0.5]},
            {"name": "y", "datatype": "FP64", "shape": [2], "data": [0.5, 0.5]},
            {"name": "city", "datatype": "BYTES", "shape": [2], "data": ["Oslo", "Rome"]},
        ]}),
    )
}

fn output<'a>(answer: &'a Value, name: &str) -> &'a Value {
    answer["outputs"]
        .as_array()
        .and_then(|outputs| outputs.iter().find(|output| output["name"] == name))
        .unwrap_or_else(|| panic!("no output {name} in {answer}"))
}

#[test]
fn a_table_becomes_a_served_model_and_python_predicts_the_same() {
    let platform = Platform::start();
    let folder = tempfile::tempdir().unwrap();
    project(folder.path(), "{min: 1}");
    let path = folder.path().to_str().unwrap();
    platform.cumulo(&["run", path]).success();
    let again = platform.cumulo(&["run", path]).success();
    assert!(again.contains("everything is up to date"), "{again}");
    let jobs = platform
        .kubectl(&["get", "trainjobs", "-o", "name"])
        .success();
    assert_eq!(jobs.lines().count(), 1, "{jobs}");

    let (status, answer) = infer(&platform);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        output(&answer, "prediction")["data"],
        json!([1, 0]),
        "{answer}"
    );

    // Wrong requests are told what is wrong.
    let ask = |inputs: Value| {
        let (status, body) = platform.post("/v2/models/trips/infer", &json!({"inputs": inputs}));
        (
            status,
            body["error"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let (status, message) =
        ask(json!([{"name": "xx", "datatype": "FP64", "shape": [1], "data": [1.0]}]));
    assert!(status == 400 && message.contains('x'), "{status} {message}");
    let (status, message) = ask(
        json!([{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["a lot"]},
        {"name": "y", "datatype": "FP64", "shape": [1], "data": [1.0]},
        {"name": "city", "datatype": "BYTES", "shape": [1], "data": ["Rome"]}]),
    );
    assert!(status == 400 && message.contains('x'), "{status} {message}");
    let (status, message) = ask(json!([]));
    assert!(status == 400 && !message.is_empty(), "{status} {message}");
    let (status, message) = ask(json!([
        {"name": "x", "datatype": "FP64", "shape": [0], "data": []},
        {"name": "y", "datatype": "FP64", "shape": [0], "data": []},
        {"name": "city", "datatype": "BYTES", "shape": [0], "data": []},
    ]));
    assert!(
        status == 400 && message.contains("row"),
        "{status} {message}"
    );
    // 100 MB is more than a request may hold.
    let (status, message) = ask(json!([
        {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["x".repeat(100_000_000)]},
    ]));
    assert!(
        status == 413 && message.contains("larger than the limit"),
        "{status} {message}"
    );
    let (status, _) = infer(&platform);
    assert_eq!(status, 200, "the service goes on");

    // The registry's model, loaded by stock MLflow, predicts the same numbers.
    let rows = folder.path().join("rows.csv");
    fs::write(&rows, table(200, 7)).unwrap();
    let predicted = platform
        .cumulo(&[
            "predict",
            "trips",
            "--data",
            rows.to_str().unwrap(),
            "-o",
            "csv",
        ])
        .success();
    let served = folder.path().join("served.csv");
    fs::write(&served, predicted).unwrap();
    let script = folder.path().join("check.py");
    fs::write(
        &script,
        "import sys, mlflow, pandas
model = mlflow.pyfunc.load_model('models:/late@champion')
served = pandas.read_csv(sys.argv[1])
answer = model.predict(served[['x', 'y', 'city']])
difference = (answer['probability'].astype(float) - served['probability']).abs().max()
print('difference', difference)
assert difference < 1e-9, difference
assert (answer['prediction'].astype(int) == served['prediction']).all()
",
    )
    .unwrap();
    platform
        .python(
            &["mlflow-skinny>=3,<4", "lightgbm", "pandas"],
            &script,
            &[served.to_str().unwrap()],
        )
        .success();
}

/// Tells the clients to stop, whatever ends the scope.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn promotions_under_load_fail_no_request_and_a_sleeping_service_wakes() {
    const PROMOTIONS: usize = 6;
    const CONNECTIONS: usize = 8;
    let platform = Platform::start();
    let folder = tempfile::tempdir().unwrap();
    project(folder.path(), "{min: 1}");
    let path = folder.path().to_str().unwrap().to_owned();
    platform.cumulo(&["run", &path]).success();
    // A second version, from other data.
    fs::write(folder.path().join("t.csv"), table(3_000, 2)).unwrap();
    platform.cumulo(&["run", &path]).success();

    let stop = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // A failed assertion must end the others too.
        let _stop = StopOnDrop(&stop);
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let (status, body) = infer(&platform);
                    if status == 200 {
                        answered.fetch_add(1, Ordering::Relaxed);
                    } else {
                        eprintln!("{status} {body}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for number in 0..PROMOTIONS {
            let version = (number % 2 + 1).to_string();
            let (status, body) = platform.post(
                "/api/2.0/mlflow/registered-models/alias",
                &json!({"name": "late", "alias": "champion", "version": version}),
            );
            assert_eq!(status, 200, "{body}");
            wait_for(
                "the service to follow its alias",
                Duration::from_secs(30),
                || infer(&platform).1["model_version"] == json!(version),
            );
        }
    });
    assert_eq!(
        failed.load(Ordering::Relaxed),
        0,
        "of {}",
        answered.load(Ordering::Relaxed)
    );
    assert!(answered.load(Ordering::Relaxed) > PROMOTIONS * CONNECTIONS);

    // Down to zero, and up again with the request held.
    project(folder.path(), "{min: 0, max: 1}");
    fs::write(folder.path().join("t.csv"), table(3_000, 2)).unwrap();
    platform.cumulo(&["apply", "-f", &path]).success();
    for _ in 0..3 {
        wait_for("the service to sleep", Duration::from_secs(30), || {
            platform
                .kubectl(&[
                    "get",
                    "pods",
                    "-l",
                    "cumulo.dev/inference-service=trips",
                    "-o",
                    "name",
                ])
                .out()
                .is_empty()
        });
        let started = Instant::now();
        let (status, body) = infer(&platform);
        assert_eq!(status, 200, "{body}");
        eprintln!("woke up in {:?}", started.elapsed());
    }
}

#[test]
fn a_killed_platform_goes_on_where_it_was() {
    // Moments after the start of the run, in milliseconds: fixed, so that a failure can be seen again.
    for moment in [150, 700, 1_900] {
        let platform = Platform::start();
        let folder = tempfile::tempdir().unwrap();
        project(folder.path(), "{min: 1}");
        let path = folder.path().to_str().unwrap();
        let mut run = platform
            .command(&["run", path])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(moment));
        platform.kill();
        let _ = run.kill();
        let _ = run.wait();
        platform.up().success();
        platform
            .cumulo(&["run", path, "--timeout", "90s"])
            .success();
        let version = platform
            .kubectl(&[
                "get",
                "dataset",
                "trips",
                "-o",
                "jsonpath={.status.version}",
            ])
            .success();
        let versions = platform.cumulo(&["models", "late", "-o", "name"]).success();
        assert_eq!(versions, "1", "killed after {moment} ms");
        let runs = platform.cumulo(&["runs", "-o", "name"]).success();
        assert_eq!(runs.lines().count(), 1, "killed after {moment} ms: {runs}");
        let attempts = platform
            .kubectl(&[
                "get",
                "trainjobs",
                "-o",
                "jsonpath={.items[*].status.attempts}",
            ])
            .success();
        assert_eq!(
            attempts, "1",
            "killed after {moment} ms: training is adopted, not restarted"
        );
        assert_eq!(infer(&platform).0, 200);
        eprintln!("killed after {moment} ms: dataset version {version}");
    }
}
