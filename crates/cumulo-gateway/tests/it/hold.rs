//! Requests that find no replica.

use std::time::{Duration, Instant};

use cumulo_gateway::{Event, Options};

use crate::fake::{Front, Pod, infer, key};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_zero_the_first_request_waits_and_is_told_at_once() {
    let front = Front::start(Options::default()).await;
    front.service(None, None);
    let mut changes = front.handle.changes();
    let (client, url) = (front.client.clone(), front.url("/v2/models/flights/infer"));
    let waiting = tokio::spawn(async move { infer(&client, &url, "row").await });
    let told = tokio::time::timeout(Duration::from_secs(5), changes.recv()).await;
    assert_eq!(told.expect("told").expect("the service"), key());
    assert_eq!(
        front.handle.demand(&key()).map(|demand| demand.queued),
        Some(1)
    );
    let (status, text) = front.get("/v2/models/flights/ready").await;
    assert_eq!(status, 503, "{text}");
    let pod = Pod::start("p", "a").await;
    pod.ready(&front);
    let (status, text) = waiting.await.expect("the request");
    assert_eq!((status, &text[..]), (200, "p 3 row"));
    let (status, _) = front.get("/v2/models/flights/ready").await;
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bounds_of_waiting() {
    let options = Options {
        queue_limit: 2,
        hold_seconds: 1,
        ..Options::default()
    };
    let front = Front::start(options).await;
    front.service(
        None,
        Some("the model has no version yet (TrainJob late-flights-1 is running)"),
    );
    let request = || {
        let (client, url) = (front.client.clone(), front.url("/v2/models/flights/infer"));
        tokio::spawn(async move {
            let response = client
                .post(url)
                .body("row")
                .send()
                .await
                .expect("an answer");
            let retry = response.headers().get("retry-after").is_some();
            (
                response.status().as_u16(),
                response.text().await.expect("a text"),
                retry,
            )
        })
    };
    let waiting = [request(), request()];
    front.until(|demand| demand.queued == 2).await;
    let (status, text, retry) = request().await.expect("refused");
    assert!(status == 503 && retry);
    insta_like(
        &text,
        "InferenceService \"flights\" has no ready replica and 2 requests wait for one already; it waits for: the model has no version yet (TrainJob late-flights-1 is running)",
    );
    for waiting in waiting {
        let (status, text, retry) = waiting.await.expect("refused");
        assert!(status == 503 && retry);
        insta_like(
            &text,
            "InferenceService \"flights\" had no free replica for 1 s; it waits for: the model has no version yet (TrainJob late-flights-1 is running)",
        );
    }
    front.until(|demand| demand.queued == 0).await;
}

fn insta_like(text: &str, message: &str) {
    let text: serde_json::Value = serde_json::from_str(text).expect("json");
    assert_eq!(text["error"], message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_service_refuses_and_a_client_that_leaves_gives_its_place() {
    let options = Options {
        concurrency_per_replica: 1,
        queue_limit: 1,
        ..Options::default()
    };
    let front = Front::start(options).await;
    front.service(None, None);
    let pod = Pod::with("p", "a", 0, false).await;
    pod.ready(&front);
    let request = || {
        let (client, url) = (front.client.clone(), front.url("/v2/models/flights/infer"));
        tokio::spawn(async move { infer(&client, &url, "row").await })
    };
    let working = request();
    front.until(|demand| demand.in_flight == 1).await;
    let queued = request();
    front.until(|demand| demand.queued == 1).await;
    let (status, text) = request().await.expect("refused");
    assert_eq!(status, 429, "{text}");
    assert!(text.contains("its 1 replicas have no free place"), "{text}");
    // The one who waits leaves, then the one who is served.
    queued.abort();
    front.until(|demand| demand.queued == 0).await;
    working.abort();
    front.until(|demand| demand.in_flight == 0).await;
    pod.gate.add_permits(10);
    let (status, _) = request().await.expect("served");
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_deleted_or_unknown() {
    let front = Front::start(Options::default()).await;
    front.service(None, None);
    let (client, url) = (front.client.clone(), front.url("/v2/models/flights/infer"));
    let waiting = tokio::spawn(async move { infer(&client, &url, "row").await });
    front.until(|demand| demand.queued == 1).await;
    front.handle.apply(Event::ServiceDeleted(key()));
    let (status, _) = waiting.await.expect("refused");
    assert_eq!(status, 404);
    front.service(None, None);
    let start = Instant::now();
    let (status, text) = front.get("/v2/models/fligths").await;
    assert_eq!(status, 404);
    insta_like(
        &text,
        "there is no InferenceService \"fligths\" in namespace \"default\"; did you mean \"flights\"?",
    );
    let (status, _) = front.get("/namespaces/team/v2/models/flights").await;
    assert_eq!(status, 404);
    assert!(start.elapsed() < Duration::from_secs(5));
    let (status, index) = front.get("/v2/models").await;
    assert_eq!(status, 200);
    assert_eq!(
        index,
        r#"{"models":[{"name":"flights","version":"","state":"UNAVAILABLE","reason":"a replica to become ready"}]}"#
    );
}
