//! Recorded trees: paths and texts, `->` before what is a link.

use std::collections::BTreeMap;
use std::path::Path;

use super::Sysfs;
use crate::devices::reach::reach;
use crate::devices::tests::recorded;
use crate::devices::{Condition, Held, Refusal, Snapshot, decide};

/// A tree of `recordings/sys` in a folder.
fn tree(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings/sys");
    let text = std::fs::read_to_string(format!("{path}/{name}.json")).unwrap();
    let files: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix("-> ") {
            Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            None => std::fs::write(path, text).unwrap(),
        }
    }
    folder
}

fn read(root: &Path) -> Snapshot {
    let mut snapshot = Snapshot::default();
    Sysfs::new(root).add_to(&mut snapshot);
    snapshot
}

fn held(snapshot: &Snapshot, wish: &str) -> Result<Vec<Held>, Refusal> {
    let ask = wish.parse::<cumulo_api::Gpu>().unwrap().ask().unwrap();
    decide(snapshot, &[], &ask)
}

/// The recordings of these machines are what is read of their trees.
#[test]
fn trees_are_read_as_recorded() {
    for name in ["mi300x-8", "intel-3"] {
        let read = read(tree(name).path());
        let text = serde_json::to_string_pretty(&read).unwrap();
        assert_eq!(read, recorded(name), "{name}:\n{text}");
    }
}

#[test]
fn what_is_given_of_amd_is_whole() {
    let folder = tree("mi300x-8");
    let mut snapshot = read(folder.path());
    let gpus = &snapshot.gpus;
    assert_eq!(gpus.len(), 8);
    assert_eq!(snapshot.link_domains(), vec![Some(0); 8]);
    // Two of its memory errors could not be corrected.
    assert_eq!(snapshot.health()[6].condition, Condition::Broken);
    let two = held(&snapshot, "{model: [MI300X], count: 2}").unwrap();
    assert_eq!(two.len(), 2);
    let refused = held(&snapshot, "0.3").unwrap_err().to_string();
    insta::assert_snapshot!(refused, @"asks for 0.3 of a GPU, more than this node has: 8 × MI300X OAM can only be given whole: only NVIDIA's GPUs are shared");
    let other = held(&snapshot, "{model: H100}").unwrap_err().to_string();
    insta::assert_snapshot!(other, @"asks for a GPU (H100), more than this node has: this node has 8 × MI300X OAM");

    let reached = reach(&snapshot, &two, true);
    let names: Vec<&str> = two.iter().map(|held| held.gpu.as_str()).collect();
    assert_eq!(
        reached.environment,
        [("ROCR_VISIBLE_DEVICES", names.join(","))]
    );
    insta::assert_debug_snapshot!("files_of_two", reached.files);
    // HIP looks at CUDA's variable, which is empty only for those that have nothing of AMD's.
    assert_eq!(
        reach(&snapshot, &[], true).environment,
        [
            ("CUDA_VISIBLE_DEVICES", String::new()),
            ("ROCR_VISIBLE_DEVICES", String::new())
        ]
    );

    // Beside GPUs of another maker a share is one of those.
    snapshot.gpus.extend(recorded("h200-1").gpus);
    let share = held(&snapshot, "0.3").unwrap();
    assert_eq!(share[0].gpu, recorded("h200-1").gpus[0].uuid);
}

#[test]
fn a_divided_amd_gpu_is_told_by_the_numbers_of_its_parts() {
    let snapshot = read(tree("mi300x-cpx").path());
    let gpu = &snapshot.gpus[0];
    assert_eq!(gpu.model(), "MI300X");
    assert_eq!(gpu.partition_mode.as_deref(), Some("CPX"));
    let whole = held(&snapshot, "1").unwrap();
    let reached = reach(&snapshot, &whole, true);
    assert_eq!(
        reached.environment,
        [("ROCR_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7".to_owned())]
    );
    let render = reached
        .files
        .iter()
        .filter(|path| path.starts_with("/dev/dri"));
    assert_eq!(render.count(), 8);
}

#[test]
fn intels_are_those_with_memory_of_their_own() {
    let snapshot = read(tree("intel-3").path());
    let told: Vec<String> = snapshot
        .gpus
        .iter()
        .map(|gpu| format!("{} {} GiB", gpu.model(), gpu.memory.total >> 30))
        .collect();
    assert_eq!(told, ["Max 1100 48 GiB", "Max 1100 48 GiB", "B580 12 GiB"]);
    let arc = held(&snapshot, "{model: B580}").unwrap();
    let visible = |confined| reach(&snapshot, &arc, confined).environment;
    let none = |name| (name, String::new());
    let confined = [none("CUDA_VISIBLE_DEVICES"), none("ROCR_VISIBLE_DEVICES")];
    assert_eq!(visible(true), confined);
    let open = [
        ("ZE_AFFINITY_MASK", "2".to_owned()),
        ("ZE_ENABLE_PCI_ID_DEVICE_ORDER", "1".to_owned()),
    ];
    assert_eq!(visible(false), [&confined[..], &open[..]].concat());
}

/// On this machine: whatever there is, it is no error.
#[test]
fn the_machines_own_tree_is_read() {
    let snapshot = read(Path::new("/sys"));
    let mut indices: Vec<u32> = snapshot.gpus.iter().map(|gpu| gpu.index).collect();
    indices.dedup();
    assert_eq!(indices.len(), snapshot.gpus.len());
    assert_eq!(read(Path::new("/nonexistent")), Snapshot::default());
}
