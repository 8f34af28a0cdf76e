//! New model versions under load: no request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cumulo_gateway::{Event, Options};

use crate::fake::{Front, Pod, infer};

/// Each revision answers some requests before the next comes.
async fn progress(answered: &AtomicUsize) {
    let before = answered.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(20);
    while answered.load(Ordering::Relaxed) < before + 200 {
        assert!(Instant::now() < deadline, "no progress");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_promotions_with_32_connections() {
    let front = Front::start(Options::default()).await;
    front.service(Some("0"), None);
    let mut live = Pod::start("v0", "0").await;
    live.ready(&front);
    let (done, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..32)
        .map(|_| {
            let (done, answered) = (done.clone(), answered.clone());
            let url = front.url("/v2/models/flights/infer");
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                let mut failures = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let (status, text) = infer(&client, &url, "row").await;
                    answered.fetch_add(1, Ordering::Relaxed);
                    if status != 200 {
                        failures.push(format!("{status}: {text}"));
                    }
                }
                failures
            })
        })
        .collect();
    for revision in 1..=20 {
        progress(&answered).await;
        let name = revision.to_string();
        let next = Pod::start(&format!("v{revision}"), &name).await;
        next.ready(&front);
        front.service(Some(&name), None);
        // The old pod goes at once: without any drain time, which is harsher than a server is.
        let old = std::mem::replace(&mut live, next);
        let mut leaving = old.record.clone();
        leaving.deleting = true;
        if revision % 2 == 0 {
            // Every second time the pod is gone before the gateway hears of it.
            old.stop().await;
            front.handle.apply(Event::Pod(leaving));
        } else {
            front.handle.apply(Event::Pod(leaving));
            old.stop().await;
        }
        front.handle.apply(Event::PodDeleted {
            namespace: "default".into(),
            name: format!("v{}", revision - 1),
        });
    }
    progress(&answered).await;
    done.store(true, Ordering::Relaxed);
    let mut failures = Vec::new();
    for client in clients {
        failures.extend(client.await.expect("a client"));
    }
    assert!(
        failures.is_empty(),
        "{} of {} failed: {failures:?}",
        failures.len(),
        answered.load(Ordering::Relaxed)
    );
    assert!(
        live.requests.load(Ordering::SeqCst) > 0,
        "the last revision served"
    );
    front
        .until(|demand| demand.in_flight == 0 && demand.queued == 0)
        .await;
}

/// Pods that vanish with requests in the middle: each is answered by another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_killed() {
    let front = Front::start(Options::default()).await;
    front.service(None, None);
    let stays = Pod::with("stays", "a", 0, false).await;
    stays.ready(&front);
    for round in 0..10 {
        let doomed = Pod::with(&format!("doomed-{round}"), "a", 0, false).await;
        doomed.ready(&front);
        let requests: Vec<_> = (0..8)
            .map(|_| {
                let (client, url) = (front.client.clone(), front.url("/v2/models/flights/infer"));
                tokio::spawn(async move { infer(&client, &url, "row").await })
            })
            .collect();
        let deadline = Instant::now() + Duration::from_secs(10);
        while doomed.requests.load(Ordering::SeqCst) < 4 {
            assert!(Instant::now() < deadline, "requests go to both");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(doomed);
        stays.gate.add_permits(8);
        for request in requests {
            let (status, text) = request.await.expect("a request");
            assert_eq!(status, 200, "{text}");
        }
        front.handle.apply(Event::PodDeleted {
            namespace: "default".into(),
            name: format!("doomed-{round}"),
        });
        stays.gate.forget_permits(8);
    }
}
