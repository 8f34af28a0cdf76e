//! Helm against the embedded API server: a chart with an object of each kind
//! that a small project brings along (`tests/peers/chart`).

use std::time::Duration;

use serde_json::Value;

use crate::support::{Platform, Text, repository, wait_for};

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    let platform = Platform::prepare();
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("t.csv"), "a,b\n1,x\n2,y\n").unwrap();
    std::fs::write(
        platform.home().join("config.yaml"),
        format!("allowedRoots: [{}]\n", data.path().display()),
    )
    .unwrap();
    platform.up().success();
    let source = format!("source=file://{}/t.csv", data.path().display());
    let chart = repository().join("tests/peers/chart");
    let chart = chart.to_str().unwrap();
    let greeting = || {
        platform
            .kubectl(&[
                "get",
                "configmap",
                "first-settings",
                "-o",
                "jsonpath={.data.greeting}",
            ])
            .out()
    };
    let revisions = || -> Vec<(i64, String)> {
        let text = platform
            .helm(&["history", "first", "--output", "json"])
            .success();
        let all: Vec<Value> = serde_json::from_str(&text).unwrap();
        all.iter()
            .map(|revision| {
                (
                    revision["revision"].as_i64().unwrap(),
                    revision["status"].as_str().unwrap().to_owned(),
                )
            })
            .collect()
    };
    let status = |number: i64, text: &str| (number, text.to_owned());

    // Ready is what Helm waits for, of the dataset as of the pod.
    let wait = ["--set", &source, "--wait", "--timeout", "60s"];
    let installed = platform
        .helm(&[&["install", "first", chart], &wait[..]].concat())
        .success();
    assert!(installed.contains("STATUS: deployed"), "{installed}");
    assert!(installed.contains("first says hello."), "{installed}");
    assert_eq!(greeting(), "hello");
    let names = "secret/first-keys,service/first,serviceaccount/first,pod/first,dataset/first";
    for object in names.split(',') {
        let manager = platform.kubectl(&[
            "get",
            object,
            "-o",
            "jsonpath={.metadata.annotations.meta\\.helm\\.sh/release-name}",
        ]);
        assert_eq!(manager.success(), "first", "{object}");
    }
    wait_for(
        "the pod to read its settings",
        Duration::from_secs(30),
        || platform.kubectl(&["logs", "first"]).out() == "hello",
    );
    let twice = platform.helm(&["install", "first", chart]).failure();
    assert!(twice.contains("cannot reuse a name"), "{twice}");

    let change = ["upgrade", "first", chart, "--set", "greeting=goodbye"];
    let upgraded = platform.helm(&[&change, &wait[..]].concat());
    assert!(upgraded.success().contains("REVISION: 2"));
    assert_eq!(greeting(), "goodbye");
    assert_eq!(
        revisions(),
        [status(1, "superseded"), status(2, "deployed")]
    );
    let values = platform.helm(&["get", "values", "first"]).success();
    assert!(values.contains("greeting: goodbye"), "{values}");

    platform.helm(&["rollback", "first", "1"]).success();
    assert_eq!(greeting(), "hello");
    assert_eq!(
        revisions(),
        [
            status(1, "superseded"),
            status(2, "superseded"),
            status(3, "deployed")
        ]
    );
    let listed = platform.helm(&["list", "--output", "json"]).success();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["name"], "first");
    assert_eq!(listed[0]["revision"], "3");

    // A dry run leaves nothing behind; what the server refuses is a failed release.
    let dry = platform.helm(&["install", "second", chart, "--dry-run=server"]);
    assert!(dry.success().contains("kind: Dataset"));
    let wrong = platform
        .helm(&["install", "second", chart, "--set", "query="])
        .failure();
    assert!(wrong.contains("spec.query"), "{wrong}");
    platform.helm(&["uninstall", "second"]).success();

    platform
        .helm(&["uninstall", "first", "--wait", "--timeout", "60s"])
        .success();
    let left = platform.kubectl(&[
        "get",
        "configmap,secret,service,serviceaccount,pod,dataset",
        "-l",
        "app.kubernetes.io/instance=first",
        "-o",
        "name",
    ]);
    assert_eq!(left.success(), "");
    assert_eq!(platform.helm(&["list", "--short"]).success(), "");
}
