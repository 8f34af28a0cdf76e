//! `cumulo logs`: of a pod, or of what another object runs.

use anyhow::{Context, Result, bail};
use futures::AsyncReadExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams, LogParams};
use tokio::io::AsyncWriteExt;

use crate::cli::LogsArgs;
use crate::place::Place;
use crate::project::apply::api_error;

/// Runs `cumulo logs`.
pub async fn run(place: &Place, arguments: LogsArgs) -> Result<()> {
    let client = place.client().await?;
    let namespace = place.namespace(&arguments.namespace);
    let namespace = namespace.as_str();
    let pod = find_pod(&client, namespace, &arguments.target).await?;
    stream(
        &client,
        namespace,
        &pod,
        &LogParams {
            follow: arguments.follow,
            tail_lines: arguments.tail.and_then(|lines| i64::try_from(lines).ok()),
            previous: arguments.previous,
            timestamps: arguments.timestamps,
            ..LogParams::default()
        },
    )
    .await
}

/// Copies a pod's log to standard output.
pub async fn stream(
    client: &Client,
    namespace: &str,
    pod: &str,
    parameters: &LogParams,
) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut log = pods
        .log_stream(pod, parameters)
        .await
        .map_err(|error| api_error(&error))?;
    let mut output = tokio::io::stdout();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        let read = log.read(&mut buffer).await.context("the log broke off")?;
        if read == 0 {
            return Ok(());
        }
        match output.write_all(&buffer[..read]).await {
            Ok(()) => output.flush().await?,
            // `cumulo logs … | head` is a fine way to end.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Labels by which pods are found, by the kinds that `TYPE/NAME` may name.
const KINDS: [(&[&str], &str); 4] = [
    (
        &["trainjob", "trainjobs", "tj"],
        cumulo_api::labels::TRAIN_JOB,
    ),
    (
        &["inferenceservice", "inferenceservices", "isvc"],
        cumulo_api::labels::INFERENCE_SERVICE,
    ),
    (&["model", "models"], cumulo_api::labels::MODEL),
    (&["dataset", "datasets"], cumulo_api::labels::DATASET),
];

async fn find_pod(client: &Client, namespace: &str, target: &str) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let (kind, name) = match target.split_once('/') {
        Some((kind, name)) => (Some(kind.to_lowercase()), name),
        None => (None, target),
    };
    let is_pod = kind
        .as_deref()
        .is_none_or(|kind| matches!(kind, "pod" | "pods" | "po"));
    if is_pod {
        let found = pods
            .get_opt(name)
            .await
            .map_err(|error| api_error(&error))?;
        if let Some(pod) = found {
            return Ok(pod.metadata.name.unwrap_or_default());
        }
    }
    let mut newest: Option<Pod> = None;
    for (names, label) in KINDS {
        if kind.as_deref().is_some_and(|kind| !names.contains(&kind)) {
            continue;
        }
        let list = pods
            .list(&ListParams::default().labels(&format!("{label}={name}")))
            .await
            .map_err(|error| api_error(&error))?;
        for pod in list.items {
            let newer = newest.as_ref().is_none_or(|other| {
                pod.metadata.creation_timestamp > other.metadata.creation_timestamp
            });
            if newer {
                newest = Some(pod);
            }
        }
        if newest.is_some() {
            break;
        }
    }
    match newest.and_then(|pod| pod.metadata.name) {
        Some(name) => Ok(name),
        None => bail!(
            "{target:?} has no pod in namespace {namespace}: `cumulo get pods` lists those there are"
        ),
    }
}
