//! What a person is told when something is wrong.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::{Platform, Text, free_port};

/// A project of one Dataset over files that the test writes.
fn dataset(files: &[(&str, &[u8])], spec: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    fs::write(
        folder.path().join("d.yaml"),
        format!(
            "apiVersion: cumulo.dev/v1alpha1\nkind: Dataset\nmetadata: {{name: d}}\nspec:\n{spec}\n"
        ),
    )
    .unwrap();
    folder
}

fn run(platform: &Platform, folder: &Path) -> String {
    let message = platform
        .cumulo(&["run", folder.to_str().unwrap(), "--timeout", "60s"])
        .failure();
    // What the next one says must be its own.
    platform.cumulo(&["delete", "dataset", "d"]);
    message.replace(folder.to_str().unwrap(), "FOLDER")
}

const CSV: &[u8] = b"a,b\n1,x\n2,y\n";

#[test]
fn datasets() {
    let platform = Platform::start();
    let check = |files: &[(&str, &[u8])], spec: &str, expected: &[&str]| {
        let folder = dataset(files, spec);
        let message = run(&platform, folder.path());
        for part in expected {
            assert!(message.contains(part), "expected {part:?} in:\n{message}");
        }
    };
    let source = "  sources: {t: {uri: t.csv}}\n";
    check(
        &[("t.csv", CSV)],
        &format!("{source}  query: SELECT a FROM t\n  qurey: x"),
        &["qurey", "query"],
    );
    check(
        &[("t.csv", CSV)],
        &format!("{source}  query: 7"),
        &["spec.query", "string"],
    );
    check(&[("t.csv", CSV)], "  query: SELECT 1", &["spec.sources"]);
    check(
        &[("t.csv", CSV)],
        &format!("{source}  query: SELEC a FROM t"),
        &["d", "SELEC"],
    );
    check(
        &[("t.csv", CSV)],
        &format!("{source}  query: SELECT aa FROM t"),
        &["aa", "did you mean", "a"],
    );
    check(
        &[("t.csv", CSV)],
        &format!("{source}  query: SELECT a FROM tt"),
        &["tt", "t"],
    );
    check(
        &[],
        &format!("{source}  query: SELECT a FROM t"),
        &["t.csv", "FOLDER", "source \"t\""],
    );
    check(
        &[("t.parquet", b"PAR1 this is not all of it")],
        "  sources: {t: {uri: t.parquet}}\n  query: SELECT a FROM t",
        &["t.parquet"],
    );
    check(
        &[("t.parquet", CSV)],
        "  sources: {t: {uri: t.parquet}}\n  query: SELECT a FROM t",
        &["t.parquet", "CSV"],
    );
    check(
        &[("t.csv.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b])],
        "  sources: {t: {uri: t.csv.gz}}\n  query: SELECT a FROM t",
        &["t.csv.gz"],
    );
    check(
        &[],
        "  sources: {t: {uri: 'http://127.0.0.1:9/t.csv'}}\n  query: SELECT a FROM t",
        &["127.0.0.1", "allowed"],
    );
    check(
        &[],
        "  sources: {t: {uri: /etc/passwd, format: csv}}\n  query: SELECT * FROM t",
        &["/etc/passwd", "outside the folders that may be read"],
    );
    check(
        &[("t.csv", CSV)],
        &format!(
            "{source}  query: SELECT a, b FROM t\n  checks: [{{column: a, range: {{max: 1}}}}]"
        ),
        &["a", "1"],
    );
}

#[test]
fn a_failed_check_keeps_the_last_good_version() {
    let platform = Platform::start();
    let spec = "  sources: {t: {uri: t.csv}}\n  query: SELECT a, b FROM t\n  checks: [{column: b, notNull: true}]";
    let folder = dataset(&[("t.csv", CSV)], spec);
    let path = folder.path().to_str().unwrap();
    platform.cumulo(&["run", path]).success();
    let version = || {
        platform
            .kubectl(&["get", "dataset", "d", "-o", "jsonpath={.status.version}"])
            .success()
    };
    let good = version();
    fs::write(folder.path().join("t.csv"), "a,b\n1,\n").unwrap();
    let message = platform
        .cumulo(&["run", path, "--timeout", "60s"])
        .failure();
    assert!(message.contains('b'), "{message}");
    assert_eq!(version(), good);
    let checks = platform
        .kubectl(&["get", "dataset", "d", "-o", "jsonpath={.status.checks}"])
        .success();
    assert_eq!(
        checks,
        r#"[{"failedRows":1,"name":"b is not null","passed":false}]"#
    );
    let rows = platform
        .cumulo(&["sql", "SELECT count(*) AS n FROM d", "-o", "csv"])
        .success();
    assert_eq!(rows, "n\n2");
}

#[test]
fn scripts() {
    let platform = Platform::start();
    let folder = tempfile::tempdir().unwrap();
    let train = |script: &str, more: &[&str]| {
        let path = folder.path().join("job.py");
        fs::write(&path, script).unwrap();
        let mut arguments = vec!["train", path.to_str().unwrap()];
        arguments.extend(more);
        platform.cumulo(&arguments)
    };
    let raised = train("raise ValueError('boom')", &[]).failure();
    assert!(
        raised.contains("job.py raised ValueError: boom"),
        "{raised}"
    );
    let code = train("import sys; sys.exit(3)", &[]).failure();
    assert!(code.contains("exit code 3"), "{code}");
    let memory = train(
        "x = bytearray(600 << 20)\nx[::4096] = b'x' * len(x[::4096])\nimport time; time.sleep(60)",
        &["--memory", "200Mi"],
    )
    .failure();
    assert!(
        memory.contains("memory") && memory.contains("200"),
        "{memory}"
    );
    let endless = train(
        "import time\nwhile True: time.sleep(1)",
        &["--deadline", "2s"],
    )
    .failure();
    assert!(
        endless.contains("2 s") || endless.contains("2s") || endless.contains("deadline"),
        "{endless}"
    );
    let unresolvable = train("pass", &["--packages", "six==1.16.0,six==1.15.0"]).failure();
    assert!(
        unresolvable.contains("cannot be resolved") && unresolvable.contains("six"),
        "{unresolvable}"
    );
    let missing = platform.cumulo(&["train", "/nowhere/x.py"]).failure();
    assert!(missing.contains("/nowhere/x.py is not there"), "{missing}");
    let input = train("pass", &["--data", "nothing", "--detach"]);
    input.success();
    crate::support::wait_for(
        "the job to say what it waits for",
        std::time::Duration::from_secs(10),
        || {
            let message = platform
                .kubectl(&["get", "trainjob", "job", "-o", "jsonpath={.status.message}"])
                .out();
            message.contains("nothing")
        },
    );
}

#[test]
fn platforms() {
    let platform = Platform::start();
    // The same folder again.
    let mut again = platform.command(&[
        "up",
        "--foreground",
        "--listen",
        &format!("127.0.0.1:{}", free_port()),
    ]);
    let message = again.output().unwrap().failure();
    assert!(
        message.contains("another platform runs on") && message.contains("cumulo down"),
        "{message}"
    );
    let said = platform.up().success();
    assert!(said.contains("already up"), "{said}");
    // A taken port.
    let other = tempfile::tempdir().unwrap();
    let taken = Command::new(crate::support::CUMULO)
        .args(["up", "--listen", &platform.address()])
        .env("CUMULO_HOME", other.path())
        .output()
        .unwrap()
        .failure();
    assert!(
        taken.contains("is taken by another program") && taken.contains("--listen"),
        "{taken}"
    );
    // Nothing runs.
    let none = Command::new(crate::support::CUMULO)
        .args(["get", "pods"])
        .env("CUMULO_HOME", other.path())
        .output()
        .unwrap()
        .failure();
    assert!(none.contains("cumulo up"), "{none}");
    // A type that does not exist.
    let unknown = platform.cumulo(&["get", "datset"]).failure();
    assert!(unknown.contains("did you mean \"dataset\"?"), "{unknown}");
    // A service that does not exist.
    let (status, body) = platform.post("/v2/models/none/infer", &json!({"inputs": []}));
    assert_eq!(status, 404, "{body}");
    assert!(body["error"].as_str().unwrap().contains("none"), "{body}");
}
