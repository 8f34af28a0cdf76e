//! What a node answers to the API server and to those who watch over nodes, at
//! the paths of the kubelet.
//!
//! | path | asked of the authorizer |
//! | --- | --- |
//! | `/containerLogs/…`, `/exec/…`, `/attach/…`, `/portForward/…` | `nodes/proxy` |
//! | `/metrics/resource` | `nodes/metrics` |
//! | `/stats/summary`, `/gpus` | `nodes/stats` |
//! | `/healthz` | nothing |

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cumulo_apiserver::auth::Attributes;
use cumulo_apiserver::listener::Encrypted;
use cumulo_apiserver::{KubeletProxy, PodStream, PodTarget};
use cumulo_node::Handle;
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri};

use super::usage;
use crate::platform::{Guard, answer, nobody};

struct Kubelet {
    node: Handle,
    proxy: Arc<dyn KubeletProxy>,
    devices: Router,
    guard: Guard,
}

/// The routes.
pub fn router(node: Handle, guard: Guard) -> Router {
    let kubelet = Arc::new(Kubelet {
        proxy: crate::platform::proxy(node.clone()),
        devices: crate::platform::devices(node.clone()),
        node,
        guard,
    });
    Router::new().fallback(move |request: Request<Body>| {
        let kubelet = kubelet.clone();
        async move { kubelet.answer(request).await }
    })
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Health,
    Pod(PodTarget),
    Usage,
    Summary,
    Devices,
}

impl Asked {
    fn subresource(&self) -> &'static str {
        match self {
            Self::Health => "healthz",
            Self::Pod(_) => "proxy",
            Self::Usage => "metrics",
            Self::Summary | Self::Devices => "stats",
        }
    }
}

/// Reads a path.
fn asked(path: &str, node: &str) -> Option<Asked> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let target = |stream, namespace: &str, name: &str, uid: &str, container: &str| {
        Some(Asked::Pod(PodTarget {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            node: node.to_owned(),
            container: container.to_owned(),
            stream,
        }))
    };
    match parts[..] {
        ["healthz"] => Some(Asked::Health),
        ["metrics", "resource"] => Some(Asked::Usage),
        ["stats", "summary"] => Some(Asked::Summary),
        ["gpus"] => Some(Asked::Devices),
        ["containerLogs", namespace, name, container] => {
            target(PodStream::Log, namespace, name, "", container)
        }
        ["exec", namespace, name, container] => {
            target(PodStream::Exec, namespace, name, "", container)
        }
        ["exec", namespace, name, uid, container] => {
            target(PodStream::Exec, namespace, name, uid, container)
        }
        ["attach", namespace, name, container] => {
            target(PodStream::Attach, namespace, name, "", container)
        }
        ["attach", namespace, name, uid, container] => {
            target(PodStream::Attach, namespace, name, uid, container)
        }
        ["portForward", namespace, name] => target(PodStream::PortForward, namespace, name, "", ""),
        ["portForward", namespace, name, uid] => {
            target(PodStream::PortForward, namespace, name, uid, "")
        }
        _ => None,
    }
}

/// Parameters under the names that users of the API give them.
fn translated(uri: &Uri) -> Option<Uri> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        let name = match &*name {
            "input" => "stdin",
            "output" => "stdout",
            "error" => "stderr",
            "port" => "ports",
            other => other,
        };
        query.append_pair(name, &value);
    }
    format!("{}?{}", uri.path(), query.finish()).parse().ok()
}

impl Kubelet {
    async fn answer(&self, mut request: Request<Body>) -> Response {
        let path = request.uri().path().to_owned();
        let Some(asked) = asked(&path, self.node.node_name()) else {
            return nobody(&path);
        };
        if asked == Asked::Health {
            return "ok".into_response();
        }
        if request.extensions().get::<Encrypted>().is_none() {
            let message = "a node is asked over TLS only: use https\n";
            return (StatusCode::BAD_REQUEST, message).into_response();
        }
        let (head, body) = request.into_parts();
        if let Err(refusal) = self.permit(&asked, &head).await {
            return refusal;
        }
        request = Request::from_parts(head, body);
        match asked {
            Asked::Health => "ok".into_response(),
            Asked::Usage => usage::resource(&self.node).await,
            Asked::Summary => usage::summary(&self.node).await,
            Asked::Devices => answer(self.devices.clone(), request).await,
            Asked::Pod(target) => {
                if let Some(uri) = translated(request.uri()) {
                    *request.uri_mut() = uri;
                }
                self.proxy.forward(target, request).await
            }
        }
    }

    async fn permit(&self, asked: &Asked, head: &Parts) -> Result<(), Response> {
        let verb = match head.method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            _ => "delete",
        };
        let attributes = Attributes {
            verb: verb.to_owned(),
            version: "v1".to_owned(),
            resource: "nodes".to_owned(),
            subresource: asked.subresource().to_owned(),
            name: self.node.node_name().to_owned(),
            ..Attributes::default()
        };
        let shown = head.extensions.get::<Encrypted>();
        match shown.and_then(|encrypted| encrypted.user.as_ref()) {
            Some(user) => self.guard.permit(user, &attributes).await,
            None => self.guard.allow(attributes, head, false).await.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read() {
        let target = |path| match asked(path, "n") {
            Some(Asked::Pod(target)) => format!(
                "{:?} {}/{} {} {}",
                target.stream, target.namespace, target.name, target.uid, target.container
            ),
            other => format!("{other:?}"),
        };
        assert_eq!(target("/containerLogs/ns/p/main"), "Log ns/p  main");
        assert_eq!(target("/exec/ns/p/main"), "Exec ns/p  main");
        assert_eq!(target("/exec/ns/p/uid/main"), "Exec ns/p uid main");
        assert_eq!(target("/portForward/ns/p"), "PortForward ns/p  ");
        assert_eq!(target("/stats/summary"), "Some(Summary)");
        assert_eq!(target("/run/ns/p/main"), "None");
        assert_eq!(target("/"), "None");
    }

    #[test]
    fn parameters_have_the_apis_names() {
        let uri = "/exec/n/p/c?command=ls&command=a%26b&input=1&output=1".parse();
        let translated = translated(&uri.unwrap()).unwrap();
        assert_eq!(
            translated.query(),
            Some("command=ls&command=a%26b&stdin=1&stdout=1")
        );
    }
}
