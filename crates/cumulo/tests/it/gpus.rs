//! GPUs from a recording, as a user sees them.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Platform, Text, wait_for};

fn start(recording: &str) -> Platform {
    let platform = Platform::prepare();
    // A path from where the user stands, which is not where the platform runs.
    let recording = format!("crates/cumulo-node/recordings/{recording}.json");
    platform
        .command(&["up", "--listen", &platform.address()])
        .env("CUMULO_DEVICES", recording)
        .output()
        .unwrap()
        .success();
    platform
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME, annotations: {cumulo.dev/gpu: "GPU"}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: cumulo.dev/runtime
    command: [sh, -c, "echo sees $CUDA_VISIBLE_DEVICES; exec sleep 1000"]
"#;

fn apply(platform: &Platform, name: &str, gpu: &str) {
    let pod = POD.replace("NAME", name).replace("GPU", gpu);
    apply_text(platform, name, &pod);
}

fn holders(platform: &Platform) -> usize {
    let report = platform.cumulo(&["gpus", "-o", "json"]).success();
    let report: Value = serde_json::from_str(&report).unwrap();
    let gpus = report["gpus"].as_array().unwrap();
    gpus.iter()
        .map(|gpu| gpu["holders"].as_array().unwrap().len())
        .sum()
}

#[test]
fn gpus_are_shown_given_and_remembered() {
    let platform = start("a100-8");
    let table = platform.cumulo(&["gpus"]).success();
    assert_eq!(table.matches("A100-SXM4-80GB").count(), 8, "{table}");
    let fits = platform.cumulo(&["gpus", "fits", "8"]).success();
    assert!(fits.starts_with("yes, 8 GPUs: GPU 0 "), "{fits}");

    apply(&platform, "part", "0.3");
    apply(&platform, "half", "{count: 2, model: [A100, H100]}");
    let limit = Duration::from_secs(30);
    wait_for("both pods to have GPUs", limit, || holders(&platform) == 3);
    wait_for("the pod to say what it sees", limit, || {
        platform
            .cumulo(&["logs", "part"])
            .out()
            .starts_with("sees GPU-")
    });
    let table = platform.cumulo(&["gpus"]).success();
    assert!(table.contains("default/part 30%"), "{table}");
    assert!(table.contains("0.7 with "), "{table}");
    let no = platform.cumulo(&["gpus", "fits", "6"]);
    assert_eq!(no.status.code(), Some(1));
    assert_eq!(
        no.out(),
        "no, asks for 6 GPUs, which is not free: 5 of 8 are free; when is not known: default/half, default/part say \
         neither how long they run (cumulo.dev/estimated-duration) nor by when they must end"
    );
    wait_for("the devices to be published", limit, || {
        let slices = platform.cumulo(&["get", "resourceslices", "-o", "name"]);
        slices.out().contains("-gpu.cumulo.dev-0")
    });

    // What was given outlives the platform.
    platform.kill();
    platform
        .command(&["up", "--listen", &platform.address()])
        .env(
            "CUMULO_DEVICES",
            "crates/cumulo-node/recordings/a100-8.json",
        )
        .output()
        .unwrap()
        .success();
    assert_eq!(holders(&platform), 3);
    platform.cumulo(&["delete", "pod", "half"]).success();
    wait_for("the GPUs to be free", limit, || holders(&platform) == 1);
}

#[test]
fn a_job_that_asks_where_there_are_none_fails_with_a_sentence() {
    let platform = start("none");
    assert!(
        platform
            .cumulo(&["gpus"])
            .success()
            .contains("has no GPU (no driver of NVIDIA's, AMD's or Intel's was found)")
    );
    let script = platform.home().join("fit.py");
    std::fs::write(&script, "print('never')\n").unwrap();
    let script = script.to_str().unwrap();
    let failed = platform
        .cumulo(&["train", script, "--gpu", "0.3"])
        .failure();
    assert!(
        failed.contains("asks for 0.3 of a GPU; this node has none"),
        "{failed}"
    );
    let wrong = platform
        .cumulo(&["train", script, "--gpu", "1.5"])
        .failure();
    assert!(
        wrong.contains("gpu: 1.5 is neither a share of one GPU nor whole GPUs"),
        "{wrong}"
    );
}

const CLAIMS: &str = r#"
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: partition}
spec:
  selectors:
  - cel: {expression: 'device.driver == "gpu.cumulo.dev" && device.attributes["gpu.cumulo.dev"].type == "mig"'}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: half}
spec:
  spec:
    devices:
      requests:
      - name: part
        exactly:
          deviceClassName: partition
          selectors: [{cel: {expression: 'device.attributes["gpu.cumulo.dev"].profile == "4g.40gb"'}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: whole}
spec:
  spec:
    devices:
      requests:
      - name: part
        exactly:
          deviceClassName: partition
          capacity: {requests: {memory: 70Gi}}
"#;

const CLAIMING: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  resourceClaims: [{name: gpu, SOURCE}]
  containers:
  - name: main
    image: cumulo.dev/runtime
    resources: {claims: [{name: gpu}]}
    command: [sh, -c, "echo sees $CUDA_VISIBLE_DEVICES; exec sleep 1000"]
"#;

/// The profiles of the MIG instances on the last GPU of the recording, which begins with none.
fn profiles(platform: &Platform) -> Vec<String> {
    let text = std::fs::read_to_string(platform.home().join("devices.json")).unwrap();
    let devices: Value = serde_json::from_str(&text).unwrap();
    let instances = devices["gpus"][3]["mig"]["instances"].as_array().cloned();
    let names = instances.unwrap_or_default().into_iter();
    names
        .map(|one| one["profile"].as_str().unwrap().to_owned())
        .collect()
}

/// A platform whose node makes MIG instances, with these objects.
fn start_managing(objects: &str) -> Platform {
    let platform = Platform::prepare();
    let recording = platform.home().join("devices.json");
    let mixed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../cumulo-node/recordings/mixed-mig.json"
    );
    std::fs::copy(mixed, &recording).unwrap();
    std::fs::write(
        platform.home().join("config.yaml"),
        "migInstances: manage\n",
    )
    .unwrap();
    platform
        .command(&["up", "--listen", &platform.address()])
        .env("CUMULO_DEVICES", &recording)
        .output()
        .unwrap()
        .success();
    apply_text(&platform, "objects", objects);
    platform
}

fn apply_text(platform: &Platform, name: &str, text: &str) {
    let file = platform.home().join(format!("{name}.yaml"));
    std::fs::write(&file, text).unwrap();
    platform
        .cumulo(&["apply", "-f", file.to_str().unwrap()])
        .success();
}

#[test]
fn a_claim_has_its_instance_made() {
    let platform = start_managing(CLAIMS);
    let claiming = |name: &str, template: &str| {
        let source = format!("resourceClaimTemplateName: {template}");
        let pod = CLAIMING.replace("NAME", name).replace("SOURCE", &source);
        apply_text(&platform, name, &pod);
    };
    let limit = Duration::from_secs(30);
    let sees = |name: &str| {
        let log = platform.cumulo(&["logs", name]).out();
        log.starts_with("sees MIG-")
    };
    claiming("first", "half");
    wait_for("the first pod's instance", limit, || sees("first"));
    assert_eq!(profiles(&platform), ["4g.40gb"]);
    let holds = platform.cumulo(&["gpus"]).success();
    assert!(holds.contains("default/first"), "{holds}");

    // Its room is taken: the scheduler knows that, though nobody published it.
    claiming("second", "whole");
    wait_for("the second pod to be told", limit, || {
        let why = platform.cumulo(&["explain", "pod/second"]).out();
        why.contains("too few free devices of class partition")
    });
    assert_eq!(profiles(&platform), ["4g.40gb"]);

    platform.cumulo(&["delete", "pod", "first"]).success();
    wait_for("the second pod's instance", limit, || sees("second"));
    assert_eq!(profiles(&platform), ["7g.80gb"]);
}

const SHARED: &str = r#"
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: shared}
spec:
  devices:
    requests:
    - name: part
      exactly:
        deviceClassName: partition
        capacity: {requests: {memory: 70Gi}}
"#;

#[test]
fn pods_that_share_a_claim_have_its_device_together() {
    let platform = start_managing(&format!("{CLAIMS}{SHARED}"));
    let limit = Duration::from_secs(30);
    let pods = ["first", "second"].map(|name| {
        let pod = CLAIMING.replace("NAME", name);
        apply_text(
            &platform,
            name,
            &pod.replace("SOURCE", "resourceClaimName: shared"),
        );
        let mut log = String::new();
        wait_for("the pod to see its device", limit, || {
            log = platform.cumulo(&["logs", name]).out();
            log.starts_with("sees MIG-")
        });
        log
    });
    assert_eq!(pods[0], pods[1]);
    assert_eq!(profiles(&platform), ["7g.80gb"]);
    let table = platform.cumulo(&["gpus"]).success();
    let row = table.lines().find(|line| line.contains("default/first"));
    let row = row.unwrap_or_else(|| panic!("{table}"));
    assert!(row.contains("default/first + default/second"), "{table}");

    // As long as one of them is there, nobody else has it.
    let other = CLAIMING.replace("NAME", "other");
    let template = "resourceClaimTemplateName: whole";
    apply_text(&platform, "other", &other.replace("SOURCE", template));
    platform.cumulo(&["delete", "pod", "first"]).success();
    wait_for("the other pod to be told", limit, || {
        let why = platform.cumulo(&["explain", "pod/other"]).out();
        why.contains("too few free devices of class partition")
    });
    wait_for("the first pod to be gone", limit, || {
        holders(&platform) == 1
    });
    platform.cumulo(&["delete", "pod", "second"]).success();
    wait_for("the other pod's instance", limit, || {
        let log = platform.cumulo(&["logs", "other"]).out();
        log.starts_with("sees MIG-")
    });
}
