//! `cumulo train`: a TrainJob without YAML.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cumulo_api::train_job::Phase;
use cumulo_api::{TrainJob, labels};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams, LogParams};
use kube::runtime::watcher::{self, Event};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::logs;
use crate::cli::TrainArgs;
use crate::cluster::Cluster;
use crate::place::Place;
use crate::project::apply::apply;
use crate::project::load::{Manifest, Project};

/// Runs `cumulo train`.
pub async fn run(place: &Place, arguments: TrainArgs) -> Result<()> {
    let script = std::path::absolute(&arguments.script)?;
    if !script.is_file() {
        bail!("{} is not there: name a Python script", script.display());
    }
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => default_name(&script)?,
    };
    let object = json!({
        "apiVersion": "cumulo.dev/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": spec(&script, &arguments)?,
    });
    let cluster = Cluster::connect(place).await?;
    let mut project = Project {
        name: name.clone(),
        objects: vec![Manifest {
            object: serde_json::from_value(object)?,
            file: script.clone(),
        }],
    };
    let namespace = place.namespace(&arguments.namespace);
    let namespace = namespace.as_str();
    remove_previous(&cluster, namespace, &name).await?;
    apply(&cluster, place, &mut project, namespace, false, |applied| {
        eprintln!("{} {}", applied.reference, applied.outcome.word());
    })
    .await?;
    if arguments.detach {
        println!("follow it with: cumulo logs -f trainjob/{name}");
        return Ok(());
    }
    let job = follow(&cluster.client, namespace, &name).await?;
    let status = job.status.unwrap_or_default();
    for (metric, value) in &status.metrics {
        println!("{metric:24} {value}");
    }
    if let (Some(version), Some(output)) = (&status.model_version, &job.spec.output) {
        println!("registered models:/{}/{version}", output.model);
    }
    match status.phase {
        Some(Phase::Failed) => bail!("{name}: {}", status.message.unwrap_or_default()),
        _ => {
            if let Some(run) = status.run {
                println!("run {run}: see `cumulo runs`");
            }
            Ok(())
        }
    }
}

fn spec(script: &Path, arguments: &TrainArgs) -> Result<Value> {
    let mut environment = Map::new();
    if let Some(python) = &arguments.python {
        environment.insert("python".to_owned(), json!(python));
    }
    if !arguments.packages.is_empty() {
        environment.insert("packages".to_owned(), json!(arguments.packages));
    }
    if let Some(requirements) = &arguments.requirements {
        let text = std::fs::read_to_string(requirements)
            .with_context(|| format!("cannot read {}", requirements.display()))?;
        environment.insert("requirements".to_owned(), json!(text));
    }
    let mut spec = json!({
        "script": script.file_name().map(|name| name.to_string_lossy()),
        "arguments": arguments.arguments,
        "environment": environment,
        "retries": arguments.retries,
    });
    let mut inputs = Map::new();
    for input in &arguments.data {
        let (input, dataset) = input.split_once('=').unwrap_or((input, input));
        inputs.insert(input.to_owned(), json!({"dataset": dataset}));
    }
    if !inputs.is_empty() {
        spec["inputs"] = Value::Object(inputs);
    }
    if let Some(deadline) = &arguments.deadline {
        spec["deadline"] = json!(deadline);
    }
    if let Some(nodes) = arguments.nodes {
        spec["nodes"] = json!(nodes);
    }
    if let Some(queue) = &arguments.queue {
        spec["queue"] = json!(queue);
    }
    if let Some(priority) = arguments.priority {
        spec["priority"] = json!(priority);
    }
    if let Some(model) = &arguments.model {
        spec["output"] = json!({"model": model});
    }
    if let Some(cpu) = &arguments.cpu {
        spec["resources"]["cpu"] = json!(cpu);
    }
    if let Some(gpu) = &arguments.gpu {
        spec["resources"]["gpu"] = json!(gpu);
    }
    if let Some(memory) = &arguments.memory {
        spec["resources"]["memory"] = json!(memory);
    }
    Ok(spec)
}

/// `train.py` in a folder `quickstart` makes `quickstart`; other names stand for themselves.
fn default_name(script: &Path) -> Result<String> {
    let stem = script
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let base = if stem == "train" {
        script
            .parent()
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or(stem)
    } else {
        stem
    };
    let name: String = base
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let name = name.trim_matches('-').to_owned();
    if name.is_empty() {
        bail!(
            "no name can be made of {}: give one with --name",
            script.display()
        );
    }
    Ok(name)
}

/// A job of that name that has ended makes room; one that still runs is left alone.
async fn remove_previous(cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
    let jobs: Api<TrainJob> = Api::namespaced(cluster.client.clone(), namespace);
    let Some(job) = jobs.get_opt(name).await? else {
        return Ok(());
    };
    let phase = job.status.and_then(|status| status.phase);
    if !matches!(phase, Some(Phase::Succeeded | Phase::Failed)) {
        bail!(
            "TrainJob {name} still runs: follow it with `cumulo logs -f trainjob/{name}`, end it with `cumulo delete trainjob {name}`, or give another --name"
        );
    }
    jobs.delete(name, &kube::api::DeleteParams::background())
        .await?;
    kube::runtime::wait::await_condition(jobs, name, |job: Option<&TrainJob>| job.is_none())
        .await?;
    Ok(())
}

/// Copies the logs of every attempt, and says what changes, until the job has ended.
async fn follow(client: &Client, namespace: &str, name: &str) -> Result<TrainJob> {
    let jobs: Api<TrainJob> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let of_job = format!("{}={name}", labels::TRAIN_JOB);
    let (copied, mut copies) = watch::channel(BTreeSet::new());
    let logs = tokio::spawn(copy_logs(
        client.clone(),
        namespace.to_owned(),
        of_job.clone(),
        copied,
    ));
    let mut events = watcher::watcher(
        jobs,
        watcher::Config::default().fields(&format!("metadata.name={name}")),
    )
    .boxed();
    let (mut said, mut shown) = (String::new(), BTreeMap::new());
    let job = loop {
        match events.next().await {
            Some(Ok(Event::Apply(job) | Event::InitApply(job))) => {
                let status = job.status.clone().unwrap_or_default();
                if matches!(status.phase, Some(Phase::Succeeded | Phase::Failed)) {
                    break job;
                }
                let message = status.message.unwrap_or_default();
                if message != said && !message.is_empty() {
                    eprintln!("{name}: {message}");
                    said = message;
                }
                if status.metrics != shown && !status.metrics.is_empty() {
                    eprintln!("{name}: {}", metrics_line(&status.metrics));
                    shown = status.metrics;
                }
            }
            Some(Ok(Event::Delete(_))) => bail!("TrainJob {name} was deleted while it ran"),
            Some(Ok(_)) => {}
            Some(Err(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
            None => bail!("the server ended the watch"),
        }
    };
    // The last lines may still be on their way.
    let begun: Vec<String> = pods
        .list(&ListParams::default().labels(&of_job))
        .await?
        .into_iter()
        .filter(has_begun)
        .filter_map(|pod| pod.metadata.name)
        .collect();
    let all = copies.wait_for(|copied| begun.iter().all(|pod| copied.contains(pod)));
    if tokio::time::timeout(Duration::from_secs(10), all)
        .await
        .is_err()
    {
        eprintln!("the log may go on: see `cumulo logs trainjob/{name}`");
    }
    logs.abort();
    // Not before it has stopped may the runtime go, and the client's connections with it.
    let _ = logs.await;
    Ok(job)
}

/// Copies the log of each pod once it has begun; tells which have been copied to their end.
async fn copy_logs(
    client: Client,
    namespace: String,
    selector: String,
    copied: watch::Sender<BTreeSet<String>>,
) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let mut events = watcher::watcher(pods, watcher::Config::default().labels(&selector)).boxed();
    let parameters = LogParams {
        follow: true,
        ..LogParams::default()
    };
    while let Some(event) = events.next().await {
        let pod = match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => pod,
            Ok(_) => continue,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let begun = has_begun(&pod);
        let name = pod.metadata.name.unwrap_or_default();
        if !begun || copied.borrow().contains(&name) {
            continue;
        }
        if let Err(error) = logs::stream(&client, &namespace, &name, &parameters).await {
            eprintln!("log of {name}: {error}");
        }
        copied.send_modify(|copied| {
            copied.insert(name);
        });
    }
}

fn has_begun(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase.is_some_and(|phase| phase != "Pending")
}

/// `auc 0.71 · loss 0.42`.
fn metrics_line(metrics: &BTreeMap<String, f64>) -> String {
    let each: Vec<String> = metrics
        .iter()
        .map(|(metric, value)| format!("{metric} {value}"))
        .collect();
    each.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_scripts() {
        assert_eq!(
            default_name(Path::new("/a/quickstart/train.py")).unwrap(),
            "quickstart"
        );
        assert_eq!(
            default_name(Path::new("/a/My_Script.py")).unwrap(),
            "my-script"
        );
        assert!(default_name(Path::new("/a/___.py")).is_err());
    }
}
