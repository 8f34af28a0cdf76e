//! Answers that the gateway gives by itself.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::table::ServiceKey;

/// Why the gateway answers a request itself: what, where, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such service.
    #[error("there is no InferenceService \"{}\" in namespace \"{}\"{}", key.name, key.namespace, hint(suggestion.as_deref()))]
    UnknownService {
        /// What was asked for.
        key: ServiceKey,
        /// The nearest name there is.
        suggestion: Option<String>,
    },
    /// No such path.
    #[error(
        "{path} is no path of the Open Inference Protocol; see GET /v2/models for what is served"
    )]
    UnknownPath {
        /// What was asked for.
        path: String,
    },
    /// The body is over the limit.
    #[error(
        "the request body is larger than the limit of {limit} bytes; send fewer rows per request"
    )]
    BodyTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The body could not be read.
    #[error("the request body could not be read: {reason}")]
    Unreadable {
        /// Why.
        reason: String,
    },
    /// Too many wait while there is no replica.
    #[error("InferenceService \"{}\" has no ready replica and {limit} requests wait for one already; it waits for: {waiting_for}", key.name)]
    HoldFull {
        /// The service.
        key: ServiceKey,
        /// The queue's bound.
        limit: usize,
        /// From the service's conditions.
        waiting_for: String,
    },
    /// Too many wait while the replicas are busy.
    #[error("InferenceService \"{}\" is busy: its {replicas} replicas have no free place and {limit} requests wait already; try again shortly or raise replicas.max", key.name)]
    Busy {
        /// The service.
        key: ServiceKey,
        /// Replicas there are.
        replicas: usize,
        /// The queue's bound.
        limit: usize,
    },
    /// Waited as long as is allowed.
    #[error("InferenceService \"{}\" had no free replica for {} s; it waits for: {waiting_for}", key.name, waited.as_secs())]
    HoldExpired {
        /// The service.
        key: ServiceKey,
        /// How long the request waited.
        waited: Duration,
        /// From the service's conditions.
        waiting_for: String,
    },
    /// Replicas broke off before they answered.
    #[error("InferenceService \"{}\" did not answer: replica {pod}: {reason}", key.name)]
    Upstream {
        /// The service.
        key: ServiceKey,
        /// The last replica that was tried.
        pod: String,
        /// What happened.
        reason: String,
    },
    /// The model takes too long.
    #[error("InferenceService \"{}\" did not begin to answer within {} s (replica {pod})", key.name, limit.as_secs())]
    UpstreamSlow {
        /// The service.
        key: ServiceKey,
        /// The replica.
        pod: String,
        /// The limit.
        limit: Duration,
    },
}

fn hint(suggestion: Option<&str>) -> String {
    match suggestion {
        Some(name) => format!("; did you mean \"{name}\"?"),
        None => "; `cumulo get inferenceservices` lists what there is".into(),
    }
}

impl Refusal {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnknownService { .. } | Self::UnknownPath { .. } => StatusCode::NOT_FOUND,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unreadable { .. } => StatusCode::BAD_REQUEST,
            Self::HoldFull { .. } | Self::HoldExpired { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Upstream { .. } => StatusCode::BAD_GATEWAY,
            Self::UpstreamSlow { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::Busy { .. } => Some(HeaderValue::from_static("1")),
            Self::HoldFull { .. } | Self::HoldExpired { .. } => Some(HeaderValue::from_static("5")),
            _ => None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "error": self.to_string() }));
        let mut response = (self.status(), body).into_response();
        if let Some(after) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        response
    }
}
