//! Probes decide about readiness and restarts.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::{Bench, condition, container, shell};

/// Serves HTTP at the pod's address.
const SERVER: &str = "import http.server, os\nhttp.server.HTTPServer((os.environ['POD_IP'], 8080), http.server.SimpleHTTPRequestHandler).serve_forever()";

#[tokio::test]
async fn readiness_is_seen_soon_and_pods_share_a_port() {
    let bench = Bench::new();
    for name in ["web-a", "web-b"] {
        let mut pod = shell(name, "Always", "");
        let main = &mut pod["spec"]["containers"][0];
        main["command"] = json!(["python3", "-c", SERVER]);
        main["ports"] = json!([{"name": "http", "containerPort": 8080}]);
        main["readinessProbe"] =
            json!({"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 60});
        bench.apply(pod);
    }
    let begun = Instant::now();
    let a = bench.until_ready("uid-web-a").await;
    let b = bench.until_ready("uid-web-b").await;
    assert_ne!(a.status.pod_ip, b.status.pod_ip);
    // Far below the period of 60 s.
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    bench.end().await;
}

#[tokio::test]
async fn readiness_comes_and_goes() {
    let bench = Bench::new();
    let mut pod = shell("shy", "Always", "touch ok; exec sleep 1000");
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "ok"]}, "periodSeconds": 1, "failureThreshold": 1});
    bench.apply(pod);
    bench.until_ready("uid-shy").await;
    let ok = bench
        .options
        .root
        .join("pods/uid-shy/containers/main/work/ok");
    std::fs::remove_file(&ok).unwrap();
    let snapshot = bench
        .until("uid-shy", |snapshot| {
            condition(snapshot, "Ready") == "False"
        })
        .await;
    assert_eq!(snapshot.status.phase.as_deref(), Some("Running"));
    assert_eq!(container(&snapshot).restart_count, 0);
    std::fs::write(&ok, "").unwrap();
    bench.until_ready("uid-shy").await;
    bench.end().await;
}

#[tokio::test]
async fn a_dead_container_is_restarted() {
    let bench = Bench::new();
    let mut notices = bench.engine.notices();
    let mut pod = shell("hangs", "Always", "exec sleep 1000");
    pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    pod["spec"]["containers"][0]["livenessProbe"] =
        json!({"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 1});
    bench.apply(pod);
    let snapshot = bench
        .until("uid-hangs", |snapshot| {
            container(snapshot).restart_count >= 1
        })
        .await;
    assert!(
        container(&snapshot)
            .last_state
            .unwrap()
            .terminated
            .is_some()
    );
    let mut told = Vec::new();
    while let Ok(notice) = notices.try_recv() {
        told.push(format!("{}: {}", notice.reason, notice.message));
    }
    let told = told.join("\n");
    assert!(
        told.contains("Unhealthy: liveness probe failed: cannot connect to 127."),
        "{told}"
    );
    bench.end().await;
}

#[tokio::test]
async fn a_startup_probe_holds_the_others_back() {
    let bench = Bench::new();
    let mut pod = shell("slow", "Always", "sleep 1.5; touch up; exec sleep 1000");
    let main = &mut pod["spec"]["containers"][0];
    main["startupProbe"] = json!({"exec": {"command": ["test", "-e", "up"]}, "periodSeconds": 1, "failureThreshold": 20});
    // Would kill it at once, were it not held back.
    main["livenessProbe"] = json!({"exec": {"command": ["test", "-e", "up"]}, "periodSeconds": 1, "failureThreshold": 1});
    bench.apply(pod);
    let snapshot = bench.until_ready("uid-slow").await;
    let status = container(&snapshot);
    assert_eq!((status.restart_count, status.started), (0, Some(true)));
    bench.end().await;
}
