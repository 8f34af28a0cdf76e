//! The platform ends and comes back; containers go on.

use serde_json::json;

use crate::bench::{Bench, container, eventually, is_alive, pids_in, shell};
use cumulo_node::LogOptions;

#[tokio::test]
async fn a_running_container_is_adopted() {
    let mut bench = Bench::new();
    let script = "echo $$ > pid; n=0; while :; do echo tick $n; n=$((n+1)); sleep 0.05; done";
    let pod = shell("lasting", "Always", script);
    bench.apply(pod.clone());
    let before = bench.until_ready("uid-lasting").await;
    eventually("the script began", || {
        pids_in(&bench, "lasting", "pid").len() == 1
    })
    .await;
    let pid = pids_in(&bench, "lasting", "pid")[0];

    bench.reopen().await;
    let after = bench.until_ready("uid-lasting").await;
    assert_eq!(before.status.pod_ip, after.status.pod_ip);
    assert_eq!(before.status.start_time, after.status.start_time);
    assert_eq!(container(&before).state, container(&after).state);
    assert_eq!(container(&after).restart_count, 0);
    assert_eq!(pids_in(&bench, "lasting", "pid"), [pid]);
    assert!(is_alive(pid));

    // Its log has no gap, and goes on.
    let count = bench
        .log("lasting", "main", LogOptions::default())
        .await
        .lines()
        .count();
    loop {
        let log = bench.log("lasting", "main", LogOptions::default()).await;
        for (number, line) in log.lines().enumerate() {
            assert_eq!(line, format!("tick {number}"));
        }
        if log.lines().count() > count {
            break;
        }
    }
    bench.delete(pod, 1);
    bench
        .until("uid-lasting", |snapshot| snapshot.deleted)
        .await;
    assert!(!is_alive(pid));
    bench.end().await;
}

#[tokio::test]
async fn an_end_in_between_is_noticed() {
    let mut bench = Bench::new();
    let script = "echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done; echo over; exit 5";
    bench.apply(shell("meanwhile", "Never", script));
    bench.until_ready("uid-meanwhile").await;
    eventually("the script began", || {
        pids_in(&bench, "meanwhile", "pid").len() == 1
    })
    .await;
    let pid = pids_in(&bench, "meanwhile", "pid")[0];
    bench.engine.close().await;
    let work = bench
        .options
        .root
        .join("pods/uid-meanwhile/containers/main/work");
    std::fs::write(work.join("go"), "").unwrap();
    eventually("it ended", || !is_alive(pid)).await;
    bench.reopen().await;
    let snapshot = bench.until_phase("uid-meanwhile", "Failed").await;
    let end = container(&snapshot).state.unwrap().terminated.unwrap();
    assert_eq!(end.exit_code, 5);
    assert_eq!(
        bench.log("meanwhile", "main", LogOptions::default()).await,
        "over\n"
    );

    // And it is remembered, not run again.
    bench.reopen().await;
    let again = bench.until_phase("uid-meanwhile", "Failed").await;
    assert_eq!(container(&again).state.unwrap().terminated.unwrap(), end);
    bench.end().await;
}

#[tokio::test]
async fn a_killed_supervisor_takes_its_container_along() {
    let bench = Bench::new();
    let script = "echo $$ >> pids; sleep 1000 & echo $! >> pids; wait";
    bench.apply(shell("orphan", "Always", script));
    bench.until_ready("uid-orphan").await;
    eventually("the script began", || {
        pids_in(&bench, "orphan", "pids").len() == 2
    })
    .await;
    let pids = pids_in(&bench, "orphan", "pids");
    let started = std::fs::read_to_string(
        bench
            .options
            .root
            .join("pods/uid-orphan/containers/main/attempts/0/started.json"),
    )
    .unwrap();
    let started: serde_json::Value = serde_json::from_str(&started).unwrap();
    let supervisor = started["supervisor"].as_i64().unwrap() as i32;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(supervisor),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let snapshot = bench
        .until("uid-orphan", |snapshot| {
            container(snapshot).restart_count == 1
        })
        .await;
    let last = container(&snapshot).last_state.unwrap().terminated.unwrap();
    assert_eq!(
        (last.exit_code, last.reason.as_deref()),
        (137, Some("ContainerStatusUnknown"))
    );
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
    bench.end().await;
}

#[tokio::test]
async fn many_restarts_of_the_engine_lose_and_double_nothing() {
    let mut bench = Bench::new();
    let script = "echo $$ >> pids; exec sleep 1000";
    let names: Vec<String> = (0..6).map(|number| format!("pod-{number}")).collect();
    for name in &names {
        bench.apply(shell(name, "Always", script));
        // Closed at whatever point the starts have reached.
        bench.reopen().await;
    }
    for name in &names {
        bench.until_ready(&format!("uid-{name}")).await;
    }
    let mut addresses = std::collections::BTreeSet::new();
    for name in &names {
        let mut alive = Vec::new();
        eventually("the script began", || {
            !pids_in(&bench, name, "pids").is_empty()
        })
        .await;
        alive.extend(
            pids_in(&bench, name, "pids")
                .into_iter()
                .filter(|pid| is_alive(*pid)),
        );
        assert_eq!(alive.len(), 1, "{name} runs once");
        let snapshot = bench.until_ready(&format!("uid-{name}")).await;
        assert!(addresses.insert(snapshot.status.pod_ip.unwrap()));
    }
    bench.end().await;
}

#[tokio::test]
async fn a_pod_deleted_meanwhile_is_ended() {
    let mut bench = Bench::new();
    let mut pod = shell("gone", "Always", "echo $$ > pid; exec sleep 1000");
    bench.apply(pod.clone());
    bench.until_ready("uid-gone").await;
    eventually("the script began", || {
        pids_in(&bench, "gone", "pid").len() == 1
    })
    .await;
    let pid = pids_in(&bench, "gone", "pid")[0];
    bench.reopen().await;
    pod["metadata"]["annotations"] = json!({"any": "change"});
    bench.delete(pod, 5);
    bench.until("uid-gone", |snapshot| snapshot.deleted).await;
    assert!(!is_alive(pid));
    bench.end().await;
}
