//! Requests that are sent again until they arrive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use rand::Rng;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::{Error, Options, Result};
use crate::error::{ErrorBody, ErrorCode};

/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub(super) struct Transport {
    http: reqwest::Client,
    base: Url,
    token: Option<Arc<str>>,
    patience: Duration,
}

/// How one attempt ended.
enum Attempt {
    Answered(Response),
    Again(String),
}

impl Transport {
    pub(super) fn new(options: Options) -> Result<Self> {
        let base = Url::parse(options.address.trim_end_matches('/'))
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
            .ok_or_else(|| {
                Error::Settings(format!(
                    "'{}' is not an address of a tracking service: expected something like \
                     http://127.0.0.1:8700.",
                    options.address
                ))
            })?;
        let mut http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(Duration::from_secs(120))
            .danger_accept_invalid_certs(options.insecure_tls);
        if let Some(text) = &options.authorities {
            let unusable =
                |error| Error::Settings(format!("The authorities are not PEM: {error}."));
            for authority in
                reqwest::Certificate::from_pem_bundle(text.as_bytes()).map_err(unusable)?
            {
                http = http.add_root_certificate(authority);
            }
        }
        let local = match base.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if local {
            // A proxy of the environment cannot reach this machine's loopback.
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|error| Error::Settings(format!("Cannot make an HTTP client: {error}.")))?;
        Ok(Self {
            http,
            base,
            token: options.token.map(Arc::from),
            patience: options.patience,
        })
    }

    /// `/api/2.0/<path>`, each part of `path` encoded.
    pub(super) fn url<'p>(&self, parts: impl IntoIterator<Item = &'p str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "2.0"]).extend(parts);
        }
        url
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T> {
        let url = self.url(path.split('/'));
        let response = self
            .deliver(&format!("GET {path}"), || {
                let request = self.http.get(url.clone()).query(query);
                std::future::ready(Ok(request.timeout(Duration::from_secs(60))))
            })
            .await?;
        read(path, response).await
    }

    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let url = self.url(path.split('/'));
        let body = serde_json::to_vec(body).map_err(|error| Error::Answer {
            what: path.to_owned(),
            reason: error.to_string(),
        })?;
        let body = bytes::Bytes::from(body);
        let response = self
            .deliver(&format!("{method} {path}"), || {
                let request = self
                    .http
                    .request(method.clone(), url.clone())
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .timeout(Duration::from_secs(60))
                    .body(body.clone());
                std::future::ready(Ok(request))
            })
            .await?;
        read(path, response).await
    }

    pub(super) fn client(&self) -> &reqwest::Client {
        &self.http
    }

    /// Sends what `make` makes until it is answered with something final.
    pub(super) async fn deliver<F, R>(&self, what: &str, mut make: F) -> Result<Response>
    where
        F: FnMut() -> R,
        R: Future<Output = Result<RequestBuilder>>,
    {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let mut request = make().await?;
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            let reason = match attempt(request).await? {
                Attempt::Answered(response) => return Ok(response),
                Attempt::Again(reason) => reason,
            };
            let waited = started.elapsed();
            if waited + pause > self.patience {
                return Err(Error::Unreachable {
                    address: self.base.to_string(),
                    waited,
                    reason,
                });
            }
            tracing::debug!(request = what, %reason, ?pause, "tracking request failed, trying again");
            // Spread out, so that many pods do not come back at the same instant.
            let part = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(pause.mul_f64(part)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

async fn attempt(request: RequestBuilder) -> Result<Attempt> {
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_builder() => return Err(Error::Settings(error.to_string())),
        Err(error) => return Ok(Attempt::Again(chain(&error))),
    };
    let status = response.status();
    if status.is_success() {
        return Ok(Attempt::Answered(response));
    }
    let transient = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT;
    let body = response.text().await.unwrap_or_default();
    let parsed: Option<ErrorBody> = serde_json::from_str(&body).ok();
    let message = match &parsed {
        Some(parsed) => parsed.message.clone(),
        None => format!(
            "The tracking service answered {status}: {}",
            body.chars().take(300).collect::<String>()
        ),
    };
    if transient {
        return Ok(Attempt::Again(message));
    }
    let code = parsed.and_then(|parsed| {
        let name = serde_json::Value::String(parsed.error_code);
        serde_json::from_value::<ErrorCode>(name).ok()
    });
    Err(Error::Refused {
        code,
        message,
        status: status.as_u16(),
    })
}

/// An error with its causes: the last one says what the matter is.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

async fn read<T: DeserializeOwned>(what: &str, response: Response) -> Result<T> {
    let wrong = |reason: String| Error::Answer {
        what: what.to_owned(),
        reason,
    };
    let body = response
        .bytes()
        .await
        .map_err(|error| wrong(chain(&error)))?;
    serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))
}
