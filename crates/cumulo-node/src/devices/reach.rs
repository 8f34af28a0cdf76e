//! How a container reaches the devices that its pod was given, and no others. Pure.

use std::path::{Path, PathBuf};

use super::decide::Held;
use super::snapshot::{Gpu, Snapshot, Vendor};

/// What CUDA may see. HIP reads it as well, and counts AMD's GPUs by it.
pub const CUDA: &str = "CUDA_VISIBLE_DEVICES";
/// What ROCm may see: UUIDs or numbers.
const ROCM: &str = "ROCR_VISIBLE_DEVICES";
/// What Level Zero may see: numbers, in the order of PCI addresses if the other is set.
const LEVEL_ZERO: &str = "ZE_AFFINITY_MASK";
const LEVEL_ZERO_ORDER: &str = "ZE_ENABLE_PCI_ID_DEVICE_ORDER";

/// All of them: what a manifest says there counts nothing.
pub const VARIABLES: &[&str] = &[CUDA, ROCM, LEVEL_ZERO, LEVEL_ZERO_ORDER];

/// What ROCm's library looks at to find its devices.
const ROCM_FOLDERS: &[&str] = &[
    "/sys/class/kfd",
    "/sys/devices/virtual/kfd",
    "/sys/module/amdgpu",
];
/// Where libdrm and Level Zero look up what a device file belongs to.
const DRM_FOLDERS: &[&str] = &["/sys/class/drm", "/sys/dev/char"];
/// What Level Zero lists: links to all device files, which stay closed behind them.
const DRM_LINKS: &str = "/dev/dri/by-path";
/// NVIDIA's device files that belong to no GPU.
const NVIDIA_FILES: &[&str] = &[
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-caps",
];

/// What a container needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reach {
    /// Variables that it must have; the others of [`VARIABLES`] it must not.
    pub environment: Vec<(&'static str, String)>,
    /// Device files, and what the kernel tells of them.
    pub files: Vec<PathBuf>,
    /// Folders that it may list.
    pub listed: Vec<PathBuf>,
}

/// How `held` is reached. `confined`: a sandbox keeps the container from all other device
/// files.
pub fn reach(snapshot: &Snapshot, held: &[Held], confined: bool) -> Reach {
    let gpu = |held: &Held| {
        let mut gpus = snapshot.gpus.iter();
        gpus.find(|gpu| gpu.identity() == held.gpu)
    };
    // What is not there any more was NVIDIA's, unless its name says otherwise.
    let vendor = |held: &Held| gpu(held).map_or(Vendor::Nvidia, |gpu| gpu.vendor);
    let of = |wanted: Vendor| held.iter().filter(move |held| vendor(held) == wanted);
    let names = |wanted: Vendor| {
        let names = of(wanted).map(|held| {
            let told = gpu(held).and_then(|gpu| gpu.visible.as_deref());
            told.unwrap_or_else(|| held.visible())
        });
        names.collect::<Vec<&str>>().join(",")
    };
    let has = |wanted: Vendor| of(wanted).next().is_some();
    let mut reach = Reach::default();
    // Empty, it would hide AMD's GPUs from HIP.
    if !has(Vendor::Amd) {
        reach.environment.push((CUDA, names(Vendor::Nvidia)));
    }
    reach.environment.push((ROCM, names(Vendor::Amd)));
    // Level Zero numbers what it can open, which confined is the pod's own and no more.
    if has(Vendor::Intel) && !confined {
        reach.environment.push((LEVEL_ZERO, names(Vendor::Intel)));
        reach.environment.push((LEVEL_ZERO_ORDER, "1".to_owned()));
    }
    let mut add = |paths: &[&str]| reach.files.extend(paths.iter().map(PathBuf::from));
    if has(Vendor::Nvidia) {
        add(NVIDIA_FILES);
    }
    if has(Vendor::Amd) {
        add(ROCM_FOLDERS);
    }
    if has(Vendor::Amd) || has(Vendor::Intel) {
        add(DRM_FOLDERS);
    }
    if has(Vendor::Intel) {
        reach.listed.push(DRM_LINKS.into());
    }
    for gpu in &snapshot.gpus {
        if held.iter().any(|held| held.gpu == gpu.identity()) {
            reach.files.extend(files(gpu));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    reach.files.retain(|path| seen.insert(path.clone()));
    reach
}

fn files(gpu: &Gpu) -> Vec<PathBuf> {
    let mut files = gpu.files.clone();
    files.extend(gpu.minor.map(|minor| format!("/dev/nvidia{minor}").into()));
    if !gpu.pci.bus_id.is_empty() {
        files.push(Path::new("/sys/bus/pci/devices").join(&gpu.pci.bus_id));
    }
    files
}
