//! What `/proc` says about processes, and signals to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::record::Started;

/// Environment variable that marks every process of a container with
/// `POD_UID/CONTAINER/ATTEMPT`.
pub const CONTAINER_ID_VARIABLE: &str = "CUMULO_CONTAINER_ID";

/// The machine's current boot.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`);
/// `None` when there is no such process or it is a zombie.
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_start_ticks(&stat)
}

/// The command name in the second field may hold spaces and parentheses, so
/// counting starts after the last closing one.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether the process is still the one that was started.
pub fn is_running(started: &Started) -> bool {
    started.boot_id == boot_id() && start_ticks(started.pid) == Some(started.start_ticks)
}

/// Sends a signal to the process group that a container leads. Does nothing
/// when the process id belongs to somebody else by now.
pub fn signal_group(started: &Started, signal: Signal) {
    if started.boot_id != boot_id() {
        return;
    }
    // The leader may have ended while members of its group live on; its id is
    // then not reused as long as the group exists.
    match start_ticks(started.pid) {
        Some(ticks) if ticks != started.start_ticks => {}
        _ => {
            let _ = killpg(Pid::from_raw(started.pid), signal);
        }
    }
}

/// A snapshot of who started whom on the machine.
///
/// Read from every process's `stat`: the shorter way over
/// `/proc/PID/task/TID/children` exists only in kernels with checkpointing.
#[derive(Debug, Default)]
pub struct ProcessTable {
    children: BTreeMap<i32, Vec<i32>>,
    threads: BTreeMap<i32, u64>,
}

impl ProcessTable {
    /// Reads the snapshot.
    pub fn read() -> Self {
        let mut table = Self::default();
        for pid in all_processes() {
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            if let Some(parent) = parse_parent(&stat) {
                table.children.entry(parent).or_default().push(pid);
                table.threads.insert(pid, parse_threads(&stat).unwrap_or(1));
            }
        }
        table
    }

    /// Threads of these processes in all.
    pub fn threads<'a>(&self, pids: impl IntoIterator<Item = &'a i32>) -> u64 {
        pids.into_iter()
            .filter_map(|pid| self.threads.get(pid))
            .sum()
    }

    /// All descendants of a process, itself excluded.
    pub fn descendants(&self, pid: i32) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        let mut queue = vec![pid];
        while let Some(parent) = queue.pop() {
            for child in self.children.get(&parent).into_iter().flatten() {
                if found.insert(*child) {
                    queue.push(*child);
                }
            }
        }
        found
    }
}

/// The parent's id, field 4 of `stat`.
fn parse_parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The number of threads, field 20 of `stat`.
fn parse_threads(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(17)?.parse().ok()
}

/// Processes and threads of the whole machine: field 4 of `/proc/loadavg`,
/// the cheapest sign that somebody starts many.
pub fn tasks_of_the_machine() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let (_, all) = text.split_ascii_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

/// Processor time of a process in clock ticks: its own (fields 14 and 15 of
/// `stat`) and that of the children it waited for (16 and 17).
pub fn cpu_ticks(pid: i32) -> Option<u64> {
    parse_cpu_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let times = rest.split_ascii_whitespace().skip(11).take(4);
    times.map(|time| time.parse::<u64>().ok()).sum()
}

/// Clock ticks that the machine's processors have worked: the first line of
/// `/proc/stat` without what was idle or waiting (fields 4 and 5) and without
/// guests (9 and 10), which are counted as users before.
pub fn busy_ticks_of_the_machine() -> Option<u64> {
    parse_busy_ticks(&fs::read_to_string("/proc/stat").ok()?)
}

fn parse_busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let times: Option<Vec<u64>> = line
        .split_ascii_whitespace()
        .map(|time| time.parse().ok())
        .collect();
    let times = times?;
    let busy = |index: &usize| !matches!(index, 3 | 4);
    Some(
        (0..times.len().min(8))
            .filter(busy)
            .map(|index| times[index])
            .sum(),
    )
}

/// Bytes of memory that the machine cannot give to new programs: all but what
/// `MemAvailable` of `/proc/meminfo` says.
pub fn used_memory_of_the_machine() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let used = kibibytes("MemTotal:")?.saturating_sub(kibibytes("MemAvailable:")?);
    used.checked_mul(1024)
}

/// Kills all descendants of a process. They are stopped first, so that what
/// goes on forking cannot outrun it.
pub fn kill_descendants(pid: i32) {
    const PASSES: usize = 100;
    let mut known = BTreeSet::new();
    for _ in 0..PASSES {
        let found = ProcessTable::read().descendants(pid);
        let fresh: Vec<i32> = found.difference(&known).copied().collect();
        if fresh.is_empty() {
            break;
        }
        for descendant in fresh {
            let _ = kill(Pid::from_raw(descendant), Signal::SIGSTOP);
            known.insert(descendant);
        }
    }
    for descendant in known {
        let _ = kill(Pid::from_raw(descendant), Signal::SIGKILL);
    }
}

/// Resident memory in bytes, shared pages included; 0 when it is gone.
pub fn resident_bytes(pid: i32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/statm"))
        .ok()
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or(0, |pages| pages * PAGE_SIZE)
}

/// Linux pages on the platforms that are built for (x86-64, and AArch64 with
/// its usual kernels) are 4 KiB.
const PAGE_SIZE: u64 = 4096;

/// Memory that is the process's own, in bytes: anonymous and shared-memory
/// pages, those shared with n processes counted 1/n (`Pss_Anon` and
/// `Pss_Shmem`). Slower than [`resident_bytes`], right for forked workers.
pub fn proportional_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let mut total = 0;
    for line in text.lines() {
        if let Some(value) = line
            .strip_prefix("Pss_Anon:")
            .or_else(|| line.strip_prefix("Pss_Shmem:"))
        {
            total += value.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024;
        }
    }
    Some(total)
}

/// The environment that a process was started with.
pub fn environment(pid: i32) -> Option<Vec<(String, String)>> {
    let content = fs::read(format!("/proc/{pid}/environ")).ok()?;
    Some(
        content
            .split(|byte| *byte == 0)
            .filter_map(|entry| {
                let entry = String::from_utf8_lossy(entry);
                let (name, value) = entry.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect(),
    )
}

/// Kills every process whose mark starts with `prefix` (`UID/` for a pod,
/// `UID/CONTAINER/ATTEMPT` for a container): whatever left the container's
/// process group, or what an `exec` started. Returns how many.
pub fn kill_marked(prefix: &str) -> usize {
    let mark = format!("{CONTAINER_ID_VARIABLE}={prefix}");
    let me = std::process::id() as i32;
    let mut killed = 0;
    // A process that is forking may show up only in the next pass, and one in
    // the middle of `exec` has no environment for a moment.
    for _ in 0..5 {
        let (mut found, mut unsure) = (0, 0);
        for pid in all_processes() {
            if pid == me {
                continue;
            }
            let Ok(content) = fs::read(format!("/proc/{pid}/environ")) else {
                continue;
            };
            if content.is_empty() {
                unsure += usize::from(may_be_executing(pid));
            } else if content
                .split(|byte| *byte == 0)
                .any(|entry| entry.starts_with(mark.as_bytes()))
                && start_ticks(pid).is_some()
                && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
            {
                found += 1;
            }
        }
        killed += found;
        if found == 0 && unsure == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    killed
}

/// Neither a zombie nor a thread of the kernel, which never have an environment.
fn may_be_executing(pid: i32) -> bool {
    const KERNEL_THREADS: i32 = 2;
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        parse_start_ticks(&stat).is_some()
            && pid != KERNEL_THREADS
            && parse_parent(&stat) != Some(KERNEL_THREADS)
    })
}

/// Ids of all processes.
pub fn all_processes() -> Vec<i32> {
    fs::read_dir("/proc")
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_hostile_command_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 987654 1 2 3";
        assert_eq!(parse_start_ticks(stat), Some(987_654));
        assert_eq!(parse_start_ticks(&stat.replace(") S", ") Z")), None);
        assert_eq!(parse_start_ticks("garbage"), None);
        assert_eq!(parse_parent(stat), Some(1));
        assert_eq!(parse_threads(stat), Some(1));
        assert_eq!(parse_cpu_ticks(stat), Some(3));
        assert_eq!(parse_cpu_ticks("1 (a) S 1"), Some(0));
    }

    #[test]
    fn the_machine_works_when_it_is_not_idle() {
        let stat = "cpu  10 1 5 1000 7 2 3 4 6 0\ncpu0 10 1 5 1000 7 2 3 4 6 0\n";
        assert_eq!(parse_busy_ticks(stat), Some(25));
        assert_eq!(parse_busy_ticks("intr 5"), None);
        assert!(busy_ticks_of_the_machine().is_some_and(|ticks| ticks > 0));
    }

    #[test]
    fn own_process_is_described() {
        let me = std::process::id() as i32;
        assert!(start_ticks(me).is_some());
        let parent = std::os::unix::process::parent_id() as i32;
        assert!(ProcessTable::read().descendants(parent).contains(&me));
        assert!(resident_bytes(me) > 1 << 20);
        assert!(proportional_bytes(me).is_some_and(|bytes| bytes > 0));
        assert!(environment(me).is_some_and(|variables| !variables.is_empty()));
    }
}
