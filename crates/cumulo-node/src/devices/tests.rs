//! The recordings, and what is made of them.

use std::collections::BTreeSet;

use cumulo_schedule::solver::{Node, Problem, Sharing, solve};

use super::mig::{self, Managed, MigInstances};
use super::{
    Condition, Holder, Reader, RecordingReader, Snapshot, convert, decide, is_model, slices,
};

/// The recordings in `recordings/`, by name.
pub(crate) const RECORDINGS: [&str; 8] = [
    "a100-8",
    "h100-8",
    "h200-1",
    "mixed-mig",
    "mi300x-8",
    "intel-3",
    "broken",
    "none",
];

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
        let nvidia = !["mi300x-8", "intel-3", "none"].contains(&name);
        assert_eq!(snapshot.driver.is_some(), nvidia);
    }
}

#[test]
fn a_machine_as_its_driver_told_it() {
    let snapshot = recorded("h200-1");
    let gpu = &snapshot.gpus[0];
    assert_eq!(snapshot.driver.as_deref(), Some("580.159.04"));
    assert_eq!(gpu.model(), "H200");
    // A virtual machine: no NUMA node and no links, but a counter of energy.
    assert_eq!((gpu.pci.numa, gpu.links.len()), (None, 0));
    assert_eq!(gpu.energy_millijoules, Some(3_006_686));
    assert_eq!(snapshot.health()[0].condition, Condition::Healthy);
    // What the driver keeps for itself is nobody's share.
    let ask = "0.3".parse::<cumulo_api::Gpu>().unwrap().ask().unwrap();
    let held = decide(&snapshot, &[], &ask).unwrap();
    assert_eq!(held[0].memory >> 20, 42946);
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
    insta::assert_snapshot!(read(Some(r#"{"gpu": []}"#)), @"FILE is not a recording of devices: unknown field `gpu`, expected one of `driver`, `cuda`, `gpus`, `cpu` at line 1 column 6");
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
    mi300x-8 6 Broken: 2 memory errors could not be corrected since the driver was loaded: reset the GPU; if they come back, have it replaced
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
        let slices = slices(&recorded(name), "node-1", &Managed::default());
        assert_eq!(slices.is_empty(), name == "none");
        insta::assert_yaml_snapshot!(name, slices);
    }
}

/// Device and, of each counter, what it takes; per counter set what there is.
fn places(slices: &[k8s_openapi::api::resource::v1::ResourceSlice]) -> String {
    let mut lines = Vec::new();
    for slice in slices {
        for set in slice.spec.shared_counters.iter().flatten() {
            let counters = set.counters.iter();
            let counters = counters.map(|(name, counter)| format!("{name} {}", counter.value.0));
            let counters: Vec<String> = counters.collect();
            lines.push(format!("{}: {}", set.name, counters.join(", ")));
        }
        for device in slice.spec.devices.iter().flatten() {
            let capacity = device.capacity.iter().flatten();
            let mut parts: Vec<String> = capacity
                .map(|(name, capacity)| format!("{name} {}", capacity.value.0))
                .collect();
            for consumed in device.consumes_counters.iter().flatten() {
                let counters = consumed.counters.iter();
                let names = counters.map(|(name, counter)| format!("{name} {}", counter.value.0));
                let names: Vec<String> = names.collect();
                parts.push(format!("takes {}", names.join(", ")));
            }
            lines.push(format!("  {}: {}", device.name, parts.join("; ")));
        }
    }
    lines.join("\n")
}

#[test]
fn where_instances_are_made_each_place_for_one_is_a_device() {
    let mut snapshot = recorded("mixed-mig");
    let managed = Managed {
        instances: MigInstances::Manage,
        made: Vec::new(),
    };
    let published = slices(&snapshot, "node-1", &managed);
    insta::assert_snapshot!("places", places(&published));
    // What the node agent makes itself changes nothing of it.
    let gpu = snapshot.gpus.last().unwrap().identity();
    let place = mig::Place {
        gpu: gpu.clone(),
        profile: "2g.20gb".to_owned(),
        start: 2,
    };
    let mut driver = mig::Simulated(&mut snapshot);
    let id = driver.make(&place).unwrap();
    driver.complete(&gpu, id).unwrap();
    let made = mig::Made {
        id,
        place,
        uuid: None,
    };
    let managed = Managed {
        made: vec![made],
        ..managed
    };
    assert_eq!(slices(&snapshot, "node-1", &managed), published);
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
    let managed = Managed::default();
    assert_eq!(
        slices(&before, "node-1", &managed),
        slices(&after, "node-1", &managed)
    );
}

/// What each of some wishes gets of a recording, one after the other.
fn given(name: &str, wishes: &[&str]) -> String {
    let snapshot = recorded(name);
    let mut holders: Vec<Holder> = Vec::new();
    let mut lines = Vec::new();
    for wish in wishes {
        let ask = wish.parse::<cumulo_api::Gpu>().unwrap().ask().unwrap();
        let others: Vec<&Holder> = holders.iter().collect();
        match decide(&snapshot, &others, &ask) {
            Ok(held) => {
                for held in &held {
                    let index = snapshot
                        .gpus
                        .iter()
                        .position(|gpu| gpu.identity() == held.gpu)
                        .unwrap();
                    let part = match &held.instance {
                        Some(_) => "an instance".to_owned(),
                        None => format!("{}/1000", held.milli),
                    };
                    lines.push(format!(
                        "{wish}: {part} of GPU {index}, {} MiB",
                        held.memory >> 20
                    ));
                }
                holders.push(Holder {
                    namespace: "default".to_owned(),
                    pod: format!("pod-{}", holders.len()),
                    held,
                    energy: None,
                });
            }
            Err(refusal) => lines.push(format!("{wish}: {refusal}")),
        }
    }
    lines.join("\n")
}

#[test]
fn pods_get_what_is_free_and_no_more() {
    insta::assert_snapshot!(given(
        "a100-8",
        &["0.7", "0.5", "0.4", "0.2", "6", "0.5", "0.2", "1"]
    ));
    insta::assert_snapshot!(given(
        "mixed-mig",
        &[
            "1g.10gb",
            "1g.10gb",
            "3g.40gb",
            "3g.40gb",
            "{memory: 15Gi}",
            "{memory: 15Gi}",
            "1",
            "{memory: 15Gi}",
            "0.1",
            "{profile: 1g.10gb, count: 5}",
            "{profile: 1g.10gb, count: 5}",
            "4g.40gb",
        ]
    ));
    insta::assert_snapshot!(given("broken", &["2", "1", "3", "5"]));
}

proptest::proptest! {
    /// Whatever is asked in whatever order: no GPU is given out more than once.
    #[test]
    fn nothing_is_overcommitted(
        name in proptest::sample::select(&RECORDINGS[..6]),
        wishes in proptest::collection::vec(
            proptest::sample::select(&[
                "0.07", "0.3", "0.5", "0.999", "1", "2", "2000Mi", "30Gi", "79Gi", "1g.10gb",
                "3g.40gb", "{memory: 9Gi, count: 3}",
            ][..]),
            1..40,
        ),
    ) {
        let snapshot = recorded(name);
        let mut holders: Vec<Holder> = Vec::new();
        for wish in wishes {
            let ask = wish.parse::<cumulo_api::Gpu>().unwrap().ask().unwrap();
            let others: Vec<&Holder> = holders.iter().collect();
            if let Ok(held) = decide(&snapshot, &others, &ask) {
                proptest::prop_assert_eq!(held.len(), ask.count as usize);
                holders.push(Holder {
                    namespace: "default".to_owned(),
                    pod: format!("pod-{}", holders.len()),
                    held,
                    energy: None,
                });
            }
        }
        let held: Vec<_> = holders.iter().flat_map(|holder| &holder.held).collect();
        for (gpu, health) in snapshot.gpus.iter().zip(snapshot.health()) {
            let of_gpu = held.iter().filter(|held| held.gpu == gpu.identity());
            let (milli, memory) = of_gpu.clone().fold((0, 0), |(milli, memory), held| {
                (milli + held.milli, memory + held.memory)
            });
            proptest::prop_assert!(milli <= 1000, "{} of GPU {}", milli, gpu.index);
            proptest::prop_assert!(memory <= gpu.memory.total - gpu.memory.reserved);
            proptest::prop_assert!(health.condition != Condition::Broken || milli == 0);
            let mut instances: Vec<_> = of_gpu.filter_map(|held| held.instance.as_ref()).collect();
            let count = instances.len();
            instances.sort();
            instances.dedup();
            proptest::prop_assert_eq!(instances.len(), count);
        }
    }
}
