//! Limits without control groups: what a container's processes use is
//! sampled, and the container is killed when it exceeds its limits.
//!
//! One task samples all containers. Resident memory is cheap to read but
//! counts shared pages once for each process; only when it exceeds the limit
//! is the exact figure read. Processes are counted when the machine has
//! noticeably more of them than at the last count: `RLIMIT_NPROC` would count
//! all of the user's, and does not hold for root.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::process::{self, ProcessTable};

/// Processes come and go slower than memory is filled: who belongs to a
/// container is looked up every so many samples.
const TABLE_EVERY: u32 = 4;
/// Processes are counted anew when so much of the limit was added.
const NOTICEABLE: u64 = 8;

/// What a container may use at most.
#[derive(Debug, Clone, Copy, Default)]
pub struct Most {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// What it used, and was too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excess {
    /// Bytes of memory.
    Memory(u64),
    /// Processes and threads.
    Tasks(u64),
}

struct Watched {
    supervisor: i32,
    most: Most,
    members: Vec<i32>,
    gone: CancellationToken,
    exceeded: Option<oneshot::Sender<Excess>>,
}

/// Samples what containers use.
#[derive(Clone, Default)]
pub struct Sampler {
    watched: Arc<Mutex<Vec<Watched>>>,
    added: Arc<Notify>,
}

impl Sampler {
    /// Watches everything below a supervisor until `gone`; the receiver gets
    /// what was used when it exceeds a limit.
    pub fn watch(
        &self,
        supervisor: i32,
        most: Most,
        gone: CancellationToken,
    ) -> oneshot::Receiver<Excess> {
        let (exceeded, receiver) = oneshot::channel();
        self.watched.lock().push(Watched {
            supervisor,
            most,
            members: Vec::new(),
            gone,
            exceeded: Some(exceeded),
        });
        self.added.notify_one();
        receiver
    }

    /// Samples until cancelled; sleeps while nothing has a limit.
    pub async fn run(self, interval: Duration, shutdown: CancellationToken) {
        let mut round = 0u32;
        let mut counted = 0;
        loop {
            if self.watched.lock().is_empty() {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.added.notified() => round = 0,
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            let watched = Arc::clone(&self.watched);
            let renew = round.is_multiple_of(TABLE_EVERY);
            round = round.wrapping_add(1);
            let work = move || sample(&mut watched.lock(), renew, counted);
            counted = tokio::task::spawn_blocking(work).await.unwrap_or(counted);
        }
    }
}

/// One round. `counted` is how many tasks the machine had when they were
/// counted last; gives the new figure.
fn sample(watched: &mut Vec<Watched>, renew: bool, counted: u64) -> u64 {
    watched.retain(|entry| !entry.gone.is_cancelled() && entry.exceeded.is_some());
    let memory = watched
        .iter()
        .any(|entry| entry.most.memory.is_some() && (renew || entry.members.is_empty()));
    let now = process::tasks_of_the_machine().unwrap_or(u64::MAX);
    let noticeable = watched
        .iter()
        .filter_map(|entry| entry.most.tasks)
        .min()
        .is_some_and(|limit| now > counted.saturating_add(limit / NOTICEABLE));
    let table = (memory || noticeable).then(ProcessTable::read);
    for entry in watched.iter_mut() {
        if let Some(table) = &table {
            entry.members = table.descendants(entry.supervisor).into_iter().collect();
            let tasks = table.threads(&entry.members);
            if entry.most.tasks.is_some_and(|limit| tasks > limit) {
                report(entry, Excess::Tasks(tasks));
            }
        }
        let Some(limit) = entry.most.memory else {
            continue;
        };
        let resident: u64 = entry
            .members
            .iter()
            .map(|pid| process::resident_bytes(*pid))
            .sum();
        if resident <= limit {
            continue;
        }
        let exact: u64 = entry
            .members
            .iter()
            .map(|pid| process::proportional_bytes(*pid).unwrap_or(0))
            .sum();
        if exact > limit {
            report(entry, Excess::Memory(exact));
        }
    }
    if table.is_some() {
        now
    } else {
        counted.min(now)
    }
}

fn report(entry: &mut Watched, excess: Excess) {
    if let Some(exceeded) = entry.exceeded.take() {
        // The container may have ended.
        let _ = exceeded.send(excess);
    }
}
