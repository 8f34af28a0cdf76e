//! The everyday commands against another platform, through nothing but a
//! kubeconfig: one that serves everything at one address, and one as a cluster
//! has it, where tracking and the gateway are Services.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::support::{CUMULO, Platform, Text, repository};
use crate::training::project;

/// Somebody who has a kubeconfig, and no platform of their own.
struct Visitor {
    home: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Visitor {
    fn new(kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            kubeconfig: kubeconfig.into(),
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(CUMULO)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .env("CUMULO_HOME", self.home.path())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .current_dir(repository())
            .output()
            .unwrap()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What every everyday command does, by somebody with a kubeconfig only.
fn everyday(visitor: &Visitor) {
    let folder = tempfile::tempdir().unwrap();
    project(folder.path(), "{min: 1}");
    let run = ["run", text(folder.path()), "--timeout", "120s"];
    let done = visitor.run(&run).success();
    assert!(done.contains("done in"), "{done}");
    let again = visitor.run(&run).success();
    assert!(again.contains("everything is up to date"), "{again}");

    let listed = visitor.run(&["get", "cumulo", "-o", "name"]).success();
    for object in ["dataset/trips", "inferenceservice/trips", "model/late"] {
        assert!(listed.lines().any(|line| line == object), "{listed}");
    }
    let told = visitor.run(&["describe", "model", "late"]).success();
    assert!(told.contains("Events:"), "{told}");
    let rows = visitor
        .run(&["sql", "SELECT count(*) AS n FROM trips", "-o", "csv"])
        .success();
    assert_eq!(rows, "n\n3000");
    // The second time the version is here already.
    let cached = std::fs::read_dir(visitor.home.path().join("cache/snapshots")).unwrap();
    assert_eq!(cached.count(), 1);
    let rows = visitor
        .run(&["sql", "SELECT count(*) AS n FROM trips", "-o", "csv"])
        .success();
    assert_eq!(rows, "n\n3000");
    let data = folder.path().join("t.csv");
    let predicted = visitor
        .run(&["predict", "trips", "--data", text(&data), "-o", "csv"])
        .success();
    assert_eq!(predicted.lines().count(), 3001);
    let models: Value =
        serde_json::from_str(&visitor.run(&["models", "-o", "json"]).success()).unwrap();
    assert_eq!(models[0]["name"], "late");
    assert!(visitor.run(&["runs"]).success().contains("FINISHED"));
    let log = visitor.run(&["logs", "inferenceservice/trips"]).success();
    assert!(!log.is_empty());

    let script = folder.path().join("hello.py");
    std::fs::write(&script, "print('hello from a script')\n").unwrap();
    let trained = visitor.run(&["train", text(&script)]).success();
    assert!(trained.contains("hello from a script"), "{trained}");
    visitor.run(&["gpus"]).success();

    let file = folder.path().join("project.yaml");
    let deleted = visitor.run(&["delete", "-f", text(&file)]).success();
    assert!(
        deleted.contains("models.cumulo.dev/late deleted"),
        "{deleted}"
    );
    let left = visitor.run(&["get", "models", "-o", "name"]).success();
    assert_eq!(left, "");
}

#[test]
fn a_kubeconfig_is_enough_for_another_platform() {
    let platform = Platform::start();
    let visitor = Visitor::new(platform.kubeconfig());
    everyday(&visitor);
    let status = visitor.run(&["status"]).success();
    assert!(
        status.starts_with("context cumulo: Kubernetes v1."),
        "{status}"
    );

    // A context by its name, and KUBECONFIG as kubectl has it.
    let by_name = Command::new(CUMULO)
        .args(["get", "ns", "default", "-o", "name", "--context", "cumulo"])
        .env("CUMULO_HOME", visitor.home.path())
        .env("KUBECONFIG", platform.kubeconfig())
        .output()
        .unwrap();
    assert_eq!(by_name.success(), "namespace/default");
    let unknown = visitor.run(&["--context", "prod", "get", "pods"]).failure();
    assert!(
        unknown.contains("no context \"prod\": it has cumulo"),
        "{unknown}"
    );
    // What is of this machine says so, and nothing was started here.
    for command in [&["up"][..], &["down"], &["user", "list"]] {
        let refused = visitor.run(command).failure();
        assert!(refused.contains("this machine"), "{refused}");
    }
    assert!(!visitor.home.path().join("kubeconfig").exists());
    // The namespace of a kubeconfig counts.
    platform.kubectl(&["create", "namespace", "team"]).success();
    let kubeconfig = visitor.home.path().join("team.kubeconfig");
    let added = platform.cumulo(&[
        "user",
        "add",
        "ada",
        "--role",
        "edit",
        "--namespace",
        "team",
    ]);
    std::fs::write(&kubeconfig, added.success()).unwrap();
    let ada = Visitor::new(kubeconfig);
    let folder = crate::kubectl::tiny_project();
    let manifest = folder.path().join("pod.yaml");
    std::fs::write(
        &manifest,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine}\ndata: {a: b}\n",
    )
    .unwrap();
    let applied = ada.run(&["apply", "-f", text(&manifest)]).success();
    assert_eq!(applied, "configmap/mine created");
    let there = ada
        .run(&["get", "configmap", "mine", "-o", "name"])
        .success();
    assert_eq!(there, "configmap/mine");
    // Tracking is in no namespace: what it refuses is passed on.
    let refused = ada.run(&["runs"]).failure();
    assert!(refused.contains("\"ada\" cannot"), "{refused}");
}

/// Passes connections on to a platform whose API server seems to be another:
/// to clients it is a cluster's.
struct Disguise {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Disguise {
    fn of(platform: &Platform) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = platform.address();
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let client = client.unwrap();
                let server = TcpStream::connect(&address).unwrap();
                let (to, from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass(client, server, false));
                std::thread::spawn(move || pass(from, to, true));
            }
        });
        Self { port, ended }
    }
}

impl Drop for Disguise {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Copies one direction; the version's mark is replaced by as many bytes.
fn pass(mut from: TcpStream, mut to: TcpStream, disguise: bool) {
    let mark = b"+cumulo\"";
    let mut buffer = vec![0_u8; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..count];
        if disguise && let Some(at) = bytes.windows(mark.len()).position(|part| part == mark) {
            bytes[at] = b'-';
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Tracking and the gateway as a cluster has them: Services in front of a pod,
/// which passes on to the platform.
const SERVICES: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: cumulo-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cumulo, namespace: cumulo-system}
data: {serviceAccount: cumulo-user}
---
apiVersion: v1
kind: Service
metadata: {name: cumulo-tracking, namespace: cumulo-system}
spec:
  selector: {app: relay}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: cumulo-gateway, namespace: cumulo-system}
spec:
  selector: {app: relay}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: relay, namespace: cumulo-system, labels: {app: relay}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: cumulo.dev/runtime
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    command:
    - python3
    - -c
    - |
      import os, socket, threading
      def copy(a, b):
          try:
              while data := a.recv(65536):
                  b.sendall(data)
              b.shutdown(socket.SHUT_WR)
          except OSError:
              pass
      server = socket.create_server((os.environ["POD_IP"], 8080))
      while True:
          client, _ = server.accept()
          platform = socket.create_connection(("127.0.0.1", PORT))
          threading.Thread(target=copy, args=(client, platform), daemon=True).start()
          threading.Thread(target=copy, args=(platform, client), daemon=True).start()
"#;

#[test]
fn services_are_reached_through_the_api_server() {
    let platform = Platform::start();
    let disguise = Disguise::of(&platform);
    let kubeconfig = platform.home().join("cluster.kubeconfig");
    std::fs::write(
        &kubeconfig,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: cluster\nclusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{}'}}}}]\nusers: [{{name: u, user: {{token: {}}}}}]\ncontexts: [{{name: cluster, context: {{cluster: c, user: u}}}}]\n",
            disguise.port,
            platform.token()
        ),
    )
    .unwrap();
    let visitor = Visitor::new(&kubeconfig);
    // Kubernetes' own objects need nothing of Cumulo.
    visitor.run(&["get", "pods", "-A"]).success();
    let missing = visitor.run(&["models"]).failure();
    assert!(
        missing.contains("Cumulo is not installed in namespace cumulo-system")
            && missing.contains("cumulo manifests"),
        "{missing}"
    );

    let port = platform.address().rsplit_once(':').unwrap().1.to_owned();
    let services = SERVICES.replace("PORT", &port);
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(&services))
        .success();
    let ready = [
        "wait",
        "--for=condition=Ready",
        "pod/relay",
        "-n",
        "cumulo-system",
        "--timeout=60s",
    ];
    platform.kubectl(&ready).success();
    everyday(&visitor);

    // A URL that the ConfigMap names goes before the pods, if nobody can listen in.
    let set = |url: &str| {
        let patch = format!(r#"{{"data":{{"trackingUrl":"{url}"}}}}"#);
        let arguments = [
            "patch",
            "configmap",
            "cumulo",
            "-n",
            "cumulo-system",
            "--type=merge",
            "-p",
            &patch,
        ];
        platform.kubectl(&arguments).success();
    };
    platform
        .kubectl(&["delete", "pod", "relay", "-n", "cumulo-system"])
        .success();
    let gone = visitor.run(&["models"]).failure();
    assert!(
        gone.contains("no pod of Service cumulo-system/cumulo-tracking is ready"),
        "{gone}"
    );
    set(&platform.url());
    assert!(visitor.run(&["models"]).success().contains("late"));
    set("http://tracking.example.org");
    let refused = visitor.run(&["models"]).failure();
    assert!(refused.contains("is not encrypted"), "{refused}");
}

/// What is meant for a cluster is taken by the embedded API server too, as far
/// as it goes: nothing there makes pods of Deployments.
#[test]
fn an_installation_is_taken_and_changes_nothing_twice() {
    let platform = Platform::start();
    let wanted = [
        "manifests",
        "--image",
        "r/cumulo@sha256:0",
        "--set",
        "artifacts=s3://b/p",
    ];
    let manifests = platform.cumulo(&wanted).success();
    // The definitions are the platform's own; whoever applies them takes them over.
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--validate=strict",
        "-f",
        "-",
    ];
    let applied = platform.kubectl_with(&apply, Some(&manifests)).success();
    assert_eq!(
        applied.lines().count(),
        manifests.matches("\nkind: ").count()
    );
    let versions = || {
        let kinds = "crd,namespace,serviceaccount,clusterrole,clusterrolebinding,role,rolebinding,configmap,service,deployment,pdb,pvc";
        let list = [
            "get",
            kinds,
            "-A",
            "-l",
            "app.kubernetes.io/managed-by=cumulo-manifests",
            "-o",
            "jsonpath={.items[*].metadata.resourceVersion}",
        ];
        platform.kubectl(&list).success()
    };
    let before = versions();
    platform.kubectl_with(&apply, Some(&manifests)).success();
    assert_eq!(versions(), before);
    let may = |account: &str, what: &[&str]| {
        let account = format!("system:serviceaccount:cumulo-system:{account}");
        platform
            .kubectl(&[&["auth", "can-i", "--as", &account][..], what].concat())
            .out()
    };
    assert_eq!(may("cumulo-operator", &["create", "pods"]), "yes");
    assert_eq!(may("cumulo-operator", &["get", "secrets/other"]), "no");
    let reviews = ["create", "tokenreviews.authentication.k8s.io"];
    assert_eq!(may("cumulo-tracking", &reviews), "yes");
    assert_eq!(
        may("cumulo-node", &["patch", "pods", "--subresource=status"]),
        "yes"
    );

    // The doctor sees what is missing here, and says so with its exit code.
    let looked = platform.cumulo(&[
        "doctor",
        "cluster",
        "-o",
        "json",
        "--kubeconfig",
        text(&platform.kubeconfig()),
    ]);
    assert!(!looked.status.success());
    let findings: Vec<Value> = serde_json::from_str(&looked.out()).unwrap();
    let of = |check: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no check {check}: {findings:?}"))
    };
    assert_eq!(of("storage class")["verdict"], "fail");
    for check in [
        "nodes",
        "permissions",
        "policy/v1",
        "resource.k8s.io/v1",
        "cumulo",
    ] {
        assert_eq!(of(check)["verdict"], "ok", "{}", of(check));
    }
    let kubeconfig = platform.kubeconfig();
    let database = [
        "doctor",
        "cluster",
        "--set",
        "database.secret=db",
        "--kubeconfig",
        text(&kubeconfig),
    ];
    let told = platform.cumulo(&database);
    assert!(
        told.out()
            .contains("kubectl create secret generic db -n cumulo-system"),
        "{}",
        told.out()
    );
    let refused = platform
        .cumulo(&["manifests", "--set", "artifcats=s3://b/p"])
        .failure();
    assert!(refused.contains("did you mean \"artifacts\"?"), "{refused}");
}

#[test]
fn the_doctor_looks_at_this_machine() {
    let home = tempfile::tempdir().unwrap();
    let run = |variables: &[(&str, &str)]| -> Vec<Value> {
        let mut command = Command::new(CUMULO);
        command
            .args(["doctor", "-o", "json"])
            .env("CUMULO_HOME", home.path());
        for (name, value) in variables {
            command.env(name, value);
        }
        serde_json::from_str(&command.output().unwrap().out()).unwrap()
    };
    let verdict = |findings: &[Value], check: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap()["verdict"].as_str().unwrap().to_owned()
    };
    let findings = run(&[("CUMULO_ONNXRUNTIME", "/nowhere/libonnxruntime.so")]);
    assert_eq!(verdict(&findings, "uv"), "ok");
    assert_eq!(verdict(&findings, "seccomp"), "ok");
    assert_eq!(verdict(&findings, "onnx runtime"), "warn");
    for finding in &findings {
        let fine = finding["verdict"] == "ok";
        assert_eq!(finding.get("fix").is_none(), fine, "{finding}");
    }
    // An index that nobody serves: told, and soon.
    let findings = run(&[
        ("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple"),
        ("UV_INDEX", ""),
        ("UV_NO_CONFIG", "1"),
    ]);
    assert_eq!(verdict(&findings, "package index"), "warn");
}
