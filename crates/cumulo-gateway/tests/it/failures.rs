//! Bodies, and replicas that refuse.

use std::sync::atomic::Ordering;

use cumulo_gateway::Options;

use crate::fake::{Front, Pod};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_all_sizes_pass() {
    let front = Front::start(Options::default()).await;
    front.service(None, None);
    let pod = Pod::start("p", "a").await;
    pod.ready(&front);
    // Nothing, short, longer than what is read before, and the same in chunks.
    for length in [0, 3, 100_000, 5 << 20] {
        let (status, text) = front.infer(vec![b'a'; length]).await;
        assert_eq!(status, 200);
        assert!(text.starts_with(&format!("p {length} ")), "{text}");
        let chunks = (0..length.div_ceil(50_000)).map(move |index| {
            Ok::<_, std::io::Error>(vec![b'a'; 50_000.min(length - index * 50_000)])
        });
        let (status, text) = front
            .infer(reqwest::Body::wrap_stream(futures::stream::iter(chunks)))
            .await;
        assert_eq!(status, 200);
        assert!(text.starts_with(&format!("p {length} ")), "{text}");
    }
    // An answer that is streamed; its place is free afterwards.
    let (status, text) = front.infer("long").await;
    assert_eq!((status, text.len()), (200, 3 << 20));
    front.until(|demand| demand.in_flight == 0).await;
    let authorized = front
        .client
        .post(front.url("/v2/models/flights/infer"))
        .bearer_auth("secret")
        .body("x");
    assert_eq!(authorized.send().await.expect("an answer").status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit() {
    let front = Front::start(Options::default()).await;
    front.service(None, None);
    let pod = Pod::start("p", "a").await;
    pod.ready(&front);
    let (status, text) = front.infer(vec![b'a'; 100 << 20]).await;
    assert_eq!(status, 413);
    assert!(
        text.contains("larger than the limit of 33554432 bytes"),
        "{text}"
    );
    let chunks = (0..100).map(|_| Ok::<_, std::io::Error>(vec![b'a'; 1 << 20]));
    let (status, text) = front
        .infer(reqwest::Body::wrap_stream(futures::stream::iter(chunks)))
        .await;
    assert_eq!(status, 413, "{text}");
    front.until(|demand| demand.in_flight == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_takes_no_requests_is_passed_over() {
    let front = Front::start(Options::default()).await;
    front.service(None, None);
    let (refuses, serves) = (
        Pod::with("a", "a", 0, true).await,
        Pod::start("b", "a").await,
    );
    refuses.ready(&front);
    serves.ready(&front);
    for _ in 0..20 {
        let (status, text) = front.infer("row").await;
        assert_eq!(status, 200, "{text}");
    }
    assert_eq!(serves.requests.load(Ordering::SeqCst), 20);
    let refused = refuses.requests.load(Ordering::SeqCst);
    assert!(refused >= 1, "it was tried");
    let metrics = front.handle.metrics();
    assert!(
        metrics.contains(&format!(
            "cumulo_gateway_retries_total{{namespace=\"default\",service=\"flights\"}} {refused}"
        )),
        "{metrics}"
    );
    assert!(metrics.contains("code=\"2xx\"} 20"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_gone_is_waited_for_and_then_named() {
    let options = Options {
        hold_seconds: 1,
        ..Options::default()
    };
    let front = Front::start(options).await;
    front.service(None, None);
    let gone = Pod::start("gone", "a").await;
    gone.ready(&front);
    gone.stop().await;
    let (status, text) = front.infer("row").await;
    assert!(status == 502 || status == 503, "{status} {text}");
    front
        .until(|demand| demand.in_flight == 0 && demand.queued == 0)
        .await;
}
