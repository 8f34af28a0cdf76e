//! The error of every operation, in MLflow's own vocabulary.
//!
//! MLflow's clients decide by `error_code` (is it missing? does it exist
//! already?) and show `message` to a person, so both are part of the protocol:
//! <https://mlflow.org/docs/latest/api_reference/rest-api.html>.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};

/// What kind of refusal or failure it is; the names are MLflow's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// A parameter is missing, malformed, or against a limit.
    InvalidParameterValue,
    /// What was asked for is not there.
    ResourceDoesNotExist,
    /// What was to be created is there already.
    ResourceAlreadyExists,
    /// The object is in a state that does not allow this.
    InvalidState,
    /// The request is not understood at all.
    BadRequest,
    /// No such route.
    EndpointNotFound,
    /// The caller may not do this.
    PermissionDenied,
    /// A bound was reached; trying again later may help.
    ResourceExhausted,
    /// The disk is full; nothing was stored. The stock client does not retry it.
    StorageFull,
    /// The service is stopping or not ready; trying again later helps.
    TemporarilyUnavailable,
    /// A fault of ours.
    InternalError,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    ///
    /// As in MLflow, but for `INVALID_STATE`: there it is 500, which the stock
    /// client retries for minutes although no retry can help.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidParameterValue | Self::ResourceAlreadyExists | Self::BadRequest => {
                StatusCode::BAD_REQUEST
            }
            Self::InvalidState => StatusCode::CONFLICT,
            Self::ResourceDoesNotExist | Self::EndpointNotFound => StatusCode::NOT_FOUND,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// An operation that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind it is.
    pub code: ErrorCode,
    /// What was wrong, where, and what to do, for a person.
    pub message: String,
}

/// Result of every operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// A parameter is missing, malformed, or against a limit.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidParameterValue, message)
    }

    /// A required parameter is missing.
    pub fn missing(parameter: &str) -> Self {
        Self::invalid(format!(
            "Missing value for required parameter '{parameter}'. See the API docs for more \
             information about request parameters."
        ))
    }

    /// What was asked for is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ResourceDoesNotExist, message)
    }

    /// What was to be created is there already.
    pub fn exists(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ResourceAlreadyExists, message)
    }

    /// A fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InternalError, message)
    }

    /// Whether it says that something is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code == ErrorCode::ResourceDoesNotExist
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let full = error
            .as_database_error()
            .is_some_and(|e| e.message().contains("disk is full"));
        if full {
            return Self::new(
                ErrorCode::StorageFull,
                "The disk that holds the tracking database is full: free some space, then try \
                 again.",
            );
        }
        Self::internal(format!("The tracking database failed: {error}."))
    }
}

/// The body of an error answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) error_code: String,
    #[serde(default)]
    pub(crate) message: String,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.code.status();
        if status.is_server_error() {
            tracing::error!(code = ?self.code, message = %self.message, "request failed");
        }
        let body = serde_json::json!({"error_code": self.code, "message": self.message});
        (status, Json(body)).into_response()
    }
}
