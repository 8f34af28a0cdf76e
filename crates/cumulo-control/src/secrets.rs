//! The Secrets in which pods find the token for the tracking server and the
//! credentials of the artifact store, in every namespace in which they run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use cumulo_api::labels;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::context::{Context, Error, doing};
use crate::options::{ARTIFACTS_SECRET, Token, TokenSource};

/// Wait before a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// A token that is not renewed is looked at again after this long.
const FOREVER: Duration = Duration::from_secs(86_400);

/// The token that pods get now, and where it stands.
#[derive(Default)]
pub(crate) struct Secrets {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Current>,
    /// Namespaces whose Secret holds the token of this number.
    written: HashMap<String, u64>,
    /// Tokens so far.
    number: u64,
}

#[derive(Clone)]
struct Current {
    token: Token,
    /// When the next one is asked for.
    renew: Instant,
}

/// Sees to the Secret of a namespace; writes only what is not there yet.
pub(crate) async fn keep(context: &Context, namespace: &str) -> Result<(), Error> {
    let Some(secret) = &context.options.tracking_secret else {
        return Ok(());
    };
    let Some(source) = &secret.token else {
        return Ok(());
    };
    let mut state = context.secrets.state.lock().await;
    let token = state.current(&context.client, source).await?;
    if state.written.get(namespace) == Some(&state.number) {
        return Ok(());
    }
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let data = BTreeMap::from([(secret.key.as_str(), token.reveal())]);
    apply(&api, namespace, &secret.name, &data).await?;
    let variables = &context.options.artifacts_variables;
    if !variables.is_empty() {
        let data = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.reveal()))
            .collect();
        apply(&api, namespace, ARTIFACTS_SECRET, &data).await?;
    }
    let number = state.number;
    state.written.insert(namespace.to_owned(), number);
    Ok(())
}

async fn apply(
    api: &Api<Secret>,
    namespace: &str,
    name: &str,
    data: &BTreeMap<&str, &str>,
) -> Result<(), Error> {
    let wanted = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {labels::MANAGED_BY: labels::MANAGER},
        },
        "stringData": data,
    });
    let parameters = PatchParams::apply("cumulo-control").force();
    api.patch(name, &parameters, &Patch::Apply(&wanted))
        .await
        .map(drop)
        .map_err(doing(format!("keeping Secret {namespace}/{name}")))
}

/// Renews the Secrets of all namespaces that have pods, for as long as it is polled.
pub(crate) async fn renew(context: &Context) {
    loop {
        let mut wait = FOREVER;
        for namespace in namespaces(context) {
            if let Err(error) = keep(context, &namespace).await {
                tracing::warn!(%error, namespace, "the pods' token is not renewed, trying again");
                wait = RETRY;
            }
        }
        if wait == FOREVER {
            let state = context.secrets.state.lock().await;
            if let Some(current) = &state.token {
                wait = wait.min(current.renew.saturating_duration_since(Instant::now()));
            }
        }
        tokio::time::sleep(wait.max(Duration::from_secs(1))).await;
    }
}

fn namespaces(context: &Context) -> BTreeSet<String> {
    let pods = context.pods.select(|pod| {
        let manager = pod.labels().get(labels::MANAGED_BY);
        manager.map(String::as_str) == Some(labels::MANAGER)
    });
    pods.iter().filter_map(|pod| pod.namespace()).collect()
}

impl State {
    async fn current(&mut self, client: &Client, source: &TokenSource) -> Result<Token, Error> {
        if let Some(current) = &self.token
            && current.renew > Instant::now()
        {
            return Ok(current.token.clone());
        }
        let fresh = match source {
            TokenSource::Fixed(token) => Current {
                token: token.clone(),
                renew: Instant::now() + FOREVER,
            },
            TokenSource::Account {
                namespace,
                name,
                lifetime,
            } => request(client, namespace, name, *lifetime).await?,
        };
        let same = self
            .token
            .as_ref()
            .is_some_and(|known| known.token.reveal() == fresh.token.reveal());
        if !same {
            self.number += 1;
        }
        self.token = Some(fresh.clone());
        Ok(fresh.token)
    }
}

/// Asks the API server for a token of a service account.
async fn request(
    client: &Client,
    namespace: &str,
    name: &str,
    lifetime: Duration,
) -> Result<Current, Error> {
    let what = format!("asking for a token of service account {namespace}/{name}");
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": lifetime.as_secs().max(600)},
    });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    let request = http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())
        .map_err(|error| Error::Internal(format!("{what}: {error}")))?;
    let answer: Value = client.request(request).await.map_err(doing(what.clone()))?;
    let token = answer["status"]["token"].as_str();
    let token = token.ok_or_else(|| Error::Internal(format!("{what}: the answer has none")))?;
    // A server may give less time than was asked for.
    let expires = answer["status"]["expirationTimestamp"].as_str();
    let left = expires
        .and_then(|text| text.parse::<Timestamp>().ok())
        .and_then(|expires| Duration::try_from(expires.duration_since(Timestamp::now())).ok())
        .unwrap_or(lifetime);
    Ok(Current {
        token: Token::new(token),
        renew: Instant::now() + left / 2,
    })
}
