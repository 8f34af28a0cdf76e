//! Limits from shares, and daemons of a program that is a script here.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::MpsError;
use super::daemon::Daemons;
use super::limits::{Limits, Means, commands, environment, process_ids, shared, wanted, worth};
use crate::devices::tests::recorded;
use crate::devices::{ComputeMode, Held, Holder};

fn part(gpu: &str, milli: u32, gibibytes: u64) -> Held {
    Held {
        gpu: gpu.to_owned(),
        instance: None,
        milli,
        memory: gibibytes << 30,
        claim: None,
    }
}

fn holder(held: &[Held]) -> Holder {
    Holder {
        namespace: "default".to_owned(),
        pod: "pod".to_owned(),
        held: held.to_vec(),
        energy: None,
    }
}

#[test]
fn the_server_allows_the_largest_share_and_the_environment_lowers_it() {
    let mut snapshot = recorded("h100-8");
    let uuid = snapshot.gpus[0].uuid.clone();
    let other = snapshot.gpus[1].uuid.clone();
    let holders = [
        holder(&[part(&uuid, 300, 24)]),
        holder(&[part(&uuid, 500, 40)]),
        // Whole GPUs, and parts of several, are not MPS's business.
        holder(&[part(&other, 1000, 80)]),
        holder(&[part(&uuid, 100, 8), part(&other, 100, 8)]),
    ];
    let largest = Limits {
        percentage: 50,
        mebibytes: 40 << 10,
    };
    assert_eq!(
        wanted(&snapshot, &holders),
        BTreeMap::from([(uuid.clone(), largest)])
    );
    insta::assert_debug_snapshot!(commands(largest, &process_ids("41\n42\n")), @r#"
    [
        "set_default_active_thread_percentage 50",
        "set_default_device_pinned_mem_limit 0 40960M",
        "set_active_thread_percentage 41 50",
        "set_device_pinned_mem_limit 41 0 40960M",
        "set_active_thread_percentage 42 50",
        "set_device_pinned_mem_limit 42 0 40960M",
    ]
    "#);
    insta::assert_debug_snapshot!(environment(&part(&uuid, 300, 24), "/mps/pipe"), @r#"
    [
        (
            "CUDA_MPS_PIPE_DIRECTORY",
            "/mps/pipe",
        ),
        (
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
            "30",
        ),
        (
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
            "0=24576M",
        ),
    ]
    "#);
    // Nothing is started for a GPU that is gone.
    snapshot.gpus[0].fault = Some("gone".to_owned());
    assert_eq!(wanted(&snapshot, &holders), BTreeMap::new());
}

#[test]
fn the_smallest_share_is_not_nothing() {
    let limits = Limits::of(&part("GPU-1", 4, 0));
    assert_eq!((limits.percentage, limits.mebibytes), (1, 1));
}

#[test]
fn a_pod_is_told_what_its_limits_are_worth() {
    let mut gpu = recorded("h100-8").gpus[0].clone();
    let own = part(&gpu.uuid, 300, 24);
    let instance = Held {
        instance: Some("MIG-1".to_owned()),
        ..own.clone()
    };
    let turns = Means::Turns(MpsError::NoProgram.to_string());
    let same = Means::Mps(Limits::of(&own));
    let larger = Means::Mps(Limits {
        percentage: 50,
        mebibytes: 40 << 10,
    });
    let mut lines = Vec::new();
    for (held, means) in [
        (vec![part(&gpu.uuid, 1000, 80)], &turns),
        (vec![instance], &turns),
        (vec![own.clone()], &turns),
        (vec![own.clone()], &same),
        (vec![own.clone()], &larger),
        (vec![own.clone(), part("GPU-2", 300, 24)], &same),
    ] {
        let told = worth(&held, Some(&gpu), means);
        lines.push(told.map_or_else(
            || "nothing".to_owned(),
            |told| format!("{} {}: {}", told.enforced, told.reason, told.message),
        ));
    }
    gpu.compute_mode = Some(ComputeMode::ExclusiveProcess);
    let told = worth(&[own], Some(&gpu), &same).unwrap();
    lines.push(format!("exclusive: {}", told.message));
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn only_one_part_of_one_gpu_is_shared_by_mps() {
    let one = part("GPU-1", 300, 24);
    assert_eq!(shared(std::slice::from_ref(&one)), Some(&one));
    assert_eq!(shared(&[one.clone(), one]), None);
    assert_eq!(shared(&[part("GPU-1", 1000, 80)]), None);
    assert_eq!(shared(&[]), None);
}

/// A program that behaves as NVIDIA's does as far as it is used, and writes down what
/// it was told.
fn program(folder: &Path) -> PathBuf {
    let path = folder.join("nvidia-cuda-mps-control");
    let script = r#"#!/bin/sh
log="$CUDA_MPS_LOG_DIRECTORY/commands"
if [ "$1" = -d ]; then
    [ -e "${0%/*}/broken" ] && { echo "no device is free" >&2; exit 1; }
    echo "start $CUDA_VISIBLE_DEVICES" >> "$log"
    : > "$CUDA_MPS_PIPE_DIRECTORY/control"
    exit 0
fi
[ -e "$CUDA_MPS_PIPE_DIRECTORY/control" ] || { echo "cannot find the daemon"; exit 1; }
read -r line
case "$line" in
get_server_list) cat "$CUDA_MPS_PIPE_DIRECTORY/servers" 2>/dev/null; exit 0 ;;
quit*) cp "$log" "${0%/*}/quit"; rm "$CUDA_MPS_PIPE_DIRECTORY/control" ;;
esac
echo "$line" >> "$log"
"#;
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

const GPU: &str = "GPU-afc5fa13-90d4-5667";

fn told(daemons: &Daemons) -> String {
    let log = daemons.pipes(GPU).with_file_name("log").join("commands");
    fs::read_to_string(log).unwrap()
}

fn some(percentage: u32) -> BTreeMap<String, Limits> {
    let limits = Limits {
        percentage,
        mebibytes: 1024,
    };
    BTreeMap::from([(GPU.to_owned(), limits)])
}

#[tokio::test]
async fn a_daemon_lives_from_the_first_share_to_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let program = program(folder.path());
    let root = folder.path().join("mps");
    let mut daemons = Daemons::new(Some(program.clone()), root.clone());
    daemons.settle(&BTreeMap::new(), true).await;
    assert!(!root.exists());

    daemons.settle(&some(30), true).await;
    assert_eq!(daemons.state(GPU).unwrap().percentage, 30);
    let first = told(&daemons);
    assert_eq!(
        first,
        format!(
            "start {GPU}\nset_default_active_thread_percentage 30\nset_default_device_pinned_mem_limit 0 1024M\n"
        )
    );
    // Nothing is said twice.
    daemons.settle(&some(30), false).await;
    assert_eq!(told(&daemons), first);

    // A larger share comes: a server that runs is told too.
    fs::write(daemons.pipes(GPU).join("servers"), "77\n").unwrap();
    daemons.settle(&some(50), true).await;
    assert!(told(&daemons).contains("set_active_thread_percentage 77 50\n"));

    // The next node agent finds it and starts no second one.
    let mut daemons = Daemons::new(Some(program), root.clone());
    daemons.settle(&some(50), true).await;
    assert_eq!(told(&daemons).matches("start").count(), 1);
    // It died: there is a new one at the next look.
    fs::remove_file(daemons.pipes(GPU).join("control")).unwrap();
    daemons.settle(&some(50), false).await;
    assert_eq!(told(&daemons).matches("start").count(), 2);

    daemons.settle(&BTreeMap::new(), false).await;
    assert!(folder.path().join("quit").exists());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

#[tokio::test]
async fn without_a_daemon_there_is_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("mps");
    let mut daemons = Daemons::new(None, root.clone());
    daemons.settle(&some(30), true).await;
    assert_eq!(daemons.state(GPU), Err(MpsError::NoProgram));

    fs::write(folder.path().join("broken"), "").unwrap();
    let mut daemons = Daemons::new(Some(program(folder.path())), root.clone());
    daemons.settle(&some(30), true).await;
    let error = daemons.state(GPU).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nvidia-cuda-mps-control: no device is free"
    );
    // It is tried again when the next pod comes, not at every look.
    fs::remove_file(folder.path().join("broken")).unwrap();
    daemons.settle(&some(30), false).await;
    assert!(daemons.state(GPU).is_err());
    daemons.settle(&some(30), true).await;
    assert!(daemons.state(GPU).is_ok());

    let long = folder.path().join("x".repeat(90));
    let mut daemons = Daemons::new(Some(program(folder.path())), long);
    daemons.settle(&some(30), true).await;
    let error = daemons.state(GPU).unwrap_err().to_string();
    assert!(error.contains("CUMULO_HOME"), "{error}");
}
