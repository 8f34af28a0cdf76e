//! Where tracking and inference answer, and with which credential.
//!
//! | platform | where | credential |
//! | --- | --- | --- |
//! | this machine's | its one address | the owner's token |
//! | `cumulo up` behind a kubeconfig | the API server's address | the kubeconfig's token |
//! | installed on a cluster | the URLs in the ConfigMap `cumulo`; without them a pod of the Service, through the API server | the kubeconfig's token, or one of the service account that the ConfigMap names |

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Client;
use kube::api::{Api, ListParams};
use url::Url;

use super::forward::Forward;
use super::{ContextPlace, Place, credential, system_namespace};
use crate::project::apply::api_error;

/// The ConfigMap that `cumulo manifests` makes for clients.
pub const CONFIGURATION: &str = "cumulo";
/// What the embedded API server's version ends with.
const EMBEDDED: &str = "+cumulo";

/// The two services that a user's commands speak to besides the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Tracking,
    Gateway,
}

impl Part {
    /// The key of the ConfigMap with its URL.
    fn key(self) -> &'static str {
        match self {
            Self::Tracking => "trackingUrl",
            Self::Gateway => "gatewayUrl",
        }
    }

    /// The Service.
    fn service(self) -> &'static str {
        match self {
            Self::Tracking => "cumulo-tracking",
            Self::Gateway => "cumulo-gateway",
        }
    }
}

/// Where a part answers, and how it is asked.
#[derive(Clone)]
pub struct Endpoint {
    /// A client that trusts it.
    pub http: reqwest::Client,
    /// Its URL, without a slash at its end.
    pub base: String,
    /// The bearer token.
    pub token: String,
    /// Kept as long as somebody asks.
    _forward: Option<Arc<Forward>>,
}

impl Place {
    /// Where tracking, registry and artifacts are.
    ///
    /// # Errors
    /// When they cannot be found; the message says what was looked for.
    pub async fn tracking(&self) -> Result<Endpoint> {
        self.endpoint(Part::Tracking).await
    }

    /// Where inference is.
    ///
    /// # Errors
    /// As [`Place::tracking`].
    pub async fn gateway(&self) -> Result<Endpoint> {
        self.endpoint(Part::Gateway).await
    }

    async fn endpoint(&self, part: Part) -> Result<Endpoint> {
        match self {
            Self::Home(home) => Ok(Endpoint {
                http: reqwest::Client::new(),
                base: home.require_running()?.url(),
                token: home.credentials()?.admin,
                _forward: None,
            }),
            Self::Context(place) => place.endpoint(&self.client().await?, part).await,
        }
    }
}

impl ContextPlace {
    /// Whether the API server is the embedded one, which serves everything at one address.
    pub async fn is_embedded(client: &Client) -> Result<bool> {
        let version = client
            .apiserver_version()
            .await
            .map_err(|error| api_error(&error))?;
        Ok(version.git_version.ends_with(EMBEDDED))
    }

    async fn endpoint(&self, client: &Client, part: Part) -> Result<Endpoint> {
        let own = credential::own_token(&self.config).await?;
        if Self::is_embedded(client).await? {
            let token = own.with_context(|| {
                format!(
                    "context {:?} holds no bearer token: `cumulo user add` makes a kubeconfig with one",
                    self.name
                )
            })?;
            return Ok(Endpoint {
                http: self.http(None)?,
                base: self.server(),
                token,
                _forward: None,
            });
        }
        let namespace = system_namespace();
        let found = configuration(client, &namespace).await?;
        let token = match (own, &found.service_account) {
            (Some(token), _) => token,
            (None, Some(account)) => credential::issued_token(client, &namespace, account).await?,
            (None, None) => bail!(
                "context {:?} holds no bearer token, and ConfigMap {namespace}/{CONFIGURATION} names no serviceAccount to issue one for",
                self.name
            ),
        };
        if let Some(url) = found.url(part) {
            check_url(url).with_context(|| {
                format!("{} in ConfigMap {namespace}/{CONFIGURATION}", part.key())
            })?;
            return Ok(Endpoint {
                http: self.http(found.authority.as_deref())?,
                base: url.trim_end_matches('/').to_owned(),
                token,
                _forward: None,
            });
        }
        let (pod, port) = ready_pod(client, &namespace, part.service()).await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let forward = Forward::open(pods, pod, port).await?;
        Ok(Endpoint {
            http: reqwest::Client::new(),
            base: forward.url(),
            token,
            _forward: Some(Arc::new(forward)),
        })
    }

    /// A client that trusts what the kubeconfig trusts, and an authority besides.
    fn http(&self, authority: Option<&str>) -> Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .danger_accept_invalid_certs(self.config.accept_invalid_certs);
        for certificate in self.config.root_cert.iter().flatten() {
            builder = builder.add_root_certificate(reqwest::Certificate::from_der(certificate)?);
        }
        if let Some(authority) = authority {
            for certificate in reqwest::Certificate::from_pem_bundle(authority.as_bytes())
                .context("certificateAuthority in the ConfigMap is not PEM")?
            {
                builder = builder.add_root_certificate(certificate);
            }
        }
        Ok(builder.build()?)
    }
}

/// What the ConfigMap tells clients.
#[derive(Debug, Default, PartialEq, Eq)]
struct Configuration {
    tracking: Option<String>,
    gateway: Option<String>,
    /// Of whom a token is asked for when the kubeconfig has none.
    service_account: Option<String>,
    /// PEM: whom to trust for the URLs, besides the machine's authorities.
    authority: Option<String>,
}

impl Configuration {
    fn read(map: ConfigMap) -> Self {
        let mut data = map.data.unwrap_or_default();
        let mut take = |key: &str| data.remove(key).filter(|text| !text.trim().is_empty());
        Self {
            tracking: take(Part::Tracking.key()),
            gateway: take(Part::Gateway.key()),
            service_account: take("serviceAccount"),
            authority: take("certificateAuthority"),
        }
    }

    fn url(&self, part: Part) -> Option<&str> {
        match part {
            Part::Tracking => self.tracking.as_deref(),
            Part::Gateway => self.gateway.as_deref(),
        }
    }
}

async fn configuration(client: &Client, namespace: &str) -> Result<Configuration> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps
        .get_opt(CONFIGURATION)
        .await
        .map_err(|error| api_error(&error))
        .with_context(|| {
            format!("cannot read ConfigMap {namespace}/{CONFIGURATION}, which says where Cumulo is")
        })?;
    map.map(Configuration::read).with_context(|| {
        format!(
            "Cumulo is not installed in namespace {namespace} (it has no ConfigMap {CONFIGURATION}): `cumulo manifests | kubectl apply --server-side -f -` installs it, {} names another namespace",
            super::SYSTEM_NAMESPACE_VARIABLE
        )
    })
}

/// The token is sent there: nobody on the way may read it.
fn check_url(text: &str) -> Result<()> {
    let url = Url::parse(text).with_context(|| format!("{text:?} is not a URL"))?;
    let host = url.host_str().unwrap_or_default();
    let near = host == "localhost"
        || host.ends_with(".svc")
        || host.ends_with(".svc.cluster.local")
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(()),
        "http" if near => Ok(()),
        "http" => bail!(
            "{text:?} is not encrypted, and your token would go there: use https, or leave it out, and commands go through the API server"
        ),
        other => bail!("{text:?}: {other} is not spoken here; use https"),
    }
}

/// A pod that is ready behind a Service, and the port that the Service's first one leads to.
async fn ready_pod(client: &Client, namespace: &str, service: &str) -> Result<(String, u16)> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let found = services
        .get(service)
        .await
        .map_err(|error| api_error(&error))
        .with_context(|| format!("Service {namespace}/{service}"))?;
    let spec = found.spec.unwrap_or_default();
    let selector: Vec<String> = spec
        .selector
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let target = spec.ports.unwrap_or_default().into_iter().next();
    let (Some(target), false) = (target, selector.is_empty()) else {
        bail!(
            "Service {namespace}/{service} selects no pods: put the URL into ConfigMap {namespace}/{CONFIGURATION}"
        );
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods
        .list(&ListParams::default().labels(&selector.join(",")))
        .await
        .map_err(|error| api_error(&error))?;
    let pod = list.items.into_iter().find(is_ready).with_context(|| {
        format!(
            "no pod of Service {namespace}/{service} is ready: `kubectl get pods -n {namespace}` shows why"
        )
    })?;
    let port = port_of(&pod, target.target_port.as_ref(), target.port).with_context(|| {
        format!("Service {namespace}/{service} names a port that its pods do not have")
    })?;
    Ok((pod.metadata.name.unwrap_or_default(), port))
}

fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The number of the container's port that a Service's port leads to.
fn port_of(pod: &Pod, target: Option<&IntOrString>, port: i32) -> Option<u16> {
    let number = match target {
        None | Some(IntOrString::Int(0)) => port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            pod.spec
                .iter()
                .flat_map(|spec| &spec.containers)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|port| port.name.as_ref() == Some(name))?
                .container_port
        }
    };
    u16::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_goes_to_nobody_in_the_clear() {
        for url in [
            "https://tracking.example.org",
            "http://127.0.0.1:5000",
            "http://[::1]:5000/",
            "http://cumulo-tracking.cumulo-system.svc:8700",
        ] {
            assert!(check_url(url).is_ok(), "{url}");
        }
        let refused = check_url("http://tracking.example.org").unwrap_err();
        insta::assert_snapshot!(refused, @r#""http://tracking.example.org" is not encrypted, and your token would go there: use https, or leave it out, and commands go through the API server"#);
        assert!(check_url("http://evil.svc.example.org").is_err());
        assert!(check_url("file:///etc").is_err());
    }

    #[test]
    fn an_empty_text_is_no_url() {
        let map = serde_json::from_value(
            json!({"data": {"trackingUrl": " ", "gatewayUrl": "https://g", "serviceAccount": "cumulo-user"}}),
        )
        .unwrap();
        let read = Configuration::read(map);
        assert_eq!(read.url(Part::Tracking), None);
        assert_eq!(read.url(Part::Gateway), Some("https://g"));
        assert_eq!(read.service_account.as_deref(), Some("cumulo-user"));
    }

    #[test]
    fn a_named_port_is_the_containers() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "a", "ports": [{"name": "http", "containerPort": 8080}]}
        ]}}))
        .unwrap();
        let name = IntOrString::String("http".to_owned());
        assert_eq!(port_of(&pod, Some(&name), 80), Some(8080));
        assert_eq!(port_of(&pod, Some(&IntOrString::Int(9)), 80), Some(9));
        assert_eq!(port_of(&pod, None, 80), Some(80));
        let name = IntOrString::String("grpc".to_owned());
        assert_eq!(port_of(&pod, Some(&name), 80), None);
    }
}
