//! The store against a model: random operations, restarts in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;

type Model = BTreeMap<(String, String), String>;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, u16),
    Delete(u8, u8),
    Reopen,
    Compact,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3u8, 0..4u8, any::<u16>()).prop_map(|(n, o, v)| Step::Put(n, o, v)),
        4 => (0..3u8, 0..4u8).prop_map(|(n, o)| Step::Delete(n, o)),
        1 => Just(Step::Reopen),
        1 => Just(Step::Compact),
    ];
    proptest::collection::vec(step, 1..40)
}

struct Opened {
    store: Store,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Opened {
    async fn new(folder: &Path, limit: Option<u64>) -> Self {
        let (store, writer) = open(folder, HistoryLimits::default(), limit)
            .await
            .expect("the store opens");
        let stop = CancellationToken::new();
        let task = tokio::spawn(writer.run(stop.clone()));
        Self { store, stop, task }
    }

    async fn close(self) {
        self.stop.cancel();
        self.task.await.expect("the writer ends");
    }
}

fn draft(name: &str, value: &str) -> Draft {
    Draft::new(&json!({
        "apiVersion": "v1", "kind": "Thing", "metadata": {"name": name, "uid": name, "labels": {"v": value}}, "value": value,
    }))
    .expect("a draft")
}

fn shown(objects: &[Arc<Object>]) -> Model {
    objects
        .iter()
        .map(|o| {
            let id = (o.id.namespace.to_string(), o.id.name.to_string());
            let value = o.value();
            assert_eq!(
                value["metadata"]["resourceVersion"],
                json!(o.version.to_string())
            );
            (id, value["value"].as_str().expect("a value").to_owned())
        })
        .collect()
}

fn paged(store: &Store, resource: &str, at: Option<u64>) -> Result<Model, TooOld> {
    let mut all = Model::new();
    let mut after = None;
    let mut at = at;
    loop {
        let page = store.page(resource, None, at, after.as_ref(), 2, LabelBits::default())?;
        at = Some(page.version);
        after = page.objects.last().map(|o| o.id.clone());
        all.extend(shown(&page.objects));
        if page.remaining == 0 {
            return Ok(all);
        }
    }
}

/// Lists of one namespace and of one label are what the model has of them.
fn check_parts(store: &Store, resource: &str, model: &Model) {
    let part = |wanted: &dyn Fn(&(String, String), &String) -> bool| -> Model {
        let kept = model.iter().filter(|(id, value)| wanted(id, value));
        kept.map(|(id, value)| (id.clone(), value.clone()))
            .collect()
    };
    for namespace in ["n0", "n1", "n2"] {
        let listed = store.all(resource, Some(namespace));
        assert_eq!(shown(&listed), part(&|id, _| id.0 == namespace));
        for elsewhere in ["a", "n", "n0", "n1", "n2", "n20", "z"] {
            let cursor = ObjectId::new(elsewhere, "o1");
            let every = LabelBits::default();
            let page = store
                .page(resource, Some(namespace), None, Some(&cursor), 0, every)
                .expect("now");
            let after = part(&|id, _| id.0 == namespace && elsewhere == namespace && *id.1 > *"o1");
            assert_eq!(shown(&page.objects), after, "after {elsewhere}");
        }
    }
    if let Some(value) = model.values().next() {
        let bits = LabelBits::label("v", value);
        let page = store.page(resource, None, None, None, 0, bits);
        let mut listed = shown(&page.expect("now").objects);
        listed.retain(|_, held| held == value);
        assert_eq!(listed, part(&|_, held| held == value));
    }
}

async fn run(steps: Vec<Step>) {
    let folder = tempfile::tempdir().expect("a folder");
    let resource: Arc<str> = "test/things".into();
    let mut opened = Opened::new(folder.path(), None).await;
    let mut model = Model::new();
    let mut history: Vec<(u64, Model)> = vec![(opened.store.version(), model.clone())];
    for step in steps {
        match step {
            Step::Put(n, o, v) => {
                let (namespace, name) = (format!("n{n}"), format!("o{o}"));
                let key = Key::new(&resource, &namespace, &name);
                let before = opened.store.get(&key);
                let wrong = match &before {
                    Some(object) => Expected::Version(object.version - 1),
                    None => Expected::Version(1),
                };
                let refused = opened
                    .store
                    .write(key.clone(), wrong, Action::Put(draft(&name, "wrong")))
                    .await;
                assert!(matches!(refused, Err(WriteError::Stale)));
                let expected = before.map_or(Expected::Absent, |o| Expected::Version(o.version));
                let value = v.to_string();
                let object = opened
                    .store
                    .write(key, expected, Action::Put(draft(&name, &value)))
                    .await
                    .expect("a write");
                model.insert((namespace, name), value);
                assert!(object.version > history.last().expect("history").0);
                history.push((object.version, model.clone()));
            }
            Step::Delete(n, o) => {
                let (namespace, name) = (format!("n{n}"), format!("o{o}"));
                let key = Key::new(&resource, &namespace, &name);
                let Some(before) = opened.store.get(&key) else {
                    assert!(!model.contains_key(&(namespace, name)));
                    continue;
                };
                let expected = Expected::Version(before.version);
                let gone = opened
                    .store
                    .write(key, expected, Action::Delete)
                    .await
                    .expect("a deletion");
                model.remove(&(namespace, name));
                history.push((gone.version, model.clone()));
            }
            Step::Reopen => {
                opened.close().await;
                opened = Opened::new(folder.path(), None).await;
                assert_eq!(opened.store.version(), history.last().expect("history").0);
                history.drain(..history.len() - 1);
            }
            Step::Compact => {
                opened.store.compact();
                let last = history.len() - 1;
                for (version, _) in &history[..last] {
                    assert!(paged(&opened.store, &resource, Some(*version)).is_err());
                }
                history.drain(..last);
            }
        }
        assert_eq!(paged(&opened.store, &resource, None).expect("now"), model);
        check_parts(&opened.store, &resource, &model);
    }
    let (now, _) = history.last().cloned().expect("history");
    for (version, then) in &history {
        // Any version that history holds can be listed as it was …
        let listed = paged(&opened.store, &resource, Some(*version)).expect("a version");
        assert_eq!(&listed, then, "at {version} of {now}");
        // … and what happened since leads from it to now, in order.
        let mut replayed = then.clone();
        let mut last = *version;
        let (changes, _) = opened
            .store
            .changes(&resource, *version, usize::MAX)
            .expect("changes");
        for change in changes {
            assert!(change.version > last);
            last = change.version;
            let id = (
                change.object.id.namespace.to_string(),
                change.object.id.name.to_string(),
            );
            match change.kind {
                ChangeKind::Deleted => assert!(replayed.remove(&id).is_some()),
                kind => {
                    let value = shown(std::slice::from_ref(&change.object));
                    let known = replayed.insert(id.clone(), value[&id].clone()).is_some();
                    assert_eq!(known, kind == ChangeKind::Modified);
                }
            }
        }
        assert_eq!(replayed, model);
    }
    opened.close().await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in steps()) {
        runtime().block_on(run(steps));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers() {
    let folder = tempfile::tempdir().expect("a folder");
    let resource: Arc<str> = "test/things".into();
    let opened = Opened::new(folder.path(), Some(256 << 10)).await;
    let big = "x".repeat(8 << 10);
    let mut stored = Vec::new();
    let error = loop {
        let name = format!("o{}", stored.len());
        let key = Key::new(&resource, "n", &name);
        match opened
            .store
            .write(
                key.clone(),
                Expected::Absent,
                Action::Put(draft(&name, &big)),
            )
            .await
        {
            Ok(object) => stored.push((key, object.version)),
            Err(error) => break error,
        }
        assert!(stored.len() < 1000, "the limit is never reached");
    };
    assert!(
        matches!(error, WriteError::Persist(PersistError::Full)),
        "{error}"
    );
    assert_eq!(opened.store.all(&resource, None).len(), stored.len());
    // Room again: what is freed can be used.
    for (key, version) in stored.drain(..4) {
        opened
            .store
            .write(key, Expected::Version(version), Action::Delete)
            .await
            .expect("a deletion works on a full disk");
    }
    let key = Key::new(&resource, "n", "after");
    opened
        .store
        .write(key, Expected::Absent, Action::Put(draft("after", &big)))
        .await
        .expect("there is room again");
    opened.close().await;
    let opened = Opened::new(folder.path(), None).await;
    assert_eq!(opened.store.all(&resource, None).len(), stored.len() + 1);
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_consistent_and_opens() {
    let folder = tempfile::tempdir().expect("a folder");
    let resource: Arc<str> = "test/things".into();
    let opened = Opened::new(folder.path(), None).await;
    for n in 0..50 {
        let name = format!("o{n}");
        opened
            .store
            .write(
                Key::new(&resource, "n", &name),
                Expected::Absent,
                Action::Put(draft(&name, "v")),
            )
            .await
            .expect("a write");
    }
    let copy = tempfile::tempdir().expect("a folder");
    opened
        .store
        .copy_to(&copy.path().join("objects.sqlite"))
        .await
        .expect("a copy");
    opened.close().await;
    let opened = Opened::new(copy.path(), None).await;
    assert_eq!(opened.store.all(&resource, None).len(), 50);
    opened.close().await;
}

#[test]
fn history_is_bounded_by_bytes_and_by_changes() {
    let limits = HistoryLimits {
        changes: 100,
        bytes: 64 << 10,
    };
    let mut state = State::new(1, limits);
    let resource: Arc<str> = "test/things".into();
    let value = "x".repeat(1000);
    for n in 0..200u64 {
        let object = Arc::new(draft("o", &value).finish(ObjectId::new("n", "o"), n + 2));
        let change = Change {
            version: n + 2,
            kind: ChangeKind::Modified,
            object,
            previous: None,
        };
        state.apply(vec![(resource.clone(), change)]);
    }
    let oldest = state
        .changes(&resource, 1, 10)
        .expect_err("the first changes are gone")
        .oldest;
    let held = state
        .changes(&resource, oldest, usize::MAX)
        .expect("the rest");
    assert!(held.len() <= 100 && held.len() > 10, "{}", held.len());
    let bytes: usize = held.iter().map(|c| c.object.bytes.len()).sum();
    assert!(bytes <= 64 << 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_layouts_are_taken_over_and_newer_ones_refused() {
    use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
    let folder = tempfile::tempdir().expect("a folder");
    let key = Key::new(&"test/things".into(), "n", "o");
    let opened = Opened::new(folder.path(), None).await;
    let written = opened
        .store
        .write(key.clone(), Expected::Absent, Action::Put(draft("o", "v")))
        .await
        .expect("a write");
    opened.close().await;
    let change = async |sql: String| {
        let mut file = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(folder.path().join("objects.sqlite"))
            .connect()
            .await
            .expect("the file");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut file)
            .await
            .expect("a change");
        file.close().await.expect("closed");
    };
    // Layout 1: the revision is up to date, here with deletions after the last put.
    change("UPDATE revision SET version = 70; PRAGMA user_version = 1".into()).await;
    let opened = Opened::new(folder.path(), None).await;
    assert_eq!(opened.store.version(), 70);
    assert_eq!(
        opened.store.get(&key).expect("there").version,
        written.version
    );
    opened.close().await;
    change("PRAGMA user_version = 3".into()).await;
    let error = open(folder.path(), HistoryLimits::default(), None)
        .await
        .expect_err("a newer layout");
    assert!(error.to_string().contains("has layout 3"), "{error}");
}
