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
    let file = platform.home().join(format!("{name}.yaml"));
    std::fs::write(&file, POD.replace("NAME", name).replace("GPU", gpu)).unwrap();
    platform
        .cumulo(&["apply", "-f", file.to_str().unwrap()])
        .success();
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
