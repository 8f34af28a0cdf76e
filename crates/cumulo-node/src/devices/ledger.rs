//! Who has which device of this node: read, decided and remembered in one place.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cumulo_api::GpuAsk;
use cumulo_schedule::solver::WHOLE;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::decide::{Held, Holder, Refusal, counted_once};
use super::mig::{Change, Given, Managed, Manager, MigInstances, Plan, exactly, plan};
use super::reach::{Reach, reach};
use super::snapshot::Snapshot;
use super::{ReadError, Reader};

/// The devices of a node and who has them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// The node.
    pub node: String,
    /// What was read.
    pub snapshot: Snapshot,
    /// Pods with devices.
    pub holders: Vec<Holder>,
    /// Whether instances are made for pods, and which were.
    #[serde(default)]
    pub managed: Managed,
}

/// Who has which device. The pods' own records are what outlives a restart; this
/// is made from them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    reader: Arc<dyn Reader>,
    manager: Arc<Manager>,
    /// Whoever decides holds it until what was decided is written here: instances may
    /// have to be made in between.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// By the pod's uid.
    holders: Arc<Mutex<BTreeMap<String, Holder>>>,
}

impl Ledger {
    /// A ledger whose journal of MIG instances is this file.
    pub fn new(reader: Box<dyn Reader>, journal: PathBuf, instances: MigInstances) -> Self {
        let reader: Arc<dyn Reader> = reader.into();
        Self {
            manager: Arc::new(Manager::new(Arc::clone(&reader), journal, instances)),
            reader,
            turn: Arc::default(),
            holders: Arc::default(),
        }
    }

    /// Closes what an earlier node agent left open of MIG instances.
    pub async fn recover(&self) {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if let Err(error) = self.settle(turn).await {
            tracing::warn!(error, "cannot finish a change of mig instances yet");
        }
    }

    /// Nothing is open of MIG instances. As long as something is, no pod can be given any:
    /// it might be one that is about to go.
    async fn settle(&self, turn: OwnedMutexGuard<()>) -> Result<OwnedMutexGuard<()>, String> {
        if !self.manager.is_needed() {
            return Ok(turn);
        }
        let manager = Arc::clone(&self.manager);
        let work = tokio::task::spawn_blocking(move || match manager.recover() {
            Ok(()) => Ok(turn),
            Err(error) => Err(error.to_string()),
        });
        work.await.map_err(|error| error.to_string())?
    }

    /// Whether instances are made for pods, and which were.
    pub fn managed(&self) -> Managed {
        self.manager.managed()
    }

    /// Reads the devices, off the async threads.
    pub async fn read(&self) -> Result<Snapshot, ReadError> {
        let reader = Arc::clone(&self.reader);
        tokio::task::spawn_blocking(move || reader.read())
            .await
            .unwrap_or_else(|error| Err(ReadError::Driver(error.to_string())))
    }

    /// Gives a pod what it asks for. One that has something keeps it.
    pub async fn allocate(
        &self,
        uid: &str,
        namespace: &str,
        pod: &str,
        ask: &GpuAsk,
    ) -> Result<Vec<Held>, Refusal> {
        if let Some(holder) = self.holders.lock().get(uid) {
            return Ok(holder.held.clone());
        }
        let busy = |error: String| Refusal::Busy(format!("asks for {ask}; {error}"));
        let unread = |error: ReadError| busy(error.to_string());
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let turn = self.settle(turn).await.map_err(busy)?;
        let snapshot = self.read().await.map_err(unread)?;
        let plan = {
            let holders = self.holders.lock();
            let others: Vec<&Holder> = holders.values().collect();
            plan(&snapshot, &others, ask, &self.managed())?
        };
        let (_turn, held) = self.carry_out(turn, snapshot, plan).await.map_err(busy)?;
        let mut holders = self.holders.lock();
        let holder = Holder {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            held: held.clone(),
            energy: None,
        };
        holders.insert(uid.to_owned(), holder);
        Ok(held)
    }

    /// Makes what a plan wants, and tells what the pod holds then.
    async fn carry_out(
        &self,
        turn: OwnedMutexGuard<()>,
        snapshot: Snapshot,
        plan: Plan,
    ) -> Result<(OwnedMutexGuard<()>, Vec<Held>), String> {
        let (turn, snapshot) = if plan.changes.is_empty() {
            (turn, snapshot)
        } else {
            let turn = self.change(turn, plan.changes).await;
            let turn =
                turn.map_err(|error| format!("no instance could be made for it: {error}"))?;
            (turn, self.read().await.map_err(|error| error.to_string())?)
        };
        let held = plan.given.iter().map(|given| given.resolve(&snapshot));
        let held: Option<Vec<Held>> = held.collect();
        let held = held.ok_or("the instance that was made for it is gone")?;
        Ok((turn, held))
    }

    /// Changes instances. Goes on when nobody waits for it any more, and keeps the turn
    /// until then.
    async fn change(
        &self,
        turn: OwnedMutexGuard<()>,
        changes: Vec<Change>,
    ) -> Result<OwnedMutexGuard<()>, String> {
        let manager = Arc::clone(&self.manager);
        let work = tokio::task::spawn_blocking(move || {
            for change in changes {
                manager.change(change).map_err(|error| error.to_string())?;
            }
            Ok(turn)
        });
        work.await.map_err(|error| error.to_string())?
    }

    /// Gives a pod what was decided elsewhere, as long as no other holds it. Instances
    /// that are not there yet are made.
    pub async fn take(
        &self,
        uid: &str,
        namespace: &str,
        pod: &str,
        decided: impl FnOnce(&Snapshot) -> Result<Vec<Given>, Refusal>,
    ) -> Result<Vec<Held>, Refusal> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let turn = self.settle(turn).await.map_err(Refusal::Busy)?;
        let snapshot = self
            .read()
            .await
            .map_err(|error| Refusal::Busy(error.to_string()))?;
        let decided = decided(&snapshot)?;
        let plan = {
            let holders = self.holders.lock();
            let others = holders.iter().filter(|(holder, _)| holder.as_str() != uid);
            let others: Vec<&Holder> = others.map(|(_, holder)| holder).collect();
            exactly(&snapshot, &others, decided, &self.managed())?
        };
        let carried_out = self.carry_out(turn, snapshot, plan).await;
        let (_turn, held) = carried_out.map_err(Refusal::Busy)?;
        let mut holders = self.holders.lock();
        let holder = Holder {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            held: held.clone(),
            energy: None,
        };
        // Pods without a scheduler of Cumulo get devices that nobody else knows of.
        let others = holders.iter().filter(|(holder, _)| holder.as_str() != uid);
        let all: Vec<&Holder> = others.map(|(_, holder)| holder).chain([&holder]).collect();
        if let Some(too_much) = overcommitted(&counted_once(&all), &held) {
            return Err(Refusal::Busy(format!(
                "it was given {}, of which other pods on this node have too much",
                too_much.visible()
            )));
        }
        holders.insert(uid.to_owned(), holder);
        Ok(held)
    }

    /// What a pod got from an earlier engine.
    pub fn adopt(&self, uid: &str, holder: Holder) {
        self.holders.lock().insert(uid.to_owned(), holder);
    }

    /// Who has what, by the pod's uid.
    pub fn holders(&self) -> BTreeMap<String, Holder> {
        self.holders.lock().clone()
    }

    /// The pod is over: others may have what it had. Whether it had something.
    pub fn free(&self, uid: &str) -> bool {
        self.holders.lock().remove(uid).is_some()
    }

    /// How a container reaches what its pod holds.
    pub async fn reach(&self, held: &[Held], confined: bool) -> Reach {
        let snapshot = match held {
            // Nothing is read for containers that have nothing.
            [] => Snapshot::default(),
            _ => self.read().await.unwrap_or_default(),
        };
        reach(&snapshot, held, confined)
    }
}

/// The first of what a pod holds that all holders together have more of than there is.
fn overcommitted<'a>(all: &[Holder], held: &'a [Held]) -> Option<&'a Held> {
    let parts = || all.iter().flat_map(|holder| &holder.held);
    let mut held = held.iter().filter(|one| one.is_taken());
    held.find(|one| match &one.instance {
        Some(_) => parts().filter(|part| part.instance == one.instance).count() > 1,
        None => {
            let same = parts().filter(|part| part.gpu == one.gpu);
            same.fold(0u32, |sum, part| sum.saturating_add(part.milli)) > WHOLE
        }
    })
}
