//! What containers and the machine use: processor time from `/proc`, as a rate
//! over the time between two samples, and memory.
//!
//! Nothing is sampled while nobody asks: the first question waits a second for
//! its second sample, later ones compare with what the one before found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Mutex;

use crate::process::{self, ProcessTable};

/// Rates over less time than this say little: the kernel counts in hundredths
/// of a second.
const SHORTEST: Duration = Duration::from_secs(1);
/// A sample that is older than this is no beginning of a rate: it would hide
/// what happens now.
const LONGEST: Duration = Duration::from_secs(60);
/// An answer this young is given again.
const FRESH: Duration = Duration::from_secs(2);

/// What something uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processors, in thousand-millionths.
    pub cpu_nanocores: u64,
    /// Processor time since its start, in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// What a container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Uid of its pod.
    pub uid: String,
    /// Its name.
    pub container: String,
    /// What it uses.
    pub usage: Usage,
}

/// What a node and the containers on it use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUsage {
    /// The end of the window.
    pub at: Timestamp,
    /// The time over which rates were measured.
    pub window: Duration,
    /// The whole machine.
    pub machine: Usage,
    /// Each container that runs.
    pub containers: Vec<ContainerUsage>,
}

/// A container to measure.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub uid: String,
    pub container: String,
    pub supervisor: i32,
    pub started_at: Timestamp,
}

/// Counters at one moment.
struct Sample {
    taken: Instant,
    at: Timestamp,
    /// Clock ticks of all processors but the idle ones.
    machine_ticks: u64,
    machine_memory: u64,
    /// By supervisor: clock ticks so far, bytes.
    containers: BTreeMap<i32, (u64, u64)>,
}

/// Measures on demand. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Meter {
    last: Arc<Mutex<Last>>,
}

#[derive(Default)]
struct Last {
    sample: Option<Sample>,
    answer: Option<(Instant, NodeUsage)>,
}

impl Meter {
    /// What these containers and the machine use.
    pub async fn measure(&self, running: Vec<Running>) -> NodeUsage {
        // Whoever asks at the same time gets the same answer.
        let mut last = self.last.lock().await;
        let known: BTreeSet<(&str, &str)> = running
            .iter()
            .map(|one| (one.uid.as_str(), one.container.as_str()))
            .collect();
        if let Some((taken, answer)) = &last.answer
            && taken.elapsed() < FRESH
            && known
                == answer
                    .containers
                    .iter()
                    .map(|one| (one.uid.as_str(), one.container.as_str()))
                    .collect()
        {
            return answer.clone();
        }
        let before = match last.sample.take() {
            Some(sample) if (SHORTEST..LONGEST).contains(&sample.taken.elapsed()) => sample,
            _ => {
                let first = sample(&running).await;
                tokio::time::sleep(SHORTEST).await;
                first
            }
        };
        let now = sample(&running).await;
        let answer = compare(&before, &now, &running);
        last.answer = Some((now.taken, answer.clone()));
        last.sample = Some(now);
        answer
    }
}

/// The rates between two samples. A container that is missing in the first one
/// has been started since.
fn compare(before: &Sample, now: &Sample, running: &[Running]) -> NodeUsage {
    let window = now.taken.duration_since(before.taken);
    let containers = running
        .iter()
        .filter_map(|one| {
            let (ticks, memory) = *now.containers.get(&one.supervisor)?;
            let (earlier, window) = match before.containers.get(&one.supervisor) {
                Some((earlier, _)) => (*earlier, window),
                None => {
                    let age = now.at.duration_since(one.started_at);
                    (0, Duration::try_from(age).unwrap_or(SHORTEST).max(SHORTEST))
                }
            };
            Some(ContainerUsage {
                uid: one.uid.clone(),
                container: one.container.clone(),
                usage: Usage {
                    cpu_nanocores: nanocores(ticks.saturating_sub(earlier), window),
                    cpu_nanoseconds: ticks.saturating_mul(NANOSECONDS_OF_A_TICK),
                    memory_bytes: memory,
                },
            })
        })
        .collect();
    NodeUsage {
        at: now.at,
        window,
        machine: Usage {
            cpu_nanocores: nanocores(
                now.machine_ticks.saturating_sub(before.machine_ticks),
                window,
            ),
            cpu_nanoseconds: now.machine_ticks.saturating_mul(NANOSECONDS_OF_A_TICK),
            memory_bytes: now.machine_memory,
        },
        containers,
    }
}

/// Of clock ticks Linux shows a hundred for a second of one processor on the
/// platforms that are built for.
const NANOSECONDS_OF_A_TICK: u64 = 10_000_000;

fn nanocores(ticks: u64, window: Duration) -> u64 {
    let used = u128::from(ticks) * u128::from(NANOSECONDS_OF_A_TICK) * 1_000_000_000;
    u64::try_from(used / window.as_nanos().max(1)).unwrap_or(u64::MAX)
}

async fn sample(running: &[Running]) -> Sample {
    let supervisors: Vec<i32> = running.iter().map(|one| one.supervisor).collect();
    let work = move || {
        let table = ProcessTable::read();
        let containers = supervisors
            .into_iter()
            .map(|supervisor| {
                let members = table.descendants(supervisor);
                // What ended is counted by who waited for it, at last by the supervisor.
                let ticks = members
                    .iter()
                    .chain([&supervisor])
                    .filter_map(|pid| process::cpu_ticks(*pid))
                    .sum();
                let memory = members
                    .iter()
                    .map(|pid| {
                        process::proportional_bytes(*pid)
                            .unwrap_or_else(|| process::resident_bytes(*pid))
                    })
                    .sum();
                (supervisor, (ticks, memory))
            })
            .collect();
        Sample {
            taken: Instant::now(),
            at: Timestamp::now(),
            machine_ticks: process::busy_ticks_of_the_machine().unwrap_or(0),
            machine_memory: process::used_memory_of_the_machine().unwrap_or(0),
            containers,
        }
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(sample) => sample,
        // Only a panic gets here: nothing is known then.
        Err(_) => Sample {
            taken: Instant::now(),
            at: Timestamp::now(),
            machine_ticks: 0,
            machine_memory: 0,
            containers: BTreeMap::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64, ticks: u64, containers: &[(i32, u64)]) -> Sample {
        Sample {
            taken: start + Duration::from_secs(seconds),
            at: Timestamp::from_second(i64::try_from(1000 + seconds).unwrap()).unwrap(),
            machine_ticks: ticks,
            machine_memory: 7,
            containers: containers
                .iter()
                .map(|(supervisor, ticks)| (*supervisor, (*ticks, 42)))
                .collect(),
        }
    }

    #[test]
    fn rates_are_ticks_over_time() {
        let start = Instant::now();
        let container = |supervisor: i32, started: i64| Running {
            uid: format!("u{supervisor}"),
            container: "main".to_owned(),
            supervisor,
            started_at: Timestamp::from_second(1000 + started).unwrap(),
        };
        // 1 was there before, 2 began 4 seconds ago, 3 ended meanwhile.
        let running = [container(1, -50), container(2, 6), container(3, 0)];
        let found = compare(
            &at(start, 0, 1000, &[(1, 100), (3, 5)]),
            &at(start, 10, 2000, &[(1, 600), (2, 100)]),
            &running,
        );
        let cpu: Vec<(&str, u64)> = found
            .containers
            .iter()
            .map(|one| (one.uid.as_str(), one.usage.cpu_nanocores))
            .collect();
        assert_eq!(cpu, [("u1", 500_000_000), ("u2", 250_000_000)]);
        assert_eq!(found.machine.cpu_nanocores, 1_000_000_000);
        assert_eq!(found.containers[0].usage.memory_bytes, 42);
    }

    #[tokio::test]
    async fn this_machine_is_measured() {
        let meter = Meter::default();
        let found = meter.measure(Vec::new()).await;
        assert!(found.machine.memory_bytes > 1 << 20);
        assert!(found.window >= SHORTEST);
        // Asked again at once, the answer is the same.
        assert_eq!(meter.measure(Vec::new()).await, found);
    }
}
