//! Pods end, and nothing of them is left.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::{Bench, container, eventually, is_alive, pids_in, shell};

#[tokio::test]
async fn a_container_may_end_in_its_own_time() {
    let bench = Bench::new();
    let script =
        "trap 'sleep 0.3; echo cleaned; exit 0' TERM; echo $$ > pid; while :; do sleep 0.05; done";
    let mut pod = shell("polite", "Always", script);
    pod["spec"]["containers"][0]["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sh", "-c", "echo called > hook"]}}});
    bench.apply(pod.clone());
    bench.until_ready("uid-polite").await;
    eventually("the script began", || {
        pids_in(&bench, "polite", "pid").len() == 1
    })
    .await;
    bench.delete(pod, 20);
    let snapshot = bench.until("uid-polite", |snapshot| snapshot.deleted).await;
    let end = container(&snapshot).state.unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.signal), (0, None));
    assert_eq!(snapshot.status.phase.as_deref(), Some("Succeeded"));
    let hook = bench
        .options
        .root
        .join("pods/uid-polite/containers/main/work/hook");
    assert!(hook.exists(), "the preStop hook ran");
    bench.end().await;
}

#[tokio::test]
async fn a_stubborn_container_is_killed_with_all_it_started() {
    let bench = Bench::new();
    // One child in the group, one that left it for a session of its own.
    let script = "trap '' TERM; echo $$ >> pids; sleep 1000 & echo $! >> pids; setsid sh -c 'echo $$ >> pids; exec sleep 1000' & while :; do sleep 0.1; done";
    let pod = shell("stubborn", "Always", script);
    bench.apply(pod.clone());
    bench.until_ready("uid-stubborn").await;
    eventually("the script began", || {
        pids_in(&bench, "stubborn", "pids").len() == 3
    })
    .await;
    let pids = pids_in(&bench, "stubborn", "pids");
    let begun = Instant::now();
    bench.delete(pod.clone(), 60);
    bench.until("uid-stubborn", |_| true).await;
    // A second, more impatient deletion.
    bench.delete(pod, 1);
    let snapshot = bench
        .until("uid-stubborn", |snapshot| snapshot.deleted)
        .await;
    let waited = begun.elapsed();
    assert!(
        waited >= Duration::from_millis(900) && waited < Duration::from_secs(10),
        "{waited:?}"
    );
    let end = container(&snapshot).state.unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.signal), (137, Some(9)));
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
    bench.end().await;
}

#[tokio::test]
async fn what_a_container_leaves_behind_ends_with_it() {
    let bench = Bench::new();
    let script =
        "setsid sh -c 'echo $$ > pid; exec sleep 1000' & while [ ! -s pid ]; do sleep 0.02; done";
    bench.apply(shell("daemon", "Never", script));
    bench.until_phase("uid-daemon", "Succeeded").await;
    let pids = pids_in(&bench, "daemon", "pid");
    assert!(pids.len() == 1 && !is_alive(pids[0]), "{pids:?}");
    bench.end().await;
}

#[tokio::test]
async fn an_exec_ends_with_its_pod() {
    let bench = Bench::new();
    bench.apply(shell("host", "Always", "exec sleep 1000"));
    bench.until_ready("uid-host").await;
    let command = ["sh", "-c", "echo $$ > pid; exec sleep 1000"].map(str::to_owned);
    let session = bench
        .engine
        .exec("default", "host", "main", &command, false, false)
        .unwrap();
    eventually("the command began", || {
        pids_in(&bench, "host", "pid").len() == 1
    })
    .await;
    let pid = pids_in(&bench, "host", "pid")[0];
    bench.engine.remove("uid-host");
    eventually("the command ended", || !is_alive(pid)).await;
    drop(session);
    bench.end().await;
}

#[tokio::test]
async fn stopping_all_pods_leaves_nothing_running() {
    let bench = Bench::new();
    for name in ["one", "two"] {
        bench.apply(shell(name, "Always", "echo $$ > pid; exec sleep 1000"));
    }
    for name in ["one", "two"] {
        bench.until_ready(&format!("uid-{name}")).await;
        eventually("the script began", || {
            pids_in(&bench, name, "pid").len() == 1
        })
        .await;
    }
    bench.engine.stop_all(Duration::from_secs(5)).await;
    for name in ["one", "two"] {
        assert!(!is_alive(pids_in(&bench, name, "pid")[0]));
    }
    bench.end().await;
}
