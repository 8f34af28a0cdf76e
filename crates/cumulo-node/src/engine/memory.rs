//! Memory limits without cgroups: the memory of a container's processes is
//! sampled, and the container is killed when it exceeds its limit.
//!
//! One task samples all containers that have a limit. Resident memory is
//! cheap to read but counts shared pages once for each process; only when it
//! exceeds the limit is the exact figure read.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::process::{self, ProcessTable};

/// Processes come and go slower than memory is filled: who belongs to a
/// container is looked up every so many samples.
const TABLE_EVERY: u32 = 4;

struct Watched {
    supervisor: i32,
    limit: u64,
    members: Vec<i32>,
    gone: CancellationToken,
    exceeded: Option<oneshot::Sender<u64>>,
}

/// Samples the memory of containers.
#[derive(Clone, Default)]
pub struct Sampler {
    watched: Arc<Mutex<Vec<Watched>>>,
    added: Arc<Notify>,
}

impl Sampler {
    /// Watches everything below a supervisor until `gone`; the receiver gets
    /// the bytes in use when they exceed the limit.
    pub fn watch(
        &self,
        supervisor: i32,
        limit: u64,
        gone: CancellationToken,
    ) -> oneshot::Receiver<u64> {
        let (exceeded, receiver) = oneshot::channel();
        self.watched.lock().push(Watched {
            supervisor,
            limit,
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
            let _ = tokio::task::spawn_blocking(move || sample(&mut watched.lock(), renew)).await;
        }
    }
}

fn sample(watched: &mut Vec<Watched>, renew: bool) {
    watched.retain(|entry| !entry.gone.is_cancelled() && entry.exceeded.is_some());
    let table =
        (renew || watched.iter().any(|entry| entry.members.is_empty())).then(ProcessTable::read);
    for entry in watched.iter_mut() {
        if let Some(table) = &table {
            entry.members = table.descendants(entry.supervisor).into_iter().collect();
        }
        let resident: u64 = entry
            .members
            .iter()
            .map(|pid| process::resident_bytes(*pid))
            .sum();
        if resident <= entry.limit {
            continue;
        }
        let exact: u64 = entry
            .members
            .iter()
            .map(|pid| process::proportional_bytes(*pid).unwrap_or(0))
            .sum();
        if exact > entry.limit
            && let Some(exceeded) = entry.exceeded.take()
        {
            let _ = exceeded.send(exact);
        }
    }
}
