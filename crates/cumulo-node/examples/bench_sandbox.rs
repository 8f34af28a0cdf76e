//! What the sandbox adds to a pod's start and end: pods that do nothing, one
//! after another, with it and without, in turns. Run by `bench/run sandbox`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cumulo_node::Options;
use cumulo_node::engine::Engine;
use cumulo_node::engine::source::{ConfigSource, Data, SourceError};
use serde_json::json;

const PODS: usize = 100;
const ROUNDS: usize = 3;

struct Nothing;

#[async_trait]
impl ConfigSource for Nothing {
    async fn config_map(&self, _: &str, _: &str) -> Result<Option<Data>, SourceError> {
        Ok(None)
    }
    async fn secret(&self, _: &str, _: &str) -> Result<Option<Data>, SourceError> {
        Ok(None)
    }
}

#[tokio::main]
async fn main() {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for sandboxed in [false, true] {
            times[usize::from(sandboxed)].extend(run(sandboxed).await);
        }
        eprintln!("round {} of {ROUNDS}", round + 1);
    }
    for times in &mut times {
        times.sort();
    }
    let [without, with] = times;
    let at =
        |times: &[Duration], percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
    println!("a pod from applied to Succeeded, ms    p50     p90     p99");
    for (name, times) in [("without the sandbox", &without), ("in the sandbox", &with)] {
        println!(
            "{name:36} {:6.2}  {:6.2}  {:6.2}",
            at(times, 50),
            at(times, 90),
            at(times, 99)
        );
    }
    println!(
        "ratio of the medians {:.3}",
        at(&with, 50) / at(&without, 50)
    );
}

/// The times of [`PODS`] pods.
async fn run(sandboxed: bool) -> Vec<Duration> {
    let folder = tempfile::tempdir().expect("a folder");
    let shim = std::env::current_exe()
        .expect("a path")
        .ancestors()
        .nth(2)
        .expect("the target folder")
        .join("cumulo-shim");
    assert!(
        shim.is_file(),
        "build cumulo-shim first: {}",
        shim.display()
    );
    let mut options = Options::new(folder.path(), "/bin/echo");
    options.node_name = "bench".to_owned();
    options.supervisor = vec![shim.into()];
    options.sandbox.disabled = !sandboxed;
    let engine = Engine::open(options, Arc::new(Nothing)).expect("the engine opens");
    let mut times = Vec::with_capacity(PODS);
    for number in 0..PODS {
        let uid = format!("uid-{number}");
        let pod = json!({
            "metadata": {"name": format!("p{number}"), "namespace": "default", "uid": uid},
            "spec": {"restartPolicy": "Never", "containers": [{
                "name": "main",
                "image": "cumulo.dev/runtime:latest",
                "command": ["/bin/true"],
            }]},
        });
        let begun = Instant::now();
        engine
            .apply(serde_json::from_value(pod).expect("a pod"))
            .expect("the pod is taken");
        let mut states = engine.subscribe(&uid).expect("the pod is known");
        states
            .wait_for(|state| {
                let phase = state
                    .as_ref()
                    .and_then(|state| state.status.phase.as_deref());
                assert_ne!(phase, Some("Failed"), "{state:#?}");
                phase == Some("Succeeded")
            })
            .await
            .expect("the engine runs");
        times.push(begun.elapsed());
    }
    engine.close().await;
    times
}
