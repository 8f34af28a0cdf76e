//! What a role serves: its routes behind the guard, and its health before it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};

use crate::cli::TlsArgs;
use crate::platform::{Guard, Part, answer, nobody, part};

/// Says what keeps a role from being ready; `None` when it is.
pub type Readiness = Arc<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// What a role has for others.
pub struct Served {
    /// Asks who may.
    pub guard: Guard,
    /// Which part answers what, after the guard agreed.
    pub routes: Vec<(Part, Router)>,
    /// Parts of which the guard is asked elsewhere.
    pub passed: Vec<(Part, Router)>,
    /// Whether it is ready.
    pub ready: Readiness,
}

/// One router for a role.
pub fn router(served: Served) -> Router {
    let served = Arc::new(served);
    Router::new().fallback(move |request: Request<Body>| {
        let served = served.clone();
        async move { serve(&served, request).await }
    })
}

async fn serve(served: &Served, request: Request<Body>) -> Response {
    let path = request.uri().path();
    match path {
        "/healthz" | "/livez" => return "ok".into_response(),
        "/readyz" => {
            return match (served.ready)() {
                None => "ok".into_response(),
                Some(waits) => (StatusCode::SERVICE_UNAVAILABLE, waits).into_response(),
            };
        }
        _ => {}
    }
    let part = part(path, request.headers());
    let of = |routes: &[(Part, Router)]| {
        let found = routes.iter().find(|(known, _)| *known == part);
        found.map(|(_, router)| router.clone())
    };
    if let Some(router) = of(&served.passed) {
        return answer(router, request).await;
    }
    let Some(router) = of(&served.routes) else {
        return nobody(path);
    };
    // Taken apart, because a body cannot be shared while the guard asks.
    let (head, body) = request.into_parts();
    let event = match served.guard.check(part, &head).await {
        Ok(event) => event,
        Err(refusal) => return refusal,
    };
    let response = answer(router, Request::from_parts(head, body)).await;
    if let Some(event) = event {
        served.guard.answered(event, response.status());
    }
    response
}

/// Opens the port, and the TLS settings for it.
pub async fn open(
    listen: SocketAddr,
    tls: &TlsArgs,
) -> Result<(tokio::net::TcpListener, Arc<rustls::ServerConfig>)> {
    let listener = crate::platform::bind(listen).await?;
    let address = listener.local_addr()?;
    let names = [cumulo_node::options::host_name(), "localhost".to_owned()];
    let settings = super::tls::settings(tls, &names, &[address.ip()], None)?;
    tracing::info!(%address, "listening");
    Ok((listener, settings))
}
