//! What is read of the devices at one moment. Recordings are this as JSON.

use std::path::PathBuf;

use cumulo_api::GPU_MAKERS;
use serde::{Deserialize, Serialize};

/// All GPUs of a node at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshot {
    /// Version of the driver; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Newest CUDA version that the driver supports, such as `12.4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
    /// The GPUs, in the driver's order.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// The processors, where the kernel describes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
}

/// Which processors share memory and caches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cpu {
    /// Those that run, such as `0-63`.
    pub online: String,
    /// Memories and the processors that are near each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numa: Vec<NumaNode>,
    /// The outermost caches: what neighbours share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<Cache>,
}

/// A memory and the processors near it.
#[derive(Debug, Clone, PartialEq, Eq, Default, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NumaNode {
    /// The kernel's number for it.
    pub id: u32,
    /// Its processors, such as `0-31,64-95`.
    pub cpus: String,
    /// Bytes.
    pub memory: u64,
}

/// A cache of a processor or of several.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cache {
    /// 1 is nearest to the processor.
    pub level: u32,
    /// `unified`, `data` or `instruction`.
    pub kind: String,
    /// Bytes.
    pub bytes: u64,
    /// The processors that share it.
    pub cpus: String,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gpu {
    /// The driver's number for it.
    pub index: u32,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Vendor::is_nvidia")]
    pub vendor: Vendor,
    /// UUID, such as `GPU-…`.
    pub uuid: String,
    /// What programs call it, where that is not the UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible: Option<String>,
    /// The device files that it is reached through, where that is not `minor`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// The mode in which AMD's GPU is several devices, such as `CPX`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_mode: Option<String>,
    /// Product name as the driver gives it, such as `NVIDIA A100-SXM4-80GB`.
    pub name: String,
    /// Number of its device file `/dev/nvidia<minor>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<u32>,
    /// CUDA compute capability, such as `8.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<String>,
    /// Its memory.
    #[serde(default)]
    pub memory: Memory,
    /// Partitioning; absent where the model has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// Where it is plugged in.
    #[serde(default)]
    pub pci: Pci,
    /// Its NVLinks, counted by what is at their other end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// Power drawn, in milliwatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_milliwatts: Option<u32>,
    /// Energy used since the driver was loaded, in millijoules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_millijoules: Option<u64>,
    /// Who may make a context on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_mode: Option<ComputeMode>,
    /// Temperature in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<u32>,
    /// The temperature at which the hardware slows itself down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowdown_temperature: Option<u32>,
    /// Percent of the last moments in which it computed. Not known with MIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization: Option<u32>,
    /// Memory errors; absent where the model has no ECC or it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc: Option<Ecc>,
    /// XID errors that the driver reported since the node agent started, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<u64>,
    /// Why nothing more could be read of it, in the driver's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Processes that compute on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<Process>,
}

/// Who made a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// NVIDIA.
    #[default]
    Nvidia,
    /// AMD.
    Amd,
    /// Intel.
    Intel,
}

impl Vendor {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
    fn is_nvidia(&self) -> bool {
        *self == Self::Nvidia
    }

    /// As in attributes of devices.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Amd => "amd",
            Self::Intel => "intel",
        }
    }
}

/// Who may make a context on a device. Set by an administrator; only read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComputeMode {
    /// Any number of processes.
    Default,
    /// One process: with MPS that is its server, so that nobody gets around it.
    ExclusiveProcess,
    /// None.
    Prohibited,
}

/// Memory of a device in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What the driver keeps for itself.
    #[serde(default)]
    pub reserved: u64,
    /// What programs use.
    #[serde(default)]
    pub used: u64,
}

/// Whether a device is partitioned, and into what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mig {
    /// Whether MIG mode is on: then only its instances can be used.
    pub enabled: bool,
    /// The instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    /// GPU instances without a compute instance: they take room, and no program can use
    /// them. Some drivers tell of them to root only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bare: Vec<Bare>,
    /// What it can be divided into, where the driver tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Profile>,
}

/// A GPU instance without a compute instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bare {
    /// Profile, such as `1g.10gb`.
    pub profile: String,
    /// The GPU instance's number.
    pub id: u32,
    /// First memory slice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u32>,
}

/// A kind of GPU instance that a GPU can be divided into.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// Name, such as `1g.10gb`.
    pub name: String,
    /// The driver's number for it.
    pub id: u32,
    /// Compute slices.
    pub compute: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// How many there may be on a GPU.
    pub most: u32,
    /// Memory slices.
    pub size: u32,
    /// First memory slices at which it can lie.
    pub starts: Vec<u32>,
}

/// A partition that exists, as programs see it (a MIG device).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// UUID, such as `MIG-…`.
    pub uuid: String,
    /// Profile, such as `1g.10gb`.
    pub profile: String,
    /// The GPU instance's number.
    pub id: u32,
    /// First memory slice. Some drivers tell it to root only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u32>,
    /// Its memory.
    pub memory: Memory,
}

/// Where a device is plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pci {
    /// Address as in sysfs, such as `0000:07:00.0`.
    pub bus_id: String,
    /// The root complex it hangs on, such as `pci0000:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// NUMA node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa: Option<u32>,
}

/// NVLinks to one other end: a GPU, or a switch that many GPUs share.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// PCI address of the other end.
    pub peer: String,
    /// How many links are up.
    pub up: u32,
}

/// Memory errors since the driver was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ecc {
    /// Corrected by the hardware.
    pub corrected: u64,
    /// Not corrected: data was lost.
    pub uncorrected: u64,
}

/// A process that computes on a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Bytes of the device's memory; absent where the driver does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// The GPU instance that it runs in, with MIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
    /// Percent of the last moments in which it computed, where the driver tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization: Option<u32>,
    /// It is a client of an MPS server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mps: bool,
}

impl Gpu {
    /// The model without the vendor: `A100-SXM4-80GB`.
    pub fn model(&self) -> &str {
        let name = self.name.trim();
        GPU_MAKERS
            .iter()
            .find_map(|maker| name.strip_prefix(maker))
            .unwrap_or(name)
    }

    /// What identifies it: the UUID, or its number where even that is lost.
    pub fn identity(&self) -> String {
        if self.uuid.is_empty() {
            format!("gpu-{}", self.index)
        } else {
            self.uuid.clone()
        }
    }

    /// Its instances, where MIG mode is on.
    pub fn instances(&self) -> Option<&[Instance]> {
        self.mig
            .as_ref()
            .filter(|mig| mig.enabled)
            .map(|mig| mig.instances.as_slice())
    }
}

impl Snapshot {
    /// For each GPU the number of the group within which all reach each other by
    /// NVLink; `None` where it has no link.
    pub fn link_domains(&self) -> Vec<Option<usize>> {
        let mut domains: Vec<usize> = (0..self.gpus.len()).collect();
        let touches = |one: &Gpu, other: &Gpu| {
            one.links.iter().any(|link| {
                link.up > 0
                    && (link.peer == other.pci.bus_id
                        || other
                            .links
                            .iter()
                            .any(|its| its.up > 0 && its.peer == link.peer))
            })
        };
        for one in 0..self.gpus.len() {
            for other in 0..one {
                if touches(&self.gpus[one], &self.gpus[other])
                    || touches(&self.gpus[other], &self.gpus[one])
                {
                    let (from, to) = (domains[one], domains[other]);
                    let least = from.min(to);
                    for domain in &mut domains {
                        if *domain == from || *domain == to {
                            *domain = least;
                        }
                    }
                }
            }
        }
        self.gpus
            .iter()
            .zip(domains)
            .map(|(gpu, domain)| gpu.links.iter().any(|link| link.up > 0).then_some(domain))
            .collect()
    }
}
