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
    /// Whether trying again, inside, may help.
    pub(crate) trouble: Trouble,
}

/// What the database ran into, beside what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// The connection broke, or the server is going down or coming up.
    Disconnected,
    /// Another transaction got in the way.
    Conflict,
}

/// Result of every operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            trouble: Trouble::None,
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
        let unavailable = |trouble| Self {
            trouble,
            ..Self::new(
                ErrorCode::TemporarilyUnavailable,
                format!(
                    "The tracking database cannot be reached ({error}): try again in a moment."
                ),
            )
        };
        let database = match &error {
            sqlx::Error::Database(database) => database,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => return unavailable(Trouble::Disconnected),
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
                return unavailable(Trouble::None);
            }
            _ => return Self::internal(format!("The tracking database failed: {error}.")),
        };
        // PostgreSQL's codes (appendix A of its manual) have five characters; SQLite's are numbers.
        let code = database.code().unwrap_or_default();
        let full = code == "53100" || database.message().contains("disk is full");
        match code.as_ref() {
            _ if full => Self::new(
                ErrorCode::StorageFull,
                "The disk that holds the tracking database is full: free some space, then try \
                 again.",
            ),
            // Going down, crashed, coming up, a standby, the connection broke.
            "57P01" | "57P02" | "57P03" | "25006" | "08000" | "08003" | "08006" => {
                unavailable(Trouble::Disconnected)
            }
            // Not serialisable, deadlock; a key taken or a parent deleted since it was
            // looked at, which the next attempt sees and explains.
            "40001" | "40P01" | "23505" | "23503" => Self {
                trouble: Trouble::Conflict,
                ..Self::new(
                    ErrorCode::TemporarilyUnavailable,
                    format!(
                        "Other writes to the tracking database got in the way ({error}): try again."
                    ),
                )
            },
            // Waited for a lock or for an answer for too long; too many connections.
            "55P03" | "57014" | "53300" => unavailable(Trouble::None),
            _ => Self::internal(format!("The tracking database failed: {error}.")),
        }
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
