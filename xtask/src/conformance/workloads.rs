//! `cargo xtask workloads`: the stock kube-controller-manager beside `cumulo up`
//! runs a Deployment of Cumulo's runtime, shown command by command.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::servers::{Client, Server};
use super::{built, kubectl};

/// How long objects may take to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "echo"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "echo"}},
            "template": {
                "metadata": {"labels": {"app": "echo"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "main", "image": "cumulo.dev/runtime",
                    "command": ["sh", "-c", "echo $COLOUR; exec sleep 1000"],
                    "env": [{"name": "COLOUR", "value": "blue"}],
                }]},
            },
        },
    })
}

/// Runs the command.
///
/// # Errors
///
/// When something cannot be built or started, or is not as a cluster has it.
pub fn run() -> Result<()> {
    let root = super::super::root();
    let programs = root.join(".build/peers/kubernetes");
    built(
        &root.join("tests/peers/kubernetes/build.sh"),
        &programs,
        &["kube-controller-manager"],
    )?;
    let kubectl = kubectl(&root)?;
    let home = std::env::temp_dir().join(format!("cumulo-workloads-{}", std::process::id()));
    std::fs::create_dir_all(&home)?;
    let server = Server::cumulo(
        &super::super::binary(),
        &home,
        &kubectl,
        Some(&programs),
        false,
    )?;
    let client = Client {
        kubectl: &kubectl,
        kubeconfig: server.kubeconfig(),
    };
    let result = story(&client);
    drop(server);
    let _ = std::fs::remove_dir_all(&home);
    result
}

fn story(client: &Client<'_>) -> Result<()> {
    let show = |command: &str| -> Result<String> {
        let output = client.run(&command.split(' ').collect::<Vec<_>>(), None)?;
        println!("$ kubectl {command}\n{output}");
        Ok(output)
    };
    println!("$ kubectl apply -f deployment.yaml");
    println!(
        "{}",
        client.run(&["apply", "-f", "-"], Some(&deployment()))?
    );
    show("rollout status deployment/echo --timeout=90s")?;
    show("get deployments,replicasets,pods -l app=echo")?;
    show("scale deployment/echo --replicas=4")?;
    show("rollout status deployment/echo --timeout=90s")?;
    show("set env deployment/echo COLOUR=green")?;
    show("rollout status deployment/echo --timeout=90s")?;
    let said = show("logs -l app=echo --tail=1")?;
    if !said.lines().all(|line| line == "green") {
        bail!("the new pods said {said:?}");
    }
    show("rollout history deployment/echo")?;
    show("rollout undo deployment/echo")?;
    show("rollout status deployment/echo --timeout=90s")?;
    show("get replicasets -l app=echo")?;
    show("delete deployment/echo")?;
    let end = Instant::now() + PATIENCE;
    loop {
        let left = client.run(
            &["get", "replicasets,pods", "-l", "app=echo", "-o", "name"],
            None,
        )?;
        if left.is_empty() {
            break;
        }
        if Instant::now() > end {
            bail!("what the deployment made is still there: {left}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("its ReplicaSets and pods are gone");
    Ok(())
}
