//! A gateway on a port, and model servers that do as they are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use cumulo_gateway::{Event, Gateway, Handle, Options, PodRecord, ServiceKey, ServiceRecord};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub struct Front {
    pub handle: Handle,
    pub address: SocketAddr,
    pub client: reqwest::Client,
}

impl Front {
    pub async fn start(options: Options) -> Self {
        let handle = Gateway::new(options).handle();
        handle.apply(Event::Services(vec![]));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = handle.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            handle,
            address,
            client: reqwest::Client::new(),
        }
    }

    pub fn service(&self, revision: Option<&str>, waiting_for: Option<&str>) {
        self.handle.apply(Event::Service(ServiceRecord {
            key: key(),
            active_revision: revision.map(String::from),
            model_version: revision.map(String::from),
            waiting_for: waiting_for.map(String::from),
        }));
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self
            .client
            .get(self.url(path))
            .send()
            .await
            .expect("an answer");
        (
            response.status().as_u16(),
            response.text().await.expect("a text"),
        )
    }

    pub async fn infer(&self, body: impl Into<reqwest::Body>) -> (u16, String) {
        infer(&self.client, &self.url("/v2/models/flights/infer"), body).await
    }

    /// Waits until the demand is as wanted.
    pub async fn until(&self, wanted: impl Fn(&cumulo_gateway::Demand) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let demand = self.handle.demand(&key()).expect("the service");
            if wanted(&demand) {
                return;
            }
            assert!(Instant::now() < deadline, "still {demand:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub fn key() -> ServiceKey {
    ServiceKey::new("default", "flights")
}

pub async fn infer(
    client: &reqwest::Client,
    url: &str,
    body: impl Into<reqwest::Body>,
) -> (u16, String) {
    let response = client.post(url).body(body).send().await.expect("an answer");
    (
        response.status().as_u16(),
        response.text().await.expect("a text"),
    )
}

/// A model server.
pub struct Pod {
    pub record: PodRecord,
    pub requests: Arc<AtomicUsize>,
    /// Permits let requests through.
    pub gate: Arc<Semaphore>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    /// Its own, so that it can be ended with all its connections.
    runtime: Option<tokio::runtime::Runtime>,
}

struct Behaviour {
    name: String,
    requests: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    refuse: bool,
}

async fn answer(
    State(behaviour): State<Arc<Behaviour>>,
    headers: http::HeaderMap,
    body: Bytes,
) -> Response {
    behaviour.requests.fetch_add(1, Ordering::SeqCst);
    if behaviour.refuse {
        let retry = [(cumulo_gateway::RETRY_HEADER, "true")];
        return (StatusCode::SERVICE_UNAVAILABLE, retry, "loading").into_response();
    }
    assert!(
        !headers.contains_key("authorization"),
        "the token was passed on"
    );
    let _permit = behaviour.gate.acquire().await;
    match &body[..] {
        // An answer too long to be read whole.
        b"long" => vec![b'x'; 3 << 20].into_response(),
        body => format!(
            "{} {} {}",
            behaviour.name,
            body.len(),
            String::from_utf8_lossy(&body[..body.len().min(20)])
        )
        .into_response(),
    }
}

impl Pod {
    pub async fn start(name: &str, revision: &str) -> Self {
        Self::with(name, revision, 1 << 20, false).await
    }

    /// A pod that lets through as many requests as there are permits, or that
    /// refuses all because it isn't ready in truth.
    pub async fn with(name: &str, revision: &str, permits: usize, refuse: bool) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("not blocking");
        let address = listener.local_addr().expect("an address");
        let (requests, gate) = (
            Arc::<AtomicUsize>::default(),
            Arc::new(Semaphore::new(permits)),
        );
        let behaviour = Arc::new(Behaviour {
            name: name.into(),
            requests: requests.clone(),
            gate: gate.clone(),
            refuse,
        });
        let router = Router::new().fallback(answer).with_state(behaviour);
        let router = router.layer(axum::extract::DefaultBodyLimit::disable());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let task = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            let _ = axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await;
        });
        let record = PodRecord {
            namespace: "default".into(),
            name: name.into(),
            uid: format!("{name}-{address}"),
            service: "flights".into(),
            revision: Some(revision.into()),
            address: Some(address),
            ready: true,
            deleting: false,
        };
        Self {
            record,
            requests,
            gate,
            stop,
            task,
            runtime: Some(runtime),
        }
    }

    pub fn ready(&self, front: &Front) {
        front.handle.apply(Event::Pod(self.record.clone()));
    }

    /// Stops accepting, ends idle connections, finishes what has begun.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Pod {
    /// Ends at once, in the middle of whatever it does.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
