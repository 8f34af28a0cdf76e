//! The live objects and the recent history, in memory. Pure: no I/O, no clock.
//!
//! Each resource has a table: its live objects in list order and a bounded ring
//! of changes. The ring answers watches, and walks a list back to an earlier
//! version, which is what makes a paged list consistent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use super::object::{Key, LabelBits, Object, ObjectId};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One entry of history.
#[derive(Debug)]
pub struct Change {
    /// Version of the change.
    pub version: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// The object after the change; for a deletion its last state under the
    /// version of the deletion.
    pub object: Arc<Object>,
    /// The object before the change.
    pub previous: Option<Arc<Object>>,
}

/// The version asked for is older than what history holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub struct TooOld {
    /// Version asked for.
    pub requested: u64,
    /// Oldest version that can be served.
    pub oldest: u64,
}

/// Limits of the history.
#[derive(Debug, Clone, Copy)]
pub struct HistoryLimits {
    /// Changes kept per resource.
    pub changes: usize,
    /// Bytes of objects kept over all resources.
    pub bytes: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            changes: 8192,
            bytes: 24 << 20,
        }
    }
}

#[derive(Debug)]
struct Live {
    /// The object's, here so that a list by labels need not look at every object.
    label_bits: LabelBits,
    object: Arc<Object>,
}

impl Live {
    fn new(object: Arc<Object>) -> Self {
        Self {
            label_bits: LabelBits::of(object.meta.labels.as_ref()),
            object,
        }
    }
}

#[derive(Debug)]
struct Table {
    live: BTreeMap<ObjectId, Live>,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// Changes up to and including this version are no longer held.
    compacted: u64,
    changed: watch::Sender<u64>,
}

impl Table {
    fn new(compacted: u64) -> Self {
        Self {
            live: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            compacted,
            changed: watch::Sender::new(compacted),
        }
    }

    fn forget_oldest(&mut self) -> usize {
        let Some(change) = self.history.pop_front() else {
            return 0;
        };
        let size = weight(&change);
        self.compacted = change.version;
        self.history_bytes -= size;
        size
    }
}

fn weight(change: &Change) -> usize {
    change.object.bytes.len() + 256
}

/// Something for the garbage collector to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Suspect {
    /// An object with owners, or one that waits for its dependents.
    Object(Key),
    /// The uid of an owner that is gone while dependents remain.
    Owner(String),
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// Objects in list order.
    pub objects: Vec<Arc<Object>>,
    /// The version the page shows.
    pub version: u64,
    /// How many objects follow the page; of those that may be wanted, where not
    /// all are.
    pub remaining: usize,
}

/// All objects, their history, and the indexes over them.
#[derive(Debug)]
pub struct State {
    version: u64,
    /// Version at start: history begins here for every resource.
    base: u64,
    tables: HashMap<Arc<str>, Table>,
    history_bytes: usize,
    watches_ended: bool,
    limits: HistoryLimits,
    uids: HashMap<String, Key>,
    dependents: HashMap<String, BTreeSet<Key>>,
    suspects: HashSet<Suspect>,
}

/// The finalizer of a foreground deletion.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an orphaning deletion.
pub const ORPHAN: &str = "orphan";

impl State {
    /// An empty state at a version.
    pub fn new(version: u64, limits: HistoryLimits) -> Self {
        Self {
            version,
            base: version,
            tables: HashMap::new(),
            history_bytes: 0,
            watches_ended: false,
            limits,
            uids: HashMap::new(),
            dependents: HashMap::new(),
            suspects: HashSet::new(),
        }
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Puts an object from the database in, without history.
    pub fn load(&mut self, resource: &Arc<str>, object: Arc<Object>) {
        let key = Key {
            resource: resource.clone(),
            id: object.id.clone(),
        };
        self.index(&key, None, Some(&object));
        let base = self.base;
        self.tables
            .entry(resource.clone())
            .or_insert_with(|| Table::new(base))
            .live
            .insert(object.id.clone(), Live::new(object));
    }

    /// The live object at a key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        let live = self.tables.get(&key.resource)?.live.get(&key.id)?;
        Some(&live.object)
    }

    /// Key of the live object with a uid.
    pub fn by_uid(&self, uid: &str) -> Option<&Key> {
        self.uids.get(uid)
    }

    /// Keys of the live objects that name a uid as owner.
    pub fn dependents(&self, uid: &str) -> Vec<Key> {
        self.dependents
            .get(uid)
            .map(|set| set.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Resources that hold objects in a namespace, with how many.
    pub fn contents(&self, namespace: &str) -> Vec<(Arc<str>, usize)> {
        let mut found: Vec<_> = self
            .tables
            .iter()
            .filter_map(|(resource, table)| {
                let count = range(&table.live, Some(namespace), None).count();
                (count > 0).then(|| (resource.clone(), count))
            })
            .collect();
        found.sort();
        found
    }

    /// Nobody is told of changes any more.
    pub fn end_watches(&mut self) {
        self.watches_ended = true;
        for table in self.tables.values_mut() {
            table.changed = watch::Sender::default();
        }
    }

    /// Tells when something of a resource changes; closed when nobody is told any more.
    pub fn subscribe(&mut self, resource: &Arc<str>) -> watch::Receiver<u64> {
        if self.watches_ended {
            return watch::Sender::default().subscribe();
        }
        let base = self.base;
        self.tables
            .entry(resource.clone())
            .or_insert_with(|| Table::new(base))
            .changed
            .subscribe()
    }

    /// Changes of a resource after a version, at most `max` of them.
    pub fn changes(
        &self,
        resource: &str,
        after: u64,
        max: usize,
    ) -> Result<Vec<Arc<Change>>, TooOld> {
        let Some(table) = self.tables.get(resource) else {
            return if after < self.base {
                Err(TooOld {
                    requested: after,
                    oldest: self.base,
                })
            } else {
                Ok(Vec::new())
            };
        };
        if after < table.compacted {
            return Err(TooOld {
                requested: after,
                oldest: table.compacted,
            });
        }
        let from = table.history.partition_point(|c| c.version <= after);
        Ok(table.history.iter().skip(from).take(max).cloned().collect())
    }

    /// Objects of a resource as they were at version `at` (now, when none is
    /// given), after an id, at most `max` (0: all). What cannot have the labels
    /// `wanted` is left out; what is given may still not have them.
    pub fn page(
        &self,
        resource: &str,
        namespace: Option<&str>,
        at: Option<u64>,
        after: Option<&ObjectId>,
        max: usize,
        wanted: LabelBits,
    ) -> Result<Page, TooOld> {
        let at = at.unwrap_or(self.version);
        let Some(table) = self.tables.get(resource) else {
            return if at < self.base {
                Err(TooOld {
                    requested: at,
                    oldest: self.base,
                })
            } else {
                Ok(Page {
                    objects: Vec::new(),
                    version: at,
                    remaining: 0,
                })
            };
        };
        if at < table.compacted {
            return Err(TooOld {
                requested: at,
                oldest: table.compacted,
            });
        }
        // The first change after `at` knows what the object was at `at`.
        let mut earlier: BTreeMap<ObjectId, Option<Arc<Object>>> = BTreeMap::new();
        let from = table.history.partition_point(|c| c.version <= at);
        for change in table.history.iter().skip(from) {
            earlier
                .entry(change.object.id.clone())
                .or_insert_with(|| change.previous.clone());
        }
        let limit = if max == 0 { usize::MAX } else { max };
        let mut objects = Vec::new();
        let mut remaining = 0;
        let mut take = |object: &Arc<Object>| {
            if objects.len() < limit {
                objects.push(object.clone());
            } else {
                remaining += 1;
            }
        };
        let live =
            range(&table.live, namespace, after).filter(|(_, live)| live.label_bits.holds(wanted));
        if earlier.is_empty() {
            for (_, live) in live {
                take(&live.object);
            }
        } else {
            let mut past = range(&earlier, namespace, after)
                .filter_map(|(id, object)| Some((id, object.as_ref()?)))
                .peekable();
            for (id, live) in live.filter(|(id, _)| !earlier.contains_key(*id)) {
                while let Some((_, old)) = past.next_if(|(old, _)| *old < id) {
                    take(old);
                }
                take(&live.object);
            }
            for (_, old) in past {
                take(old);
            }
        }
        Ok(Page {
            objects,
            version: at,
            remaining,
        })
    }

    /// Takes over committed changes, in order of version.
    pub fn apply(&mut self, changes: Vec<(Arc<str>, Change)>) {
        let mut touched: Vec<Arc<str>> = Vec::new();
        for (resource, change) in changes {
            let key = Key {
                resource: resource.clone(),
                id: change.object.id.clone(),
            };
            let after = (change.kind != ChangeKind::Deleted).then(|| change.object.clone());
            self.index(&key, change.previous.as_ref(), after.as_ref());
            self.version = self.version.max(change.version);
            let base = self.base;
            let table = self
                .tables
                .entry(resource.clone())
                .or_insert_with(|| Table::new(base));
            match after {
                Some(object) => {
                    table.live.insert(key.id, Live::new(object));
                }
                None => {
                    table.live.remove(&key.id);
                }
            }
            let size = weight(&change);
            table.history.push_back(Arc::new(change));
            table.history_bytes += size;
            self.history_bytes += size;
            if table.history.len() > self.limits.changes {
                self.history_bytes -= table.forget_oldest();
            }
            if touched.last() != Some(&resource) {
                touched.push(resource);
            }
        }
        self.shrink_history();
        for resource in touched {
            if let Some(table) = self.tables.get(&resource) {
                table.changed.send_replace(self.version);
            }
        }
    }

    fn shrink_history(&mut self) {
        while self.history_bytes > self.limits.bytes {
            let Some(table) = self.tables.values_mut().max_by_key(|t| t.history_bytes) else {
                return;
            };
            // A tenth at once, so that the largest table is not sought per change.
            let goal = self.history_bytes - self.limits.bytes + self.limits.bytes / 10;
            let mut freed = 0;
            while freed < goal {
                let size = table.forget_oldest();
                if size == 0 {
                    break;
                }
                freed += size;
            }
            if freed == 0 {
                return;
            }
            self.history_bytes -= freed;
        }
    }

    /// Forgets all history: every watch and continuation from before gets 410.
    pub fn compact(&mut self) {
        for table in self.tables.values_mut() {
            table.history.clear();
            table.history_bytes = 0;
            table.compacted = self.version;
        }
        self.history_bytes = 0;
        self.base = self.version;
    }

    /// What the garbage collector should look at since the last call.
    pub fn take_suspects(&mut self) -> HashSet<Suspect> {
        std::mem::take(&mut self.suspects)
    }

    /// True when the garbage collector has something to look at.
    pub fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Puts something back for the garbage collector.
    pub fn suspect(&mut self, suspect: Suspect) {
        self.suspects.insert(suspect);
    }

    fn index(&mut self, key: &Key, before: Option<&Arc<Object>>, after: Option<&Arc<Object>>) {
        if let Some(before) = before {
            for owner in before.meta.owners() {
                let kept =
                    after.is_some_and(|a| a.meta.owners().iter().any(|o| o.uid == owner.uid));
                if kept {
                    continue;
                }
                if let Some(set) = self.dependents.get_mut(&owner.uid) {
                    set.remove(key);
                    if set.is_empty() {
                        self.dependents.remove(&owner.uid);
                    }
                }
                // An owner that waits for its dependents has one less to wait for.
                if let Some(owner_key) = self.uids.get(&owner.uid) {
                    self.suspects.insert(Suspect::Object(owner_key.clone()));
                }
            }
            let replaced = after.is_none_or(|a| a.meta.uid != before.meta.uid);
            if replaced && self.uids.get(&before.meta.uid) == Some(key) {
                self.uids.remove(&before.meta.uid);
                if self.dependents.contains_key(&before.meta.uid) {
                    self.suspects
                        .insert(Suspect::Owner(before.meta.uid.clone()));
                }
            }
        }
        if let Some(after) = after {
            if !after.meta.uid.is_empty() {
                self.uids.insert(after.meta.uid.clone(), key.clone());
            }
            for owner in after.meta.owners() {
                self.dependents
                    .entry(owner.uid.clone())
                    .or_default()
                    .insert(key.clone());
            }
            let waits = after.meta.deletion_timestamp.is_some()
                && after
                    .meta
                    .finalizers()
                    .iter()
                    .any(|f| f == FOREGROUND || f == ORPHAN);
            if waits || !after.meta.owners().is_empty() {
                self.suspects.insert(Suspect::Object(key.clone()));
            }
        }
    }
}

/// The entries of a namespace (none: of all) after an id. Where both are given
/// the id may be of another namespace: a continue token is a client's.
fn range<'a, V>(
    map: &'a BTreeMap<ObjectId, V>,
    namespace: Option<&str>,
    after: Option<&ObjectId>,
) -> impl Iterator<Item = (&'a ObjectId, &'a V)> {
    // Bounds rather than a look at each entry's namespace, which lies elsewhere in memory.
    let first = namespace.map_or(Bound::Unbounded, |n| Bound::Included(ObjectId::new(n, "")));
    let beyond = namespace.map_or(Bound::Unbounded, |n| {
        Bound::Excluded(ObjectId::new(&format!("{n}\0"), ""))
    });
    let elsewhere = after.is_some_and(|id| namespace.is_some_and(|n| *id.namespace != *n));
    let start = after.map_or(first, |id| Bound::Excluded(id.clone()));
    (!elsewhere)
        .then(|| map.range((start, beyond)))
        .into_iter()
        .flatten()
}
