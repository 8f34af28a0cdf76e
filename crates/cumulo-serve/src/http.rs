//! The server's paths.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Body as _;
use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::RETRY_HEADER;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::protocol;
use crate::runtime::{InferError, Model, TensorInfo};
use crate::scoring;
use crate::tensor::Tensor;

/// Most that is read and thrown away of a body that is refused.
const DISCARD_LIMIT: usize = 256 << 20;

/// What the server is doing.
pub(crate) enum Phase {
    /// The model isn't loaded yet.
    Loading,
    /// It answers.
    Serving(Arc<dyn Model>),
    /// It still answers, and wants no new requests.
    Draining(Arc<dyn Model>),
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) phase: RwLock<Phase>,
    pub(crate) metrics: Metrics,
}

impl Shared {
    fn model(&self) -> Option<Arc<dyn Model>> {
        match &*self.phase.read() {
            Phase::Loading => None,
            Phase::Serving(model) | Phase::Draining(model) => Some(model.clone()),
        }
    }

    /// Why requests should go elsewhere, if so.
    fn unready(&self) -> Option<String> {
        match &*self.phase.read() {
            Phase::Loading => Some("the model is being loaded".into()),
            Phase::Draining(_) => Some("the server is shutting down".into()),
            Phase::Serving(model) => model.unready(),
        }
    }
}

/// An answer that is no prediction.
struct Failure {
    status: StatusCode,
    message: String,
    /// Nothing was done yet: another replica may be asked.
    retry: bool,
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            retry: false,
        }
    }
}

impl From<InferError> for Failure {
    fn from(error: InferError) -> Self {
        let status = match &error {
            InferError::Input(_) => StatusCode::BAD_REQUEST,
            InferError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            InferError::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            InferError::Model(_) => StatusCode::INTERNAL_SERVER_ERROR,
            InferError::Slow(_) => StatusCode::GATEWAY_TIMEOUT,
        };
        Self {
            status,
            message: error.to_string(),
            retry: matches!(error, InferError::Unavailable(_)),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        let headers = response.headers_mut();
        if self.retry {
            headers.insert(RETRY_HEADER, HeaderValue::from_static("true"));
        }
        if matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models", get(index))
        .route("/v2/models/{model}", get(model))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/invocations", post(model_invocations))
        .route("/v2/models/{model}/versions/{version}", get(version))
        .route(
            "/v2/models/{model}/versions/{version}/ready",
            get(version_ready),
        )
        .route(
            "/v2/models/{model}/versions/{version}/infer",
            post(version_infer),
        )
        .route("/invocations", post(invocations))
        .route("/ping", get(ready))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .with_state(shared)
}

async fn unknown(request: Request<Body>) -> Failure {
    let (method, path) = (request.method(), request.uri().path());
    Failure::new(
        StatusCode::NOT_FOUND,
        format!(
            "there is no {method} {path}; predictions are made by POST /v2/models/{{name}}/infer"
        ),
    )
}

async fn server() -> Json<Value> {
    Json(json!({
        "name": "cumulo-serve",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": [],
    }))
}

async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.unready() {
        None => Json(json!({ "ready": true })).into_response(),
        Some(reason) => {
            let body = Json(json!({ "ready": false, "error": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn index(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let reason = shared.unready();
    Json(json!({ "models": [{
        "name": shared.options.name,
        "version": shared.options.version,
        "state": if reason.is_none() { "READY" } else { "UNAVAILABLE" },
        "reason": reason.unwrap_or_default(),
    }]}))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (content_type, shared.metrics.render(&shared.options.name)).into_response()
}

/// Whether the path names the model, and the version, that is served.
fn check(shared: &Shared, model: &str, version: Option<&str>) -> Result<(), Failure> {
    let served = &shared.options.name;
    if model != served {
        return Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("there is no model `{model}` here; this server serves `{served}`"),
        ));
    }
    match (version, &shared.options.version) {
        (Some(asked), Some(served)) if asked != served => Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!(
                "model `{model}` has no version {asked} here; this server serves version {served}"
            ),
        )),
        _ => Ok(()),
    }
}

fn loaded(shared: &Shared) -> Result<Arc<dyn Model>, Failure> {
    shared
        .model()
        .ok_or_else(|| InferError::Unavailable("the model is being loaded".into()).into())
}

fn describe(shared: &Shared) -> Result<Json<Value>, Failure> {
    let metadata = loaded(shared)?.metadata();
    let tensors = |tensors: Vec<TensorInfo>| -> Vec<Value> {
        let one = |tensor: TensorInfo| {
            json!({
                "name": tensor.name,
                "datatype": tensor.datatype.name(),
                "shape": tensor.shape,
            })
        };
        tensors.into_iter().map(one).collect()
    };
    let versions: Vec<&String> = shared.options.version.iter().collect();
    Ok(Json(json!({
        "name": shared.options.name,
        "versions": versions,
        "platform": metadata.platform,
        "inputs": tensors(metadata.inputs),
        "outputs": tensors(metadata.outputs),
    })))
}

fn model_readiness(shared: &Shared) -> Result<Json<Value>, Failure> {
    match shared.unready() {
        None => Ok(Json(json!({ "name": shared.options.name, "ready": true }))),
        Some(reason) => Err(InferError::Unavailable(reason).into()),
    }
}

async fn model(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Failure> {
    check(&shared, &name, None)?;
    describe(&shared)
}

async fn model_ready(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Failure> {
    check(&shared, &name, None)?;
    model_readiness(&shared)
}

async fn version(
    State(shared): State<Arc<Shared>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    check(&shared, &name, Some(&version))?;
    describe(&shared)
}

async fn version_ready(
    State(shared): State<Arc<Shared>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    check(&shared, &name, Some(&version))?;
    model_readiness(&shared)
}

async fn infer(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response {
    observed(&shared, request, Form::Tensors, Some((&name, None))).await
}

async fn version_infer(
    State(shared): State<Arc<Shared>>,
    Path((name, version)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    observed(
        &shared,
        request,
        Form::Tensors,
        Some((&name, Some(&version))),
    )
    .await
}

async fn model_invocations(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response {
    observed(&shared, request, Form::Frame, Some((&name, None))).await
}

async fn invocations(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    observed(&shared, request, Form::Frame, None).await
}

/// The two forms of a request.
#[derive(Clone, Copy)]
enum Form {
    /// The Open Inference Protocol's tensors.
    Tensors,
    /// MLflow's data frames.
    Frame,
}

async fn observed(
    shared: &Shared,
    request: Request<Body>,
    form: Form,
    target: Option<(&str, Option<&str>)>,
) -> Response {
    let _in_flight = shared.metrics.begin();
    // A wrong name is found before the body is read.
    let checked = target.map_or(Ok(()), |(name, version)| check(shared, name, version));
    let (result, start) = match checked {
        Err(failure) => (Err(failure), Instant::now()),
        Ok(()) => match read(shared, request).await {
            Err(failure) => (Err(failure), Instant::now()),
            Ok(body) => {
                let start = Instant::now();
                (predict(shared, &body, form).await, start)
            }
        },
    };
    let response = match result {
        Ok(text) => {
            let content_type = [(header::CONTENT_TYPE, "application/json")];
            (content_type, text).into_response()
        }
        Err(failure) => failure.into_response(),
    };
    shared
        .metrics
        .observe(response.status().as_u16(), start.elapsed());
    response
}

async fn predict(shared: &Shared, body: &[u8], form: Form) -> Result<Vec<u8>, Failure> {
    let model = loaded(shared)?;
    let bad = |message: String| Failure::new(StatusCode::BAD_REQUEST, message);
    let (id, inputs, wanted) = match form {
        Form::Tensors => {
            let request = protocol::parse(body).map_err(|error| bad(error.to_string()))?;
            (request.id, request.inputs, request.outputs)
        }
        Form::Frame => {
            let inputs = scoring::parse(body).map_err(|error| bad(error.to_string()))?;
            (None, inputs, Vec::new())
        }
    };
    let rows = inputs
        .first()
        .and_then(|input| input.shape.first().copied())
        .unwrap_or(0);
    let outputs = model.infer(inputs).await?;
    shared.metrics.rows(rows);
    let outputs = select(outputs, &wanted).map_err(bad)?;
    Ok(match form {
        Form::Tensors => {
            let options = &shared.options;
            protocol::render(
                &options.name,
                options.version.as_deref(),
                id.as_deref(),
                &outputs,
            )
        }
        Form::Frame => scoring::render(&outputs),
    })
}

/// The outputs that are wanted, in the order they are.
fn select(outputs: Vec<Tensor>, wanted: &[String]) -> Result<Vec<Tensor>, String> {
    if wanted.is_empty() {
        return Ok(outputs);
    }
    let find = |name: &String| {
        outputs
            .iter()
            .find(|output| output.name == *name)
            .cloned()
            .ok_or_else(|| {
                let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
                format!(
                    "there is no output `{name}`; the model gives {}",
                    names.join(", ")
                )
            })
    };
    wanted.iter().map(find).collect()
}

/// Reads the body within the limit.
async fn read(shared: &Shared, request: Request<Body>) -> Result<Bytes, Failure> {
    let limit = shared.options.body_limit;
    let too_large = || {
        Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "the request body is larger than the limit of {limit} bytes; send fewer rows per request"
            ),
        )
    };
    let asked_first = request.headers().contains_key(header::EXPECT);
    let body = request.into_body();
    if body.size_hint().lower() > limit {
        // A client that sends everything before it reads would not see the answer.
        if !asked_first {
            discard(body).await;
        }
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    // What comes in one piece, as most requests do, is not copied.
    let (mut whole, mut more) = (Bytes::new(), Vec::new());
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| {
            Failure::new(
                StatusCode::BAD_REQUEST,
                format!("the request body could not be read: {error}"),
            )
        })?;
        if (whole.len() + more.len() + piece.len()) as u64 > limit {
            discard(Body::from_stream(stream)).await;
            return Err(too_large());
        }
        if whole.is_empty() && more.is_empty() {
            whole = piece;
        } else {
            if more.is_empty() {
                more = std::mem::take(&mut whole).to_vec();
            }
            more.extend_from_slice(&piece);
        }
    }
    Ok(if more.is_empty() { whole } else { more.into() })
}

async fn discard(body: Body) {
    let reading = async {
        let (mut read, mut stream) = (0, body.into_data_stream());
        while let Some(Ok(data)) = stream.next().await {
            read += data.len();
            if read > DISCARD_LIMIT {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(10), reading).await;
}
