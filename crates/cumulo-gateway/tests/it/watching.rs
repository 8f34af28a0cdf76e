//! Routes from what the Kubernetes API tells, and without it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use cumulo_gateway::{Gateway, Options};
use http::{Request, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::fake::{Pod, infer, key};

type Lines = mpsc::UnboundedSender<Result<Bytes, Infallible>>;

/// Answers lists with what there is, and keeps the senders of watches.
#[derive(Clone)]
struct Api {
    pods: Arc<Mutex<Vec<Value>>>,
    watches: Arc<Mutex<Vec<(String, Lines)>>>,
}

impl Api {
    fn answer(&self, request: &Request<kube::client::Body>) -> Response<Body> {
        let (path, query) = (
            request.uri().path(),
            request.uri().query().unwrap_or_default(),
        );
        if query.contains("watch=true") {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            self.watches.lock().push((path.to_owned(), sender));
            let stream = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
            return Response::new(Body::from_stream(stream));
        }
        let (version, kind, items) = match path {
            "/api/v1/pods" => {
                assert!(
                    query.contains("labelSelector=cumulo.dev%2Finference-service"),
                    "{query}"
                );
                ("v1", "PodList", self.pods.lock().clone())
            }
            "/apis/cumulo.dev/v1alpha1/inferenceservices" => {
                let service = json!({
                    "apiVersion": "cumulo.dev/v1alpha1", "kind": "InferenceService",
                    "metadata": {"namespace": "default", "name": "flights"},
                    "status": {"activeRevision": "r"},
                });
                ("cumulo.dev/v1alpha1", "InferenceServiceList", vec![service])
            }
            other => panic!("asked for {other}"),
        };
        let list = json!({"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": items});
        Response::new(Body::from(list.to_string()))
    }

    fn pod_event(&self, event: &str, object: &Value) {
        let line = json!({"type": event, "object": object}).to_string() + "\n";
        let watches = self.watches.lock();
        let (_, sender) = watches
            .iter()
            .rev()
            .find(|(path, _)| path == "/api/v1/pods")
            .expect("a watch");
        sender.send(Ok(line.into())).expect("the watch is open");
    }
}

fn object(pod: &Pod, deleting: bool) -> Value {
    let address = pod.record.address.expect("an address");
    let deletion = deleting.then_some("2026-01-01T00:00:00Z");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "default", "name": pod.record.name, "uid": pod.record.uid, "resourceVersion": "2",
            "labels": {"cumulo.dev/inference-service": "flights", "cumulo.dev/revision": "r"},
            "deletionTimestamp": deletion,
        },
        "spec": {"containers": [{"name": "server", "ports": [{"name": "http", "containerPort": address.port()}]}]},
        "status": {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_follow_the_api_and_outlive_it() {
    let (first, second) = (
        Pod::start("first", "r").await,
        Pod::start("second", "r").await,
    );
    let api = Api {
        pods: Arc::new(Mutex::new(vec![object(&first, false)])),
        watches: Arc::default(),
    };
    let answering = api.clone();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let response = answering.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let gateway = Gateway::new(Options::default());
    let handle = gateway.handle();
    let shutdown = CancellationToken::new();
    let running =
        tokio::spawn(gateway.run(kube::Client::new(service, "default"), shutdown.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!(
        "http://{}/v2/models/flights/infer",
        listener.local_addr().expect("an address")
    );
    let router = handle.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = reqwest::Client::new();

    // The very first request waits for the first lists.
    let (status, text) = infer(&client, &url, "row").await;
    assert_eq!((status, &text[..]), (200, "first 3 row"));
    let until = async |replicas: usize| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while handle.demand(&key()).map(|demand| demand.ready_replicas) != Some(replicas) {
            assert!(Instant::now() < deadline, "{:?}", handle.demand(&key()));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let watching = async {
        while !api
            .watches
            .lock()
            .iter()
            .any(|(path, _)| path == "/api/v1/pods")
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), watching)
        .await
        .expect("a watch");
    api.pod_event("ADDED", &object(&second, false));
    until(2).await;
    api.pod_event("MODIFIED", &object(&first, true));
    until(1).await;
    assert_eq!(infer(&client, &url, "row").await.1, "second 3 row");
    api.pod_event("DELETED", &object(&first, true));

    // The API is gone: what was served goes on being served.
    shutdown.cancel();
    running.await.expect("it ends");
    api.watches.lock().clear();
    assert_eq!(infer(&client, &url, "row").await.1, "second 3 row");
}
