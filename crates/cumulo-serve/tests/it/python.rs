//! Any MLflow pyfunc, in a worker that may die.
//!
//! Needs `uv` in PATH, which prepares Python with MLflow once and keeps it in
//! its cache.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{PYTHON, Running, options};

const PACKAGES: [&str; 8] = [
    "--with",
    "mlflow-skinny>=3",
    "--with",
    "scikit-learn",
    "--with",
    "pandas",
    "--with",
    "numpy<3",
];

fn command() -> Vec<String> {
    let fixed = ["uv", "run", "--no-project", "--quiet", "--python", PYTHON];
    fixed
        .iter()
        .chain(&PACKAGES)
        .chain(&["python"])
        .map(|part| (*part).to_owned())
        .collect()
}

fn save(folder: &Path, script: &str) {
    let command = command();
    let output = Command::new(&command[0])
        .args(&command[1..])
        .args(["-c", script])
        .current_dir(folder)
        .output()
        .expect("uv is in PATH");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

const SKLEARN: &str = r#"
import numpy, pandas, mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression
x = pandas.DataFrame({"distance": numpy.arange(100.0), "hour": numpy.arange(100) % 24})
y = (x["distance"] + x["hour"] > 60).astype(int)
model = LogisticRegression(max_iter=1000).fit(x, y)
mlflow.sklearn.save_model(model, "model", serialization_format="cloudpickle", signature=infer_signature(x, model.predict(x)))
"#;

/// Does as its input says.
const OBEDIENT: &str = r#"
import mlflow.pyfunc
open("code.py", "w").write('''
import os, time, mlflow, mlflow.pyfunc
class Obedient(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        print("a model that prints")
        word = str(model_input["word"].iloc[0])
        if word == "die": os._exit(7)
        if word == "raise": raise ValueError("I was told to")
        if word == "sleep": time.sleep(60)
        return {"echo": model_input["word"].tolist(), "pid": [os.getpid()] * len(model_input)}
mlflow.models.set_model(Obedient())
''')
mlflow.pyfunc.save_model("model", python_model="code.py")
"#;

fn word(word: &str) -> serde_json::Value {
    json!([{"name": "word", "shape": [1], "datatype": "BYTES", "data": [word]}])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_classifier_of_scikit_learn() {
    let folder = tempfile::tempdir().expect("a folder");
    save(folder.path(), SKLEARN);
    let mut options = options(&folder.path().join("model"));
    options.python_command = command();
    let server = Running::start(options).await;
    let column = |name: &str, data: serde_json::Value| json!({"name": name, "shape": [2], "datatype": "FP64", "data": data});
    let (status, answer) = server
        .infer(json!([
            column("hour", json!([1, 2])),
            column("distance", json!([5, 95]))
        ]))
        .await;
    assert_eq!(status, 200, "{answer}");
    let outputs = &answer["outputs"];
    assert_eq!(
        (&outputs[0]["name"], &outputs[0]["data"]),
        (&json!("prediction"), &json!([0, 1]))
    );
    assert_eq!(outputs[1]["name"], "probability");
    assert!(
        outputs[1]["data"][0].as_f64() < Some(0.5) && outputs[1]["data"][1].as_f64() > Some(0.5)
    );
    let (status, error) = server
        .infer(json!([
            column("hours", json!([1, 2])),
            column("distance", json!([5, 95]))
        ]))
        .await;
    assert_eq!(
        (status, &error["error"]),
        (
            400,
            &json!("column `hour` is missing; is `hours` meant to be `hour`?")
        )
    );
    let text = json!({"name": "hour", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]});
    let (status, error) = server
        .infer(json!([text, column("distance", json!([5, 95]))]))
        .await;
    assert_eq!(status, 400, "{error}");
    assert!(
        error["error"]
            .as_str()
            .is_some_and(|error| error.contains("column `hour` must hold long values")),
        "{error}"
    );
    let (_, metadata) = server.get("/v2/models/m").await;
    assert!(
        metadata.contains("mlflow_pyfunc") && metadata.contains("distance"),
        "{metadata}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_is_restarted() {
    let folder = tempfile::tempdir().expect("a folder");
    save(folder.path(), OBEDIENT);
    let mut options = options(&folder.path().join("model"));
    options.python_command = command();
    options.predict_seconds = 2;
    let server = Running::start(options).await;
    let (status, answer) = server.infer(word("hello")).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["outputs"][0]["data"], json!(["hello"]));
    let first = answer["outputs"][1]["data"][0].clone();

    // An exception is the model's; the worker lives on.
    let (status, error) = server.infer(word("raise")).await;
    assert_eq!(
        (status, &error["error"]),
        (500, &json!("the model raised ValueError: I was told to"))
    );

    let (status, error) = server.infer(word("die")).await;
    assert_eq!(
        (status, &error["error"]),
        (
            500,
            &json!("the Python worker died during this prediction: exit status: 7")
        )
    );
    server.until_ready(true).await;
    let (status, answer) = server.infer(word("again")).await;
    assert_eq!(status, 200, "{answer}");
    assert_ne!(answer["outputs"][1]["data"][0], first, "another process");

    let (status, error) = server.infer(word("sleep")).await;
    assert_eq!(
        (status, &error["error"]),
        (
            504,
            &json!("the model did not answer within 2 s; its worker is restarted")
        )
    );
    server.until_ready(true).await;
    let (_, answer) = server.infer(word("last")).await;
    let process = answer["outputs"][1]["data"][0].as_u64().expect("a process");
    server.stop().await;

    // Nothing is left running.
    let proc = format!("/proc/{process}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(&proc).exists() {
        assert!(Instant::now() < deadline, "process {process} lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_environment_without_mlflow_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("MLmodel"),
        "flavors: {python_function: {}}",
    )
    .expect("written");
    let mut options = options(folder.path());
    options.python_command = [
        "uv",
        "run",
        "--no-project",
        "--quiet",
        "--python",
        PYTHON,
        "python",
        "-S",
    ]
    .map(String::from)
    .to_vec();
    let error = cumulo_serve::run(options.clone(), Default::default())
        .await
        .expect_err("no mlflow");
    assert_eq!(
        error.to_string(),
        "the model's environment has no module `mlflow`; add it to the model's requirements.txt"
    );
    options.python_command = vec!["false".into()];
    let error = cumulo_serve::run(options.clone(), Default::default())
        .await
        .expect_err("it ends");
    assert!(
        error
            .to_string()
            .contains("ended before it had loaded the model (exit status: 1)"),
        "{error}"
    );
    options.python_command = vec!["no-such-python".into()];
    let error = cumulo_serve::run(options, Default::default())
        .await
        .expect_err("no command");
    assert!(
        error
            .to_string()
            .contains("cannot be started by `no-such-python`"),
        "{error}"
    );
}
