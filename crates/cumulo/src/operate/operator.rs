//! `cumulo operator`: the controllers, of one of several replicas.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::get;
use cumulo_control::Token;
use cumulo_control::{LeaderOptions, Metrics, Options, TokenSource, TrackingSecret, while_leader};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::credential::Credential;
use super::fleet::{Fleet, Gateways};
use super::registry::RemoteRegistry;
use super::reviews::Reviews;
use super::serve::{Served, open, router};
use super::trust::Trust;
use super::{SHUTDOWN, client, config};
use crate::cli::{OperatorArgs, PlaceArgs};
use crate::platform::{
    Guard, Part, TRACKING_SECRET, TRACKING_SECRET_KEY, dataset_environment, listen,
};

/// The Lease of the election.
const LEASE: &str = "cumulo-operator";

/// Credentials that belong to the pod that this runs in, and to files there.
const VARIABLES_OF_THIS_POD: [&str; 6] = [
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_ROLE_ARN",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// Runs the role until it is told to end.
pub fn run(place: &PlaceArgs, arguments: &OperatorArgs) -> Result<()> {
    super::run(|shutdown| serve(place, arguments, shutdown))
}

async fn serve(
    place: &PlaceArgs,
    arguments: &OperatorArgs,
    shutdown: CancellationToken,
) -> Result<()> {
    let config = config(place).await?;
    let credential = Credential::new(arguments.token_file.as_ref(), &config);
    if !credential.is_some() {
        tracing::warn!(
            "there is no bearer token for tracking and gateways, which need one: name a file with --token-file"
        );
    }
    let client = client(config)?;
    let gateways: Gateways = arguments.gateways.parse().context("--gateways")?;
    let options = options(arguments)?;
    let metrics = options.metrics.clone();
    let trust = Trust::read(arguments.trust.certificate_authority.as_deref())?;
    let registry = RemoteRegistry::new(&arguments.tracking_uri, credential.clone(), trust.clone())?;
    let fleet = Fleet::new(credential, trust);
    let leadership = Arc::new(Leadership::default());
    let (socket, tls) = open(arguments.listen, &arguments.tls).await?;

    let roles = TaskTracker::new();
    roles.spawn(registry.clone().run(shutdown.clone()));
    roles.spawn(
        fleet
            .clone()
            .run(client.clone(), gateways, shutdown.clone()),
    );
    let election = LeaderOptions::new(&arguments.namespace, LEASE, identity(arguments));
    let work = {
        let (client, fleet, leadership) = (client.clone(), fleet.clone(), leadership.clone());
        move |stop| {
            let working = cumulo_control::run(
                client.clone(),
                options.clone(),
                registry.clone(),
                fleet.clone(),
                stop,
            );
            let leadership = leadership.clone();
            async move {
                leadership.begin();
                working.await;
                leadership.end();
            }
        }
    };
    roles.spawn(while_leader(
        client.clone(),
        election,
        shutdown.clone(),
        work,
    ));
    roles.close();
    let served = Served {
        guard: Guard::new(Reviews::new(client)),
        routes: vec![(Part::Gateway, shown(metrics, leadership, fleet))],
        passed: Vec::new(),
        ready: Arc::new(|| None),
    };
    listen(socket, tls, router(served), shutdown).await;
    let _ = tokio::time::timeout(SHUTDOWN, roles.wait()).await;
    Ok(())
}

/// This replica's part in the election.
#[derive(Default)]
struct Leadership {
    leads: AtomicBool,
    terms: AtomicU64,
}

impl Leadership {
    fn begin(&self) {
        self.terms.fetch_add(1, Ordering::Relaxed);
        self.leads.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        self.leads.store(false, Ordering::Relaxed);
    }

    fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    fn terms(&self) -> u64 {
        self.terms.load(Ordering::Relaxed)
    }
}

/// Who this replica is: two processes never share a name.
fn identity(arguments: &OperatorArgs) -> String {
    let name = arguments
        .identity
        .clone()
        .unwrap_or_else(cumulo_node::options::host_name);
    format!("{name}_{}", hex::encode(rand::random::<[u8; 4]>()))
}

fn options(arguments: &OperatorArgs) -> Result<Options> {
    let mut options = Options::new(
        &arguments.tracking_uri,
        arguments.artifacts.trim_end_matches('/'),
    );
    options.gateway_url = arguments.gateway_url.trim_end_matches('/').to_owned();
    options.runtime_image.clone_from(&arguments.image);
    options.scheduler_name.clone_from(&arguments.scheduler_name);
    let (namespace, name) = arguments
        .workload_account
        .split_once('/')
        .with_context(|| {
            format!(
                "--workload-account {:?} names no service account: expected NAMESPACE/NAME",
                arguments.workload_account
            )
        })?;
    options.tracking_secret = Some(TrackingSecret {
        name: TRACKING_SECRET.to_owned(),
        key: TRACKING_SECRET_KEY.to_owned(),
        token: Some(TokenSource::Account {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            lifetime: arguments.workload_token_lifetime,
        }),
    });
    options.artifacts_variables = store_variables(std::env::vars());
    options.dataset_environment =
        dataset_environment(&arguments.allowed_roots, &arguments.allowed_hosts);
    Ok(options)
}

/// The settings of the artifact store among this process's variables, as pods
/// get them: `CUMULO_AWS_…`, which stay apart from a user's own `AWS_…`.
fn store_variables(all: impl Iterator<Item = (String, String)>) -> Vec<(String, Token)> {
    all.filter_map(|(name, value)| {
        let bare = name.strip_prefix("CUMULO_").unwrap_or(&name);
        let kept = bare.starts_with("AWS_") && !VARIABLES_OF_THIS_POD.contains(&bare);
        kept.then(|| (format!("CUMULO_{bare}"), Token::new(value)))
    })
    .collect()
}

/// The metrics.
fn shown(metrics: Arc<Metrics>, leadership: Arc<Leadership>, fleet: Arc<Fleet>) -> Router {
    let text = move || {
        let mut text = metrics.render();
        for (name, help, kind, value) in [
            (
                "cumulo_operator_leads",
                "Whether this replica leads.",
                "gauge",
                u64::from(leadership.leads()),
            ),
            (
                "cumulo_operator_terms_total",
                "How often this replica became the leader.",
                "counter",
                leadership.terms(),
            ),
            (
                "cumulo_operator_gateways",
                "Gateways that are heard.",
                "gauge",
                fleet.connected() as u64,
            ),
        ] {
            text.push_str(&format!(
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
            ));
        }
        std::future::ready(text)
    };
    Router::new().route("/metrics", get(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_the_stores_settings_and_no_others() {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "key"),
            ("CUMULO_AWS_REGION", "region"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
            ("KUBECONFIG", "/home"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let names: Vec<String> = store_variables(variables.into_iter())
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["CUMULO_AWS_ACCESS_KEY_ID", "CUMULO_AWS_REGION"]);
    }
}
