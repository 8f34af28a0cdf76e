//! Every role as a process of its own, beside an API server that serves nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{CUMULO, Platform, Text, free_port, http, wait_for};

const PROJECT: &str = "
apiVersion: cumulo.dev/v1alpha1
kind: Dataset
metadata: {name: trips}
spec:
  sources: {t: {uri: t.csv}}
  query: SELECT * FROM t
---
apiVersion: cumulo.dev/v1alpha1
kind: Model
metadata: {name: late}
spec:
  dataset: trips
  target: late
  task: classification
  train: {automl: {budget: 60s, trials: 0}}
---
apiVersion: cumulo.dev/v1alpha1
kind: InferenceService
metadata: {name: trips}
spec:
  model: models:/late@champion
  replicas: {min: 1, max: 1}
";

/// A process that ends with the test.
struct Role(Child);

impl Role {
    fn start(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        let log = fs::File::create(folder.join(format!("{name}.log"))).unwrap();
        let child = Command::new(CUMULO)
            .args(arguments)
            .env("CUMULO_HOME", folder.join(name))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The platform's kubeconfig with the token of a service account.
fn account(platform: &Platform, name: &str) -> PathBuf {
    let token = platform
        .kubectl(&["create", "token", name, "-n", "cumulo-system"])
        .success();
    let text = fs::read_to_string(platform.kubeconfig()).unwrap();
    let path = platform.home().join(format!("{name}.kubeconfig"));
    fs::write(&path, text.replace(platform.token(), &token)).unwrap();
    path
}

/// Of what is installed on a cluster, what does not run anything.
fn accounts_and_roles(manifests: &str) -> String {
    let wanted = |document: &&str| {
        let kind = document
            .lines()
            .find_map(|line| line.strip_prefix("kind: "));
        let kind = kind.unwrap_or_default();
        kind.contains("Role") || matches!(kind, "Namespace" | "ServiceAccount")
    };
    let documents: Vec<&str> = manifests.split("\n---\n").filter(wanted).collect();
    documents.join("\n---\n")
}

fn status(url: &str, token: &str) -> u16 {
    let client = reqwest::blocking::Client::builder()
        .danger_accept_invalid_certs(true)
        .build()
        .unwrap();
    let answer = client.get(url).bearer_auth(token).send();
    answer.map_or(0, |answer| answer.status().as_u16())
}

#[test]
fn every_role_on_its_own() {
    let platform = Platform::prepare();
    let listen = platform.address();
    platform
        .cumulo(&["up", "--api-only", "--listen", &listen])
        .success();
    let manifests = platform.cumulo(&["manifests", "--set", "artifacts=file:///artifacts"]);
    let manifests = accounts_and_roles(&String::from_utf8(manifests.stdout).unwrap());
    platform
        .kubectl_with(&["apply", "--server-side", "-f", "-"], Some(&manifests))
        .success();
    let folder = tempfile::Builder::new()
        .prefix("cumulo-roles-")
        .tempdir()
        .unwrap();
    let folder = folder.path();
    let kubeconfigs = ["tracking", "gateway", "operator", "node"]
        .map(|role| account(&platform, &format!("cumulo-{role}")));
    let [tracking, gateway, operator, node] =
        kubeconfigs.each_ref().map(|path| path.to_str().unwrap());
    let ports = [(); 4].map(|()| free_port());
    let listens = ports.map(|port| format!("127.0.0.1:{port}"));
    let urls = ports.map(|port| format!("http://127.0.0.1:{port}"));
    let artifacts = format!("file://{}/artifacts", folder.display());
    let database = format!("sqlite://{}/tracking.db", folder.display());

    let _tracking = Role::start(
        folder,
        "tracking",
        &[
            "tracking",
            "--kubeconfig",
            tracking,
            "--listen",
            &listens[0],
            "--database",
            &database,
            "--artifacts",
            &artifacts,
        ],
    );
    let _gateway = Role::start(
        folder,
        "gateway",
        &[
            "gateway",
            "--kubeconfig",
            gateway,
            "--listen",
            &listens[1],
            "--tracking-uri",
            &urls[0],
        ],
    );
    let _operator = Role::start(
        folder,
        "operator",
        &[
            "operator",
            "--kubeconfig",
            operator,
            "--listen",
            &listens[2],
            "--tracking-uri",
            &urls[0],
            "--gateway-url",
            &urls[1],
            "--gateways",
            &urls[1],
            "--scheduler-name",
            "cumulo",
            "--artifacts",
            &artifacts,
        ],
    );
    let node = Role::start(
        folder,
        "node",
        &[
            "node",
            "--kubeconfig",
            node,
            "--name",
            "worker",
            "--listen",
            &listens[3],
            "--pod-cidr",
            "127.70.0.0/16",
            "--artifacts",
            &artifacts,
            "--drain",
            "20s",
        ],
    );
    for url in &urls[..3] {
        wait_for(url, Duration::from_secs(30), || {
            status(&format!("{url}/readyz"), "") == 200
        });
    }
    let kubeconfig = platform.kubeconfig();
    let _scheduler = Role::start(
        folder,
        "scheduler",
        &[
            "scheduler",
            "--kubeconfig",
            kubeconfig.to_str().unwrap(),
            "--no-leader-election",
        ],
    );

    // A home that knows where everything is.
    let home = folder.join("home");
    fs::create_dir(&home).unwrap();
    fs::copy(platform.kubeconfig(), home.join("kubeconfig")).unwrap();
    let credentials = json!({"admin": platform.token(), "workload": ""});
    fs::write(home.join("credentials.json"), credentials.to_string()).unwrap();
    let running = json!({"address": listens[1], "pid": 1, "version": "roles"});
    fs::write(home.join("platform.json"), running.to_string()).unwrap();
    let project = folder.join("project");
    fs::create_dir(&project).unwrap();
    let rows = (0..400).map(|row| format!("{},{}\n", row % 20, i32::from(row % 20 > 9)));
    fs::write(
        project.join("t.csv"),
        format!("x,late\n{}", rows.collect::<String>()),
    )
    .unwrap();
    fs::write(project.join("project.yaml"), PROJECT).unwrap();
    let cumulo = |arguments: &[&str]| {
        let mut command = Command::new(CUMULO);
        command.args(arguments).env("CUMULO_HOME", &home);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let ran = cumulo(&["run", project.to_str().unwrap(), "--timeout", "120s"]);
    if !ran.status.success() {
        for name in ["operator", "node", "tracking", "gateway"] {
            let log = fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- {name} ---\n{}",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
    }
    ran.success();
    let rows = project.join("t.csv");
    let predicted = cumulo(&[
        "predict",
        "trips",
        "--data",
        rows.to_str().unwrap(),
        "-o",
        "json",
    ]);
    let predicted: Value = serde_json::from_str(&predicted.success()).unwrap();
    assert_eq!(predicted.as_array().map(Vec::len), Some(400));

    // Who has no role gets nowhere; a node is asked over TLS only.
    platform
        .kubectl(&["create", "serviceaccount", "nobody"])
        .success();
    let nobody = platform.kubectl(&["create", "token", "nobody"]).success();
    let kubelet = format!("https://{}/stats/summary", listens[3]);
    for url in [
        format!("{}/v2/models/trips", urls[1]),
        format!("{}/api/2.0/mlflow/experiments/get?experiment_id=0", urls[1]),
        format!("{}/api/2.0/mlflow/experiments/get?experiment_id=0", urls[0]),
        format!("{}/demand", urls[1]),
        format!("{}/metrics", urls[2]),
        kubelet.clone(),
    ] {
        assert_eq!(status(&url, "wrong"), 401, "{url}");
        assert_eq!(status(&url, &nobody), 403, "{url}");
        assert_eq!(status(&url, platform.token()), 200, "{url}");
    }
    assert_eq!(
        status(&kubelet.replace("https", "http"), platform.token()),
        400
    );
    let metrics = http()
        .get(format!("{}/metrics", urls[2]))
        .bearer_auth(platform.token())
        .send()
        .unwrap()
        .text()
        .unwrap();
    assert!(metrics.contains("cumulo_operator_leads 1"), "{metrics}");
    assert!(metrics.contains("cumulo_operator_gateways 1"), "{metrics}");

    // Told to end, the node lets its pods end, and says so.
    let serving = platform
        .kubectl(&[
            "get",
            "pods",
            "-l",
            "cumulo.dev/inference-service=trips",
            "-o",
            "name",
        ])
        .success();
    node.signal(nix::sys::signal::Signal::SIGTERM);
    wait_for(
        "the pod to end with its node",
        Duration::from_secs(30),
        || {
            let reason = platform.kubectl(&[
                "get",
                serving.trim(),
                "-o",
                "jsonpath={.status.phase}/{.status.reason}",
            ]);
            reason.out() == "Failed/Terminated" || reason.err().contains("NotFound")
        },
    );
}
