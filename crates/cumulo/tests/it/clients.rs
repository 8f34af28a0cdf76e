//! Programs that people wrote for Kubernetes, through the socket. (The kube-rs
//! program is a package of its own: `tests/peers/kube-rs`.)

use std::io::{BufRead, BufReader};
use std::time::Duration;

use crate::support::{Platform, Text, repository, wait_for};

#[test]
fn the_python_client_lists_watches_writes_and_runs() {
    let platform = Platform::start();
    let script = repository().join("tests/peers/python_kubernetes.py");
    let said = platform
        .python(&["kubernetes>=32,<36"], &script, &[])
        .success();
    assert_eq!(said, "listed, watched, wrote and ran");
}

#[test]
fn kubectl_edits_and_follows_logs() {
    let platform = Platform::start();
    let objects = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {level: low}
---
apiVersion: cumulo.dev/v1alpha1
kind: Dataset
metadata: {name: numbers}
spec:
  sources: {t: {uri: 'file:///nowhere/t.csv'}}
  query: SELECT a FROM t
---
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: cumulo.dev/runtime
    command: [sh, -c, 'for i in 1 2 3 4 5; do echo line $i; sleep 0.3; done']
";
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(objects))
        .success();

    // edit: the editor changes the text, kubectl sends the difference.
    for (target, expression, path, expected) in [
        (
            "configmap/settings",
            "s/level: low/level: high/",
            "{.data.level}",
            "high",
        ),
        (
            "dataset/numbers",
            "s/SELECT a FROM t/SELECT b FROM t/",
            "{.spec.query}",
            "SELECT b FROM t",
        ),
    ] {
        let edited = platform
            .kubectl_command(&["edit", target])
            .env("KUBE_EDITOR", format!("sed -i '{expression}'"))
            .output()
            .unwrap()
            .success();
        assert!(edited.ends_with("edited"), "{edited}");
        let value = platform
            .kubectl(&["get", target, "-o", &format!("jsonpath={path}")])
            .success();
        assert_eq!(value, expected);
    }

    // logs -f: begins while the pod runs, and ends when it does.
    wait_for("the pod to run", Duration::from_secs(30), || {
        platform
            .kubectl(&["get", "pod", "counter", "-o", "jsonpath={.status.phase}"])
            .out()
            != "Pending"
    });
    let mut follow = platform
        .kubectl_command(&["logs", "-f", "counter"])
        .spawn()
        .unwrap();
    let lines: Vec<String> = BufReader::new(follow.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .collect();
    assert!(follow.wait().unwrap().success());
    let expected: Vec<String> = (1..=5).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, expected);
    assert_eq!(
        platform.cumulo(&["logs", "-f", "pod/counter"]).success(),
        expected.join("\n")
    );
}
