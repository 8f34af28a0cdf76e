//! The controllers against the embedded API server. The test plays the node
//! agent, the registry and the gateway.

mod platform;
mod scheduling;

use std::time::Duration;

use cumulo_api::train_job::Phase;
use cumulo_api::{Dataset, InferenceService, Model, TrainJob};
use k8s_openapi::api::core::v1::{Event, Node, Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};

use platform::{Platform, condition};

fn dataset() -> Value {
    json!({
        "apiVersion": "cumulo.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "flights"},
        "spec": {"sources": {"flights": {"uri": "cumulo:blobs/sha256/aa/flights.csv"}},
            "query": "SELECT * FROM flights"},
    })
}

fn model() -> Value {
    json!({
        "apiVersion": "cumulo.dev/v1alpha1", "kind": "Model", "metadata": {"name": "late-flights"},
        "spec": {"dataset": "flights", "target": "late", "task": "classification",
            "train": {"automl": {"budget": "30s"}}, "evaluate": {"metrics": {"auc": ">= 0.68"}}},
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "cumulo.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "flights"},
        "spec": {"model": "models:/late-flights@champion", "scaleToZeroAfter": "1s"},
    })
}

const BUILT: &str = r#"{"version":"9f1c2d3e4a5b6c7d","rows":100,"bytes":4000,"columns":1,"schema":[["late","Int64"]],"checks":[]}"#;

/// The whole way of a project, its objects made in the wrong order: what comes
/// first says what it waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_becomes_a_served_model() {
    let platform = Platform::start().await;
    platform.create::<InferenceService>(service()).await;
    let waiting = platform
        .until(
            "the service says what it waits for",
            async |platform: &Platform| {
                let service: InferenceService = platform.get("flights").await?;
                condition(&service.status?.conditions, "Ready").filter(|ready| ready.0 == "False")
            },
        )
        .await;
    assert_eq!(waiting.1, "WaitingForModel");

    platform.create::<Model>(model()).await;
    platform
        .until(
            "the model waits for the dataset",
            async |platform: &Platform| {
                let model: Model = platform.get("late-flights").await?;
                let ready = condition(&model.status?.conditions, "Ready")?;
                (ready.2 == "waits for Dataset \"flights\" in namespace default").then_some(())
            },
        )
        .await;

    platform.create::<Dataset>(dataset()).await;
    let pod = platform.pod("flights-build-").await;
    platform.bound(&pod).await;
    platform.end(&pod, 0, BUILT).await;
    let pod = platform.pod("late-flights-").await;
    let job: TrainJob = platform
        .until("the job waits for its pod", async |platform: &Platform| {
            let job: TrainJob = platform.only().await?;
            job.status.as_ref()?.pod.is_some().then_some(job)
        })
        .await;
    platform.run(&pod, false).await;
    platform.registry.train(&job, "1");
    platform
        .end(
            &pod,
            0,
            r#"{"run":"r1","model":{"name":"late-flights","version":"1"},"metrics":{"auc":0.69}}"#,
        )
        .await;

    let pod = platform.pod("late-flights-evaluate-").await;
    assert_eq!(platform.registry.alias("candidate").as_deref(), Some("1"));
    platform
        .end(
            &pod,
            0,
            r#"{"candidate":{"metrics":{"auc":0.69}},"champion":null,"rows":20}"#,
        )
        .await;
    platform
        .until("the version is promoted", async |platform: &Platform| {
            (platform.registry.alias("champion")? == "1").then_some(())
        })
        .await;

    let pod = platform.pod_of("flights", "serve").await;
    platform.run(&pod, true).await;
    let ready: InferenceService = platform
        .until("the service serves", async |platform: &Platform| {
            let service: InferenceService = platform.get("flights").await?;
            let ready = condition(&service.status.as_ref()?.conditions, "Ready")?;
            (ready.0 == "True").then_some(service)
        })
        .await;
    let status = ready.status.unwrap();
    assert_eq!(status.model_version.as_deref(), Some("1"));
    assert_eq!(
        status.url.as_deref(),
        Some("http://127.0.0.1:8700/v2/models/flights/infer")
    );

    // Idle: the replica goes, and the first request that waits brings one back.
    platform.end_deleted(&pod).await;
    platform.demand.queue("flights", 1);
    let again = platform.pod_of("flights", "serve").await;
    assert_eq!(again, pod, "names are used again");
    platform.run(&again, true).await;
    platform.demand.queue("flights", 0);

    // A Secret for the pods, events for people.
    let secret: Secret = platform.get("cumulo-tracking").await.unwrap();
    assert_eq!(secret.data.unwrap()["token"].0, b"secret");
    let events: Vec<Event> = platform.list().await;
    let reasons: Vec<_> = events
        .iter()
        .filter_map(|event| event.reason.as_deref())
        .collect();
    for reason in ["Built", "Training", "Completed", "Promoted", "Switched"] {
        assert!(reasons.contains(&reason), "{reason} in {reasons:?}");
    }
    platform.stop().await;
}

/// Controllers that start anew find everything as it should be and write nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_makes_nothing_twice() {
    let mut platform = Platform::start().await;
    platform.create::<Dataset>(dataset()).await;
    let pod = platform.pod("flights-build-").await;
    for _ in 0..5 {
        platform.restart().await;
    }
    assert_eq!(platform.list::<Pod>().await.len(), 1);
    platform.end(&pod, 0, BUILT).await;
    platform.create::<Model>(model()).await;
    let pod = platform.pod("late-flights-").await;
    for _ in 0..5 {
        platform.restart().await;
    }
    assert_eq!(platform.list::<TrainJob>().await.len(), 1);
    assert_eq!(platform.list::<Pod>().await.len(), 2);
    // Ended while no controller ran.
    platform.halt().await;
    let job: TrainJob = platform.only().await.unwrap();
    platform.registry.train(&job, "1");
    platform
        .end(
            &pod,
            0,
            r#"{"run":"r1","model":{"name":"late-flights","version":"1"},"metrics":{}}"#,
        )
        .await;
    platform.resume();
    let evaluation = platform.pod("late-flights-evaluate-").await;
    platform
        .end(&evaluation, 0, r#"{"candidate":{"auc":0.7},"rows":20}"#)
        .await;
    platform
        .until("ready", async |platform: &Platform| {
            let model: Model = platform.get("late-flights").await?;
            (condition(&model.status?.conditions, "Ready")?.0 == "True").then_some(())
        })
        .await;
    platform.settled().await;
    let version = platform.version();
    for _ in 0..3 {
        platform.restart().await;
        platform.registry.touch();
        platform.settled().await;
    }
    assert_eq!(platform.version(), version, "a restart writes nothing");
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_told_and_what_is_too_large_waits() {
    let platform = Platform::start().await;
    platform
        .create::<TrainJob>(json!({
            "apiVersion": "cumulo.dev/v1alpha1", "kind": "TrainJob", "metadata": {"name": "fit"},
            "spec": {"script": "train.py", "resources": {"cpu": 64}},
        }))
        .await;
    let message = platform
        .until(
            "the job says that no node has room",
            async |platform: &Platform| {
                let job: TrainJob = platform.get("fit").await?;
                job.status?
                    .message
                    .filter(|message| message.contains("no node has room"))
            },
        )
        .await;
    assert!(message.contains("laptop has only 2 cpu"), "{message}");
    // A larger node comes.
    platform.node("server", "128").await;
    let pod = platform.pod("fit-").await;
    platform.bound(&pod).await;
    platform.end(&pod, 3, "").await;
    let job: TrainJob = platform
        .until("the job failed", async |platform: &Platform| {
            let job: TrainJob = platform.get("fit").await?;
            (job.status.as_ref()?.phase? == Phase::Failed).then_some(job)
        })
        .await;
    let failed = condition(&job.status.unwrap().conditions, "Failed").unwrap();
    assert_eq!(failed.2, "it ended with exit code 3");
    // Deleting the job deletes its pod.
    let jobs: Api<TrainJob> = platform.api();
    jobs.delete("fit", &DeleteParams::background())
        .await
        .unwrap();
    platform
        .until("the pod goes with its job", async |platform: &Platform| {
            let pods: Vec<Pod> = platform.list().await;
            pods.is_empty().then_some(())
        })
        .await;
    let nodes = Api::<Node>::all(platform.client.clone());
    assert_eq!(
        nodes
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        2
    );
    platform.stop().await;
}

/// From a request that waits to a bound pod: what the controllers add to a wake-up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waking_is_fast() {
    let platform = Platform::start().await;
    platform.registry.register("1");
    platform.create::<InferenceService>(service()).await;
    let pod = platform.pod_of("flights", "serve").await;
    platform.run(&pod, true).await;
    let mut times = Vec::new();
    for _ in 0..10 {
        platform.end_deleted(&pod).await;
        let started = std::time::Instant::now();
        platform.demand.queue("flights", 1);
        let name = platform.pod_of("flights", "serve").await;
        platform.bound(&name).await;
        times.push(started.elapsed());
        platform.run(&name, true).await;
        platform.demand.queue("flights", 0);
    }
    times.sort();
    println!(
        "from waiting to bound: median {:?}, longest {:?}",
        times[5], times[9]
    );
    assert!(times[5] < Duration::from_secs(1), "{times:?}");
    let service: InferenceService = platform.get("flights").await.unwrap();
    assert_eq!(service.name_any(), "flights");
    platform.stop().await;
}
