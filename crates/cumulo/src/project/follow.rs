//! Follows a project's objects until all are what they should be: a live view
//! on a terminal, plain lines in a pipe.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, Event};

use super::load::title;
use super::step::{Step, behind, read};
use crate::cluster::Cluster;

/// How an object is shown and followed.
struct Line {
    title: String,
    object: DynamicObject,
    step: Step,
    since: Instant,
    bar: Option<ProgressBar>,
}

/// Follows the objects. Returns when all are done.
///
/// # Errors
/// When one cannot get there by itself (the message is the object's own), or the time is up.
pub async fn follow(
    cluster: &Cluster,
    objects: &[DynamicObject],
    limit: Option<Duration>,
) -> Result<()> {
    let started = Instant::now();
    let live = std::io::stderr().is_terminal();
    let view = MultiProgress::new();
    let mut lines: BTreeMap<usize, Line> = BTreeMap::new();
    let mut streams = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        let resource = cluster.type_of(object)?;
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => {
                Api::namespaced_with(cluster.client.clone(), namespace, &resource.resource)
            }
            None => Api::all_with(cluster.client.clone(), &resource.resource),
        };
        let name = object.metadata.name.clone().unwrap_or_default();
        let configuration = watcher::Config::default().fields(&format!("metadata.name={name}"));
        streams.push(
            watcher::watcher(api, configuration)
                .map(move |event| (index, event))
                .boxed(),
        );
        let bar = live.then(|| {
            let bar = view.add(ProgressBar::new_spinner());
            if let Ok(style) =
                ProgressStyle::with_template("{spinner:.cyan} {prefix:32} {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(title(object));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        lines.insert(
            index,
            Line {
                title: title(object),
                object: object.clone(),
                step: Step::Underway(String::new()),
                since: Instant::now(),
                bar,
            },
        );
        // What was applied may already be all there is to see.
        update(&mut lines, index, object, started);
    }
    let mut events = futures::stream::select_all(streams);
    let deadline = limit.map(|limit| tokio::time::Instant::now() + limit);
    while !settled(&lines) {
        let event = tokio::select! {
            event = events.next() => event,
            () = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => {
                let mut waiting: Vec<_> = lines
                    .values()
                    .filter(|line| !matches!(line.step, Step::Done(_)))
                    .map(|line| format!("{}: {}", line.title, line.step.text()))
                    .collect();
                waiting.extend(behind(&lines.values().map(|line| &line.object).collect::<Vec<_>>()));
                bail!("not done in time: {}", waiting.join("; "));
            }
        };
        match event {
            Some((index, Ok(Event::Apply(object) | Event::InitApply(object)))) => {
                update(&mut lines, index, &object, started);
                if let Some(line) = lines.get(&index)
                    && let Step::Failed(reason) = &line.step
                {
                    for line in lines.values() {
                        if let Some(bar) = &line.bar {
                            bar.abandon();
                        }
                    }
                    bail!("{}: {reason}", line.title);
                }
            }
            Some((index, Ok(Event::Delete(_)))) => {
                if let Some(line) = lines.get(&index) {
                    bail!("{} was deleted while it was followed", line.title);
                }
            }
            // The watcher tries again by itself, with a back-off.
            Some((_, Ok(Event::Init | Event::InitDone))) => {}
            Some((_, Err(_))) => tokio::time::sleep(Duration::from_millis(200)).await,
            None => bail!("the server ended the watch"),
        }
    }
    Ok(())
}

/// Whether everything is done, and answers the newest of what it builds on.
fn settled(lines: &BTreeMap<usize, Line>) -> bool {
    let objects: Vec<_> = lines.values().map(|line| &line.object).collect();
    let done = lines
        .values()
        .all(|line| matches!(line.step, Step::Done(_)));
    done && behind(&objects).is_none()
}

fn update(
    lines: &mut BTreeMap<usize, Line>,
    index: usize,
    object: &DynamicObject,
    started: Instant,
) {
    let Some(line) = lines.get_mut(&index) else {
        return;
    };
    line.object = object.clone();
    let step = read(object);
    if step == line.step {
        return;
    }
    let took = line.since.elapsed();
    let text = match &step {
        Step::Done(text) if took > Duration::from_millis(100) => {
            format!("{text}  ({:.1} s)", took.as_secs_f64())
        }
        other => other.text().to_owned(),
    };
    match &line.bar {
        Some(bar) => match &step {
            Step::Underway(_) => bar.set_message(text),
            Step::Done(_) | Step::Failed(_) => {
                let mark = if matches!(step, Step::Done(_)) {
                    "✓"
                } else {
                    "✗"
                };
                if let Ok(style) =
                    ProgressStyle::with_template(&format!("{mark} {{prefix:32}} {{wide_msg}}"))
                {
                    bar.set_style(style);
                }
                bar.finish_with_message(text);
            }
        },
        None => eprintln!(
            "{:>6.1}s {:32} {text}",
            started.elapsed().as_secs_f64(),
            line.title
        ),
    }
    line.step = step;
}
