//! `cumulo gateway`: the way in for inference.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use tokio_util::sync::CancellationToken;

use super::reviews::Reviews;
use super::serve::{Served, open, router};
use super::trust::Trust;
use super::{SHUTDOWN, client, config, demand};
use crate::cli::{GatewayArgs, PlaceArgs};
use crate::platform::{Guard, Part, listen};

/// Runs the role until it is told to end.
pub fn run(place: &PlaceArgs, arguments: &GatewayArgs) -> Result<()> {
    super::run(|shutdown| serve(place, arguments, shutdown))
}

async fn serve(
    place: &PlaceArgs,
    arguments: &GatewayArgs,
    shutdown: CancellationToken,
) -> Result<()> {
    let client = client(config(place).await?)?;
    let (socket, tls) = open(arguments.listen, &arguments.tls).await?;
    let gateway = cumulo_gateway::Gateway::new(cumulo_gateway::Options::default());
    let handle = gateway.handle();
    let watching = tokio::spawn(gateway.run(client.clone(), shutdown.clone()));
    let trust = Trust::read(arguments.trust.certificate_authority.as_deref())?;
    let passed = match &arguments.tracking_uri {
        Some(url) => vec![(Part::Tracking, passing(url, &trust)?)],
        None => Vec::new(),
    };
    let listed = handle.clone();
    let served = Served {
        guard: Guard::new(Reviews::new(client)),
        routes: vec![
            (Part::Gateway, handle.router()),
            (Part::Demand, demand::router(handle, shutdown.clone())),
        ],
        passed,
        ready: Arc::new(move || {
            (!listed.is_listed()).then_some("the list of services has not come yet")
        }),
    };
    listen(socket, tls, router(served), shutdown).await;
    let _ = tokio::time::timeout(SHUTDOWN, watching).await;
    Ok(())
}

/// Headers that belong to one connection (RFC 9110, section 7.6.1), and those
/// that the client sets itself.
const OWN: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Passes requests on to the tracking server, which asks itself who may.
fn passing(url: &str, trust: &Trust) -> Result<Router> {
    let base = url::Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .with_context(|| {
            format!("{url:?} is no address of a tracking server: expected something like http://cumulo-tracking:8720")
        })?;
    let http = trust
        .client()
        .no_proxy()
        .connect_timeout(std::time::Duration::from_secs(5))
        .read_timeout(std::time::Duration::from_secs(120))
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    Ok(Router::new().fallback(move |request: Request<Body>| {
        let (http, base) = (http.clone(), base.clone());
        async move { pass(&http, base, request).await }
    }))
}

async fn pass(http: &reqwest::Client, mut url: url::Url, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    url.set_path(head.uri.path());
    url.set_query(head.uri.query());
    let sent = http
        .request(head.method, url)
        .headers(without_own(head.headers))
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send()
        .await;
    match sent {
        Ok(answer) => {
            let (status, headers) = (answer.status(), without_own(answer.headers().clone()));
            (status, headers, Body::from_stream(answer.bytes_stream())).into_response()
        }
        Err(error) => {
            let why = format!(
                "the tracking server does not answer: {}",
                error.without_url()
            );
            let body = serde_json::json!({"error_code": "TEMPORARILY_UNAVAILABLE", "message": why});
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
        }
    }
}

fn without_own(mut headers: HeaderMap) -> HeaderMap {
    for name in OWN {
        headers.remove(name);
    }
    headers
}
