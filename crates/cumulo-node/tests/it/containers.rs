//! Containers start, end, restart and are reported.

use serde_json::json;

use crate::bench::{Bench, condition, container, data, shell};
use cumulo_node::LogOptions;

#[tokio::test]
async fn a_container_runs_in_its_environment() {
    let bench = Bench::new();
    let script = "echo out; echo err >&2; env | sort; pwd; echo done > $CUMULO_TERMINATION_LOG";
    let mut pod = shell("env", "Never", script);
    pod["metadata"]["labels"] = json!({"app": "x"});
    pod["spec"]["containers"][0]["env"] = json!([
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)/$(POD_IP)/$$(A)"},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
    ]);
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "512Mi"}});
    bench.apply(pod);
    let snapshot = bench.until_phase("uid-env", "Succeeded").await;
    let status = container(&snapshot);
    let end = status.state.unwrap().terminated.unwrap();
    assert_eq!(
        (end.exit_code, end.reason.as_deref()),
        (0, Some("Completed"))
    );
    assert_eq!(end.message.as_deref(), Some("done"));
    assert_eq!(condition(&snapshot, "Ready"), "False");
    let ip = snapshot.status.pod_ip.unwrap();
    assert!(ip.starts_with("127."));

    let log = bench.log("env", "main", LogOptions::default()).await;
    let lines: Vec<&str> = log.lines().collect();
    for expected in [
        "out",
        "err",
        "A=1",
        "LABEL=x",
        "LIMIT=512",
        &format!("B=1/{ip}/$(A)"),
    ] {
        assert!(lines.contains(&expected), "{expected} in {log}");
    }
    assert!(
        lines
            .iter()
            .any(|line| line.ends_with("/containers/main/work"))
    );
    // Nothing of the test's own environment came along.
    assert!(!log.contains("CARGO"), "{log}");
    bench.end().await;
}

#[tokio::test]
async fn a_failure_is_reported_with_its_last_words() {
    let bench = Bench::new();
    let mut pod = shell("fails", "Never", "echo it broke; exit 3");
    pod["spec"]["containers"][0]["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    bench.apply(pod);
    let snapshot = bench.until_phase("uid-fails", "Failed").await;
    let end = container(&snapshot).state.unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (3, Some("Error")));
    assert_eq!(end.message.as_deref(), Some("it broke"));
    bench.end().await;
}

#[tokio::test]
async fn the_runtime_image_means_this_program() {
    let bench = Bench::new();
    let mut pod = shell("self", "Never", "");
    // The bench's executable is `echo`.
    pod["spec"]["containers"][0]["command"] = json!(["cumulo", "data"]);
    pod["spec"]["containers"][0]["args"] = json!(["build", "$(POD_NAME)"]);
    bench.apply(pod);
    bench.until_phase("uid-self", "Succeeded").await;
    let log = bench.log("self", "main", LogOptions::default()).await;
    assert_eq!(log, "data build self\n");
    bench.end().await;
}

#[tokio::test]
async fn what_cannot_run_here_is_refused_with_a_reason() {
    let bench = Bench::new();
    let mut pod = shell("foreign", "Always", "");
    pod["spec"]["containers"][0]["image"] = json!("docker.io/library/nginx:1.27");
    bench.apply(pod);
    let snapshot = bench.until_phase("uid-foreign", "Failed").await;
    assert_eq!(snapshot.status.reason.as_deref(), Some("UnsupportedImage"));
    insta::assert_snapshot!(snapshot.status.message.unwrap(), @r#"container "main": image "docker.io/library/nginx:1.27" needs a container engine, and this node runs pods as processes; use image "cumulo.dev/runtime", which stands for this program and any command that is installed here, or a cluster"#);
    bench.end().await;
}

#[tokio::test]
async fn a_missing_program_is_a_start_error() {
    let bench = Bench::new();
    let mut pod = shell("missing", "Never", "");
    pod["spec"]["containers"][0]["command"] = json!(["no-such-program"]);
    bench.apply(pod);
    let snapshot = bench.until_phase("uid-missing", "Failed").await;
    let end = container(&snapshot).state.unwrap().terminated.unwrap();
    assert_eq!(
        (end.exit_code, end.reason.as_deref()),
        (128, Some("StartError"))
    );
    let message = end.message.unwrap();
    assert!(
        message.starts_with("cannot start \"no-such-program\": not found in the container's PATH"),
        "{message}"
    );
    bench.end().await;
}

#[tokio::test]
async fn a_failing_container_is_restarted_with_back_off() {
    let bench = Bench::new();
    let script =
        "n=$(cat count 2>/dev/null || echo 0); echo $((n+1)) > count; echo run $n; [ $n -ge 3 ]";
    bench.apply(shell("again", "OnFailure", script));
    let waiting = bench
        .until("uid-again", |snapshot| {
            let state = container(snapshot).state.unwrap();
            state
                .waiting
                .is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"))
        })
        .await;
    assert_eq!(waiting.status.phase.as_deref(), Some("Running"));
    assert!(
        container(&waiting)
            .last_state
            .unwrap()
            .terminated
            .unwrap()
            .exit_code
            == 1
    );
    let done = bench.until_phase("uid-again", "Succeeded").await;
    assert_eq!(container(&done).restart_count, 3);
    let log = |previous| LogOptions {
        previous,
        ..LogOptions::default()
    };
    assert_eq!(bench.log("again", "main", log(false)).await, "run 3\n");
    assert_eq!(bench.log("again", "main", log(true)).await, "run 2\n");
    bench.end().await;
}

#[tokio::test]
async fn init_containers_and_sidecars_keep_their_order() {
    let bench = Bench::new();
    let step = |name: &str, script: &str| {
        json!({
            "name": name,
            "image": "cumulo.dev/runtime",
            "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        })
    };
    let mut sidecar = step(
        "sidecar",
        "echo sidecar >> shared/order; trap 'echo bye >> shared/order; exit 0' TERM; while :; do sleep 0.05; done",
    );
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] =
        json!({"exec": {"command": ["grep", "-q", "sidecar", "shared/order"]}, "periodSeconds": 1});
    bench.apply(json!({
        "metadata": {"name": "order", "namespace": "default", "uid": "uid-order"},
        "spec": {
            "restartPolicy": "Never",
            "volumes": [{"name": "shared", "emptyDir": {}}],
            "initContainers": [step("one", "sleep 0.1; echo one >> shared/order"), sidecar, step("two", "echo two >> shared/order")],
            "containers": [step("main", "echo main >> $CUMULO_MOUNT_SHARED/order; cat shared/order")],
        },
    }));
    let snapshot = bench.until_phase("uid-order", "Succeeded").await;
    assert_eq!(
        bench.log("order", "main", LogOptions::default()).await,
        "one\nsidecar\ntwo\nmain\n"
    );
    let init = snapshot.status.init_container_statuses.unwrap();
    assert!(
        init[1].state.as_ref().unwrap().terminated.is_some(),
        "the sidecar ended too"
    );
    let order = bench
        .options
        .root
        .join("pods/uid-order/volumes/shared/order");
    assert!(std::fs::read_to_string(order).unwrap().ends_with("bye\n"));
    bench.end().await;
}

#[tokio::test]
async fn configuration_is_waited_for_and_mounted() {
    let bench = Bench::new();
    let mut pod = shell(
        "config",
        "Never",
        "cat etc/settings/a.txt etc/one; echo $TOKEN $PRE_KEY; cat podinfo/labels; ls -l etc/settings/ | wc -l",
    );
    pod["metadata"]["labels"] = json!({"app": "x"});
    pod["spec"]["volumes"] = json!([
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]);
    let main = &mut pod["spec"]["containers"][0];
    main["volumeMounts"] = json!([
        {"name": "settings", "mountPath": "/etc/settings"},
        {"name": "settings", "mountPath": "/etc/one", "subPath": "a.txt"},
        {"name": "info", "mountPath": "/podinfo"},
    ]);
    main["env"] = json!([
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "credentials", "key": "token"}}},
        {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "nowhere", "key": "x", "optional": true}}},
    ]);
    main["envFrom"] = json!([{"prefix": "PRE_", "configMapRef": {"name": "keys"}}]);
    bench.apply(pod);
    let reason = |snapshot: &cumulo_node::engine::Snapshot| {
        let waiting = container(snapshot).state.unwrap().waiting?;
        Some(format!("{}: {}", waiting.reason?, waiting.message?))
    };
    let snapshot = bench
        .until("uid-config", |snapshot| reason(snapshot).is_some())
        .await;
    insta::assert_snapshot!(reason(&snapshot).unwrap(), @r#"CreateContainerConfigError: ConfigMap "settings" not found; create it in namespace "default" or mark the reference optional"#);
    bench
        .objects
        .config_maps
        .lock()
        .insert("settings".to_owned(), data(&[("a.txt", "hello\n")]));
    bench
        .objects
        .config_maps
        .lock()
        .insert("keys".to_owned(), data(&[("KEY", "value")]));
    bench
        .objects
        .secrets
        .lock()
        .insert("credentials".to_owned(), data(&[("other", "")]));
    let snapshot = bench
        .until("uid-config", |snapshot| {
            reason(snapshot).is_some_and(|text| text.contains("key"))
        })
        .await;
    insta::assert_snapshot!(reason(&snapshot).unwrap(), @r#"CreateContainerConfigError: Secret "credentials" has no key "token""#);
    bench
        .objects
        .secrets
        .lock()
        .insert("credentials".to_owned(), data(&[("token", "secret")]));
    bench.until_phase("uid-config", "Succeeded").await;
    let log = bench.log("config", "main", LogOptions::default()).await;
    insta::assert_snapshot!(log, @r#"
    hello
    hello
    secret value
    app="x"
    2
    "#);
    // The secret reached no file but the log that the container wrote.
    let mut files = vec![bench.folder.path().to_owned()];
    while let Some(path) = files.pop() {
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            files.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if kind.is_file() && path.file_name().unwrap() != "log" {
            let content = std::fs::read(&path).unwrap();
            assert!(
                !content.windows(6).any(|part| part == b"secret") || path.ends_with("pod.json"),
                "{}",
                path.display()
            );
        }
    }
    bench.end().await;
}

#[tokio::test]
async fn host_paths_need_to_be_allowed_and_paths_stay_inside() {
    let allowed = tempfile::tempdir().unwrap();
    std::fs::write(allowed.path().join("file"), "from the host").unwrap();
    let bench = Bench::with(|options| options.host_path_roots = vec![allowed.path().to_owned()]);
    let with = |name: &str, path: &str, sub_path: &str| {
        let mut pod = shell(name, "Never", "cat host/file");
        pod["spec"]["volumes"] = json!([{"name": "host", "hostPath": {"path": path}}]);
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "host", "mountPath": "/host", "subPath": sub_path}]);
        pod
    };
    bench.apply(with("good", allowed.path().to_str().unwrap(), ""));
    bench.apply(with("bad", "/etc", ""));
    bench.apply(with("escape", allowed.path().to_str().unwrap(), "../x"));
    bench.until_phase("uid-good", "Succeeded").await;
    assert_eq!(
        bench.log("good", "main", LogOptions::default()).await,
        "from the host\n"
    );
    for (uid, expected) in [
        (
            "uid-bad",
            "volume \"host\": hostPath /etc is not below a folder that this node allows",
        ),
        ("uid-escape", "must not contain '..'"),
    ] {
        bench
            .until(uid, |snapshot| {
                container(snapshot)
                    .state
                    .and_then(|state| state.waiting?.message)
                    .is_some_and(|message| message.contains(expected))
            })
            .await;
    }
    bench.end().await;
}

#[tokio::test]
async fn a_pod_beyond_its_deadline_fails() {
    let bench = Bench::new();
    let mut pod = shell("late", "Always", "exec sleep 1000");
    pod["spec"]["activeDeadlineSeconds"] = json!(1);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    bench.apply(pod);
    let snapshot = bench.until_phase("uid-late", "Failed").await;
    assert_eq!(snapshot.status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(
        container(&snapshot)
            .state
            .unwrap()
            .terminated
            .unwrap()
            .exit_code,
        143
    );
    bench.end().await;
}

#[tokio::test]
async fn a_container_over_its_memory_limit_is_killed() {
    let bench = Bench::new();
    let script = "import time\nkept = []\nfor _ in range(40):\n    kept.append(b'x' * (10 << 20))\n    time.sleep(0.02)\ntime.sleep(100)";
    let mut pod = shell("hungry", "Never", "");
    pod["spec"]["containers"][0]["command"] = json!(["python3", "-c", script]);
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "128Mi"}});
    bench.apply(pod);
    let snapshot = bench.until_phase("uid-hungry", "Failed").await;
    let end = container(&snapshot).state.unwrap().terminated.unwrap();
    assert_eq!(
        (end.exit_code, end.reason.as_deref()),
        (137, Some("OOMKilled"))
    );
    let message = end.message.unwrap();
    assert!(
        message.contains("its limit is 128Mi; raise resources.limits.memory"),
        "{message}"
    );
    bench.end().await;
}

#[tokio::test]
async fn pods_beyond_the_capacity_are_refused() {
    let bench = Bench::with(|options| options.max_pods = 1);
    bench.apply(shell("first", "Never", "exec sleep 1000"));
    bench.until_phase("uid-first", "Running").await;
    bench.apply(shell("second", "Never", "true"));
    let snapshot = bench.until_phase("uid-second", "Failed").await;
    assert_eq!(snapshot.status.reason.as_deref(), Some("OutOfpods"));
    bench.end().await;
}

#[tokio::test]
async fn commands_run_inside_a_container() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bench = Bench::new();
    let mut pod = shell("inside", "Always", "echo hi > here; exec sleep 1000");
    pod["spec"]["containers"][0]["env"] = json!([{"name": "COLOUR", "value": "blue"}]);
    bench.apply(pod);
    bench.until_ready("uid-inside").await;
    let command = ["sh", "-c", "read line; echo $COLOUR $line; ls; exit 7"].map(str::to_owned);
    let session = bench
        .engine
        .exec("default", "inside", "", &command, true, false)
        .unwrap();
    let cumulo_node::ExecSession {
        stdin,
        stdout,
        mut process,
        ..
    } = session;
    stdin.unwrap().write_all(b"typed\n").await.unwrap();
    let mut text = String::new();
    stdout.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(process.wait().await.unwrap(), 7);
    assert_eq!(text, "blue typed\nhere\n");

    let error = bench
        .engine
        .exec("default", "inside", "other", &command, false, false)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"pod inside has no container "other"; it has: main"#
    );
    let error = bench
        .engine
        .exec("default", "nobody", "", &command, false, false)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "pod default/nobody does not run on this node"
    );
    bench.end().await;
}
