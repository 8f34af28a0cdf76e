//! A current kubectl against the embedded API server, as a person uses it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Platform, Text, http, kubectl, repository, wait_for};

const DATASET: &str = "
apiVersion: cumulo.dev/v1alpha1
kind: Dataset
metadata:
  name: numbers
spec:
  sources:
    t: {uri: t.csv}
  query: SELECT a, b FROM t
";

/// A project with a tiny dataset in a folder of its own.
pub fn tiny_project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.csv"), "a,b\n1,x\n2,y\n3,\n").unwrap();
    std::fs::write(folder.path().join("numbers.yaml"), DATASET).unwrap();
    folder
}

#[test]
fn kubectl_does_the_everyday_things() {
    let platform = Platform::start();

    // Built-ins: create, get, edit by patch, label, server-side apply, delete.
    // (Typed `kubectl create` commands send protobuf; they have a test of their own.)
    let objects = "
apiVersion: v1
kind: Namespace
metadata: {name: team}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: team}
data: {a: '1'}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {token: abc}
";
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(objects))
        .success();
    let patched = platform.kubectl(&[
        "patch",
        "configmap",
        "settings",
        "-n",
        "team",
        "--type=merge",
        "-p",
        r#"{"data":{"b":"2"}}"#,
    ]);
    assert_eq!(patched.success(), "configmap/settings patched");
    let data = platform.kubectl(&[
        "get",
        "configmap",
        "settings",
        "-n",
        "team",
        "-o",
        "jsonpath={.data.a}{.data.b}",
    ]);
    assert_eq!(data.success(), "12");
    let secret = platform
        .kubectl(&["get", "secret", "keys", "-o", "jsonpath={.data.token}"])
        .success();
    assert_eq!(secret, "YWJj");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {x: one}\n";
    let applied = platform.kubectl_with(&["apply", "--server-side", "-f", "-"], Some(manifest));
    assert_eq!(applied.success(), "configmap/applied serverside-applied");
    let conflicting = manifest.replace("one", "two");
    let conflict = platform.kubectl_with(
        &["apply", "--server-side", "--field-manager=other", "-f", "-"],
        Some(&conflicting),
    );
    let conflict = conflict.failure();
    assert!(
        conflict.contains("conflict with \"kubectl\"") && conflict.contains(".data.x"),
        "{conflict}"
    );
    let again = platform.kubectl_with(&["apply", "-f", "-"], Some(manifest));
    again.success();

    // A pod: wait, logs, exec, describe, delete.
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: hello, labels: {app: hello}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: cumulo.dev/runtime
    command: [sh, -c, 'echo hello from $WHO; exec sleep 1000']
    env: [{name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
";
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(pod))
        .success();
    platform
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod/hello",
            "--timeout=60s",
        ])
        .success();
    wait_for("the pod's log", Duration::from_secs(20), || {
        platform.kubectl(&["logs", "hello"]).out() == "hello from hello"
    });
    let executed = platform.kubectl(&["exec", "hello", "--", "sh", "-c", "echo inside $WHO"]);
    assert_eq!(executed.success(), "inside hello");
    let failed = platform.kubectl(&["exec", "hello", "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7));
    let pods = platform
        .kubectl(&["get", "pods", "-l", "app=hello", "-o", "wide"])
        .success();
    assert!(
        pods.contains("READY") && pods.contains("1/1") && pods.contains("Running"),
        "{pods}"
    );
    let described = platform.kubectl(&["describe", "pod", "hello"]).success();
    assert!(described.contains("cumulo.dev/runtime"), "{described}");
    platform
        .kubectl(&["delete", "pod", "hello", "--timeout=30s"])
        .success();
    assert!(
        platform
            .kubectl(&["get", "pod", "hello"])
            .failure()
            .contains("NotFound")
    );

    // Deleting a namespace deletes what is in it.
    platform
        .kubectl(&["delete", "namespace", "team", "--timeout=30s"])
        .success();
    assert!(
        platform
            .kubectl(&["get", "configmap", "settings", "-n", "team"])
            .failure()
            .contains("NotFound")
    );
}

#[test]
fn kubectl_knows_cumulos_kinds() {
    let platform = Platform::start();
    let project = tiny_project();
    let folder = project.path().to_str().unwrap();

    // get -w sees the dataset become ready.
    let mut watch = Command::new(kubectl())
        .args(["--kubeconfig"])
        .arg(platform.kubeconfig())
        .args(["get", "datasets", "-w"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    platform.cumulo(&["apply", "-f", folder]).success();
    let waited = platform.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "dataset/numbers",
        "--timeout=60s",
    ]);
    assert_eq!(waited.success(), "dataset.cumulo.dev/numbers condition met");
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let header = lines.next().unwrap().unwrap();
    assert!(header.starts_with("NAME"), "{header}");
    let ready = lines
        .by_ref()
        .map(Result::unwrap)
        .find(|line| line.contains("True"));
    assert!(ready.is_some());
    watch.kill().unwrap();
    watch.wait().unwrap();

    let columns = platform.kubectl(&["get", "datasets"]).success();
    let header: Vec<&str> = columns.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
        ["NAME", "READY", "VERSION", "ROWS", "BYTES", "REASON", "AGE"]
    );
    let all = platform.kubectl(&["get", "cumulo", "-A"]).success();
    assert!(all.contains("numbers"), "{all}");
    let explained = platform
        .kubectl(&["explain", "dataset.spec.query"])
        .success();
    assert!(
        explained.contains("One SQL SELECT over the sources"),
        "{explained}"
    );
    let described = platform
        .kubectl(&["describe", "dataset", "numbers"])
        .success();
    assert!(described.contains("Conditions:"), "{described}");

    // Mistakes are answered with the field and the reason.
    let unknown = platform.kubectl_with(
        &["apply", "--server-side", "--validate=strict", "-f", "-"],
        Some("apiVersion: cumulo.dev/v1alpha1\nkind: Dataset\nmetadata: {name: bad}\nspec: {sources: {t: {uri: x.csv}}, query: SELECT 1, qurey: x}\n"),
    );
    let unknown = unknown.failure();
    assert!(unknown.contains("spec.qurey"), "{unknown}");
    let wrong = platform.kubectl_with(
        &["create", "--validate=false", "-f", "-"],
        Some("apiVersion: cumulo.dev/v1alpha1\nkind: Dataset\nmetadata: {name: bad}\nspec: {sources: {t: {uri: x.csv}}, query: 7}\n"),
    );
    let wrong = wrong.failure();
    assert!(
        wrong.contains("spec.query") && wrong.contains("must be of type string"),
        "{wrong}"
    );

    platform
        .kubectl(&["delete", "dataset", "numbers", "--timeout=30s"])
        .success();
    let pods = platform.kubectl(&["get", "pods", "--no-headers"]);
    wait_for(
        "the dataset's pods to go with it",
        Duration::from_secs(20),
        || {
            platform
                .kubectl(&["get", "pods", "--no-headers"])
                .out()
                .is_empty()
        },
    );
    drop(pods);
}

#[test]
fn no_route_answers_without_a_credential() {
    let platform = Platform::start();
    let http = http();
    let routes = [
        ("GET", "/api/v1/namespaces/default/secrets"),
        ("POST", "/api/v1/namespaces/default/configmaps"),
        ("DELETE", "/api/v1/namespaces/default"),
        ("GET", "/apis"),
        ("GET", "/openapi/v3"),
        (
            "POST",
            "/apis/cumulo.dev/v1alpha1/namespaces/default/datasets",
        ),
        ("POST", "/api/2.0/mlflow/experiments/create"),
        ("POST", "/api/2.0/mlflow/runs/search"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/a/b"),
        ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/a/b"),
        ("POST", "/ajax-api/2.0/mlflow/runs/create"),
        ("POST", "/v2/models/flights/infer"),
        ("GET", "/v2/models"),
        ("GET", "/metrics"),
    ];
    for (method, path) in routes {
        for token in [None, Some("wrong")] {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let mut request = http
                .request(method.clone(), format!("{}{path}", platform.url()))
                .body("{}");
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let status = request.send().unwrap().status();
            assert_eq!(status, 401, "{method} {path} with {token:?}");
        }
    }
    // What pods are given opens tracking and inference, not the Kubernetes API.
    let credentials = std::fs::read(platform.home().join("credentials.json")).unwrap();
    let credentials: serde_json::Value = serde_json::from_slice(&credentials).unwrap();
    let workload = credentials["workload"].as_str().unwrap();
    let asked = |path: &str| {
        http.get(format!("{}{path}", platform.url()))
            .bearer_auth(workload)
            .send()
            .unwrap()
            .status()
    };
    assert_eq!(asked("/api/v1/namespaces/default/secrets"), 403);
    assert_eq!(
        asked("/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"),
        200
    );
    // Health is for everybody, the state of the folder for its owner.
    assert_eq!(
        http.get(format!("{}/readyz", platform.url()))
            .send()
            .unwrap()
            .status(),
        200
    );
    for file in ["kubeconfig", "credentials.json"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(platform.home().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn kubectl_creates_with_typed_commands() {
    let platform = Platform::start();
    // These commands send protobuf, unlike `apply`: what they create, with which
    // arguments, and a part of what has to be there then.
    let created = [
        ("namespace/team", "", "{.status.phase}", "Active"),
        (
            "secret/keys",
            "secret generic keys --from-literal=token=abc",
            "{.type} {.data.token}",
            "Opaque YWJj",
        ),
        (
            "configmap/settings",
            "configmap settings --from-literal=a=1 --from-literal=b=",
            "{.data}",
            r#"{"a":"1","b":""}"#,
        ),
        (
            "job.batch/once",
            "job once --image=cumulo.dev/runtime -- echo hello",
            "{.spec.template.spec.restartPolicy} {.spec.template.spec.containers[0].command}",
            r#"Never ["echo","hello"]"#,
        ),
        (
            "cronjob.batch/nightly",
            "cronjob nightly --image=cumulo.dev/runtime --schedule=0_3_*_*_* --restart=OnFailure",
            "{.spec.schedule} {.spec.jobTemplate.spec.template.spec.restartPolicy}",
            "0 3 * * * OnFailure",
        ),
        (
            "deployment.apps/web",
            "deployment web --image=cumulo.dev/runtime --replicas=0 --port=8080",
            "{.spec.replicas} {.spec.template.spec.containers[0].ports[0].containerPort}",
            "0 8080",
        ),
        (
            "service/web",
            "service clusterip web --tcp=80:8080",
            "{.spec.ports[0].port} {.spec.ports[0].targetPort} {.spec.selector.app}",
            "80 8080 web",
        ),
        ("serviceaccount/robot", "", "{.metadata.name}", "robot"),
        (
            "role.rbac.authorization.k8s.io/reader",
            "role reader --verb=get,list --resource=pods",
            "{.rules}",
            r#"[{"apiGroups":[""],"resources":["pods"],"verbs":["get","list"]}]"#,
        ),
        (
            "rolebinding.rbac.authorization.k8s.io/readers",
            "rolebinding readers --role=reader --serviceaccount=default:robot",
            "{.roleRef.name} {.subjects[0].name}",
            "reader robot",
        ),
        (
            "poddisruptionbudget.policy/web",
            "poddisruptionbudget web --selector=app=web --min-available=50%",
            "{.spec.minAvailable}",
            "50%",
        ),
        (
            "resourcequota/limits",
            "quota limits --hard=cpu=1500m,pods=3",
            "{.spec.hard}",
            r#"{"cpu":"1500m","pods":"3"}"#,
        ),
        (
            "ingress.networking.k8s.io/front",
            "ingress front --rule=example.com/*=web:80",
            "{.spec.rules[0].http.paths[0].pathType}",
            "Prefix",
        ),
        (
            "priorityclass.scheduling.k8s.io/first",
            "priorityclass first --value=7",
            "{.value}",
            "7",
        ),
    ];
    for (object, command, path, expected) in created {
        let (kind, name) = object.split_once('/').unwrap();
        let plain = format!("{kind} {name}");
        let command = if command.is_empty() { &plain } else { command };
        let mut arguments = vec!["create".to_owned()];
        arguments.extend(command.split(' ').map(|word| word.replace('_', " ")));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = platform.kubectl(&arguments).success();
        assert_eq!(said, format!("{object} created"));
        let found = platform.kubectl(&["get", object, "-o", &format!("jsonpath={path}")]);
        assert_eq!(found.success(), expected, "{object}");
    }
    // Defaults are filled in, and errors are understood.
    let policy = "jsonpath={.spec.strategy.type} {.spec.template.spec.dnsPolicy}";
    let defaults = platform.kubectl(&["get", "deployment", "web", "-o", policy]);
    assert_eq!(defaults.success(), "RollingUpdate ClusterFirst");
    let again = platform.kubectl(&["create", "namespace", "team"]).failure();
    assert!(again.contains("\"team\" already exists"), "{again}");
    let invalid = platform.kubectl(&["create", "namespace", "Team"]).failure();
    assert!(invalid.contains("metadata.name"), "{invalid}");
    let copied = platform.kubectl(&["create", "job", "now", "--from=cronjob/nightly"]);
    assert_eq!(copied.success(), "job.batch/now created");
}

#[test]
fn a_go_program_speaks_nothing_but_protobuf() {
    let platform = Platform::start();
    let run = Command::new("go")
        .args(["run", "."])
        .current_dir(repository().join("tests/peers/go-client"))
        .env("KUBECONFIG", platform.kubeconfig())
        .output();
    let said = match run {
        Ok(output) => output.success(),
        // Building Cumulo needs no Go; continuous integration has it.
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: go cannot be run ({error})");
            return;
        }
        Err(error) => panic!("go cannot be run: {error}"),
    };
    let last = said.lines().last();
    assert_eq!(last, Some("created, read, watched, updated and deleted"));
}
