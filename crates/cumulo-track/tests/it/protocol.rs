//! The shape of answers, limits, errors.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// An answer with what differs from run to run taken out.
fn plain(mut value: Value) -> String {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    let varies = key.ends_with("_time") || key.contains("timestamp_ms");
                    if varies && value.is_number() {
                        *value = json!(0);
                    } else if matches!(key.as_str(), "run_id" | "run_uuid") {
                        *value = json!("<run>");
                    } else if key == "artifact_uri" {
                        let text = value.as_str().unwrap_or_default();
                        *value = json!(
                            text.split('/')
                                .map(|p| if p.len() == 32 { "<run>" } else { p })
                                .collect::<Vec<_>>()
                                .join("/")
                        );
                    } else {
                        walk(value);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut value);
    serde_json::to_string_pretty(&value).unwrap()
}

#[tokio::test]
async fn a_run_looks_as_mlflow_shows_it() {
    let server = super::start().await;
    let body = json!({
        "experiment_id": "0", "user_id": "me", "run_name": "n", "start_time": "1700000000000",
        "tags": [{"key": "k", "value": "v"}], "unknown": 1,
    });
    let (status, answer) = server.post("runs/create", &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let run_id = answer["run"]["info"]["run_id"].as_str().unwrap().to_owned();
    let batch = json!({
        "run_id": run_id,
        "metrics": [
            {"key": "m", "value": 0.1, "timestamp": 5, "step": "3"},
            {"key": "nan", "value": "NaN", "timestamp": 5},
            {"key": "inf", "value": "-Infinity", "timestamp": 5},
        ],
        "params": [{"key": "p", "value": "1"}],
    });
    let (status, answer) = server.post("runs/log-batch", &batch).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({})));
    let (_, answer) = server
        .get(&format!("/ajax-api/2.0/mlflow/runs/get?run_id={run_id}"))
        .await;
    insta::assert_snapshot!(plain(serde_json::from_str(&answer).unwrap()), @r#"
    {
      "run": {
        "info": {
          "run_id": "<run>",
          "run_uuid": "<run>",
          "run_name": "n",
          "experiment_id": "0",
          "user_id": "me",
          "status": "RUNNING",
          "start_time": 0,
          "artifact_uri": "mlflow-artifacts:/experiments/0/<run>/artifacts",
          "lifecycle_stage": "active"
        },
        "data": {
          "metrics": [
            {
              "key": "inf",
              "value": "-Infinity",
              "timestamp": 5,
              "step": 0
            },
            {
              "key": "m",
              "value": 0.1,
              "timestamp": 5,
              "step": 3
            },
            {
              "key": "nan",
              "value": "NaN",
              "timestamp": 5,
              "step": 0
            }
          ],
          "params": [
            {
              "key": "p",
              "value": "1"
            }
          ],
          "tags": [
            {
              "key": "k",
              "value": "v"
            },
            {
              "key": "mlflow.runName",
              "value": "n"
            }
          ]
        },
        "inputs": {},
        "outputs": {}
      }
    }
    "#);
}

#[tokio::test]
async fn limits_are_refused_with_a_sentence() {
    let server = super::start().await;
    let run_id = server.run().await;
    let metric = |n: usize| json!({"key": format!("m{n}"), "value": 1, "timestamp": 1});
    let pair = |n: usize| json!({"key": format!("k{n}"), "value": "v"});
    let metrics: Vec<_> = (0..1001).map(metric).collect();
    let pairs: Vec<_> = (0..101).map(pair).collect();
    let long = "x".repeat(9000);
    let mut shown = String::new();
    for (path, body) in [
        ("runs/log-batch", json!({"metrics": metrics})),
        ("runs/log-batch", json!({"params": pairs})),
        ("runs/log-batch", json!({"tags": pairs})),
        ("runs/log-batch", json!({"params": [pair(1), pair(1)]})),
        (
            "runs/log-batch",
            json!({"metrics": [{"key": "../x", "value": 1, "timestamp": 1}]}),
        ),
        (
            "runs/log-batch",
            json!({"metrics": [{"key": "m", "value": true, "timestamp": 1}]}),
        ),
        (
            "runs/log-metric",
            json!({"key": "m", "value": 1, "timestamp": -1}),
        ),
        ("runs/log-metric", json!({"key": "m", "timestamp": 1})),
        (
            "runs/log-metric",
            json!({"key": "a\u{7}", "value": 1, "timestamp": 1}),
        ),
        ("runs/log-parameter", json!({"key": "p", "value": long})),
        ("runs/log-parameter", json!({"value": "1"})),
        ("runs/set-tag", json!({"key": "t", "value": long})),
        (
            "runs/set-tag",
            json!({"key": "k".repeat(251), "value": "v"}),
        ),
        (
            "runs/search",
            json!({"experiment_ids": ["0"], "max_results": 50001}),
        ),
        ("runs/search", json!({"experiment_ids": ["x"]})),
        ("experiments/create", json!({"name": ""})),
        (
            "experiments/create",
            json!({"name": "e", "artifact_location": "file:///etc"}),
        ),
        ("experiments/create", json!({"name": 7})),
        ("registered-models/create", json!({"name": "a/b"})),
    ] {
        let mut body = body;
        if path.starts_with("runs/log") || path == "runs/set-tag" {
            body["run_id"] = json!(run_id);
        }
        let (status, answer) = server.post(path, &body).await;
        let text = answer["message"].as_str().unwrap();
        let text: String = text.chars().take(230).collect();
        shown.push_str(&format!(
            "{} {} {text}\n",
            status.as_u16(),
            answer["error_code"].as_str().unwrap()
        ));
    }
    insta::assert_snapshot!(shown, @r#"
    400 INVALID_PARAMETER_VALUE A batch logging request can contain at most 1000 metrics. Got 1001 metrics. Please split up metrics across multiple requests and try again.
    400 INVALID_PARAMETER_VALUE A batch logging request can contain at most 100 params. Got 101 params. Please split up params across multiple requests and try again.
    400 INVALID_PARAMETER_VALUE A batch logging request can contain at most 100 tags. Got 101 tags. Please split up tags across multiple requests and try again.
    400 INVALID_PARAMETER_VALUE Duplicate parameter keys have been submitted: ['k1']. Please ensure the request contains only one param value per param key.
    400 INVALID_PARAMETER_VALUE Invalid value "../x" for parameter 'metrics[0].name' supplied: Names may be treated as files in certain cases, and must not resolve to other names when treated as such.
    400 INVALID_PARAMETER_VALUE The parameters of the request are not valid: invalid type: boolean `true`, expected a valid double (64-bit floating point) at line 1 column 35.
    400 INVALID_PARAMETER_VALUE Invalid value -1 for parameter 'timestamp' supplied: metric 'm' (value=1). Timestamp must be a nonnegative long (64-bit integer).
    400 INVALID_PARAMETER_VALUE Missing value for required parameter 'value'. See the API docs for more information about request parameters.
    400 INVALID_PARAMETER_VALUE Invalid value "a\u0007" for parameter 'name' supplied: Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/).
    400 INVALID_PARAMETER_VALUE 'Param value' exceeds the maximum length of 6000 characters
    400 INVALID_PARAMETER_VALUE Missing value for required parameter 'key'. See the API docs for more information about request parameters.
    400 INVALID_PARAMETER_VALUE 'value' exceeds the maximum length of 8000 characters
    400 INVALID_PARAMETER_VALUE 'key' exceeds the maximum length of 250 characters
    400 INVALID_PARAMETER_VALUE Invalid value 50001 for parameter 'max_results' supplied: It must be a positive integer of at most 50000.
    400 INVALID_PARAMETER_VALUE Invalid experiment ID 'x'. Experiment ID must be a valid integer.
    400 INVALID_PARAMETER_VALUE Missing value for required parameter 'name'. See the API docs for more information about request parameters.
    400 INVALID_PARAMETER_VALUE Invalid artifact location 'file:///etc': Invalid artifact URI 'file:///etc': expected mlflow-artifacts:/<path> or cumulo:<path>. Artifacts of experiments live in the artifact store; leave artifact_location out, or use mlflow-artif
    400 INVALID_PARAMETER_VALUE The parameters of the request are not valid: invalid type: integer `7`, expected a string at line 1 column 9.
    400 INVALID_PARAMETER_VALUE Invalid model name 'a/b'. Names cannot contain '/' or ':'.
    "#);
    // Nothing of a refused batch was kept.
    let run = server.handle.get_run(&run_id).await.unwrap();
    assert!(run.data.metrics.is_empty() && run.data.params.is_empty());
}

#[tokio::test]
async fn a_batch_is_all_or_nothing() {
    let server = super::start().await;
    let run_id = server.run().await;
    let param = |value: &str| json!([{"key": "p", "value": value}]);
    server
        .post(
            "runs/log-batch",
            &json!({"run_id": run_id, "params": param("1")}),
        )
        .await;
    let body = json!({
        "run_id": run_id,
        "params": param("2"),
        "metrics": [{"key": "m", "value": 1, "timestamp": 1}],
        "tags": [{"key": "t", "value": "1"}],
    });
    let (status, answer) = server.post("runs/log-batch", &body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let run = server.handle.get_run(&run_id).await.unwrap();
    assert!(run.data.metrics.is_empty() && run.tag("t").is_none());
}

#[tokio::test]
async fn errors_have_mlflows_codes() {
    let server = super::start().await;
    let (status, answer) = server.get("/api/2.0/mlflow/runs/get?run_id=00").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(answer.contains("RESOURCE_DOES_NOT_EXIST"), "{answer}");
    let (status, answer) = server.get("/api/2.0/mlflow/nothing/here").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(answer.contains("ENDPOINT_NOT_FOUND"), "{answer}");
    let (status, answer) = server.call(Method::DELETE, "runs/create", &json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    let url = "/api/2.0/mlflow-artifacts/artifacts/not/there";
    let (status, answer) = server.get(url).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    assert_eq!(
        server.get("/health").await,
        (StatusCode::OK, "OK".to_owned())
    );
    assert_eq!(server.get("/version").await.0, StatusCode::OK);
    assert!(
        server
            .get("/server-info")
            .await
            .1
            .contains("multipart_uploads_enabled")
    );
}

#[tokio::test]
async fn histories_are_paged_and_thinned() {
    let server = super::start().await;
    let run_id = server.run().await;
    for start in [0, 900] {
        let points: Vec<_> = (start..start + 900)
            .map(|n| json!({"key": "m", "value": n, "timestamp": n, "step": n}))
            .collect();
        let (status, _) = server
            .post(
                "runs/log-batch",
                &json!({"run_id": run_id, "metrics": points}),
            )
            .await;
        assert_eq!(status, StatusCode::OK);
    }
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let path = format!(
            "/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=m&max_results=700&page_token={token}"
        );
        let page: Value = serde_json::from_str(&server.get(&path).await.1).unwrap();
        seen.extend(
            page["metrics"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| m["step"].as_i64().unwrap()),
        );
        match page["next_page_token"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, (0..1800).collect::<Vec<i64>>());
    let path = format!(
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?run_ids={run_id}&metric_key=m&max_results=50"
    );
    let page: Value = serde_json::from_str(&server.get(&path).await.1).unwrap();
    let steps: Vec<i64> = page["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["step"].as_i64().unwrap())
        .collect();
    assert!(steps.len() <= 50 && steps.len() >= 45, "{}", steps.len());
    assert_eq!((steps[0], steps[steps.len() - 1]), (0, 1799));
}

#[tokio::test]
async fn what_is_acknowledged_survives_a_restart() {
    let server = super::start().await;
    let run_id = server.run().await;
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..200_i32 {
        let (handle, run_id) = (server.handle.clone(), run_id.clone());
        writes.spawn(async move {
            let metric = cumulo_track::Metric::new(format!("m{n}"), f64::from(n), 1, 0);
            handle.log_metric(run_id, metric).await.unwrap();
        });
    }
    while let Some(result) = writes.join_next().await {
        result.unwrap();
    }
    // Opened a second time, as after a kill: nothing was closed in between.
    let again = cumulo_track::Handle::open(&server.options).await.unwrap();
    let run = again.get_run(&run_id).await.unwrap();
    assert_eq!(run.data.metrics.len(), 200);
}
