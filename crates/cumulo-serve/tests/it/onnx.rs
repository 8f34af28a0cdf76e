//! ONNX models: by RTen always; by ONNX Runtime where a library is given.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{PYTHON, Running, options};

/// Just enough of protocol buffers to write an ONNX file.
mod proto {
    fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    pub fn int(field: u64, value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        varint(&mut out, field << 3);
        varint(&mut out, value);
        out
    }

    pub fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint(&mut out, field << 3 | 2);
        varint(&mut out, value.len() as u64);
        out.extend_from_slice(value);
        out
    }

    pub fn text(field: u64, value: &str) -> Vec<u8> {
        bytes(field, value.as_bytes())
    }

    pub fn message(field: u64, parts: &[Vec<u8>]) -> Vec<u8> {
        bytes(field, &parts.concat())
    }
}

use proto::{bytes, int, message, text};

fn node(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = inputs.iter().map(|input| text(1, input)).collect();
    parts.push(text(2, output));
    parts.push(text(4, operator));
    message(1, &parts)
}

fn constant(name: &str, shape: &[u64], values: &[f32]) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = shape.iter().map(|length| int(1, *length)).collect();
    let raw: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    parts.extend([int(2, 1), text(8, name), bytes(9, &raw)]);
    message(5, &parts)
}

/// A tensor of FP32 with any number of rows.
fn tensor(field: u64, name: &str, width: u64) -> Vec<u8> {
    let rows = message(1, &[text(2, "n")]);
    let columns = message(1, &[int(1, width)]);
    let shape = message(2, &[rows, columns]);
    let kind = message(2, &[message(1, &[int(1, 1), shape])]);
    message(field, &[text(1, name), kind])
}

/// `probability = sigmoid(x · w + b)` for two columns.
pub fn write(path: &Path) {
    let graph = message(
        7,
        &[
            node("MatMul", &["x", "w"], "product"),
            node("Add", &["product", "b"], "sum"),
            node("Sigmoid", &["sum"], "probability"),
            text(2, "logistic"),
            constant("w", &[2, 1], &[1.5, -0.5]),
            constant("b", &[1], &[0.25]),
            tensor(11, "x", 2),
            tensor(12, "probability", 1),
        ],
    );
    let model = [int(1, 8), graph, message(8, &[text(1, ""), int(2, 13)])].concat();
    std::fs::write(path, model).expect("the model is written");
}

async fn check(library: Option<PathBuf>, platform: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.onnx");
    write(&file);
    let mut options = options(&file);
    options.onnxruntime = library;
    options.threads = 1;
    let server = Running::start(options).await;
    let expected = |a: f32, b: f32| 1.0 / (1.0 + (-(1.5 * a - 0.5 * b + 0.25)).exp());

    // A matrix, or columns.
    let matrix =
        json!([{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3, -4]]}]);
    let columns = json!([
        {"name": "first", "shape": [2], "datatype": "INT64", "data": [1, 3]},
        {"name": "second", "shape": [2, 1], "datatype": "FP64", "data": [2, -4]},
    ]);
    for inputs in [matrix, columns] {
        let (status, answer) = server.infer(inputs).await;
        assert_eq!(status, 200, "{answer}");
        let output = &answer["outputs"][0];
        assert_eq!(
            (&output["name"], &output["shape"]),
            (&json!("probability"), &json!([2, 1]))
        );
        for (index, expected) in [expected(1.0, 2.0), expected(3.0, -4.0)]
            .into_iter()
            .enumerate()
        {
            let value = output["data"][index].as_f64().expect("a number") as f32;
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
    }
    let three = json!([{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]);
    let (status, error) = server.infer(three).await;
    assert_eq!(
        (status, &error["error"]),
        (
            400,
            &json!("input `x` must have shape [-1, 2] (-1: any length), but has [1, 3]")
        )
    );
    let (_, metadata) = server.get("/v2/models/m").await;
    assert!(metadata.contains(platform), "{metadata}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_rten() {
    check(None, "onnx_rten").await;
}

/// The library that the `onnxruntime` wheel ships, prepared by uv and kept in
/// its cache, with the wheel's own example model.
fn wheel() -> (PathBuf, PathBuf) {
    let script = "import glob, os, onnxruntime\n\
        folder = os.path.dirname(onnxruntime.__file__)\n\
        print(glob.glob(folder + '/capi/libonnxruntime.so*')[0])\n\
        print(folder + '/datasets/logreg_iris.onnx')\n";
    let output = std::process::Command::new("uv")
        .args([
            "run",
            "--no-project",
            "--quiet",
            "--python",
            PYTHON,
            "--with",
            "onnxruntime>=1.23",
            "python",
            "-c",
            script,
        ])
        .output()
        .expect("uv is in PATH");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().map(PathBuf::from);
    match (lines.next(), lines.next()) {
        (Some(library), Some(model)) => (library, model),
        _ => panic!(
            "no onnxruntime: {}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_onnx_runtime() {
    let (library, iris) = tokio::task::spawn_blocking(wheel).await.expect("the wheel");
    check(Some(library.clone()), "onnx_onnxruntime").await;

    // A classifier as skl2onnx writes it: a label, and a map of probabilities per row.
    let mut runtime = options(&iris);
    runtime.onnxruntime = Some(library);
    let server = Running::start(runtime).await;
    let rows = json!([{"name": "float_input", "shape": [3, 2], "datatype": "FP32", "data": [5.1, 3.5, 6.3, 3.3, 5.9, 3.0]}]);
    let (status, answer) = server.infer(rows).await;
    assert_eq!(status, 200, "{answer}");
    let (label, probabilities) = (&answer["outputs"][0], &answer["outputs"][1]);
    assert_eq!(label["shape"], json!([3]));
    assert_eq!(label["data"][0], json!(0));
    assert_eq!(probabilities["shape"], json!([3, 3]));
    for row in 0..3 {
        let sum: f64 = (0..3)
            .map(|class| {
                probabilities["data"][row * 3 + class]
                    .as_f64()
                    .expect("a number")
            })
            .sum();
        assert!((sum - 1.0).abs() < 1e-5, "{probabilities}");
    }
    server.stop().await;

    // RTen hasn't this model's operators and says what to do.
    let error = cumulo_serve::run(options(&iris), Default::default())
        .await
        .expect_err("no operators");
    assert!(error.to_string().contains("CUMULO_ONNXRUNTIME"), "{error}");
}
