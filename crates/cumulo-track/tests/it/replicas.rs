//! Several platforms on one PostgreSQL database, and a server that goes away.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use cumulo_track::{
    CreateModelVersion, CreateRun, Handle, KeyValue, Metric, Options, RegistryChange,
    RegistryChanges, TRAIN_KEY_TAG,
};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::peer::Peer;
use crate::server::{new_database, shared_database};

/// Handles of platforms that share a database and a store.
async fn platforms<const N: usize>(folder: &tempfile::TempDir) -> [Handle; N] {
    let artifacts = Options::below(folder.path()).artifacts;
    let options = Options::at(shared_database().await, artifacts);
    let mut handles = Vec::new();
    for _ in 0..N {
        handles.push(Handle::open(&options).await.unwrap());
    }
    handles.try_into().unwrap()
}

fn version_of(run_id: &str, key: String) -> CreateModelVersion {
    CreateModelVersion {
        name: Some("m".to_owned()),
        source: Some(format!("runs:/{run_id}/model")),
        tags: vec![KeyValue::new(TRAIN_KEY_TAG, key)],
        ..CreateModelVersion::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_once_is_made_once_by_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let handles = platforms::<3>(&folder).await;
    let mut jobs = JoinSet::new();
    for n in 0..60_usize {
        let handle = handles[n % 3].clone();
        jobs.spawn(async move {
            let experiment = handle.ensure_experiment("e").await.unwrap();
            let request = CreateRun {
                experiment_id: Some(experiment),
                ..CreateRun::default()
            };
            let job = format!("job-{}", n % 4);
            let run = handle.ensure_run(&job, request).await.unwrap();
            let run_id = run.info.run_id;
            // Each key comes from several platforms; all in one model.
            let request = version_of(&run_id, format!("k{}", n % 10));
            let version = handle.ensure_model_version(request).await.unwrap();
            (job, run_id, n % 10, version.version)
        });
    }
    let made = jobs.join_all().await;
    let runs: HashSet<_> = made.iter().map(|(job, run, ..)| (job, run)).collect();
    assert_eq!(runs.len(), 4, "{runs:?}");
    let versions: HashSet<_> = made
        .iter()
        .map(|(.., key, version)| (key, version))
        .collect();
    assert_eq!(versions.len(), 10, "{versions:?}");
    let mut numbers: Vec<i64> = versions.iter().map(|(_, v)| v.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_two_write_at_once_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let handles = platforms::<2>(&folder).await;
    let run = handles[0].create_run(CreateRun::default()).await.unwrap();
    let run_id = run.info.run_id;
    let mut jobs = JoinSet::new();
    for n in 0..40_i64 {
        let (handle, run_id) = (handles[n as usize % 2].clone(), run_id.clone());
        jobs.spawn(async move {
            // A list that is read, added to and written.
            let model = format!(
                r#"{{"artifact_path": "m{n}", "flavors": {{}}, "utc_time_created": "x", "run_id": "{run_id}"}}"#
            );
            handle.log_model(run_id.clone(), &model).await.unwrap();
            // The same keys from both, in opposite orders.
            let mut metrics: Vec<Metric> = (0..20)
                .map(|key| Metric::new(format!("m{key}"), n as f64, n, n))
                .collect();
            if n % 2 == 0 {
                metrics.reverse();
            }
            let batch = cumulo_track::LogBatch {
                run_id: Some(run_id),
                metrics,
                params: vec![KeyValue::new("same", "1"), KeyValue::new(format!("p{n}"), "1")],
                tags: vec![KeyValue::new("n", n.to_string())],
            };
            handle.log_batch(batch).await.unwrap();
        });
    }
    jobs.join_all().await;
    let run = handles[1].get_run(&run_id).await.unwrap();
    let models: Vec<serde_json::Value> =
        serde_json::from_str(run.tag("mlflow.log-model.history").unwrap()).unwrap();
    assert_eq!(models.len(), 40);
    assert_eq!(run.data.params.len(), 41);
    assert_eq!(run.data.metrics.len(), 20);
    assert!(run.data.metrics.iter().all(|metric| metric.step == 39));
    let history = handles[0].metric_history(&run_id, "m7", None, None).await;
    assert_eq!(history.unwrap().items.len(), 40);
}

/// The next change of the model, or of everything.
async fn told(changes: &mut RegistryChanges) -> RegistryChange {
    let next = tokio::time::timeout(Duration::from_secs(30), changes.next());
    next.await.expect("a change is told").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_to_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = platforms::<2>(&folder).await;
    let run = one.create_run(CreateRun::default()).await.unwrap();
    let request = version_of(&run.info.run_id, "k".to_owned());
    let (mut here, mut there) = (one.subscribe(), other.subscribe());
    one.ensure_model_version(request).await.unwrap();
    let change = RegistryChange::Model {
        name: "m".to_owned(),
    };
    assert_eq!(told(&mut here).await, change);
    assert_eq!(told(&mut there).await, change);
    other.set_alias("m", "champion", "1").await.unwrap();
    assert_eq!(told(&mut here).await, change);
    let champion = one.resolve("models:/m@champion").await.unwrap();
    assert_eq!(champion.version.version, "1");
    // What is refused changes nothing, and nobody is told: the next is another one's.
    one.set_alias("m", "champion", "9").await.unwrap_err();
    let request = cumulo_track::CreateRegisteredModel {
        name: Some("n".to_owned()),
        ..Default::default()
    };
    other.create_registered_model(request).await.unwrap();
    let change = RegistryChange::Model {
        name: "n".to_owned(),
    };
    assert_eq!(told(&mut here).await, change);
}

/// The way to a server, on which every connection can be reset.
struct Way {
    address: SocketAddr,
    cut: watch::Sender<()>,
}

impl Way {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = watch::Sender::new(());
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    let mut there = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut here, &mut there) => {}
                        _ = cut.changed() => here.set_zero_linger().unwrap(),
                    }
                });
            }
        });
        Self { address, cut }
    }
}

/// A connection that is reset, as by a load balancer, is one that is lost: another takes its
/// place at once, not when the wait for a free one is over.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_heard_again_when_their_connection_is_reset() {
    let folder = tempfile::tempdir().unwrap();
    let database = shared_database().await;
    let (_, place) = database.split_once('@').unwrap();
    let (server, _) = place.split_once('/').unwrap();
    let way = Way::to(server.parse().unwrap()).await;
    let address = database.replace(server, &way.address.to_string());
    let artifacts = Options::below(folder.path()).artifacts;
    let handle = Handle::open(&Options::at(address, artifacts))
        .await
        .unwrap();
    let mut changes = handle.subscribe();
    way.cut.send(()).unwrap();
    let again = tokio::time::timeout(Duration::from_secs(10), changes.next());
    assert_eq!(
        again.await.expect("heard again"),
        Some(RegistryChange::Missed)
    );
    let request = cumulo_track::CreateRegisteredModel {
        name: Some("n".to_owned()),
        ..Default::default()
    };
    handle.create_registered_model(request).await.unwrap();
    let change = RegistryChange::Model {
        name: "n".to_owned(),
    };
    assert_eq!(told(&mut changes).await, change);
}

/// Writes and reads go on while the server dies and comes back: whatever was
/// acknowledged is there, and nothing failed or happened twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_postgresql_is_waited_out() {
    let mut server = tokio::task::spawn_blocking(|| Peer::start("postgres.py"))
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let artifacts = Options::below(folder.path()).artifacts;
    let options = Options::at(new_database(&server.words[0]).await, artifacts);
    let handle = Handle::open(&options).await.unwrap();
    let run = handle.create_run(CreateRun::default()).await.unwrap();
    let run_id = run.info.run_id;
    let mut changes = handle.subscribe();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut writers = JoinSet::new();
    for writer in 0..8_i64 {
        let (handle, run_id, stop) = (handle.clone(), run_id.clone(), stop.clone());
        writers.spawn(async move {
            let mut made = Vec::new();
            while !stop.is_cancelled() {
                let n = made.len();
                let metric = Metric::new(format!("w{writer}"), n as f64, n as i64, n as i64);
                handle.log_metric(run_id.clone(), metric).await.unwrap();
                // Not idempotent by itself: an outcome that is guessed would show.
                let run = handle
                    .create_run(CreateRun {
                        run_name: Some(format!("w{writer}-{n}")),
                        ..CreateRun::default()
                    })
                    .await
                    .unwrap();
                handle.get_run(&run.info.run_id).await.unwrap();
                made.push(run.info.run_id);
            }
            (writer, made)
        });
    }
    for _ in 0..2 {
        server = tokio::task::spawn_blocking(move || {
            server.tell("restart");
            server
        })
        .await
        .unwrap();
        assert_eq!(told(&mut changes).await, RegistryChange::Missed);
    }
    stop.cancel();
    let written = writers.join_all().await;
    let search = cumulo_track::SearchRuns {
        experiment_ids: vec!["0".to_owned()],
        max_results: Some(50_000),
        ..Default::default()
    };
    let runs = handle.search_runs(search).await.unwrap().items;
    let there: HashSet<_> = runs.iter().map(|run| run.info.run_id.as_str()).collect();
    let total: usize = written.iter().map(|(_, made)| made.len()).sum();
    assert_eq!(there.len(), total + 1);
    for (writer, made) in &written {
        assert!(made.iter().all(|id| there.contains(id.as_str())));
        let history = handle
            .metric_history(&run_id, &format!("w{writer}"), None, None)
            .await
            .unwrap();
        assert_eq!(history.items.len(), made.len());
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_explained_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = Options::below(folder.path()).artifacts;
    let address = shared_database().await;
    let wrong = address.replacen("cumulo:", "cumulo:geheim", 1);
    let missing = format!("{address}-missing");
    for (address, expected) in [
        (wrong, "password authentication failed"),
        (missing, "does not exist"),
    ] {
        let options = Options::at(address, artifacts.clone());
        let error = Handle::open(&options).await.unwrap_err().message;
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("PGPASSWORD"), "{error}");
        assert!(!error.contains("geheim"), "{error}");
        assert!(!format!("{options:?}").contains("geheim"), "{options:?}");
    }
}
