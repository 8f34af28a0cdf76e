//! One request's way: read, place, send, answer; and again elsewhere when a
//! replica went away before it answered.
//!
//! Inference changes nothing at the model server, so a request may be sent again
//! as long as no byte of an answer was passed on.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::Full;
use tokio::time::Instant;

use crate::RETRY_HEADER;
use crate::body::{Outgoing, discard, is_too_large};
use crate::options::Options;
use crate::pool::{Answer, ConnectError, Connection, SendError};
use crate::refusal::Refusal;
use crate::service::{Lease, Service};

/// How often a request is sent, at most.
const ATTEMPTS: u32 = 4;
/// Answers up to this length are read whole before they are passed on.
const WHOLE_ANSWER: u64 = 256 << 10;

/// Headers that belong to one connection (RFC 9110, 7.6.1), and the platform's
/// own token, which no model server needs to see.
const DROPPED: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::AUTHORIZATION,
    header::EXPECT,
];

/// The request's body, as far as it can be sent again.
enum Payload {
    Whole(Bytes),
    Stream(Option<Body>),
}

impl Payload {
    fn replayable(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

/// Sends a request to a replica of `service` under `path`.
pub(crate) async fn forward(
    options: &Options,
    service: Arc<Service>,
    request: Request<Body>,
    path: PathAndQuery,
) -> Response {
    let since = Instant::now();
    let result = attempt_all(options, &service, request, path, since).await;
    let response = result.unwrap_or_else(IntoResponse::into_response);
    service.metrics.observe(response.status(), since.elapsed());
    response
}

async fn attempt_all(
    options: &Options,
    service: &Arc<Service>,
    request: Request<Body>,
    path: PathAndQuery,
    since: Instant,
) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let mut payload = read(options, body, &parts.headers).await?;
    strip(&mut parts.headers);
    parts.headers.remove(header::HOST);
    let uri = Uri::from(path);
    let deadline = since + options.hold();
    let mut sent = 0;
    let mut again = false;
    loop {
        let lease = service.acquire(again, since, deadline).await?;
        if again {
            service.metrics.retried();
        }
        again = true;
        let connection = match lease.replica.pool.take(options.connect()).await {
            Ok(taken) => taken,
            Err(error) => {
                connect_failed(service, &lease, &error, deadline)?;
                continue;
            }
        };
        let body = match &mut payload {
            Payload::Whole(bytes) => Outgoing::Whole(Full::new(bytes.clone())),
            Payload::Stream(stream) => Outgoing::Stream {
                body: stream.take().unwrap_or_default(),
                left: options.body_limit,
                over: 0,
            },
        };
        let request = compose(&parts.method, &uri, &parts.headers, &lease, body);
        sent += 1;
        let may_repeat = payload.replayable() && sent < ATTEMPTS;
        match attempt(options, service, lease, connection, request, may_repeat).await? {
            Outcome::Answered(response) => return Ok(response),
            Outcome::Again => {}
        }
    }
}

enum Outcome {
    Answered(Response),
    Again,
}

async fn attempt(
    options: &Options,
    service: &Service,
    lease: Lease,
    mut connection: Connection,
    request: Request<Outgoing>,
    may_repeat: bool,
) -> Result<Outcome, Refusal> {
    let answer = tokio::time::timeout(options.response(), connection.send(request)).await;
    let pod = lease.replica.pod();
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(SendError::Protocol(error))) if is_too_large(&error) => {
            return Err(Refusal::BodyTooLarge {
                limit: options.body_limit,
            });
        }
        Ok(Err(error)) if may_repeat => {
            tracing::debug!(service = %service.key, pod, %error, "sending again");
            return Ok(Outcome::Again);
        }
        Ok(Err(error)) => return Err(upstream(service, pod, &error)),
        Err(_) => {
            return Err(Refusal::UpstreamSlow {
                key: service.key.clone(),
                pod: pod.into(),
                limit: options.response(),
            });
        }
    };
    let (mut head, body) = answer.into_parts();
    if head.status == StatusCode::SERVICE_UNAVAILABLE
        && may_repeat
        && head.headers.contains_key(RETRY_HEADER)
    {
        tracing::debug!(service = %service.key, pod, "replica takes no requests, sending again");
        lease.failed();
        return Ok(Outcome::Again);
    }
    strip(&mut head.headers);
    head.headers.remove(RETRY_HEADER);
    head.version = http::Version::default();
    head.extensions = http::Extensions::default();
    if body
        .size_hint()
        .exact()
        .is_some_and(|length| length <= WHOLE_ANSWER)
    {
        match connection.collect(body).await {
            Ok(bytes) => {
                lease.replica.pool.put(connection, None);
                drop(lease);
                let body = Body::from(bytes);
                Ok(Outcome::Answered(Response::from_parts(head, body)))
            }
            Err(error) if may_repeat => {
                tracing::debug!(service = %service.key, pod, %error, "answer broke off, sending again");
                Ok(Outcome::Again)
            }
            Err(error) => Err(upstream(service, pod, &error)),
        }
    } else {
        let answer = Answer::new(connection, body, lease, |connection, lease, context| {
            lease.replica.pool.put(connection, Some(context));
        });
        Ok(Outcome::Answered(Response::from_parts(
            head,
            Body::new(answer),
        )))
    }
}

/// A replica couldn't be reached; the request goes on while there is time.
fn connect_failed(
    service: &Service,
    lease: &Lease,
    error: &ConnectError,
    deadline: Instant,
) -> Result<(), Refusal> {
    let pod = lease.replica.pod();
    lease.failed();
    if Instant::now() >= deadline {
        return Err(upstream(service, pod, error));
    }
    tracing::debug!(service = %service.key, pod, %error, "replica not reached");
    Ok(())
}

fn upstream(service: &Service, pod: &str, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::Upstream {
        key: service.key.clone(),
        pod: pod.into(),
        reason: error.to_string(),
    }
}

/// Reads a short body; leaves a long one, or one of unknown length, to be streamed.
async fn read(options: &Options, body: Body, headers: &HeaderMap) -> Result<Payload, Refusal> {
    let length = body.size_hint().exact();
    match length {
        Some(0) => Ok(Payload::Whole(Bytes::new())),
        Some(length) if length > options.body_limit => {
            // A client that asked first hasn't sent anything.
            if !headers.contains_key(header::EXPECT) {
                discard(body).await;
            }
            Err(Refusal::BodyTooLarge {
                limit: options.body_limit,
            })
        }
        Some(length) if length <= options.replay_limit => {
            let limit = usize::try_from(options.replay_limit).unwrap_or(usize::MAX);
            // A client that stalls in a short body holds no place, only its connection.
            let reading = axum::body::to_bytes(body, limit);
            match tokio::time::timeout(Duration::from_secs(60), reading).await {
                Ok(Ok(bytes)) => Ok(Payload::Whole(bytes)),
                Ok(Err(error)) => Err(Refusal::Unreadable {
                    reason: error.to_string(),
                }),
                Err(_) => Err(Refusal::Unreadable {
                    reason: "it did not arrive within 60 s".into(),
                }),
            }
        }
        _ => Ok(Payload::Stream(Some(body))),
    }
}

fn strip(headers: &mut HeaderMap) {
    // What `Connection` names is dropped too.
    if let Some(named) = headers.remove(header::CONNECTION)
        && let Ok(named) = named.to_str()
    {
        for name in named.split(',') {
            if let Ok(name) = HeaderName::from_bytes(name.trim().as_bytes()) {
                headers.remove(name);
            }
        }
    }
    for name in &DROPPED {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

fn compose(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    lease: &Lease,
    body: Outgoing,
) -> Request<Outgoing> {
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers.clone();
    let host = lease.replica.host.clone();
    request.headers_mut().insert(header::HOST, host);
    request
}
