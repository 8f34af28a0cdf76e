//! What exceeds its limits ends with a reason that a person understands.

use serde_json::json;

use crate::bench::{Bench, container, shell};
use crate::sandbox::{output, python};

#[tokio::test]
async fn a_full_disk_is_the_pods_end() {
    let bench = Bench::with(|options| options.disk_interval = std::time::Duration::from_millis(50));
    let mut pod = python(
        "full",
        "Always",
        "import time\nfor n in range(100):\n    open(f'file{n}', 'wb').write(b'x' * (1 << 20)); time.sleep(0.02)\ntime.sleep(1000)",
    );
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": "5Mi"}});
    bench.apply(pod);
    let snapshot = bench.until_phase("uid-full", "Failed").await;
    assert_eq!(snapshot.status.reason.as_deref(), Some("Evicted"));
    let message = snapshot.status.message.unwrap();
    assert!(
        message.starts_with("container main used ")
            && message.ends_with(
                "of disk, the limit is 5Mi; raise resources.limits.ephemeral-storage or write less"
            ),
        "{message}"
    );
    bench.end().await;
}

#[tokio::test]
async fn a_file_is_no_larger_than_the_disk_limit() {
    // Measured never: the kernel is to refuse it.
    let bench = Bench::with(|options| options.disk_interval = std::time::Duration::from_secs(600));
    let limits = json!({"limits": {"ephemeral-storage": "1Mi"}});
    let mut pod = python(
        "large",
        "Never",
        "file = os.open('file', os.O_WRONLY | os.O_CREAT)\nattempt('a large file', lambda: [os.write(file, b'x' * (1 << 20)) for _ in range(3)])\nos.unlink('file')",
    );
    pod["spec"]["containers"][0]["resources"] = limits.clone();
    assert_eq!(
        output(&bench, pod).await,
        "a large file: OSError File too large\n"
    );
    let mut pod = shell("signal", "Never", "exec head -c 2097152 /dev/zero > file");
    pod["spec"]["containers"][0]["resources"] = limits;
    bench.apply(pod);
    let snapshot = bench.until_phase("uid-signal", "Failed").await;
    let end = container(&snapshot).state.unwrap().terminated.unwrap();
    assert_eq!(end.reason.as_deref(), Some("FileTooLarge"));
    insta::assert_snapshot!(end.message.unwrap(), @"container main wrote a file larger than its limit of 1Mi; raise resources.limits.ephemeral-storage or write less");
    bench.end().await;
}

#[tokio::test]
async fn too_many_processes_are_ended() {
    let bench = Bench::with(|options| options.max_tasks = Some(30));
    // Each in a session of its own, to leave the container's group.
    let script = "i=0; while [ $i -lt 60 ]; do setsid sleep 1000 & i=$((i+1)); done; echo $$ > pid; exec sleep 1000";
    bench.apply(shell("many", "Never", script));
    let snapshot = bench.until_phase("uid-many", "Failed").await;
    let end = container(&snapshot).state.unwrap().terminated.unwrap();
    assert_eq!(end.reason.as_deref(), Some("ProcessLimitExceeded"));
    let message = end.message.unwrap();
    assert!(
        message.ends_with("this node allows 30; start fewer workers"),
        "{message}"
    );
    bench.end().await;
}

#[tokio::test]
async fn processors_and_open_files_are_limited() {
    let bench = Bench::with(|options| options.open_files = Some(64));
    let mut pod = python(
        "few",
        "Never",
        "print(len(os.sched_getaffinity(0)))\nattempt('more processors', lambda: os.sched_setaffinity(0, range(os.cpu_count())))\nattempt('files', lambda: [os.dup(1) for _ in range(100)])",
    );
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "500m"}});
    let log = output(&bench, pod).await;
    if std::thread::available_parallelism().is_ok_and(|count| count.get() > 1) {
        assert_eq!(
            log,
            "1\nmore processors: PermissionError Operation not permitted\nfiles: OSError Too many open files\n"
        );
    }
    bench.end().await;
}
