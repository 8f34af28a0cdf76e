//! Backups while the platform runs, and platforms made out of them.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{Platform, Text, http};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Creates a ConfigMap, and then an artifact, a run and a tag that refer to each other.
fn write(platform: &Platform, number: usize) {
    let body = json!({"metadata": {"name": format!("map-{number:04}")}});
    assert_eq!(platform.post(MAPS, &body).0, 201);
    let (status, run) = platform.post("/api/2.0/mlflow/runs/create", &json!({}));
    assert_eq!(status, 200, "{run}");
    let run = run["run"]["info"]["run_id"].as_str().unwrap();
    let stored = http()
        .put(format!(
            "{}/api/2.0/mlflow-artifacts/artifacts/experiments/0/{run}/artifacts/note",
            platform.url()
        ))
        .bearer_auth(platform.token())
        .body(format!("of run {number}"))
        .send()
        .unwrap();
    assert_eq!(stored.status(), 200);
    // What refers to the artifact comes after it.
    let tag = json!({"run_id": run, "key": "number", "value": number.to_string()});
    assert_eq!(platform.post("/api/2.0/mlflow/runs/set-tag", &tag).0, 200);
}

/// The numbers of the ConfigMaps, and of the runs that have a tag and a readable artifact.
fn read(platform: &Platform) -> (Vec<usize>, Vec<usize>) {
    let get = |path: &str| {
        http()
            .get(format!("{}{path}", platform.url()))
            .bearer_auth(platform.token())
            .send()
            .unwrap()
    };
    let list: Value = get(MAPS).json().unwrap();
    let maps = list["items"].as_array().unwrap().iter().filter_map(|item| {
        let name = item["metadata"]["name"].as_str().unwrap();
        name.strip_prefix("map-")
            .map(|number| number.parse().unwrap())
    });
    let search =
        json!({"experiment_ids": ["0"], "max_results": 10_000, "order_by": ["start_time ASC"]});
    let (_, found) = platform.post("/api/2.0/mlflow/runs/search", &search);
    let mut runs = Vec::new();
    for run in found["runs"].as_array().unwrap() {
        let tags = run["data"]["tags"].as_array().unwrap();
        let Some(tag) = tags.iter().find(|tag| tag["key"] == "number") else {
            continue;
        };
        let number = tag["value"].as_str().unwrap();
        let id = run["info"]["run_id"].as_str().unwrap();
        let path = format!("/api/2.0/mlflow-artifacts/artifacts/experiments/0/{id}/artifacts/note");
        assert_eq!(get(&path).text().unwrap(), format!("of run {number}"));
        runs.push(number.parse().unwrap());
    }
    runs.sort_unstable();
    (maps.collect(), runs)
}

#[test]
fn a_backup_made_while_writes_go_on_is_a_consistent_prefix() {
    let platform = Platform::start();
    for number in 0..20 {
        write(&platform, number);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cumulo.tar");
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 20;
            while !stop.load(Ordering::Relaxed) {
                write(&platform, number);
                number += 1;
            }
            number
        });
        for _ in 0..3 {
            platform
                .cumulo(&["backup", file.to_str().unwrap()])
                .success();
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert!(written > 20, "the writer wrote meanwhile");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds every secret");

    let restored = Platform::prepare();
    restored
        .cumulo(&["restore", file.to_str().unwrap()])
        .success();
    let again = restored
        .cumulo(&["restore", file.to_str().unwrap()])
        .failure();
    assert!(again.contains("holds a platform already"), "{again}");
    restored.up().success();
    assert_eq!(
        restored.token(),
        platform.token(),
        "whoever had a token has it still"
    );
    let (maps, runs) = read(&restored);
    // What was acknowledged before is there, nothing is there without what came before
    // it, and every run that says so has its artifact.
    assert!(maps.len() >= 20 && maps.len() <= written, "{maps:?}");
    assert_eq!(maps, (0..maps.len()).collect::<Vec<_>>());
    assert_eq!(runs, (0..runs.len()).collect::<Vec<_>>());
    // Tracking is copied after the objects.
    assert!(
        runs.len() + 1 >= maps.len(),
        "{} {}",
        runs.len(),
        maps.len()
    );
    write(&restored, maps.len());
}

#[test]
fn only_a_cluster_admin_gets_a_backup() {
    let platform = Platform::start();
    let url = format!("{}/backup", platform.url());
    assert_eq!(http().get(&url).send().unwrap().status(), 401);
    let credentials: Value =
        serde_json::from_slice(&std::fs::read(platform.home().join("credentials.json")).unwrap())
            .unwrap();
    let user = platform
        .cumulo(&["user", "add", "ada", "--role", "admin"])
        .success();
    let token = user
        .lines()
        .find_map(|line| line.trim().strip_prefix("token: "))
        .unwrap();
    for token in [
        credentials["workload"].as_str().unwrap(),
        token.trim_matches('"'),
    ] {
        let answer = http().get(&url).bearer_auth(token).send().unwrap();
        assert_eq!(answer.status(), 403);
    }
    // A copy that broke off is none.
    let whole = http()
        .get(&url)
        .bearer_auth(platform.token())
        .send()
        .unwrap();
    let whole = whole.bytes().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut.tar");
    std::fs::write(&file, &whole[..whole.len() - 4096]).unwrap();
    let other = Platform::prepare();
    let error = other.cumulo(&["restore", file.to_str().unwrap()]).failure();
    assert!(error.contains("nothing was changed"), "{error}");
    assert!(!other.home().join("tracking.db").exists());
}
