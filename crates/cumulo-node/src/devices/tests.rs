//! The recordings, and what is made of them.

use std::collections::BTreeSet;

use cumulo_schedule::solver::{Node, Problem, Sharing, solve};

use super::{Condition, Reader, RecordingReader, Snapshot, convert, is_model, slices};

/// The recordings in `recordings/`, by name.
pub(crate) const RECORDINGS: [&str; 5] = ["a100-8", "h100-8", "mixed-mig", "broken", "none"];

pub(crate) fn recorded(name: &str) -> Snapshot {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings");
    RecordingReader::new(format!("{folder}/{name}.json"))
        .read()
        .unwrap()
}

#[test]
fn recordings_are_snapshots() {
    for name in RECORDINGS {
        let snapshot = recorded(name);
        let text = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
        assert_eq!(snapshot.driver.is_none(), name == "none");
    }
}

#[test]
fn a_recording_that_is_none_says_where_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("devices.json");
    let read = |text: Option<&str>| {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let error = RecordingReader::new(&path).read().unwrap_err().to_string();
        error.replace(&path.display().to_string(), "FILE")
    };
    insta::assert_snapshot!(read(None), @"the recording of devices FILE cannot be read: No such file or directory (os error 2)");
    insta::assert_snapshot!(read(Some(r#"{"gpu": []}"#)), @"FILE is not a recording of devices: unknown field `gpu`, expected one of `driver`, `cuda`, `gpus` at line 1 column 6");
}

#[test]
fn health_has_a_reason_that_a_person_can_read() {
    let mut lines = Vec::new();
    for name in RECORDINGS {
        let snapshot = recorded(name);
        for (gpu, health) in snapshot.gpus.iter().zip(snapshot.health()) {
            if health.condition != Condition::Healthy {
                let (index, condition) = (gpu.index, health.condition);
                lines.push(format!("{name} {index} {condition:?}: {}", health.reason));
            }
        }
    }
    insta::assert_snapshot!(lines.join("\n"), @r"
    broken 1 Broken: 3 memory errors could not be corrected since the driver was loaded: reset the GPU; if they come back, have it replaced
    broken 2 Broken: it has fallen off the bus (XID 79): drain the node and reset the GPU or reboot; if it comes back, have it replaced
    broken 3 Degraded: at 93 °C it slows itself down; 10 of 12 NVLinks are up
    ");
}

#[test]
fn errors_of_programs_are_not_the_devices() {
    let mut snapshot = recorded("a100-8");
    snapshot.gpus[0].xids = vec![13, 31];
    assert_eq!(snapshot.health()[0].condition, Condition::Healthy);
    snapshot.gpus[0].xids = vec![13, 92];
    assert_eq!(snapshot.health()[0].condition, Condition::Degraded);
    snapshot.gpus[0].xids = vec![92, 48];
    assert_eq!(snapshot.health()[0].condition, Condition::Broken);
}

#[test]
fn a_switch_joins_what_hangs_on_it() {
    let mut snapshot = recorded("a100-8");
    assert_eq!(snapshot.link_domains(), vec![Some(0); 8]);
    snapshot.gpus[3].links.clear();
    let mut expected = vec![Some(0); 8];
    expected[3] = None;
    assert_eq!(snapshot.link_domains(), expected);
}

#[test]
fn the_solver_takes_every_recording() {
    let mut lines = Vec::new();
    for name in RECORDINGS {
        let converted = convert(&recorded(name), &BTreeSet::new());
        for device in &converted.devices {
            let sharing = match &device.sharing {
                Sharing::TimeSliced { slots } => format!("{slots} slots"),
                Sharing::Partitioned { instances, .. } => instances
                    .iter()
                    .map(|instance| format!("{}@{}", instance.profile, instance.start))
                    .collect::<Vec<_>>()
                    .join(" "),
                other => format!("{other:?}"),
            };
            lines.push(format!(
                "{name} {} {} MiB, {:?} {:?} {:?}: {sharing}",
                device.model,
                device.usable() >> 20,
                device.numa,
                device.link,
                device.health
            ));
        }
        let problem = Problem {
            nodes: vec![Node {
                name: "node".to_owned(),
                devices: converted.devices,
                ..Node::default()
            }],
            geometries: converted.geometries,
            ..Problem::default()
        };
        assert!(solve(&problem).is_ok(), "{name}");
    }
    lines.dedup();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn names_of_models_are_whole_words() {
    for (model, name, expected) in [
        ("A100-SXM4-80GB", "A100", true),
        ("A100-SXM4-80GB", "a100-sxm4-80gb", true),
        ("A100-SXM4-80GB", "A10", false),
        ("H100 80GB HBM3", "H100", true),
        ("H100 80GB HBM3", "NVIDIA H100", true),
        ("H100 80GB HBM3", "", false),
    ] {
        assert_eq!(is_model(model, name), expected, "{model} {name}");
    }
}

#[test]
fn recordings_as_resource_slices() {
    for name in RECORDINGS {
        let slices = slices(&recorded(name), "node-1", None);
        assert_eq!(slices.is_empty(), name == "none");
        insta::assert_yaml_snapshot!(name, slices);
    }
}

#[test]
fn what_changes_all_the_time_is_in_no_slice() {
    let before = recorded("a100-8");
    let mut after = before.clone();
    for gpu in &mut after.gpus {
        gpu.temperature = Some(70);
        gpu.utilization = Some(99);
        gpu.memory.used = 5 << 30;
        gpu.processes.clear();
    }
    assert_eq!(
        slices(&before, "node-1", None),
        slices(&after, "node-1", None)
    );
}
