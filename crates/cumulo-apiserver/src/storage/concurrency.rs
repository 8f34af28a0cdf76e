//! The store under several clients at once, against the history that their
//! answers make: every write has its place in one order, which real time and
//! every read agree with; watches tell that order without a gap; and what was
//! acknowledged is there when the folder is opened again, also when the writer
//! was stopped in the middle of a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;

const RESOURCE: &str = "test/things";

#[derive(Debug, Clone, Copy)]
enum Op {
    /// Writes over what was just read.
    Put(u8, u16),
    /// Removes what was just read.
    Delete(u8),
    /// Writes over a version of long ago.
    Outdated(u8),
    Get(u8),
    List,
    Yield,
}

#[derive(Debug, Clone)]
struct Round {
    clients: Vec<Vec<Op>>,
    /// Stop the writer after so many acknowledged writes, whatever it is at.
    killed_after: Option<u64>,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let op = prop_oneof![
        8 => (0..4u8, any::<u16>()).prop_map(|(key, value)| Op::Put(key, value)),
        3 => (0..4u8).prop_map(Op::Delete),
        1 => (0..4u8).prop_map(Op::Outdated),
        2 => (0..4u8).prop_map(Op::Get),
        2 => Just(Op::List),
        2 => Just(Op::Yield),
    ];
    let clients = proptest::collection::vec(proptest::collection::vec(op, 1..24), 2..6);
    let round =
        (clients, proptest::option::of(1..24_u64)).prop_map(|(clients, killed_after)| Round {
            clients,
            killed_after,
        });
    proptest::collection::vec(round, 1..4)
}

/// What a client saw between two looks at the store's version.
#[derive(Debug)]
struct Record {
    id: ObjectId,
    before: u64,
    after: u64,
    seen: Seen,
}

#[derive(Debug)]
enum Seen {
    /// `value`: none for a removal.
    Written {
        expected: Expected,
        version: u64,
        value: Option<String>,
    },
    Refused(Expected),
    /// The writer was stopped: stored or not.
    Unanswered(Option<String>),
    Read(Option<u64>),
    Listed(u64, BTreeMap<ObjectId, u64>),
}

fn id(key: u8) -> ObjectId {
    ObjectId::new(&format!("n{}", key % 2), &format!("o{key}"))
}

fn value_of(object: &Object) -> String {
    object.value()["value"]
        .as_str()
        .expect("a value")
        .to_owned()
}

async fn write(store: &Store, id: ObjectId, expected: Expected, value: Option<String>) -> Seen {
    let action = match &value {
        Some(value) => Action::Put(
            Draft::new(&json!({
                "apiVersion": "v1", "kind": "Thing", "metadata": {"name": &*id.name}, "value": value,
            }))
            .expect("a draft"),
        ),
        None => Action::Delete,
    };
    let key = Key {
        resource: RESOURCE.into(),
        id,
    };
    match store.write(key, expected, action).await {
        Ok(object) => Seen::Written {
            expected,
            version: object.version,
            value,
        },
        Err(WriteError::Exists) => {
            assert_eq!(expected, Expected::Absent);
            Seen::Refused(expected)
        }
        Err(WriteError::Stale) => {
            assert_ne!(expected, Expected::Absent);
            Seen::Refused(expected)
        }
        Err(WriteError::Closed) => Seen::Unanswered(value),
        Err(error) => panic!("{error}"),
    }
}

/// One client's operations, one after the other.
async fn client(store: Store, number: usize, ops: Vec<Op>) -> Vec<Record> {
    let mut records = Vec::new();
    for (step, op) in ops.into_iter().enumerate() {
        let key = match op {
            Op::Put(key, _) | Op::Delete(key) | Op::Outdated(key) | Op::Get(key) => key,
            Op::List | Op::Yield => 0,
        };
        let id = id(key);
        let place = Key {
            resource: RESOURCE.into(),
            id: id.clone(),
        };
        let before = store.version();
        let known = store.get(&place).map(|object| object.version);
        let expected = known.map_or(Expected::Absent, Expected::Version);
        let seen = match op {
            Op::Put(_, value) => {
                let value = format!("{number}-{step}-{value}");
                write(&store, id.clone(), expected, Some(value)).await
            }
            Op::Delete(_) if known.is_some() => write(&store, id.clone(), expected, None).await,
            Op::Outdated(_) => {
                let old = Expected::Version(1);
                write(&store, id.clone(), old, Some("never".to_owned())).await
            }
            Op::Delete(_) | Op::Get(_) => Seen::Read(known),
            Op::List => {
                let page = store
                    .page(RESOURCE, None, None, None, 0, LabelBits::default())
                    .expect("a list");
                let objects = page.objects.iter().map(|o| (o.id.clone(), o.version));
                Seen::Listed(page.version, objects.collect())
            }
            Op::Yield => {
                tokio::task::yield_now().await;
                continue;
            }
        };
        records.push(Record {
            id,
            before,
            after: store.version(),
            seen,
        });
    }
    records
}

/// A watch as the operations run it: a cursor, a few changes at a time.
async fn watcher(store: Store, done: CancellationToken) -> (u64, Vec<Arc<Change>>) {
    const FEW: usize = 3;
    let mut changed = store.subscribe(&RESOURCE.into());
    let start = store.version();
    let (mut cursor, mut seen, mut last) = (start, Vec::new(), false);
    loop {
        changed.mark_unchanged();
        let (changes, version) = store.changes(RESOURCE, cursor, FEW).expect("history");
        let more = changes.len() == FEW;
        cursor = match changes.last() {
            Some(change) if more => change.version,
            _ => version,
        };
        seen.extend(changes);
        if more {
            continue;
        }
        if last {
            return (start, seen);
        }
        tokio::select! {
            result = changed.changed() => result.expect("the store is open"),
            () = done.cancelled() => last = true,
        }
    }
}

/// Everything that was stored, in order of version: the key, and the value or
/// none for a removal. The one order that all must agree with.
#[derive(Debug, Default, Clone)]
struct History(BTreeMap<u64, (ObjectId, Option<String>)>);

impl History {
    /// Version of what is at a key when the store is at version `at`.
    fn version_at(&self, id: &ObjectId, at: u64) -> Option<u64> {
        let (version, (_, value)) = self.0.range(..=at).rfind(|(_, (other, _))| other == id)?;
        value.is_some().then_some(*version)
    }

    fn state_at(&self, at: u64) -> BTreeMap<ObjectId, u64> {
        let ids: BTreeSet<&ObjectId> = self.0.values().map(|(id, _)| id).collect();
        ids.into_iter()
            .filter_map(|id| Some((id.clone(), self.version_at(id, at)?)))
            .collect()
    }

    /// Adds what was acknowledged from version `base` on.
    fn add(&mut self, base: u64, records: &[Record]) {
        let mut written: Vec<u64> = Vec::new();
        for record in records {
            if let Seen::Written { version, value, .. } = &record.seen {
                written.push(*version);
                self.0.insert(*version, (record.id.clone(), value.clone()));
            }
        }
        written.sort_unstable();
        let dense: Vec<u64> = (base + 1..).take(written.len()).collect();
        assert_eq!(written, dense, "versions are given once and without a gap");
    }

    /// Every answer must follow from the state at some moment between the call
    /// and the answer.
    fn check(&self, record: &Record) {
        let Record {
            id, before, after, ..
        } = record;
        let mut possible = (*before..=*after).map(|at| self.version_at(id, at));
        match &record.seen {
            Seen::Written {
                expected, version, ..
            } => {
                assert!(version > before && version <= after, "{record:?}");
                let found = self.version_at(id, version - 1);
                let found = found.map_or(Expected::Absent, Expected::Version);
                assert_eq!(found, *expected, "{record:?}");
            }
            Seen::Refused(Expected::Absent) => assert!(possible.any(|v| v.is_some()), "{record:?}"),
            Seen::Refused(Expected::Version(wanted)) => {
                assert!(possible.any(|v| v != Some(*wanted)), "{record:?}");
            }
            Seen::Read(version) => assert!(possible.any(|v| v == *version), "{record:?}"),
            Seen::Listed(version, objects) => {
                assert!(version >= before && version <= after, "{record:?}");
                assert_eq!(&self.state_at(*version), objects, "{record:?}");
            }
            Seen::Unanswered(_) => {}
        }
    }

    fn check_watch(&self, start: u64, changes: &[Arc<Change>]) {
        let told: Vec<(u64, &ObjectId, Option<String>)> = changes
            .iter()
            .map(|change| {
                let previous = change.previous.as_ref().map(|object| object.version);
                let known = self.version_at(&change.object.id, change.version - 1);
                assert_eq!(previous, known);
                let kind = match (known, change.kind) {
                    (None, ChangeKind::Added) | (Some(_), ChangeKind::Modified) => {
                        Some(value_of(&change.object))
                    }
                    (Some(_), ChangeKind::Deleted) => None,
                    other => panic!("{other:?}"),
                };
                assert_eq!(change.object.version, change.version);
                (change.version, &change.object.id, kind)
            })
            .collect();
        let stored: Vec<_> = self
            .0
            .range(start + 1..)
            .map(|(version, (id, value))| (*version, id, value.clone()))
            .collect();
        assert_eq!(told, stored, "a watch tells everything, once, in order");
    }

    /// Holds what was opened again against what was acknowledged, and goes on
    /// from there.
    fn check_reopened(&mut self, store: &Store, acknowledged: u64, records: &[Record]) {
        let objects = store.all(RESOURCE, None);
        let found: BTreeMap<ObjectId, u64> =
            objects.iter().map(|o| (o.id.clone(), o.version)).collect();
        let wanted = self.state_at(acknowledged);
        let unanswered = |id: &ObjectId, value: Option<&str>| {
            records.iter().any(|record| {
                matches!(&record.seen, Seen::Unanswered(v) if v.as_deref() == value && record.id == *id)
            })
        };
        assert!(store.version() >= acknowledged, "a version is lost");
        for (id, version) in &wanted {
            let kept = found.get(id) == Some(version);
            let stored_since =
                found.get(id).is_some_and(|v| *v > acknowledged) || unanswered(id, None);
            assert!(kept || stored_since, "{id:?} at {version} is lost");
        }
        for object in &objects {
            let known = wanted.get(&object.id) == Some(&object.version);
            let value = value_of(object);
            let stored_since =
                object.version > acknowledged && unanswered(&object.id, Some(&value));
            assert!(known || stored_since, "{:?} was never written", object.id);
        }
        if store.version() == acknowledged {
            assert_eq!(found, wanted);
        }
        // The next round knows of what is there, and of nothing before.
        self.0 = objects
            .iter()
            .map(|o| (o.version, (o.id.clone(), Some(value_of(o)))))
            .collect();
    }
}

async fn run(rounds: Vec<Round>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut history = History::default();
    let mut last: Option<(u64, Vec<Record>)> = None;
    for round in rounds {
        let (store, writer) = open(folder.path(), HistoryLimits::default(), None)
            .await
            .expect("the store opens");
        let base = store.version();
        if let Some((acknowledged, records)) = last.take() {
            history.check_reopened(&store, acknowledged, &records);
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(writer.run(stop.clone()));
        let watches_done = CancellationToken::new();
        let watchers: Vec<_> = (0..2)
            .map(|_| tokio::spawn(watcher(store.clone(), watches_done.clone())))
            .collect();
        let clients: Vec<_> = round
            .clients
            .into_iter()
            .enumerate()
            .map(|(number, ops)| tokio::spawn(client(store.clone(), number, ops)))
            .collect();
        if let Some(writes) = round.killed_after {
            let mut written = store.written();
            let reached = written.wait_for(|version| *version >= base + writes);
            // Some rounds end before.
            let _ = tokio::time::timeout(Duration::from_millis(50), reached).await;
            task.abort();
        }
        let mut records = Vec::new();
        for client in clients {
            records.extend(client.await.expect("a client"));
        }
        history.add(base, &records);
        for record in &records {
            history.check(record);
        }
        watches_done.cancel();
        for watch in watchers {
            let (start, changes) = watch.await.expect("a watch");
            history.check_watch(start, &changes);
        }
        let acknowledged = store.version();
        stop.cancel();
        // Cancelled where it was stopped by force.
        let _ = task.await;
        released(folder.path()).await;
        last = Some((acknowledged, records));
    }
    let (store, _writer) = open(folder.path(), HistoryLimits::default(), None)
        .await
        .expect("the store opens");
    if let Some((acknowledged, records)) = last {
        history.check_reopened(&store, acknowledged, &records);
    }
}

/// Waits until nobody has the file open: SQLite removes its log then. A process
/// that is killed lets go at once, a task that is stopped does so in a thread.
async fn released(folder: &Path) {
    for _ in 0..1000 {
        if !folder.join("objects.sqlite-wal").exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the database is still open");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn concurrent_clients_agree_on_one_history(rounds in rounds()) {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(3)
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(run(rounds));
    }
}
