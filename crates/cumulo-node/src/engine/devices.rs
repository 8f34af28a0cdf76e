//! What pods do with the node's devices while they have them: MPS daemons for those
//! that share one, the watch over their memory, the energy that they use.
//!
//! Nothing is looked at while no pod has a device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Shared;
use crate::devices::sharing::limits::{environment, shared, wanted};
use crate::devices::sharing::{Daemons, Means, Worth, worth};
use crate::devices::watch::{Uses, Verdict, Watchdog, excesses, uses};
use crate::devices::{Energy, Held, Holder, Ledger, Meter, Snapshot};
use crate::options::Options;
use crate::process::{self, ProcessTable};

/// What a pod is told of its devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// What its limits are worth.
    pub worth: Option<Worth>,
    /// Whether it keeps to them.
    pub verdict: Verdict,
}

/// What is kept between looks.
pub(super) struct Keeper {
    daemons: tokio::sync::Mutex<Daemons>,
    meter: Mutex<Meter>,
    changed: Notify,
}

/// What a container needs to share a GPU.
#[derive(Debug, Clone, Default)]
pub(super) struct Joined {
    /// Variables that it must have.
    pub environment: Vec<(String, String)>,
    /// Folders that it must reach.
    pub folders: Vec<std::path::PathBuf>,
}

impl Keeper {
    pub fn new(options: &Options) -> Self {
        let root = options.root.join("mps");
        Self {
            daemons: tokio::sync::Mutex::new(Daemons::new(options.mps.clone(), root)),
            meter: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Who has what has changed.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    /// What a container of a pod with these devices needs; starts the daemon that it
    /// shares its GPU through.
    pub async fn join(&self, ledger: &Ledger, held: &[Held]) -> Joined {
        let Some(one) = shared(held) else {
            return Joined::default();
        };
        let mut daemons = self.daemons.lock().await;
        let Ok(snapshot) = ledger.read().await else {
            return Joined::default();
        };
        let holders = ledger.holders();
        daemons
            .settle(&wanted(&snapshot, holders.values()), true)
            .await;
        self.changed();
        if daemons.state(&one.gpu).is_err() {
            return Joined::default();
        }
        let pipes = daemons.pipes(&one.gpu);
        Joined {
            environment: environment(one, &pipes.display().to_string()),
            folders: vec![pipes],
        }
    }

    /// What a pod has used.
    pub fn energy(&self, uid: &str) -> Option<Energy> {
        self.meter.lock().of(uid)
    }

    /// Stops the daemons that nobody needs, at the end.
    pub async fn settle(&self, ledger: &Ledger) {
        let mut daemons = self.daemons.lock().await;
        let Ok(snapshot) = ledger.read().await else {
            return;
        };
        let holders = ledger.holders();
        daemons
            .settle(&wanted(&snapshot, holders.values()), false)
            .await;
    }
}

/// Looks after the devices until the engine is closed.
pub(super) async fn keep(shared: Weak<Shared>) {
    let mut watchdog = Watchdog::default();
    let mut last: Option<Instant> = None;
    let ledger = shared.upgrade().map(|shared| shared.devices.clone());
    if let Some(ledger) = ledger {
        ledger.recover().await;
    }
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let shutdown = strong.shutdown.clone();
        if shutdown.is_cancelled() {
            return;
        }
        look(&strong, &mut watchdog, &mut last).await;
        let keeper = Arc::clone(&strong.keeper);
        let pause = if strong.devices.holders().is_empty() {
            last = None;
            None
        } else {
            Some(strong.options.watch_interval)
        };
        // The engine ends when nobody holds it; this must not.
        drop(strong);
        let wait = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = keeper.changed.notified() => {}
            () = wait => {}
        }
    }
}

/// One look.
async fn look(shared: &Arc<Shared>, watchdog: &mut Watchdog, last: &mut Option<Instant>) {
    let holders = shared.devices.holders();
    let snapshot = match shared.devices.read().await {
        Ok(snapshot) => snapshot,
        // The agent, which publishes the devices, says so.
        Err(error) => {
            tracing::debug!(%error, "cannot watch the node's devices");
            return;
        }
    };
    let elapsed = last
        .replace(Instant::now())
        .map_or(Duration::ZERO, |last| last.elapsed());
    let supervisors = supervisors(shared);
    let read = snapshot.clone();
    let uses = tokio::task::spawn_blocking(move || match_processes(&read, &supervisors))
        .await
        .unwrap_or_default();
    let verdicts = watchdog.look(excesses(&holders, &uses), shared.options.over_memory);
    shared
        .keeper
        .meter
        .lock()
        .add(&snapshot, elapsed, &holders, &uses);
    let worth = settle(shared, &snapshot, &holders).await;
    tell(shared, &worth, &verdicts);
}

/// The supervisors of each pod's running containers.
fn supervisors(shared: &Shared) -> Vec<(String, Vec<i32>)> {
    let pods = shared.pods.lock();
    pods.iter()
        .map(|(uid, entry)| {
            let snapshot = entry.snapshot.borrow();
            let containers = snapshot.iter().flat_map(|now| &now.containers);
            let running = containers.filter_map(|container| container.running.as_ref());
            (uid.clone(), running.map(|one| one.supervisor).collect())
        })
        .collect()
}

fn match_processes(snapshot: &Snapshot, supervisors: &[(String, Vec<i32>)]) -> Uses {
    if snapshot.gpus.iter().all(|gpu| gpu.processes.is_empty()) {
        return uses(snapshot, &BTreeMap::new(), |_| false);
    }
    let table = ProcessTable::read();
    let members: BTreeMap<String, BTreeSet<i32>> = supervisors
        .iter()
        .map(|(uid, supervisors)| {
            let pids = supervisors.iter().flat_map(|pid| table.descendants(*pid));
            (uid.clone(), pids.collect())
        })
        .collect();
    uses(snapshot, &members, |pid| {
        process::start_ticks(pid).is_some()
    })
}

/// Brings the daemons up to date; what each pod's limits are worth then.
async fn settle(
    shared: &Shared,
    snapshot: &Snapshot,
    holders: &BTreeMap<String, Holder>,
) -> BTreeMap<String, Worth> {
    let mut daemons = shared.keeper.daemons.lock().await;
    daemons
        .settle(&wanted(snapshot, holders.values()), false)
        .await;
    holders
        .iter()
        .filter_map(|(uid, holder)| {
            let name = &holder.held.first()?.gpu;
            let gpu = snapshot.gpus.iter().find(|gpu| gpu.identity() == *name);
            let means = match daemons.state(name) {
                Ok(limits) => Means::Mps(limits),
                Err(error) => Means::Turns(error.to_string()),
            };
            Some((uid.clone(), worth(&holder.held, gpu, &means)?))
        })
        .collect()
}

/// Tells the pods' workers what changed.
fn tell(shared: &Shared, worth: &BTreeMap<String, Worth>, verdicts: &BTreeMap<String, Verdict>) {
    for (uid, entry) in shared.pods.lock().iter() {
        let told = Told {
            worth: worth.get(uid).cloned(),
            verdict: verdicts.get(uid).cloned().unwrap_or_default(),
        };
        entry.desired.send_if_modified(|desired| {
            let changed = desired.devices != told;
            if changed {
                desired.devices = told;
            }
            changed
        });
    }
}
