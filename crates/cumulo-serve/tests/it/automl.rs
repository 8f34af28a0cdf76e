//! An AutoML model, served by the code that trained it.

use cumulo_learn::{Column, Columns, LoadedModel};
use serde_json::{Value, json};

use crate::support::{Running, automl, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn predictions_and_mistakes() {
    let folder = tempfile::tempdir().expect("a folder");
    automl(folder.path());
    let server = Running::start(options(folder.path())).await;

    let inputs = json!([
        {"name": "hour", "shape": [2, 1], "datatype": "INT64", "data": [23, null]},
        {"name": "wind", "shape": [2], "datatype": "FP32", "data": [25.5, 1]},
        {"name": "carrier", "shape": [2], "datatype": "BYTES", "data": ["UA", null]},
    ]);
    let (status, answer) = server.infer(inputs.clone()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["model_name"], "m");
    assert_eq!(answer["model_version"], "3");
    let model = LoadedModel::open(folder.path()).expect("the model");
    let columns = Columns::new(vec![
        ("hour".into(), Column::F64(vec![23.0, f64::NAN])),
        ("wind".into(), Column::F64(vec![25.5, 1.0])),
        ("carrier".into(), Column::Str(vec![Some("UA".into()), None])),
    ])
    .expect("columns");
    let expected = model.predict(&columns).expect("predictions");
    let Some(Column::F64(probability)) = expected.get("probability") else {
        panic!("{expected:?}")
    };
    let output = |name: &str| -> Value {
        let outputs = answer["outputs"].as_array().expect("outputs");
        outputs
            .iter()
            .find(|output| output["name"] == name)
            .cloned()
            .expect("the output")
    };
    assert_eq!(
        output("probability")["data"],
        json!(probability),
        "the same bits"
    );
    assert_eq!(output("probability")["shape"], json!([2]));
    assert_eq!(output("prediction")["data"], json!([1, 0]));

    // One output, by name.
    let body = json!({"id": "a", "inputs": inputs, "outputs": [{"name": "probability"}]});
    let (_, one) = server
        .post("/v2/models/m/versions/3/infer", body.to_string())
        .await;
    assert_eq!(one["outputs"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["id"], "a");
    let body = json!({"inputs": inputs, "outputs": [{"name": "propability"}]});
    let (status, error) = server.post("/v2/models/m/infer", body.to_string()).await;
    assert_eq!(
        (status, &error["error"]),
        (
            400,
            &json!("there is no output `propability`; the model gives prediction, probability")
        )
    );

    // MLflow's form gives the same.
    let frame = json!({"dataframe_split": {"columns": ["hour", "wind", "carrier"], "data": [[23, 25.5, "UA"], [null, 1, null]]}});
    let (status, scored) = server.post("/invocations", frame.to_string()).await;
    assert_eq!(status, 200, "{scored}");
    assert_eq!(
        scored["predictions"][0]["probability"],
        json!(probability[0])
    );

    let column = |name: &str, datatype: &str, data: Value| json!({"name": name, "shape": [data.as_array().map_or(0, Vec::len)], "datatype": datatype, "data": data});
    let good = [
        column("hour", "INT64", json!([1])),
        column("wind", "FP64", json!([1])),
        column("carrier", "BYTES", json!(["UA"])),
    ];
    let mut wrong_name = good.clone();
    wrong_name[1]["name"] = json!("wnid");
    let mut wrong_type = good.clone();
    wrong_type[1] = column("wind", "BYTES", json!(["strong"]));
    let mut lengths = good.clone();
    lengths[1] = column("wind", "FP64", json!([1, 2]));
    let none = [
        column("hour", "INT64", json!([])),
        column("wind", "FP64", json!([])),
        column("carrier", "BYTES", json!([])),
    ];
    for (inputs, parts) in [
        (&wrong_name[..], ["`wind`", "`wnid`"]),
        (&wrong_type[..], ["`wind`", "text"]),
        (&lengths[..], ["`wind`", "2"]),
        (&none[..], ["no rows", ""]),
    ] {
        let (status, error) = server.infer(json!(inputs)).await;
        let message = error["error"].as_str().unwrap_or_default();
        assert_eq!(status, 400, "{error}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let (status, error) = server.post("/v2/models/other/infer", "{}").await;
    assert_eq!(
        (status, &error["error"]),
        (
            404,
            &json!("there is no model `other` here; this server serves `m`")
        )
    );
    let (status, _) = server.post("/v2/models/m/versions/4/infer", "{}").await;
    assert_eq!(status, 404);

    let (_, metadata) = server.get("/v2/models/m").await;
    let metadata: Value = serde_json::from_str(&metadata).expect("json");
    assert_eq!(metadata["platform"], "cumulo_lightgbm");
    assert_eq!(metadata["inputs"].as_array().map(Vec::len), Some(3));
    let (_, metrics) = server.get("/metrics").await;
    assert!(
        metrics.contains("cumulo_serve_requests_total{model=\"m\",code=\"2xx\"} 3"),
        "{metrics}"
    );
    server.stop().await;
}
