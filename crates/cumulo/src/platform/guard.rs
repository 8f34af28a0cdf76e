//! What is served beside the Kubernetes API asks the same authorizer, in terms
//! of Cumulo's kinds.
//!
//! | request | verb and resource |
//! | --- | --- |
//! | reading tracking, registry, artifacts | `get models/tracking` |
//! | any other request to them | `update models/tracking` |
//! | `/v2` and lists of services | `list inferenceservices/predict` in the namespace |
//! | reading one service | `get inferenceservices/predict` of its name |
//! | any other request to it: a prediction | `create inferenceservices/predict` of its name |
//! | `/metrics` | `get` of the path |
//! | `/gpus` | `get nodes/stats` |
//! | `/backup` | `get` of the path, which only `cluster-admin` may: it holds every secret |

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use cumulo_apiserver::Handle;
use cumulo_apiserver::audit::{Event, SourceAddress};
use cumulo_apiserver::auth::{Attributes, Decision};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::routes::Part;

/// MLflow's requests that only read although they are POSTs.
const SEARCHES: [&str; 7] = [
    "experiments/search",
    "experiments/search-datasets",
    "logged-models/search",
    "model-versions/search",
    "registered-models/get-latest-versions",
    "registered-models/search",
    "runs/search",
];

fn of_kind(verb: &str, resource: &str, subresource: &str) -> Attributes {
    Attributes {
        verb: verb.to_owned(),
        group: "cumulo.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        ..Attributes::default()
    }
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// What a request to tracking wants.
fn tracking(method: &Method, path: &str) -> Attributes {
    let search = *method == Method::POST
        && ["/api/2.0/mlflow/", "/ajax-api/2.0/mlflow/"]
            .iter()
            .filter_map(|prefix| path.strip_prefix(prefix))
            .any(|rest| SEARCHES.contains(&rest));
    let verb = if reads(method) || search {
        "get"
    } else {
        "update"
    };
    of_kind(verb, "models", "tracking")
}

/// What a request for a path that is no resource wants.
fn of_path(method: &Method, path: &str) -> Attributes {
    Attributes {
        verb: method.as_str().to_lowercase(),
        path: path.to_owned(),
        ..Attributes::default()
    }
}

/// What a request to the gateway wants. Paths are taken apart as the gateway does.
fn inference(method: &Method, path: &str) -> Attributes {
    if path.starts_with("/metrics") {
        return of_path(method, path);
    }
    let (namespace, rest) = path
        .strip_prefix("/namespaces/")
        .and_then(|rest| rest.split_once('/'))
        .unwrap_or(("default", path.trim_start_matches('/')));
    let name = rest
        .strip_prefix("v2/models/")
        .map(|rest| rest.split_once('/').map_or(rest, |(name, _)| name))
        .unwrap_or_default();
    let verb = match (name.is_empty(), reads(method)) {
        (true, _) => "list",
        (false, true) => "get",
        (false, false) => "create",
    };
    Attributes {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..of_kind(verb, "inferenceservices", "predict")
    }
}

/// What a request about devices wants: what the kubelet asks for its own figures.
fn devices(method: &Method) -> Attributes {
    Attributes {
        verb: if reads(method) { "get" } else { "update" }.to_owned(),
        version: "v1".to_owned(),
        resource: "nodes".to_owned(),
        subresource: "stats".to_owned(),
        ..Attributes::default()
    }
}

/// Asks who sends a request and whether they may.
#[derive(Clone)]
pub struct Guard {
    api: Handle,
}

impl Guard {
    /// The guard that asks this API server.
    pub fn new(api: Handle) -> Self {
        Self { api }
    }

    /// The refusal of a request that may not be, or what the audit log is to be
    /// told of it once it is answered. Predictions that are allowed are too many
    /// to be told, and reads change nothing.
    pub async fn check(&self, part: Part, request: &Parts) -> Result<Option<Event>, Response> {
        let path = request.uri.path();
        let attributes = match part {
            Part::Tracking => tracking(&request.method, path),
            Part::Devices => devices(&request.method),
            Part::Backup => of_path(&request.method, path),
            _ => inference(&request.method, path),
        };
        let received = Utc::now();
        // Made only where it is told: predictions are many.
        let event = |attributes, user, decision| Event {
            user,
            impersonated: None,
            attributes,
            path: path.to_owned(),
            source: request.extensions.get().map(|from: &SourceAddress| from.0),
            agent: text(&request.headers, header::USER_AGENT).to_owned(),
            code: 0,
            decision,
            received,
            completed: received,
        };
        let known = match token(&request.headers) {
            None => {
                Err("a bearer token is needed: it stands in the kubeconfig that `cumulo up` wrote")
            }
            Some(token) => self
                .api
                .authenticate(token)
                .await
                .ok_or("the token is not one of this platform's"),
        };
        let user = match known {
            Ok(user) => user,
            Err(why) => {
                let event = event(attributes, None, None);
                return Err(self.refuse(event, StatusCode::UNAUTHORIZED, why));
            }
        };
        let decision = self.api.authorize(&user, &attributes).await;
        if matches!(decision, Decision::Deny(_)) {
            let why = attributes.refusal(&user);
            let event = event(attributes, Some(user), Some(decision));
            return Err(self.refuse(event, StatusCode::FORBIDDEN, &why));
        }
        // A copy of everything is told, although it changes nothing.
        let told = match part {
            Part::Tracking => attributes.verb != "get",
            Part::Backup => true,
            _ => false,
        };
        Ok(told.then(|| event(attributes, Some(user), Some(decision))))
    }

    /// Tells the audit log how a request was answered.
    pub fn answered(&self, mut event: Event, code: StatusCode) {
        if let Some(audit) = self.api.audit() {
            event.code = code.as_u16();
            event.completed = Utc::now();
            audit.record(event);
        }
    }

    fn refuse(&self, event: Event, code: StatusCode, why: &str) -> Response {
        self.answered(event, code);
        let name = if code == StatusCode::UNAUTHORIZED {
            "UNAUTHENTICATED"
        } else {
            "PERMISSION_DENIED"
        };
        let body = serde_json::json!({"error": why, "error_code": name, "message": why});
        let mut response = (code, Body::from(body.to_string())).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if code == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"cumulo\""),
            );
        }
        response
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn token(headers: &HeaderMap) -> Option<&str> {
    text(headers, header::AUTHORIZATION)
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(part: Part, method: &Method, path: &str) -> String {
        let wanted = match part {
            Part::Tracking => tracking(method, path),
            _ => inference(method, path),
        };
        format!(
            "{method} {path} → {} {}/{} ns={} name={} path={}",
            wanted.verb,
            wanted.resource,
            wanted.subresource,
            wanted.namespace,
            wanted.name,
            wanted.path
        )
    }

    #[test]
    fn what_is_asked_for() {
        let all = [
            shown(Part::Tracking, &Method::GET, "/api/2.0/mlflow/runs/get"),
            shown(Part::Tracking, &Method::POST, "/api/2.0/mlflow/runs/search"),
            shown(Part::Tracking, &Method::POST, "/api/2.0/mlflow/runs/create"),
            shown(
                Part::Tracking,
                &Method::POST,
                "/api/2.0/mlflow-artifacts/mpu/create/runs/search",
            ),
            shown(
                Part::Tracking,
                &Method::PUT,
                "/api/2.0/mlflow-artifacts/artifacts/a",
            ),
            shown(Part::Gateway, &Method::GET, "/v2"),
            shown(Part::Gateway, &Method::POST, "/v2/repository/index"),
            shown(Part::Gateway, &Method::GET, "/v2/models/m/ready"),
            shown(Part::Gateway, &Method::POST, "/v2/models/m/infer"),
            shown(
                Part::Gateway,
                &Method::POST,
                "/namespaces/n/v2/models/m/infer",
            ),
            shown(Part::Gateway, &Method::GET, "/namespaces/n/v2/models"),
            shown(Part::Gateway, &Method::GET, "/metrics"),
        ];
        insta::assert_snapshot!(all.join("\n"), @"
        GET /api/2.0/mlflow/runs/get → get models/tracking ns= name= path=
        POST /api/2.0/mlflow/runs/search → get models/tracking ns= name= path=
        POST /api/2.0/mlflow/runs/create → update models/tracking ns= name= path=
        POST /api/2.0/mlflow-artifacts/mpu/create/runs/search → update models/tracking ns= name= path=
        PUT /api/2.0/mlflow-artifacts/artifacts/a → update models/tracking ns= name= path=
        GET /v2 → list inferenceservices/predict ns=default name= path=
        POST /v2/repository/index → list inferenceservices/predict ns=default name= path=
        GET /v2/models/m/ready → get inferenceservices/predict ns=default name=m path=
        POST /v2/models/m/infer → create inferenceservices/predict ns=default name=m path=
        POST /namespaces/n/v2/models/m/infer → create inferenceservices/predict ns=n name=m path=
        GET /namespaces/n/v2/models → list inferenceservices/predict ns=n name= path=
        GET /metrics → get / ns= name= path=/metrics
        ");
    }
}
