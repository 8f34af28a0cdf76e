//! `cumulo status`: whether the platform runs, and what it runs.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::up::answering;
use crate::cli::{Format, OutputArgs};
use crate::cluster;
use crate::home::Home;

/// Runs `cumulo status`. The exit code is 1 when no platform answers.
pub async fn run(home: &Home, output: OutputArgs) -> Result<i32> {
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
    let client = cluster::client(home).await?;
    let mut counts = Vec::new();
    for (plural, kind) in [
        ("datasets", "Dataset"),
        ("trainjobs", "TrainJob"),
        ("models", "Model"),
        ("inferenceservices", "InferenceService"),
    ] {
        let request =
            http::Request::get(format!("/apis/cumulo.dev/v1alpha1/{plural}")).body(Vec::new())?;
        let list: Value = client.request(request).await?;
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
    let pods: Api<Pod> = Api::all(client);
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
    match output.output {
        Format::Json | Format::Yaml => {
            let value = json!({
                "running": true,
                "url": running.url(),
                "pid": running.pid,
                "version": running.version,
                "home": home.root(),
                "kubeconfig": home.kubeconfig(),
                "objects": counts.iter().map(|(kind, all, good)| json!({"kind": kind, "count": all, "good": good})).collect::<Vec<_>>(),
                "runningPods": active,
            });
            if output.output == Format::Json {
                println!("{}", serde_json::to_string_pretty(&value)?);
            } else {
                print!("{}", serde_saphyr::to_string(&value)?);
            }
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
            for (kind, all, good) in counts {
                println!(
                    "  {kind:18} {good} of {all} {}",
                    if kind == "TrainJob" {
                        "succeeded"
                    } else {
                        "ready"
                    }
                );
            }
            println!("  pods               {active} running");
        }
    }
    Ok(0)
}
