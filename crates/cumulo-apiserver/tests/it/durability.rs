//! What was acknowledged is there after whatever happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Running, options};

const PATH: &str = "/api/v1/namespaces/default/configmaps";

/// The files as they are at this moment: what a `kill -9` leaves.
fn copy(from: &std::path::Path) -> Arc<tempfile::TempDir> {
    let to = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_name() != "lock" && !entry.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("a copy");
        }
    }
    Arc::new(to)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_is_there_after_a_kill() {
    let server = Running::new().await;
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        for n in 0..20 {
            let name = format!("r{round}-{n}");
            let answer = server
                .json("POST", PATH, &json!({"metadata": {"name": name}}))
                .await;
            assert_eq!(answer.status, 201);
            acknowledged.push((name, answer.body));
        }
        let killed = Running::open(copy(server.folder.path()), |_| {}).await;
        for (name, object) in &acknowledged {
            assert_eq!(&killed.get(&format!("{PATH}/{name}")).await.body, object);
        }
        assert!(killed.handle.version() >= server.handle.version());
        killed.close().await;
    }
    server.close().await;
}

#[tokio::test]
async fn a_torn_write_loses_nothing_that_was_acknowledged_before_it() {
    let server = Running::new().await;
    let first = server
        .json("POST", PATH, &json!({"metadata": {"name": "first"}}))
        .await
        .body;
    let folder = copy(server.folder.path());
    server.close().await;
    // The tail of the log is garbage, as after a power cut in the middle of a write.
    let log = folder.path().join("objects.sqlite-wal");
    let mut bytes = std::fs::read(&log).expect("a log");
    bytes.extend(std::iter::repeat_n(0xAB, 3000));
    std::fs::write(&log, bytes).expect("written");
    let server = Running::open(folder, |_| {}).await;
    assert_eq!(server.get(&format!("{PATH}/first")).await.body, first);
    assert_eq!(
        server
            .json("POST", PATH, &json!({"metadata": {"name": "next"}}))
            .await
            .status,
        201
    );
    server.close().await;
}

/// Whatever a power cut leaves of the log, what is there is a prefix of what was written.
#[tokio::test]
async fn a_log_that_is_cut_anywhere_leaves_a_prefix() {
    let server = Running::new().await;
    let mut written = Vec::new();
    for n in 0..8 {
        let name = format!("c{n}");
        let answer = server
            .json("POST", PATH, &json!({"metadata": {"name": name}}))
            .await;
        assert_eq!(answer.status, 201);
        written.push(name);
    }
    let whole = copy(server.folder.path());
    server.close().await;
    let log = std::fs::read(whole.path().join("objects.sqlite-wal")).expect("a log");
    let mut longest = 0;
    for sixteenth in 0..=16 {
        // Not at the borders of frames and pages.
        let length = (log.len() * sixteenth / 16).saturating_sub(usize::from(sixteenth < 16) * 7);
        let folder = copy(whole.path());
        std::fs::write(folder.path().join("objects.sqlite-wal"), &log[..length]).expect("written");
        let server = Running::open(folder, |_| {}).await;
        let list = server.get(PATH).await.body;
        let names: Vec<String> = list["items"]
            .as_array()
            .expect("items")
            .iter()
            .filter_map(|item| item["metadata"]["name"].as_str())
            .filter(|name| name.starts_with('c'))
            .map(str::to_owned)
            .collect();
        assert_eq!(
            names,
            written[..names.len()],
            "{length} bytes of {}",
            log.len()
        );
        assert!(names.len() >= longest, "more log, fewer objects");
        longest = names.len();
        server.close().await;
    }
    assert_eq!(longest, written.len());
}

#[tokio::test]
async fn versions_go_on_after_a_restart() {
    let server = Running::new().await;
    server
        .json("POST", PATH, &json!({"metadata": {"name": "a"}}))
        .await;
    server
        .call("DELETE", &format!("{PATH}/a"), "application/json", "")
        .await;
    let before = server.handle.version();
    let folder = server.close().await;
    let server = Running::open(folder, |_| {}).await;
    assert!(
        server.handle.version() >= before,
        "a version is never given twice"
    );
    let again = server
        .json("POST", PATH, &json!({"metadata": {"name": "a"}}))
        .await
        .body;
    let version: u64 = again["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|v| v.parse().ok())
        .expect("a version");
    assert!(version > before);
    server.close().await;
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let server = Running::new().await;
    let error = cumulo_apiserver::Server::open(options(server.folder.path()))
        .await
        .expect_err("in use");
    let text = error.to_string();
    assert!(text.contains("is in use by another process"), "{text}");
    server.close().await;
}

#[tokio::test]
async fn a_full_disk_is_507_and_nothing_is_lost() {
    let server = Running::with(|o| o.storage_limit = Some(512 << 10)).await;
    let data = "x".repeat(16 << 10);
    let mut stored = 0;
    let full = loop {
        let answer = server
            .json(
                "POST",
                PATH,
                &json!({"metadata": {"name": format!("c{stored}")}, "data": {"d": data}}),
            )
            .await;
        if answer.status != 201 {
            break answer;
        }
        stored += 1;
    };
    assert_eq!(full.status, 507, "{}", full.text);
    assert!(full.message().contains("is full"), "{}", full.message());
    assert_eq!(
        server.get(PATH).await.body["items"]
            .as_array()
            .expect("items")
            .len(),
        stored
    );
    for n in 0..3 {
        let answer = server
            .call("DELETE", &format!("{PATH}/c{n}"), "application/json", "")
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let answer = server
        .json("POST", PATH, &json!({"metadata": {"name": "after"}}))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_objects_are_read_within_a_second() {
    let server = Arc::new(Running::new().await);
    let started = Instant::now();
    let tasks: Vec<_> = (0..100)
        .map(|task| {
            let server = server.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    let body = json!({"metadata": {"name": format!("c{task}-{n}"), "labels": {"task": task.to_string()}}, "data": {"d": "x".repeat(500)}});
                    assert_eq!(server.json("POST", PATH, &body).await.status, 201);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    let written = started.elapsed();
    let server = Arc::into_inner(server).expect("the only one");
    let folder = server.close().await;
    let started = Instant::now();
    let server = Running::open(folder, |_| {}).await;
    let opened = started.elapsed();
    let started = Instant::now();
    let listed = server.get(PATH).await;
    let all = started.elapsed();
    assert_eq!(
        listed.body["items"].as_array().expect("items").len(),
        10_000
    );
    println!("10,000 objects: created in {written:?}, opened in {opened:?}, listed in {all:?}");
    assert!(opened < Duration::from_secs(1), "{opened:?}");
    server.close().await;
}
