//! Who uses more of a GPU's memory than its share, and what is done about it. Pure:
//! from what the driver tells of processes and who belongs to which pod.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::decide::{Holder, counted_once};
use super::snapshot::{Process, Snapshot};

/// What the driver itself takes for each process: its context and the code that it
/// loads. No program can avoid it, and it is not counted against a share.
pub const CONTEXT: u64 = 640 << 20;

/// Looks in a row after which a pod that uses too much is ended: less is a peak.
const LOOKS_UNTIL_END: u32 = 3;

/// What happens to a pod that uses more memory of a GPU than its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// It is said: an event and a condition.
    #[default]
    Report,
    /// Its processes are paused every other look besides, as long as it does.
    Throttle,
    /// It is ended besides, when it still does some looks later.
    End,
}

/// What a pod uses of one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Use {
    /// Its processes on this GPU.
    pub pids: Vec<u32>,
    /// Bytes of memory that the driver counts for them.
    pub memory: u64,
    /// Percent of the last moments in which they computed, where the driver tells.
    pub utilization: Option<u32>,
}

/// What pods use, by the pod's uid and the GPU's UUID.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uses {
    /// Pods, whether they were given the GPU or not.
    pub pods: BTreeMap<(String, String), Use>,
    /// Processes that belong to no pod, by GPU.
    pub others: BTreeMap<String, Vec<u32>>,
    /// GPUs whose memory is used by somebody of whom the driver says nothing, or by
    /// processes that this machine does not know: in a virtual machine or a container
    /// the driver may count another's process ids.
    pub blind: BTreeSet<String>,
}

/// Matches the driver's processes with pods. `members` are the processes of each pod,
/// `alive` says whether a process is known to this machine.
pub fn uses(
    snapshot: &Snapshot,
    members: &BTreeMap<String, BTreeSet<i32>>,
    alive: impl Fn(i32) -> bool,
) -> Uses {
    let mut found = Uses::default();
    for gpu in &snapshot.gpus {
        let name = gpu.identity();
        // Some drivers count a little as used on an idle GPU.
        if gpu.processes.is_empty() && gpu.memory.used > CONTEXT {
            found.blind.insert(name.clone());
        }
        for process in &gpu.processes {
            let pid = i32::try_from(process.pid).unwrap_or(-1);
            let owner = members.iter().find(|(_, pids)| pids.contains(&pid));
            match owner {
                Some((uid, _)) => {
                    let entry = found.pods.entry((uid.clone(), name.clone()));
                    add(entry.or_default(), process);
                }
                None if alive(pid) => {
                    let others = found.others.entry(name.clone()).or_default();
                    others.push(process.pid);
                }
                None => {
                    found.blind.insert(name.clone());
                }
            }
        }
    }
    found
}

fn add(known: &mut Use, process: &Process) {
    known.pids.push(process.pid);
    known.memory = known.memory.saturating_add(process.memory.unwrap_or(0));
    if let Some(percent) = process.utilization {
        let sum = known.utilization.unwrap_or(0).saturating_add(percent);
        known.utilization = Some(sum);
    }
}

/// A pod that uses more of a GPU than its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    /// UUID of the GPU.
    pub gpu: String,
    /// Bytes that it uses.
    pub used: u64,
    /// Bytes that it was given; 0 of a GPU that is not its own.
    pub given: u64,
    /// Both are of all pods that share its claim of the GPU, and whether it is the one of
    /// them that uses the most; `None` where it has its part alone.
    pub together: Option<bool>,
}

impl std::fmt::Display for Excess {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used = crate::quantity::show_bytes(self.used);
        if self.given == 0 {
            return write!(
                formatter,
                "uses {used} of the memory of {}, a GPU that it was not given",
                self.gpu
            );
        }
        let together = match self.together {
            Some(_) => " with the pods that share its claim",
            None => "",
        };
        write!(
            formatter,
            "uses {used} of the memory of {}{together}, its share is {}; ask for a larger share or use less",
            self.gpu,
            crate::quantity::show_bytes(self.given)
        )
    }
}

/// The pods that use too much: of the GPU where it is the most.
pub fn excesses(holders: &BTreeMap<String, Holder>, uses: &Uses) -> BTreeMap<String, Excess> {
    let mut found: BTreeMap<String, Excess> = BTreeMap::new();
    for ((uid, gpu), used) in &uses.pods {
        let sharers = sharers(holders, uid, gpu);
        let counted: Vec<&Holder> = sharers.iter().map(|(_, holder)| *holder).collect();
        let given = counted_once(&counted)
            .iter()
            .flat_map(|holder| &holder.held)
            .filter(|held| held.gpu == *gpu)
            .fold(0u64, |sum, held| sum.saturating_add(held.memory));
        let others = || {
            let others = sharers.iter().filter(|(other, _)| *other != uid);
            others.filter_map(|(other, _)| uses.pods.get(&((*other).clone(), gpu.clone())))
        };
        let (memory, processes) = others().fold(
            (used.memory, used.pids.len() as u64),
            |(memory, processes), other| {
                (
                    memory.saturating_add(other.memory),
                    processes.saturating_add(other.pids.len() as u64),
                )
            },
        );
        if memory <= given.saturating_add(CONTEXT.saturating_mul(processes)) {
            continue;
        }
        let most = others().all(|other| other.memory <= used.memory);
        let excess = Excess {
            gpu: gpu.clone(),
            used: memory,
            given,
            together: (sharers.len() > 1).then_some(most),
        };
        let over = |one: &Excess| one.used.saturating_sub(one.given);
        match found.get_mut(uid) {
            Some(known) if over(known) >= over(&excess) => {}
            Some(known) => *known = excess,
            None => {
                found.insert(uid.clone(), excess);
            }
        }
    }
    found
}

/// The pods that have a part of a GPU together with this one, itself among them.
fn sharers<'a>(
    holders: &'a BTreeMap<String, Holder>,
    uid: &str,
    gpu: &str,
) -> Vec<(&'a String, &'a Holder)> {
    let claims = |uid: &str| -> BTreeSet<&'a str> {
        let held = holders.get(uid).into_iter().flat_map(|holder| &holder.held);
        let held = held.filter(|held| held.gpu == gpu);
        held.filter_map(|held| held.claim.as_deref()).collect()
    };
    let own = claims(uid);
    let all = holders.iter();
    all.filter(|(other, _)| *other == uid || !own.is_disjoint(&claims(other)))
        .collect()
}

/// What is to be done about one pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// What it uses too much.
    pub excess: Option<Excess>,
    /// Its processes are to be paused.
    pub paused: bool,
    /// It is to be ended.
    pub end: bool,
}

/// Remembers for how long pods have used too much.
#[derive(Debug, Default)]
pub struct Watchdog {
    /// Looks in a row, by uid.
    over: BTreeMap<String, u32>,
}

impl Watchdog {
    /// What follows from one look. Pods that are not in the answer are as they should be.
    pub fn look(
        &mut self,
        excesses: BTreeMap<String, Excess>,
        response: Response,
    ) -> BTreeMap<String, Verdict> {
        self.over.retain(|uid, _| excesses.contains_key(uid));
        excesses
            .into_iter()
            .map(|(uid, excess)| {
                let looks = self.over.entry(uid.clone()).or_default();
                *looks = looks.saturating_add(1);
                let first = excess.together.unwrap_or(true);
                let verdict = Verdict {
                    excess: Some(excess),
                    paused: response == Response::Throttle && looks.is_multiple_of(2),
                    // Of pods that share a claim the one that uses the most goes first.
                    end: response == Response::End && *looks >= LOOKS_UNTIL_END && first,
                };
                (uid, verdict)
            })
            .collect()
    }
}
