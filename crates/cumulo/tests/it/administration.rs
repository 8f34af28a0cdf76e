//! kubectl for who looks after a node, and what it asks of the API beside.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Platform, Text, wait_for};

/// A pod that sleeps, with a label.
fn sleeper(name: &str, app: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: scratch, emptyDir: {{}}}}]
  containers:
  - name: main
    image: cumulo.dev/runtime
    command: [sleep, '1000']
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
"
    )
}

fn ready(platform: &Platform, pods: &[&str]) {
    for pod in pods {
        let pod = format!("pod/{pod}");
        platform
            .kubectl(&["wait", "--for=condition=Ready", &pod, "--timeout=60s"])
            .success();
    }
}

#[test]
fn kubectl_tops_what_is_used() {
    let platform = Platform::start();
    let busy = "
---
apiVersion: v1
kind: Pod
metadata: {name: busy, labels: {app: busy}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: works
    image: cumulo.dev/runtime
    command: [python3, -c, 'kept = bytes([1]) * (50 << 20); sum(0 for _ in iter(int, 1))']
  - name: waits
    image: cumulo.dev/runtime
    command: [sleep, '1000']
";
    let manifest = format!("{}{busy}", sleeper("idle", "idle"));
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(&manifest))
        .success();
    ready(&platform, &["busy", "idle"]);

    // NAME, CPU in millicores, memory in MiB.
    let row = |text: &str, name: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .find(|words: &Vec<String>| words.iter().any(|word| word == name))
            .unwrap_or_else(|| panic!("no {name} in:\n{text}"))
    };
    let number = |text: &str| -> u64 {
        text.trim_end_matches(|c: char| c.is_alphabetic())
            .parse()
            .unwrap()
    };
    let pods = platform.kubectl(&["top", "pods"]).success();
    let (busy, idle) = (row(&pods, "busy"), row(&pods, "idle"));
    // Other tests want the processors too.
    assert!(number(&busy[1]) >= 100, "{pods}");
    assert!(number(&idle[1]) < 100, "{pods}");
    assert!((45..200).contains(&number(&busy[2])), "{pods}");
    let containers = platform
        .kubectl(&["top", "pod", "busy", "--containers"])
        .success();
    assert_eq!(row(&containers, "waits")[0], "busy");
    let selected = platform
        .kubectl(&["top", "pods", "-l", "app=idle"])
        .success();
    assert!(!selected.contains("busy"), "{selected}");
    let nodes = platform.kubectl(&["top", "nodes"]).success();
    assert!(
        nodes.contains("MEMORY(%)") && nodes.lines().count() == 2,
        "{nodes}"
    );

    let base = "/apis/metrics.k8s.io/v1beta1";
    let raw = |path: &str| platform.kubectl(&["get", "--raw", &format!("{base}{path}")]);
    let one: Value = serde_json::from_str(&raw("/namespaces/default/pods/busy").success()).unwrap();
    assert_eq!(one["kind"], "PodMetrics");
    assert_eq!(one["containers"].as_array().unwrap().len(), 2);
    assert!(one["window"].as_str().unwrap().ends_with('s'));
    let list: Value = serde_json::from_str(&raw("/nodes").success()).unwrap();
    assert_eq!(list["kind"], "NodeMetricsList");
    assert!(
        list["items"][0]["usage"]["memory"]
            .as_str()
            .unwrap()
            .ends_with("Ki")
    );
    assert!(
        raw("/namespaces/default/pods/none")
            .failure()
            .contains("NotFound")
    );
    let resources = platform
        .kubectl(&["api-resources", "--api-group=metrics.k8s.io", "-o", "name"])
        .success();
    assert_eq!(resources, "nodes.metrics.k8s.io\npods.metrics.k8s.io");
    // As a table, and without getting in the way of the pods themselves.
    let table = platform.kubectl(&["get", "pods.metrics.k8s.io"]).success();
    assert!(table.contains("WINDOW"), "{table}");
    let pods = platform.kubectl(&["get", "pods"]).success();
    assert!(pods.contains("RESTARTS"), "{pods}");
}

#[test]
fn kubectl_drains_a_node_and_gives_it_back() {
    let platform = Platform::start();
    let node = platform
        .kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])
        .success();
    let budget = "
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: keep}
spec: {minAvailable: 1, selector: {matchLabels: {app: kept}}}
";
    let manifest = format!(
        "{}{}{budget}",
        sleeper("kept", "kept"),
        sleeper("free", "free")
    );
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(&manifest))
        .success();
    ready(&platform, &["kept", "free"]);
    wait_for("the budget's status", Duration::from_secs(10), || {
        let path = "jsonpath={.status.currentHealthy} {.status.disruptionsAllowed}";
        platform.kubectl(&["get", "pdb", "keep", "-o", path]).out() == "1 0"
    });

    // The budget holds the pod that it protects; the other one goes.
    let drain = [
        "drain",
        &node,
        "--ignore-daemonsets",
        "--force",
        "--delete-emptydir-data",
        "--timeout=4s",
    ];
    let held = platform.kubectl(&drain).failure();
    assert!(
        held.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{held}"
    );
    assert!(
        platform
            .kubectl(&["get", "pod", "free"])
            .failure()
            .contains("NotFound")
    );
    platform.kubectl(&["get", "pod", "kept"]).success();
    let cordoned = platform.kubectl(&["get", "nodes"]).success();
    assert!(cordoned.contains("Ready,SchedulingDisabled"), "{cordoned}");

    // Nothing new comes here, but what names the node.
    let named =
        sleeper("named", "named").replace("spec:\n", &format!("spec:\n  nodeName: {node}\n"));
    let waiting = format!("{named}{}", sleeper("waits", "waits"));
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(&waiting))
        .success();
    ready(&platform, &["named"]);
    let why = [
        "get",
        "pod",
        "waits",
        "-o",
        "jsonpath={.status.phase} {.status.conditions[0].message}",
    ];
    wait_for(
        "the pod to be told why it waits",
        Duration::from_secs(20),
        || {
            let said = platform.kubectl(&why).out();
            said.starts_with("Pending") && said.contains("takes no new pods")
        },
    );

    platform.kubectl(&["delete", "pdb", "keep"]).success();
    let mut patient = drain;
    patient[5] = "--timeout=60s";
    let drained = platform.kubectl(&patient).success();
    assert!(
        drained.contains(&format!("node/{node} drained")),
        "{drained}"
    );
    let left = platform.kubectl(&["get", "pods", "-o", "name"]).success();
    assert_eq!(left, "pod/waits");
    platform.kubectl(&["uncordon", &node]).success();
    ready(&platform, &["waits"]);

    // What pods without images do not have is refused in words.
    let debug = ["debug", "waits", "--image=busybox", "--target=main"];
    let refused = platform.kubectl(&debug).failure();
    assert!(
        refused.contains("debug containers are not supported"),
        "{refused}"
    );
}

#[test]
fn kubectl_compares_prunes_waits_and_explains() {
    let platform = Platform::start();
    let map = |name: &str, value: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: a}}}}\ndata: {{key: {value}}}\n"
        )
    };
    let both = map("one", "old") + &map("two", "old");
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(&both))
        .success();

    // diff: 0 without a difference, 1 with one.
    for side in [
        &["--server-side=false"][..],
        &["--server-side", "--force-conflicts"],
    ] {
        let diff = |manifest: &str| {
            let all = [&["diff", "-f", "-"][..], side].concat();
            platform.kubectl_with(&all, Some(manifest))
        };
        let same = diff(&both);
        assert_eq!(same.status.code(), Some(0), "{}", same.err());
        let other = diff(&map("one", "new"));
        assert_eq!(other.status.code(), Some(1), "{}", other.err());
        assert!(other.out().contains("+  key: new"), "{}", other.out());
    }

    // prune: what is no longer in the set goes.
    let pruned = platform.kubectl_with(
        &["apply", "--prune", "-l", "set=a", "-f", "-"],
        Some(&map("one", "old")),
    );
    let pruned = pruned.success();
    assert!(pruned.contains("configmap/two pruned"), "{pruned}");

    // wait for a field.
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(&sleeper("sleeps", "x")))
        .success();
    let waited = platform.kubectl(&[
        "wait",
        "--for=jsonpath={.status.phase}=Running",
        "pod/sleeps",
        "--timeout=60s",
    ]);
    assert_eq!(waited.success(), "pod/sleeps condition met");
    platform
        .kubectl(&["wait", "--for=create", "pod/sleeps", "--timeout=5s"])
        .success();

    let who = platform.kubectl(&["auth", "whoami"]).success();
    assert!(who.contains("Username") && who.contains("admin"), "{who}");
    let may = platform
        .kubectl(&["auth", "can-i", "create", "pods"])
        .success();
    assert_eq!(may, "yes");

    // A service of ours is scaled as a deployment is.
    let service = "
apiVersion: cumulo.dev/v1alpha1
kind: InferenceService
metadata: {name: scaled}
spec: {model: 'models:/nothing@champion', replicas: {min: 0, max: 3}}
";
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(service))
        .success();
    platform
        .kubectl(&["scale", "inferenceservice/scaled", "--replicas=2"])
        .success();
    let least = "jsonpath={.spec.replicas.min}";
    let scaled = platform.kubectl(&["get", "inferenceservice", "scaled", "-o", least]);
    assert_eq!(scaled.success(), "2");
}

#[test]
fn kubectl_explains_every_type() {
    let platform = Platform::start();
    // NAME, perhaps SHORTNAMES, APIVERSION, NAMESPACED, KIND.
    let types = platform
        .kubectl(&["api-resources", "--no-headers"])
        .success();
    assert!(types.lines().count() > 40, "{types}");
    for line in types.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, version) = (words[0], words[words.len() - 3]);
        let explained = platform.kubectl(&["explain", name, "--api-version", version]);
        let text = explained.success();
        assert!(
            text.contains("DESCRIPTION:") && text.contains("FIELDS:") && !text.contains("<empty>"),
            "{line}:\n{text}"
        );
    }
    let field = platform
        .kubectl(&[
            "explain",
            "pods.containers.usage",
            "--api-version=metrics.k8s.io/v1beta1",
        ])
        .success();
    assert!(
        field.contains("The resource usage of the container."),
        "{field}"
    );
}
