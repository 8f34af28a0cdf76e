//! Changes of the registry, told to operators as they happen: lines of JSON,
//! `{"model": NAME}` for one model, an empty name for "look at everything", and
//! an empty line now and then so that a broken connection is noticed.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use cumulo_track::{Handle, RegistryChange};
use futures::stream::unfold;
use http::header;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Where the stream is.
pub const PATH: &str = "/api/2.0/cumulo/registry-changes";
/// An empty line is sent this often.
pub const BEAT: Duration = Duration::from_secs(10);

/// One change.
#[derive(Debug, Serialize, Deserialize)]
pub struct Change {
    /// The registered model; empty for any.
    pub model: String,
}

/// The route.
pub fn router(tracking: Handle, shutdown: CancellationToken) -> Router {
    Router::new().route(
        PATH,
        get(move || {
            let answer = stream(&tracking, shutdown.clone());
            std::future::ready(answer)
        }),
    )
}

fn stream(tracking: &Handle, shutdown: CancellationToken) -> Response {
    let changes = tracking.subscribe();
    let lines = unfold((changes, shutdown), |(mut changes, shutdown)| async move {
        let line = tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(BEAT) => Bytes::from_static(b"\n"),
            change = changes.next() => {
                let model = match change? {
                    RegistryChange::Model { name } => name,
                    _ => String::new(),
                };
                let mut line = serde_json::to_vec(&Change { model }).ok()?;
                line.push(b'\n');
                line.into()
            }
        };
        Some((Ok::<_, Infallible>(line), (changes, shutdown)))
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}
