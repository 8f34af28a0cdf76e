//! Our own client, also while the service goes away and comes back.

use std::time::Duration;

use cumulo_track::client::{Client, Error, Options};
use cumulo_track::{Handle, KeyValue, Metric, RunStatus};

use crate::server::serve;

fn client(address: impl std::fmt::Display, patience: Duration) -> Client {
    Client::new(Options {
        address: format!("http://{address}"),
        token: Some("token".to_owned()),
        patience,
        insecure_tls: false,
        authorities: None,
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_job_from_start_to_registration_twice() {
    let server = super::start().await;
    let client = client(server.address, Duration::from_secs(20));
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data/deep")).unwrap();
    std::fs::write(folder.path().join("MLmodel"), "flavors: {}\n").unwrap();
    std::fs::write(
        folder.path().join("data/deep/ü 1.bin"),
        vec![7_u8; 3_000_000],
    )
    .unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let experiment = client.ensure_experiment("late-flights").await.unwrap();
        let run = client
            .ensure_run(&experiment, "job's uid", "one", vec![])
            .await
            .unwrap();
        let id = &run.info.run_id;
        let metrics = (0..2500).map(|n| Metric::new("loss", 1.0 / f64::from(n + 1), 1, n.into()));
        let params = (0..150).map(|n| KeyValue::new(format!("p{n}"), "1"));
        client
            .log_batch(id, metrics.collect(), params.collect(), vec![])
            .await
            .unwrap();
        client.set_tag(id, "phase", "train").await.unwrap();
        let model = client
            .ensure_logged_model(&experiment, id, "model")
            .await
            .unwrap();
        let moved = client
            .upload_folder(&model.info.artifact_uri, folder.path())
            .await
            .unwrap();
        assert_eq!((moved.files, moved.bytes), (2, 3_000_012));
        client
            .finalize_logged_model(&model.info.model_id)
            .await
            .unwrap();
        let version = client
            .register(&model, "late-flights", "key", vec![])
            .await
            .unwrap();
        client.end_run(id, RunStatus::Finished).await.unwrap();
        seen.push((run.info.run_id, model.info.model_id, version.version));
    }
    assert_eq!(seen[0], seen[1]);
    let (run_id, model_id, version) = &seen[0];
    let run = client.get_run(run_id).await.unwrap();
    assert_eq!(run.info.status, RunStatus::Finished);
    assert_eq!(run.outputs.model_outputs.len(), 1);
    let history = server
        .handle
        .metric_history(run_id, "loss", None, None)
        .await
        .unwrap();
    assert_eq!(history.items.len(), 2500);
    assert_eq!(
        client.get_alias("late-flights", "champion").await.unwrap(),
        None
    );
    assert_eq!(client.get_alias("nothing", "champion").await.unwrap(), None);
    client
        .set_alias("late-flights", "champion", version)
        .await
        .unwrap();
    let champion = client
        .get_alias("late-flights", "champion")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(champion.model_id.as_deref(), Some(model_id.as_str()));
    let uri = client.download_uri("late-flights", version).await.unwrap();
    let target = tempfile::tempdir().unwrap();
    let moved = client
        .download(&uri, &target.path().join("model"))
        .await
        .unwrap();
    assert_eq!(moved.files, 2);
    let content = std::fs::read(target.path().join("model/data/deep/ü 1.bin")).unwrap();
    assert_eq!(content, vec![7_u8; 3_000_000]);
    let one = target.path().join("one");
    client
        .download(&format!("{uri}/MLmodel"), &one)
        .await
        .unwrap();
    assert_eq!(std::fs::read_to_string(one).unwrap(), "flavors: {}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_service_is_waited_out() {
    let server = super::start().await;
    let handle = Handle::open(&server.options).await.unwrap();
    let (address, stop) = serve(&handle, "127.0.0.1:0").await;
    let client = client(address, Duration::from_secs(60));
    let experiment = client.ensure_experiment("e").await.unwrap();
    let run = client
        .ensure_run(&experiment, "job", "n", vec![])
        .await
        .unwrap();
    stop.cancel();
    drop(handle);
    let id = run.info.run_id.clone();
    let logging = {
        let client = client.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                let metric = Metric::new("m", f64::from(n), n.into(), n.into());
                client.log_batch(&id, vec![metric], vec![], vec![]).await?;
            }
            client.ensure_run(&experiment, "job", "n", vec![]).await
        })
    };
    let handle = Handle::open(&server.options).await.unwrap();
    let (_, _stop) = serve(&handle, &address.to_string()).await;
    let again = logging.await.unwrap().unwrap();
    assert_eq!(again.info.run_id, run.info.run_id);
    let history = handle
        .metric_history(&run.info.run_id, "m", None, None)
        .await
        .unwrap();
    assert_eq!(history.items.len(), 20);
}

#[tokio::test]
async fn failures_say_what_to_do() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = client(address, Duration::from_millis(300))
        .get_run("0")
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(
        error.to_string().contains("Check that the platform is up"),
        "{error}"
    );
    let server = super::start().await;
    let error = client(server.address, Duration::from_secs(5))
        .get_run("00")
        .await
        .unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    let options = Options {
        address: "not a url".to_owned(),
        token: None,
        patience: Duration::ZERO,
        insecure_tls: false,
        authorities: None,
    };
    assert!(matches!(Client::new(options), Err(Error::Settings(_))));
}
