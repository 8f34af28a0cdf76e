//! Reading requests: JSON from the body, or the query string of a GET.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorCode};

/// The parameters of a request, wherever they came from.
///
/// As MLflow's server: a GET has them in its query string (a repeated key is a
/// list), everything else in its body, and in the query string if the body is empty.
#[derive(Debug)]
pub(super) struct Payload<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Payload<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let query = request.uri().query().map(str::to_owned);
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                Error::new(
                    ErrorCode::BadRequest,
                    format!("The body of the request could not be read: {rejection}."),
                )
            })?;
        let parsed = if body.iter().all(u8::is_ascii_whitespace) {
            let parameters = from_query(query.as_deref().unwrap_or_default());
            serde_json::from_value(Value::Object(parameters))
        } else {
            serde_json::from_slice(&body)
        };
        parsed.map(Self).map_err(|error| {
            Error::invalid(format!(
                "The parameters of the request are not valid: {error}."
            ))
        })
    }
}

fn from_query(query: &str) -> Map<String, Value> {
    let mut parameters = Map::new();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let value = Value::String(value.into_owned());
        match parameters.get_mut(key.as_ref()) {
            None => {
                parameters.insert(key.into_owned(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    parameters
}
