//! Where objects are kept: all of them in memory for reads, every write in
//! SQLite before it is acknowledged.
//!
//! One task owns the database. It takes whatever writes have queued up, checks
//! each against the newest state, stores them in one transaction, and only then
//! shows them to readers and watchers. So a write costs one `fsync` shared with
//! its neighbours, versions are dense and ordered, and nothing unacknowledged is
//! ever seen.

mod database;
mod lock;
mod memory;
mod object;
mod writer;

#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use database::{DatabaseError, PersistError};
pub use lock::{FolderLock, LockError};
pub use memory::{Change, ChangeKind, FOREGROUND, HistoryLimits, ORPHAN, Page, Suspect, TooOld};
pub use object::{Draft, Key, LabelBits, Object, ObjectId, OwnerReference, field_text};
pub use writer::Writer;

use memory::State;
use writer::Write;

/// What a write does.
#[derive(Debug)]
pub enum Action {
    /// Store this.
    Put(Draft),
    /// Remove what is there.
    Delete,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing is there.
    Absent,
    /// This version is there.
    Version(u64),
}

/// Why a write did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// Something is there already.
    #[error("the object exists already")]
    Exists,
    /// Another version (or nothing) is there.
    #[error("the object has been modified")]
    Stale,
    /// The database did not store it.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// Too many writes are waiting.
    #[error("too many writes are waiting for the disk. Try again in a second")]
    Busy,
    /// The server is stopping.
    #[error("the server is stopping")]
    Closed,
}

#[derive(Debug)]
enum Request {
    Write(Box<Write>),
    Copy {
        path: PathBuf,
        reply: oneshot::Sender<Result<(), PersistError>>,
    },
}

/// Writes that may wait for the writer at once.
const QUEUE: usize = 4096;
/// How long a write waits for a place in the queue before it is refused.
const QUEUE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Access to the objects. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    state: Arc<RwLock<State>>,
    requests: mpsc::Sender<Request>,
    suspects: Arc<Notify>,
    written: watch::Receiver<u64>,
}

/// Opens the database in a folder and reads it.
pub async fn open(
    folder: &Path,
    limits: HistoryLimits,
    size_limit: Option<u64>,
) -> Result<(Store, Writer), DatabaseError> {
    let path = folder.join("objects.sqlite");
    let mut database = database::Database::open(&path, size_limit).await?;
    let state = database.load(&path, limits).await?;
    let version = state.version();
    let state = Arc::new(RwLock::new(state));
    let (sender, receiver) = mpsc::channel(QUEUE);
    let suspects = Arc::new(Notify::new());
    let (announce, written) = watch::channel(version);
    let store = Store {
        state: state.clone(),
        requests: sender,
        suspects: suspects.clone(),
        written,
    };
    let writer = Writer::new(database, state, receiver, suspects, announce);
    Ok((store, writer))
}

impl Store {
    /// The newest version.
    pub fn version(&self) -> u64 {
        self.state.read().version()
    }

    /// Tells of every write, of whatever resource.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    /// The object at a key.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.state.read().get(key).cloned()
    }

    /// The object at a key, and the newest version: of one moment.
    pub fn get_and_version(&self, key: &Key) -> (Option<Arc<Object>>, u64) {
        let state = self.state.read();
        (state.get(key).cloned(), state.version())
    }

    /// The object with a uid, and its key.
    pub fn by_uid(&self, uid: &str) -> Option<(Key, Arc<Object>)> {
        let state = self.state.read();
        let key = state.by_uid(uid)?.clone();
        let object = state.get(&key)?.clone();
        Some((key, object))
    }

    /// Keys of the objects that name a uid as owner.
    pub fn dependents(&self, uid: &str) -> Vec<Key> {
        self.state.read().dependents(uid)
    }

    /// Resources that hold something in a namespace, with how many.
    pub fn contents(&self, namespace: &str) -> Vec<(Arc<str>, usize)> {
        self.state.read().contents(namespace)
    }

    /// A page of a list; see [`Page`].
    pub fn page(
        &self,
        resource: &str,
        namespace: Option<&str>,
        at: Option<u64>,
        after: Option<&ObjectId>,
        max: usize,
        wanted: LabelBits,
    ) -> Result<Page, TooOld> {
        self.state
            .read()
            .page(resource, namespace, at, after, max, wanted)
    }

    /// All objects of a resource.
    pub fn all(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.page(resource, namespace, None, None, 0, LabelBits::default())
            .map(|page| page.objects)
            .unwrap_or_default()
    }

    /// Tells when something of a resource changes.
    pub fn subscribe(&self, resource: &Arc<str>) -> watch::Receiver<u64> {
        self.state.write().subscribe(resource)
    }

    /// Changes of a resource after a version (at most `max`), and the version up
    /// to which they are complete when fewer than `max` are given.
    pub fn changes(
        &self,
        resource: &str,
        after: u64,
        max: usize,
    ) -> Result<(Vec<Arc<Change>>, u64), TooOld> {
        let state = self.state.read();
        Ok((state.changes(resource, after, max)?, state.version()))
    }

    /// Nobody is told of changes any more: who waits for one learns that it is over.
    pub fn end_watches(&self) {
        self.state.write().end_watches();
    }

    /// Forgets history, as a compaction does.
    pub fn compact(&self) {
        self.state.write().compact();
    }

    /// Stores or removes an object. Returns it as stored; a removed one under the
    /// version of its removal.
    pub async fn write(
        &self,
        key: Key,
        expected: Expected,
        action: Action,
    ) -> Result<Arc<Object>, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Write(Box::new(Write {
            key,
            expected,
            action,
            reply,
        })))
        .await?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// Writes a consistent copy of the database to a new file, while running.
    pub async fn copy_to(&self, path: &Path) -> Result<(), WriteError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Copy {
            path: path.to_owned(),
            reply,
        })
        .await?;
        answer.await.map_err(|_| WriteError::Closed)??;
        Ok(())
    }

    async fn send(&self, request: Request) -> Result<(), WriteError> {
        match tokio::time::timeout(QUEUE_PATIENCE, self.requests.send(request)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(WriteError::Closed),
            Err(_) => Err(WriteError::Busy),
        }
    }

    /// Waits until the garbage collector has something to look at, and takes it.
    pub async fn suspects(&self) -> std::collections::HashSet<Suspect> {
        loop {
            let notified = self.suspects.notified();
            {
                let mut state = self.state.write();
                if state.has_suspects() {
                    return state.take_suspects();
                }
            }
            notified.await;
        }
    }

    /// Puts something back for the garbage collector.
    pub fn suspect(&self, suspect: Suspect) {
        self.state.write().suspect(suspect);
        self.suspects.notify_one();
    }
}
