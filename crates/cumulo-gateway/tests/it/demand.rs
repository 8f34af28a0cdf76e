//! The signal that autoscaling gets.

use std::time::Duration;

use cumulo_gateway::Options;

use crate::fake::{Front, Pod, infer, key};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_is_exact() {
    let front = Front::start(Options::default()).await;
    front.service(None, None);
    let pod = Pod::with("p", "a", 0, false).await;
    pod.ready(&front);
    let requests: Vec<_> = (0..5)
        .map(|_| {
            let (client, url) = (front.client.clone(), front.url("/v2/models/flights/infer"));
            tokio::spawn(async move { infer(&client, &url, "row").await })
        })
        .collect();
    front.until(|demand| demand.in_flight == 5).await;
    let before = front.handle.demand(&key()).expect("demand");
    let start = std::time::Instant::now();
    front
        .until(|demand| demand.concurrency_seconds > before.concurrency_seconds + 1.0)
        .await;
    let after = front.handle.demand(&key()).expect("demand");
    let average =
        (after.concurrency_seconds - before.concurrency_seconds) / start.elapsed().as_secs_f64();
    assert!((4.5..5.5).contains(&average), "{average}");
    pod.gate.add_permits(5);
    for request in requests {
        assert_eq!(request.await.expect("a request").0, 200);
    }
    front.until(|demand| demand.in_flight == 0).await;
    let end = front.handle.demand(&key()).expect("demand");
    assert_eq!(
        (end.requests_total, end.queued, end.ready_replicas),
        (5, 0, 1)
    );
    assert!(end.last_request.is_some());
    let (_, rate) = front
        .handle
        .average(&key(), Duration::from_secs(60))
        .expect("an average");
    assert!((rate - 5.0 / 60.0).abs() < 1e-3, "{rate}");
}
