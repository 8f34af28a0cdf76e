//! A TrainJob of several pods: they start together and find each other.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Platform, Text, wait_for};

/// Each tells the first its rank over the address that all of them find.
const SCRIPT: &str = r#"
import os, socket, sys, time
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
assert os.environ["PET_NODE_RANK"] == str(rank) and os.environ["PET_NNODES"] == str(world)
assert ("MLFLOW_RUN_ID" in os.environ) == (rank == 0)
if rank == 0:
    with socket.create_server(place) as server:
        ranks = [int(server.accept()[0].makefile().readline()) for _ in range(world - 1)]
    print("heard of", *sorted(ranks), flush=True)
else:
    for _ in range(600):
        try:
            with socket.create_connection(place) as connection:
                connection.sendall(f"{rank}\n".encode())
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    if "--fail" in sys.argv and rank == 2:
        sys.exit(3)
if "--fail" in sys.argv:
    time.sleep(1000)
"#;

fn pods(platform: &Platform, job: &str) -> Vec<Value> {
    let selector = format!("cumulo.dev/train-job={job}");
    let listed = platform
        .kubectl(&["get", "pods", "-l", &selector, "-o", "json"])
        .success();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    listed["items"].as_array().unwrap().clone()
}

#[test]
fn a_job_of_several_pods() {
    let platform = Platform::start();
    let script = platform.home().join("meet.py");
    std::fs::write(&script, SCRIPT).unwrap();
    let script = script.to_str().unwrap();
    platform
        .cumulo(&["train", script, "--nodes", "3", "--cpu", "100m"])
        .success();
    let log = platform.cumulo(&["logs", "trainjob/meet"]).success();
    assert!(log.contains("heard of 1 2"), "{log}");
    assert_eq!(pods(&platform, "meet").len(), 3);

    // One that fails ends the others, and says what happened.
    let failed = platform
        .cumulo(&[
            "train", script, "--nodes", "3", "--cpu", "100m", "--name", "fails", "--", "--fail",
        ])
        .failure();
    assert!(failed.contains("ended with exit code 3"), "{failed}");
    wait_for("the others to end", Duration::from_secs(60), || {
        pods(&platform, "fails").len() == 1
    });

    // What never fits does not start in part.
    let waits = platform
        .cumulo(&[
            "train", script, "--nodes", "3", "--cpu", "60", "--name", "large", "--detach",
        ])
        .success();
    assert!(waits.contains("trainjob/large"), "{waits}");
    wait_for(
        "the gang to wait with a reason",
        Duration::from_secs(30),
        || {
            let said = platform.cumulo(&["explain", "trainjob/large"]);
            said.out().contains("needs 3 pods at once")
        },
    );
    assert!(
        pods(&platform, "large")
            .iter()
            .all(|pod| pod["spec"]["nodeName"].is_null())
    );
}
