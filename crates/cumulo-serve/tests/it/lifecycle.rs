//! Limits, shutdown, and models that can't be loaded.

use std::time::Duration;

use serde_json::json;

use crate::onnx::write;
use crate::support::{Running, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.onnx");
    write(&file);
    let mut options = options(&file);
    options.body_limit = 1 << 20;
    let server = Running::start(options).await;
    let message = json!({"error": "the request body is larger than the limit of 1048576 bytes; send fewer rows per request"});
    // Of a known length, and in chunks.
    let known = server
        .post("/v2/models/m/infer", vec![b' '; 100 << 20])
        .await;
    assert_eq!(known, (413, message.clone()));
    let chunks =
        futures::stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 << 10])));
    let chunked = server
        .post("/v2/models/m/infer", reqwest::Body::wrap_stream(chunks))
        .await;
    assert_eq!(chunked, (413, message));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_is_not_ready_and_still_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.onnx");
    write(&file);
    let mut options = options(&file);
    options.drain_milliseconds = 1_500;
    let server = Running::start(options).await;
    server.shutdown.cancel();
    server.until_ready(false).await;
    let inputs = json!([{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]);
    // A client that connects only now.
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client");
    let body = json!({ "inputs": inputs }).to_string();
    let answer = client
        .post(server.url("/v2/models/m/infer"))
        .body(body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 200);
    tokio::time::timeout(Duration::from_secs(20), server.task)
        .await
        .expect("it ends")
        .expect("no panic")
        .expect("no error");
}

#[tokio::test]
async fn what_cannot_be_loaded_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("broken.onnx");
    std::fs::write(&file, "no model").expect("written");
    for (path, part) in [
        (folder.path().join("nothing"), "there is no model at"),
        (file, "RTen cannot load"),
        (
            std::env::temp_dir(),
            "holds neither an `MLmodel` file nor one `.onnx` file",
        ),
    ] {
        let error = cumulo_serve::run(options(&path), Default::default())
            .await
            .expect_err("no model");
        assert!(error.to_string().contains(part), "{error}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut options = options(folder.path());
    options.address = taken.local_addr().expect("an address");
    let error = cumulo_serve::run(options, Default::default())
        .await
        .expect_err("taken");
    assert!(
        error.to_string().contains("choose another --address"),
        "{error}"
    );
}
