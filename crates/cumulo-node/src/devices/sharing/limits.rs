//! What MPS is told of shares, and what that is worth. Pure.
//!
//! MPS has one server for each GPU, so that the kernels of all pods run beside each
//! other. Its own limits are for every client alike: they are set to the largest share
//! that a pod has. A client can only lower them, which each pod's environment does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::devices::decide::{Held, Holder};
use crate::devices::snapshot::{ComputeMode, Gpu, Snapshot};

/// Where clients find the daemon.
pub const PIPE_VARIABLE: &str = "CUDA_MPS_PIPE_DIRECTORY";
/// Where daemon and server write.
pub const LOG_VARIABLE: &str = "CUDA_MPS_LOG_DIRECTORY";
/// A client's part of the multiprocessors, in percent.
pub const PERCENTAGE_VARIABLE: &str = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";
/// A client's memory, by the number of the device.
pub const MEMORY_VARIABLE: &str = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT";

/// All that a program could set to be another's client, or a larger one.
pub const VARIABLES: &[&str] = &[
    PIPE_VARIABLE,
    LOG_VARIABLE,
    PERCENTAGE_VARIABLE,
    MEMORY_VARIABLE,
    "CUDA_MPS_CLIENT_PRIORITY",
    "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING",
    "CUDA_MPS_SM_PARTITION",
];

/// Thousandths of a GPU.
const WHOLE: u32 = 1000;

/// What each client of an MPS server may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Limits {
    /// Percent of the multiprocessors.
    pub percentage: u32,
    /// Mebibytes of memory.
    pub mebibytes: u64,
}

impl Limits {
    /// The limits of a share. Rounded down, so that shares that fill a GPU still fit.
    pub fn of(held: &Held) -> Self {
        Self {
            percentage: (held.milli / 10).clamp(1, 100),
            mebibytes: (held.memory >> 20).max(1),
        }
    }

    fn or_larger(self, other: Self) -> Self {
        Self {
            percentage: self.percentage.max(other.percentage),
            mebibytes: self.mebibytes.max(other.mebibytes),
        }
    }
}

/// The one share of an undivided GPU that a pod has, where that is all it has: MPS
/// joins a process to one daemon.
pub fn shared(held: &[Held]) -> Option<&Held> {
    match held {
        [one] if one.instance.is_none() && one.is_taken() && one.milli < WHOLE => Some(one),
        _ => None,
    }
}

/// The GPUs that need a daemon, by UUID, and what their servers allow every client.
pub fn wanted<'a>(
    snapshot: &Snapshot,
    holders: impl IntoIterator<Item = &'a Holder>,
) -> BTreeMap<String, Limits> {
    let mut wanted: BTreeMap<String, Limits> = BTreeMap::new();
    for holder in holders {
        let Some(held) = shared(&holder.held) else {
            continue;
        };
        let limits = Limits::of(held);
        wanted
            .entry(held.gpu.clone())
            .and_modify(|known| *known = known.or_larger(limits))
            .or_insert(limits);
    }
    wanted.retain(|uuid, _| {
        let gpu = snapshot.gpus.iter().find(|gpu| gpu.identity() == *uuid);
        gpu.is_some_and(|gpu| gpu.fault.is_none() && gpu.instances().is_none())
    });
    wanted
}

/// The commands that give a daemon its limits: those of servers to come, and of those
/// that run (`get_server_list`). They hold for clients from then on.
pub fn commands(limits: Limits, servers: &[u32]) -> Vec<String> {
    let Limits {
        percentage,
        mebibytes,
    } = limits;
    let mut commands = vec![
        format!("set_default_active_thread_percentage {percentage}"),
        format!("set_default_device_pinned_mem_limit 0 {mebibytes}M"),
    ];
    for server in servers {
        commands.push(format!(
            "set_active_thread_percentage {server} {percentage}"
        ));
        commands.push(format!(
            "set_device_pinned_mem_limit {server} 0 {mebibytes}M"
        ));
    }
    commands
}

/// Process ids out of the daemon's answer, one on each line.
pub fn process_ids(answer: &str) -> Vec<u32> {
    answer
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

/// What makes a container's programs clients with this share.
pub fn environment(held: &Held, pipes: &str) -> Vec<(String, String)> {
    let limits = Limits::of(held);
    [
        (PIPE_VARIABLE, pipes.to_owned()),
        (PERCENTAGE_VARIABLE, limits.percentage.to_string()),
        (MEMORY_VARIABLE, format!("0={}M", limits.mebibytes)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// How a pod's share is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    /// A daemon runs; its server allows this much.
    Mps(Limits),
    /// Nobody but the driver, which gives turns; and why there is no daemon.
    Turns(String),
}

/// What the limits of a pod's devices are worth: becomes its condition [`CONDITION`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worth {
    /// Out of the program's reach.
    pub enforced: bool,
    /// For programs, in CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// The condition of a pod that has a part of a GPU.
pub const CONDITION: &str = "cumulo.dev/GpuShareEnforced";

/// What the limits of `held` are worth; `None` where it has whole GPUs only, which need
/// no limits.
pub fn worth(held: &[Held], gpu: Option<&Gpu>, means: &Means) -> Option<Worth> {
    let parts: Vec<&Held> = held
        .iter()
        .filter(|held| held.instance.is_some() || (held.is_taken() && held.milli < WHOLE))
        .collect();
    if parts.is_empty() {
        return None;
    }
    if parts.iter().all(|held| held.instance.is_some()) {
        return Some(Worth {
            enforced: true,
            reason: "EnforcedByMig",
            message: "the hardware keeps the memory and the compute of its MIG instances apart"
                .to_owned(),
        });
    }
    let (Some(one), Means::Mps(ceiling)) = (shared(held), means) else {
        let why = match means {
            Means::Turns(why) => why.as_str(),
            Means::Mps(_) => "it has parts of several GPUs, and MPS joins a process to one",
        };
        return Some(Worth {
            enforced: false,
            reason: "TimeSliced",
            message: format!(
                "programs take turns on the GPU and nothing limits their compute: {why}; the memory that they use is watched"
            ),
        });
    };
    let own = Limits::of(one);
    let told = |limits: &Limits| {
        format!(
            "{}% of the multiprocessors and {} MiB",
            limits.percentage, limits.mebibytes
        )
    };
    let limited = if *ceiling == own {
        format!(
            "the MPS server limits each of its processes to {}",
            told(&own)
        )
    } else {
        format!(
            "its environment limits each of its processes to {}, and the MPS server to {}, the largest share on this GPU",
            told(&own),
            told(ceiling)
        )
    };
    let exclusive = gpu.and_then(|gpu| gpu.compute_mode) == Some(ComputeMode::ExclusiveProcess);
    let around = if exclusive {
        "the GPU's compute mode lets nobody around MPS"
    } else {
        "a program that sets out to can leave MPS, as the GPU's compute mode allows other contexts"
    };
    Some(Worth {
        enforced: false,
        reason: "LimitedByMps",
        message: format!(
            "{limited}; {around}; the memory of all its processes together is watched"
        ),
    })
}
