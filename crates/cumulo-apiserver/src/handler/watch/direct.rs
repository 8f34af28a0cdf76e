//! Events written straight to the connections that watch.
//!
//! A connection is a task of HTTP's machinery; to wake one for each watcher and to go
//! through all of its layers is most of what an event costs when hundreds watch the
//! same resource. So a watch that has said all there is lends its connection, and
//! when something changes a few threads, at most one per core, go through all watches
//! of the resource: each event is encoded once, framed as a chunk of HTTP/1.1
//! (RFC 9112, section 7.1), encrypted and sent. A watch whose connection is not idle,
//! that has much to say, or that a slow reader blocks, is called and goes on by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::watch;

use super::FRAME;
use super::encode::{self, Encoder};
use crate::connection::SharedStream;
use crate::handler::respond::View;
use crate::operation::{Changes, WatchAlarm, WatchCursor, WatchEvents, WatchedKind};
use crate::resource::ResourceType;
use crate::storage::Change;

/// Watches that a thread takes at once from those that are left.
const BLOCK: usize = 16;
/// Blocks after which a thread that goes through them asks for no more help.
const PATIENCE: usize = 5;

/// Who watches over a connection that can be lent, by what is stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fanout(Arc<Mutex<HashMap<Arc<str>, Arc<Group>>>>);

/// Who watches one resource.
#[derive(Debug, Default)]
struct Group {
    /// Copied when it changes while it is gone through.
    watchers: Mutex<Arc<Vec<Arc<Watcher>>>>,
    empty: Notify,
}

#[derive(Debug)]
struct Watcher {
    connection: SharedStream,
    // Locked before the connection is, by whoever produces its events.
    watch: Mutex<Watch>,
    /// Tells the body to go on by itself.
    called: Notify,
}

#[derive(Debug)]
struct Watch {
    cursor: WatchCursor,
    encoder: Encoder,
    /// The body is gone; the connection may answer something else by now.
    gone: bool,
}

impl Fanout {
    /// The frames that the body says by itself; what else there is goes straight to
    /// the connection.
    pub(super) fn watch(
        &self,
        events: WatchEvents,
        view: View,
        connection: SharedStream,
    ) -> impl Stream<Item = Bytes> + use<> {
        let (cursor, alarm) = events.into_parts();
        // Joined before it looks for the first time, so that nothing falls between.
        let place = Box::new(self.join(cursor, view, connection));
        futures::stream::unfold((place, alarm), |(place, mut alarm)| async move {
            let frame = place.next(&mut alarm).await?;
            Some((frame, (place, alarm)))
        })
    }

    fn join(&self, cursor: WatchCursor, view: View, connection: SharedStream) -> Place {
        let storage = cursor.resource().storage.clone();
        let store = cursor.engine().store.clone();
        let watcher = Arc::new(Watcher {
            connection,
            watch: Mutex::new(Watch {
                encoder: Encoder::new(&cursor, view),
                cursor,
                gone: false,
            }),
            called: Notify::new(),
        });
        let mut groups = self.0.lock();
        let group = groups.entry(storage.clone()).or_insert_with(|| {
            let group = Arc::new(Group::default());
            let changed = store.subscribe(&storage);
            tokio::spawn(self.clone().run(storage.clone(), group.clone(), changed));
            group
        });
        Arc::make_mut(&mut group.watchers.lock()).push(watcher.clone());
        Place {
            fanout: self.clone(),
            storage,
            group: group.clone(),
            watcher,
        }
    }

    /// Delivers until nobody watches, or nothing is told of any more.
    async fn run(self, storage: Arc<str>, group: Arc<Group>, mut changed: watch::Receiver<u64>) {
        let cores = tokio::runtime::Handle::current().metrics().num_workers();
        loop {
            let over = tokio::select! {
                () = group.empty.notified() => return,
                changed = changed.changed() => changed.is_err(),
            };
            if over {
                // Who comes from now on makes a new group.
                remove(&mut self.0.lock(), &storage, &group);
            }
            let watchers = group.watchers.lock().clone();
            if over {
                watchers.iter().for_each(|watcher| watcher.end());
                return;
            }
            let pass = Arc::new(Pass::new(watchers));
            let helpers = cores.min(pass.blocks()) - 1;
            let mut said = Said::default();
            for asked in 0.. {
                if asked == 0 {
                    (0..helpers).for_each(|_| pass.ask());
                } else if asked < PATIENCE && pass.helping() < helpers {
                    // The system may have put one behind this very thread.
                    pass.ask();
                }
                if !pass.block(&mut said) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

fn remove(groups: &mut HashMap<Arc<str>, Arc<Group>>, storage: &Arc<str>, group: &Arc<Group>) {
    if groups
        .get(storage)
        .is_some_and(|there| Arc::ptr_eq(there, group))
    {
        groups.remove(storage);
    }
}

/// All watchers of a resource, each to be looked at by one of several threads.
struct Pass {
    watchers: Arc<Vec<Arc<Watcher>>>,
    next: AtomicUsize,
    helping: AtomicUsize,
}

impl Pass {
    fn new(watchers: Arc<Vec<Arc<Watcher>>>) -> Self {
        Self {
            watchers,
            next: AtomicUsize::new(0),
            helping: AtomicUsize::new(0),
        }
    }

    fn blocks(&self) -> usize {
        self.watchers.len().div_ceil(BLOCK).max(1)
    }

    /// Asks for help. On threads of their own: what a task spawns from within itself
    /// shares its core for as long as that one yields.
    fn ask(self: &Arc<Self>) {
        let pass = self.clone();
        tokio::task::spawn_blocking(move || {
            pass.helping.fetch_add(1, Ordering::Relaxed);
            let mut said = Said::default();
            while pass.block(&mut said) {}
        });
    }

    /// How many have come to help.
    fn helping(&self) -> usize {
        self.helping.load(Ordering::Relaxed)
    }

    /// Delivers to a block of those that are left; false when none are.
    fn block(&self, said: &mut Said) -> bool {
        let from = self.next.fetch_add(BLOCK, Ordering::Relaxed);
        let left = self.watchers.get(from..).unwrap_or_default();
        for watcher in left.iter().take(BLOCK) {
            watcher.deliver(said);
        }
        left.len() > BLOCK
    }
}

impl Watcher {
    fn deliver(&self, said: &mut Said) {
        let watch = &mut *self.watch.lock();
        if !watch.gone && !watch.deliver(&self.connection, said) {
            self.called.notify_one();
        }
    }

    fn end(&self) {
        self.watch.lock().cursor.end();
        self.called.notify_one();
    }
}

impl Watch {
    /// Writes what there is to say; false when the body is to go on.
    fn deliver(&mut self, connection: &SharedStream, said: &mut Said) -> bool {
        let Some(idle) = connection.idle() else {
            return false;
        };
        let Some(changes) = said.read(self) else {
            return false;
        };
        if !said.chunks.is_empty() {
            self.encoder.first = false;
            if !idle.write(&said.chunks) {
                return false;
            }
        }
        !changes
    }
}

/// What one thread read and encoded already in a pass: most watches want the same.
#[derive(Debug, Default)]
struct Said {
    changes: Option<Changes>,
    encoded: HashMap<Shape, (Arc<ResourceType>, Bytes)>,
    chunks: Vec<Bytes>,
}

/// What an event looks like by: the version is of one change of one object; the last is
/// the address of the type it is shown as.
type Shape = (u64, WatchedKind, View, bool, usize);

impl Said {
    /// Reads what follows for a watch into `chunks`, and whether there may be more; none
    /// when it is not for the fan-out to say it.
    fn read(&mut self, watch: &mut Watch) -> Option<bool> {
        self.chunks.clear();
        let cursor = &mut watch.cursor;
        if cursor.is_pending() || cursor.is_ended() {
            return None;
        }
        let changes = match self.changes.take() {
            Some(changes) if cursor.is_followed_by(&changes) => changes,
            _ => cursor.changes().ok()?,
        };
        let changes = self.changes.insert(changes);
        let mut first = watch.encoder.first;
        let mut length = 0;
        for change in &changes.changes {
            let Some(kind) = cursor.selects(change) else {
                continue;
            };
            let chunk = chunk(&mut self.encoded, &watch.encoder, kind, change, first);
            first = false;
            length += chunk.len();
            if length > SharedStream::AT_ONCE {
                return None;
            }
            self.chunks.push(chunk);
        }
        cursor.pass(changes);
        Some(changes.more)
    }
}

/// An event as a chunk.
fn chunk(
    encoded: &mut HashMap<Shape, (Arc<ResourceType>, Bytes)>,
    encoder: &Encoder,
    kind: WatchedKind,
    change: &Change,
    first: bool,
) -> Bytes {
    let resource = Arc::as_ptr(&encoder.resource).addr();
    let shape = (change.version, kind, encoder.view, first, resource);
    let (_, chunk) = encoded.entry(shape).or_insert_with(|| {
        let object = change.shown(kind);
        let mut event = BytesMut::with_capacity(encode::size(&object));
        encoder.object(kind, &object, first, &mut event);
        let mut chunk = BytesMut::with_capacity(event.len() + 16);
        chunk.put_slice(format!("{:x}\r\n", event.len()).as_bytes());
        chunk.put_slice(&event);
        chunk.put_slice(b"\r\n");
        (encoder.resource.clone(), chunk.freeze())
    });
    chunk.clone()
}

/// A watch among those that are delivered to, for as long as its body is there.
struct Place {
    fanout: Fanout,
    storage: Arc<str>,
    group: Arc<Group>,
    watcher: Arc<Watcher>,
}

impl Place {
    /// The next frame that goes through HTTP; none when the watch is over.
    async fn next(&self, alarm: &mut WatchAlarm) -> Option<Bytes> {
        let watcher = &self.watcher;
        loop {
            {
                let watch = &mut *watcher.watch.lock();
                watcher.connection.reclaim();
                if !watch.cursor.is_pending() {
                    // What is left after that is read before the connection is lent.
                    watch.cursor.read();
                }
                let events = watch.cursor.take(FRAME);
                if !events.is_empty() {
                    return Some(watch.encoder.frame(&events));
                }
                if watch.cursor.is_ended() {
                    return None;
                }
                watcher.connection.lend();
            }
            tokio::select! {
                () = watcher.called.notified() => {}
                rung = alarm.ring() => watcher.watch.lock().cursor.rung(rung),
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut watch = self.watcher.watch.lock();
            watch.gone = true;
            self.watcher.connection.reclaim();
        }
        let mut groups = self.fanout.0.lock();
        let mut watchers = self.group.watchers.lock();
        Arc::make_mut(&mut watchers).retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        if watchers.is_empty() {
            self.group.empty.notify_one();
            remove(&mut groups, &self.storage, &self.group);
        }
    }
}
