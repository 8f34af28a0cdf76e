//! `cumulo status`: whether the platform runs, and what it runs.

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::up::answering;
use crate::cli::{Format, OutputArgs};
use crate::home::Home;
use crate::place::{ContextPlace, Place, system_namespace};
use crate::project::apply::api_error;

/// Runs `cumulo status`. The exit code is 1 when no platform answers.
pub async fn run(place: &Place, output: OutputArgs) -> Result<i32> {
    match place {
        Place::Home(home) => of_home(place, home, output).await,
        Place::Context(context) => of_context(place, context, output).await,
    }
}

async fn of_home(place: &Place, home: &Home, output: OutputArgs) -> Result<i32> {
    let Some(running) = answering(home) else {
        let detail = match home.running() {
            Some(running) => format!(
                "process {} at {} does not answer",
                running.pid, running.address
            ),
            None => "it was never started, or stopped by `cumulo down`".to_owned(),
        };
        match output.output {
            Format::Json => println!(
                "{}",
                json!({"running": false, "home": home.root(), "detail": detail})
            ),
            _ => println!(
                "cumulo is down ({detail})\n  folder  {}\nstart it with: cumulo up",
                home.root().display()
            ),
        }
        return Ok(1);
    };
    let client = place.client().await?;
    let (counts, active) = counts(&client).await?;
    match output.output {
        Format::Json | Format::Yaml => {
            let value = json!({
                "running": true,
                "url": running.url(),
                "pid": running.pid,
                "version": running.version,
                "home": home.root(),
                "kubeconfig": home.kubeconfig(),
                "objects": objects(&counts),
                "runningPods": active,
            });
            document(&value, output.output)?;
        }
        _ => {
            println!(
                "cumulo {} is up at {} (process {})",
                running.version,
                running.url(),
                running.pid
            );
            println!("  folder      {}", home.root().display());
            println!("  kubeconfig  {}", home.kubeconfig().display());
            lines(&counts, active);
        }
    }
    Ok(0)
}

/// Of a context: what runs there, and whether its roles are ready.
async fn of_context(place: &Place, context: &ContextPlace, output: OutputArgs) -> Result<i32> {
    let client = place.client().await?;
    let version = client
        .apiserver_version()
        .await
        .map_err(|error| api_error(&error))?;
    // The embedded one has no roles of its own: it answers, so it is up.
    let roles = if ContextPlace::is_embedded(&client).await? {
        Vec::new()
    } else {
        roles(&client).await?
    };
    let (counts, active) = counts(&client).await.context(
        "Cumulo's kinds cannot be listed: is it installed there? `cumulo doctor cluster` says what is missing",
    )?;
    let ready = roles.iter().all(|(_, ready, wanted)| ready >= wanted);
    match output.output {
        Format::Json | Format::Yaml => {
            let roles: Vec<Value> = roles
                .iter()
                .map(
                    |(name, ready, wanted)| json!({"name": name, "ready": ready, "wanted": wanted}),
                )
                .collect();
            let value = json!({
                "running": ready,
                "context": context.name(),
                "url": context.server(),
                "version": version.git_version,
                "roles": roles,
                "objects": objects(&counts),
                "runningPods": active,
            });
            document(&value, output.output)?;
        }
        _ => {
            println!(
                "context {}: Kubernetes {} at {}",
                context.name(),
                version.git_version,
                context.server()
            );
            for (name, ready, wanted) in &roles {
                println!("  {name:18} {ready} of {wanted} ready");
            }
            lines(&counts, active);
        }
    }
    Ok(i32::from(!ready))
}

/// Cumulo's Deployments: name, replicas that are ready, replicas that are wanted.
async fn roles(client: &Client) -> Result<Vec<(String, i32, i32)>> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &system_namespace());
    let list = deployments
        .list(&ListParams::default().labels("app.kubernetes.io/name=cumulo"))
        .await
        .map_err(|error| api_error(&error))?;
    Ok(list
        .items
        .into_iter()
        .map(|deployment| {
            let ready = deployment.status.and_then(|status| status.ready_replicas);
            let wanted = deployment.spec.and_then(|spec| spec.replicas);
            (
                deployment.metadata.name.unwrap_or_default(),
                ready.unwrap_or(0),
                wanted.unwrap_or(1),
            )
        })
        .collect())
}

/// A kind, how many objects of it there are, and how many are as they should be.
type Count = (&'static str, usize, usize);

/// What there is, and how many pods run.
async fn counts(client: &Client) -> Result<(Vec<Count>, usize)> {
    let mut counts = Vec::new();
    for (plural, kind) in [
        ("datasets", "Dataset"),
        ("trainjobs", "TrainJob"),
        ("models", "Model"),
        ("inferenceservices", "InferenceService"),
    ] {
        let request =
            http::Request::get(format!("/apis/cumulo.dev/v1alpha1/{plural}")).body(Vec::new())?;
        let list: Value = client
            .request(request)
            .await
            .map_err(|error| api_error(&error))?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let good = items
            .iter()
            .filter(|item| {
                item["status"]["phase"] == "Succeeded"
                    || item["status"]["conditions"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .any(|condition| {
                            condition["type"] == "Ready" && condition["status"] == "True"
                        })
            })
            .count();
        counts.push((kind, items.len(), good));
    }
    let pods: Api<Pod> = Api::all(client.clone());
    let active = pods
        .list(&ListParams::default())
        .await?
        .items
        .iter()
        .filter(|pod| {
            pod.status
                .as_ref()
                .and_then(|status| status.phase.as_deref())
                == Some("Running")
        })
        .count();
    Ok((counts, active))
}

fn objects(counts: &[Count]) -> Vec<Value> {
    counts
        .iter()
        .map(|(kind, all, good)| json!({"kind": kind, "count": all, "good": good}))
        .collect()
}

fn document(value: &Value, format: Format) -> Result<()> {
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print!("{}", serde_saphyr::to_string(value)?);
    }
    Ok(())
}

fn lines(counts: &[Count], active: usize) {
    for (kind, all, good) in counts {
        let word = match *kind {
            "TrainJob" => "succeeded",
            _ => "ready",
        };
        println!("  {kind:18} {good} of {all} {word}");
    }
    println!("  pods               {active} running");
}
