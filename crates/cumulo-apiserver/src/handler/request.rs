//! Reading a request: what its path names, its parameters, its body. Everything
//! here is pure but for collecting the body.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;

use crate::decode::{self, Decoded};
use crate::operation::{
    DeleteOptions, FieldValidation, ListOptions, Propagation, VersionMatch, WatchOptions,
    WriteOptions,
};
use crate::protobuf::{self, ProtobufError};
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, Cause};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/livez`, `/readyz`, `/healthz` and what is below them.
    Health(String),
    /// `/version`.
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    Resources(String, String),
    /// `/openapi/v2`.
    OpenApiVersion2,
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/…`.
    OpenApiDocument(String, String),
    /// `/openid/v1/jwks`.
    PublicKeys,
    /// `/.well-known/openid-configuration`.
    Issuer,
    /// An object, a collection, or a subresource.
    Resource(ResourcePath),
    /// Anything else.
    Unknown,
}

/// The part of a path below a group and version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ResourcePath {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
    /// From the old `/watch/` paths.
    pub watch: bool,
}

/// Reads a path.
pub(super) fn route(path: &str) -> Route {
    let segments: Vec<String> = path
        .split('/')
        .filter(|s| !s.is_empty())
        .map(percent_decode)
        .collect();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["livez" | "readyz" | "healthz", ..] => Route::Health(parts.join("/")),
        ["version"] => Route::Version,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["api", version] => Route::Resources(String::new(), (*version).to_owned()),
        ["apis", group, version] => Route::Resources((*group).to_owned(), (*version).to_owned()),
        ["openapi", "v2"] => Route::OpenApiVersion2,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", "api", version] => {
            Route::OpenApiDocument(String::new(), (*version).to_owned())
        }
        ["openapi", "v3", "apis", group, version] => {
            Route::OpenApiDocument((*group).to_owned(), (*version).to_owned())
        }
        ["openid", "v1", "jwks"] => Route::PublicKeys,
        [".well-known", "openid-configuration"] => Route::Issuer,
        ["api", version, rest @ ..] => resource_path("", version, rest),
        ["apis", group, version, rest @ ..] => resource_path(group, version, rest),
        _ => Route::Unknown,
    }
}

fn resource_path(group: &str, version: &str, rest: &[&str]) -> Route {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let own = |text: &&str| Some((*text).to_owned());
    let mut path = ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        watch,
        ..ResourcePath::default()
    };
    let rest = match rest {
        // `namespaces/NAME/status` and `…/finalize` are subresources.
        ["namespaces", _, "status" | "finalize"] if group.is_empty() => rest,
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
            path.namespace = own(namespace);
            rest
        }
        rest => rest,
    };
    match rest {
        [plural] => path.plural = (*plural).to_owned(),
        [plural, name] => {
            path.plural = (*plural).to_owned();
            path.name = own(name);
        }
        [plural, name, subresource, more @ ..] => {
            path.plural = (*plural).to_owned();
            path.name = own(name);
            let mut all = (*subresource).to_owned();
            for part in more {
                all = format!("{all}/{part}");
            }
            path.subresource = Some(all);
        }
        [] => return Route::Unknown,
    }
    Route::Resource(path)
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let decoded = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The query parameters.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// A parameter, none when it is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// A boolean parameter as Kubernetes reads it: anything but a clear no is yes.
    pub fn flag(&self, name: &str) -> Option<bool> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(!matches!(value.to_lowercase().as_str(), "false" | "0"))
    }

    fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.text(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "query parameter {name}: \"{text}\" is not a whole number"
                    ))
                })
            })
            .transpose()
    }

    fn version(&self) -> Result<Option<u64>, ApiError> {
        self.text("resourceVersion")
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
                    ))
                })
            })
            .transpose()
    }

    fn version_match(&self) -> Result<Option<VersionMatch>, ApiError> {
        match self.text("resourceVersionMatch") {
            None => Ok(None),
            Some("NotOlderThan") => Ok(Some(VersionMatch::NotOlderThan)),
            Some("Exact") => Ok(Some(VersionMatch::Exact)),
            Some(other) => Err(unsupported(
                "resourceVersionMatch",
                other,
                &["Exact", "NotOlderThan", ""],
            )),
        }
    }

    /// The name that a field selector allows only, for the authorizer: who may
    /// list one object may list it by name.
    pub fn selected_name(&self) -> Option<String> {
        let selector = FieldSelector::parse(self.text("fieldSelector")?).ok()?;
        selector.name().map(str::to_owned)
    }

    fn selectors(&self) -> Result<(LabelSelector, FieldSelector), ApiError> {
        let bad = |e: crate::selector::SelectorError| ApiError::bad_request(e.to_string());
        Ok((
            LabelSelector::parse(self.text("labelSelector").unwrap_or_default()).map_err(bad)?,
            FieldSelector::parse(self.text("fieldSelector").unwrap_or_default()).map_err(bad)?,
        ))
    }

    pub fn list_options(&self, namespace: Option<&str>) -> Result<ListOptions, ApiError> {
        let (labels, fields) = self.selectors()?;
        let limit = self.number("limit")?.unwrap_or(0);
        if self.flag("sendInitialEvents").is_some() && self.text("sendInitialEvents").is_some() {
            let cause = Cause::forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            );
            return Err(
                ApiError::bad_request(format!("sendInitialEvents: {}", cause.message)).cause(cause),
            );
        }
        Ok(ListOptions {
            namespace: namespace.map(str::to_owned),
            labels,
            fields,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: self.text("continue").map(str::to_owned),
            version: self.version()?,
            version_match: self.version_match()?,
        })
    }

    pub fn watch_options(&self, namespace: Option<&str>) -> Result<WatchOptions, ApiError> {
        let (labels, fields) = self.selectors()?;
        let timeout = self
            .number("timeoutSeconds")?
            .and_then(|s| u64::try_from(s).ok())
            .map(Duration::from_secs);
        Ok(WatchOptions {
            namespace: namespace.map(str::to_owned),
            labels,
            fields,
            version: self.version()?,
            version_match: self.version_match()?,
            bookmarks: self.flag("allowWatchBookmarks").unwrap_or(false),
            initial_events: self.flag("sendInitialEvents"),
            timeout,
        })
    }

    fn dry_run(&self) -> Result<bool, ApiError> {
        match self.text("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(unsupported("dryRun", other, &["All"])),
        }
    }

    pub fn write_options(&self, headers: &HeaderMap) -> Result<WriteOptions, ApiError> {
        let validation = match self.text("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                return Err(unsupported(
                    "fieldValidation",
                    other,
                    &["Ignore", "Strict", "Warn", ""],
                ));
            }
        };
        let manager = self.text("fieldManager").unwrap_or_default();
        if manager.len() > 128 || manager.chars().any(|c| c.is_control()) {
            return Err(ApiError::bad_request(
                "fieldManager: at most 128 printable characters are wanted",
            ));
        }
        let manager = if manager.is_empty() {
            agent(headers)
        } else {
            manager.to_owned()
        };
        Ok(WriteOptions {
            dry_run: self.dry_run()?,
            field_manager: manager,
            validation,
            duplicates: Vec::new(),
            force: self.flag("force").unwrap_or(false),
            user: None,
        })
    }

    pub fn delete_options(&self, body: &Value) -> Result<DeleteOptions, ApiError> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let policy = self
            .text("propagationPolicy")
            .map(str::to_owned)
            .or_else(|| text(&body["propagationPolicy"]));
        let orphan = self
            .flag("orphanDependents")
            .or_else(|| body["orphanDependents"].as_bool());
        let propagation = match (policy.as_deref(), orphan) {
            (None | Some(""), Some(true)) => Some(Propagation::Orphan),
            (None | Some(""), Some(false)) => Some(Propagation::Background),
            (None | Some(""), None) => None,
            (Some(text), _) => Some(Propagation::parse(text).ok_or_else(|| {
                unsupported(
                    "propagationPolicy",
                    text,
                    &["Foreground", "Background", "Orphan"],
                )
            })?),
        };
        let grace_period = match self.number("gracePeriodSeconds")? {
            Some(seconds) => Some(seconds),
            None => body["gracePeriodSeconds"].as_i64(),
        };
        let dry_run = self.dry_run()?
            || body["dryRun"]
                .as_array()
                .is_some_and(|list| list.iter().any(|v| v == "All"));
        Ok(DeleteOptions {
            grace_period,
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            version: text(&body["preconditions"]["resourceVersion"]),
            dry_run,
            user: None,
        })
    }
}

fn unsupported(field: &str, found: &str, supported: &[&str]) -> ApiError {
    let cause = Cause::unsupported(field, &Value::from(found), supported);
    ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "Invalid",
        format!("{field}: {}", cause.message),
    )
    .cause(cause)
}

/// The manager's name that the `User-Agent` gives: what is before the slash.
fn agent(headers: &HeaderMap) -> String {
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let name = agent.split('/').next().unwrap_or_default().trim();
    let name: String = name.chars().take(128).collect();
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name
    }
}

/// The verb that a request has for the authorizer.
pub(super) fn verb(method: &Method, path: &ResourcePath, watching: bool) -> Option<&'static str> {
    let named = path.name.is_some();
    Some(match *method {
        Method::GET | Method::HEAD if watching && !named => "watch",
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => return None,
    })
}

/// Collects a body, up to the limit.
pub(super) async fn collect(body: Body, limit: usize) -> Result<bytes::Bytes, ApiError> {
    axum::body::to_bytes(body, limit).await.map_err(|error| {
        let too_large = std::error::Error::source(&error)
            .is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
        if too_large {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                format!("Request entity too large: limit is {limit}"),
            )
        } else {
            ApiError::bad_request(format!("the request body could not be read: {error}"))
        }
    })
}

/// The media type of a body, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_lowercase()
}

/// Reads a body that is an object.
pub(super) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Decoded, ApiError> {
    let unreadable =
        |e: String| ApiError::bad_request(format!("the object provided is unrecognized: {e}"));
    match media_type(headers).as_str() {
        "" | "application/json" => decode::json(body).map_err(|e| unreadable(e.to_string())),
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            decode::yaml(body).map_err(unreadable)
        }
        protobuf::MEDIA => match protobuf::decode(body) {
            Ok(value) => Ok(Decoded {
                value,
                duplicates: Vec::new(),
            }),
            // A custom resource, most likely: those are JSON or YAML.
            Err(error @ ProtobufError::UnknownKind { .. }) => Err(unsupported_media(
                protobuf::MEDIA,
                "",
                &format!(" ({error}: only built-in kinds are read as protobuf)"),
            )),
            Err(error) => Err(unreadable(error.to_string())),
        },
        other => Err(unsupported_media(
            other,
            ", application/vnd.kubernetes.protobuf",
            "",
        )),
    }
}

/// 415 for a body in a format that is not read.
fn unsupported_media(found: &str, also: &str, hint: &str) -> ApiError {
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "UnsupportedMediaType",
        format!(
            "the body of the request was in an unknown format \"{found}\" - accepted media types include: application/json, application/yaml{also}{hint}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> String {
        match route(path) {
            Route::Resource(p) => format!(
                "{}/{} {} ns={} name={} sub={}",
                p.group,
                p.version,
                p.plural,
                p.namespace.as_deref().unwrap_or("-"),
                p.name.as_deref().unwrap_or("-"),
                p.subresource.as_deref().unwrap_or("-")
            ),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn paths() {
        let all: Vec<String> = [
            "/api",
            "/apis/apps",
            "/apis/apps/v1",
            "/api/v1/pods",
            "/api/v1/namespaces",
            "/api/v1/namespaces/a",
            "/api/v1/namespaces/a/status",
            "/api/v1/namespaces/a/finalize",
            "/api/v1/namespaces/a/pods",
            "/api/v1/namespaces/a/pods/b",
            "/api/v1/namespaces/a/pods/b/log",
            "/apis/x.y/v1/things/a%2Fb",
            "/openapi/v3/apis/apps/v1",
            "/readyz/ping",
            "/nothing",
        ]
        .iter()
        .map(|p| format!("{p} → {}", shown(p)))
        .collect();
        insta::assert_snapshot!(all.join("\n"), @r#"
        /api → CoreVersions
        /apis/apps → Group("apps")
        /apis/apps/v1 → Resources("apps", "v1")
        /api/v1/pods → /v1 pods ns=- name=- sub=-
        /api/v1/namespaces → /v1 namespaces ns=- name=- sub=-
        /api/v1/namespaces/a → /v1 namespaces ns=- name=a sub=-
        /api/v1/namespaces/a/status → /v1 namespaces ns=- name=a sub=status
        /api/v1/namespaces/a/finalize → /v1 namespaces ns=- name=a sub=finalize
        /api/v1/namespaces/a/pods → /v1 pods ns=a name=- sub=-
        /api/v1/namespaces/a/pods/b → /v1 pods ns=a name=b sub=-
        /api/v1/namespaces/a/pods/b/log → /v1 pods ns=a name=b sub=log
        /apis/x.y/v1/things/a%2Fb → x.y/v1 things ns=- name=a/b sub=-
        /openapi/v3/apis/apps/v1 → OpenApiDocument("apps", "v1")
        /readyz/ping → Health("readyz/ping")
        /nothing → Unknown
        "#);
    }
}
