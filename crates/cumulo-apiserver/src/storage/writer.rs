//! The one task that writes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::database::{Database, Outcome};
use super::memory::{Change, ChangeKind, State};
use super::object::{Key, Object};
use super::{Action, Expected, Request, WriteError};

/// Writes taken into one transaction.
const BATCH: usize = 512;
/// Bytes taken into one transaction.
const BATCH_BYTES: usize = 8 << 20;

pub(super) type Reply = oneshot::Sender<Result<Arc<Object>, WriteError>>;

/// Owner of the database. Run it for as long as the store is used.
#[derive(Debug)]
pub struct Writer {
    database: Database,
    state: Arc<RwLock<State>>,
    requests: mpsc::Receiver<Request>,
    suspects: Arc<Notify>,
    announce: watch::Sender<u64>,
}

/// A write that waits.
#[derive(Debug)]
pub(super) struct Write {
    pub key: Key,
    pub expected: Expected,
    pub action: Action,
    pub reply: Reply,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        state: Arc<RwLock<State>>,
        requests: mpsc::Receiver<Request>,
        suspects: Arc<Notify>,
        announce: watch::Sender<u64>,
    ) -> Self {
        Self {
            database,
            state,
            requests,
            suspects,
            announce,
        }
    }

    /// Stores what comes until `stop`, then what has queued up by then, and
    /// closes the file.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut stopping = false;
        loop {
            let first = if stopping {
                self.requests.recv().await
            } else {
                tokio::select! {
                    request = self.requests.recv() => request,
                    () = stop.cancelled() => {
                        stopping = true;
                        self.requests.close();
                        continue;
                    }
                }
            };
            let Some(first) = first else { break };
            self.take(first).await;
        }
        self.database.close().await;
    }

    /// Handles one batch. Dropped while it waits, nothing is lost; it is not to be
    /// dropped while it stores.
    pub async fn step(&mut self) {
        if let Some(first) = self.requests.recv().await {
            self.take(first).await;
        }
    }

    /// Handles a request and whatever else waits, up to a full batch.
    async fn take(&mut self, first: Request) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(request) = next.take() {
            match request {
                Request::Write(write) => {
                    if let Action::Put(draft) = &write.action {
                        bytes += draft.size();
                    }
                    batch.push(*write);
                }
                Request::Copy { path, reply } => {
                    self.commit(std::mem::take(&mut batch)).await;
                    let _ = reply.send(self.database.copy_to(&path).await);
                }
            }
            if batch.len() < BATCH && bytes < BATCH_BYTES {
                next = self.requests.try_recv().ok();
            }
        }
        self.commit(batch).await;
    }

    async fn commit(&mut self, batch: Vec<Write>) {
        if batch.is_empty() {
            return;
        }
        let mut version = self.state.read().version();
        let mut outcome: Outcome = HashMap::new();
        let mut changes = Vec::with_capacity(batch.len());
        let mut replies: Vec<(Reply, Result<Arc<Object>, WriteError>)> =
            Vec::with_capacity(batch.len());
        for write in batch {
            let current = match outcome.get(&write.key) {
                Some(pending) => pending.clone(),
                None => self.state.read().get(&write.key).cloned(),
            };
            let refused = match (write.expected, &current) {
                (Expected::Absent, Some(_)) => Some(WriteError::Exists),
                (Expected::Version(wanted), Some(object)) if object.version == wanted => None,
                (Expected::Version(_), _) => Some(WriteError::Stale),
                (Expected::Absent, None) => None,
            };
            if let Some(error) = refused {
                replies.push((write.reply, Err(error)));
                continue;
            }
            let (kind, object) = match (&write.action, &current) {
                (Action::Put(draft), _) => {
                    let kind = if current.is_some() {
                        ChangeKind::Modified
                    } else {
                        ChangeKind::Added
                    };
                    (kind, draft.finish(write.key.id.clone(), version + 1))
                }
                (Action::Delete, Some(object)) => {
                    (ChangeKind::Deleted, object.with_version(version + 1))
                }
                (Action::Delete, None) => {
                    replies.push((write.reply, Err(WriteError::Stale)));
                    continue;
                }
            };
            version += 1;
            let object = Arc::new(object);
            let kept = (kind != ChangeKind::Deleted).then(|| object.clone());
            outcome.insert(write.key.clone(), kept);
            replies.push((write.reply, Ok(object.clone())));
            changes.push((
                write.key.resource,
                Change {
                    version,
                    kind,
                    object,
                    previous: current,
                },
            ));
        }
        if !changes.is_empty() {
            if let Err(error) = self.database.persist(&outcome, version).await {
                tracing::error!(%error, writes = changes.len(), "batch not stored");
                for (reply, result) in replies {
                    let result = result.and(Err(error.clone().into()));
                    let _ = reply.send(result);
                }
                return;
            }
            let has_suspects = {
                let mut state = self.state.write();
                state.apply(changes);
                state.has_suspects()
            };
            self.announce.send_replace(version);
            if has_suspects {
                self.suspects.notify_one();
            }
        }
        for (reply, result) in replies {
            // Whoever asked may have gone; what was written stays written.
            let _ = reply.send(result);
        }
    }
}
