//! The registry within the process: idempotent, and it tells what changed.

use cumulo_track::{
    CreateModelVersion, CreateRun, KeyValue, RegistryChange, TRAIN_JOB_TAG, TRAIN_KEY_TAG,
};

fn version_of(run_id: &str, key: &str) -> CreateModelVersion {
    CreateModelVersion {
        name: Some("late-flights".to_owned()),
        source: Some(format!("runs:/{run_id}/model")),
        tags: vec![KeyValue::new(TRAIN_KEY_TAG, key)],
        ..CreateModelVersion::default()
    }
}

#[tokio::test]
async fn training_twice_registers_once() {
    let server = super::start().await;
    let handle = &server.handle;
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let handle = handle.clone();
        jobs.spawn(async move {
            let run = handle
                .ensure_run("job-1", CreateRun::default())
                .await
                .unwrap();
            let version = handle
                .ensure_model_version(version_of(&run.info.run_id, "k1"))
                .await;
            (run.info.run_id, version.unwrap().version)
        });
    }
    let results = jobs.join_all().await;
    assert!(
        results.iter().all(|result| *result == results[0]),
        "{results:?}"
    );
    let run_id = &results[0].0;
    assert_eq!(
        handle.get_run(run_id).await.unwrap().tag(TRAIN_JOB_TAG),
        Some("job-1")
    );
    let second = handle
        .ensure_model_version(version_of(run_id, "k2"))
        .await
        .unwrap();
    assert_eq!(second.version, "2");
    let found = handle
        .model_versions_by_tag("late-flights", TRAIN_KEY_TAG, "k1")
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        handle
            .list_model_versions("late-flights")
            .await
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn aliases_resolve_and_changes_are_told() {
    let server = super::start().await;
    let handle = &server.handle;
    let run_id = server.run().await;
    let missing = handle
        .resolve("models:/late-flights@champion")
        .await
        .unwrap_err();
    assert!(missing.is_not_found(), "{missing:?}");
    handle
        .ensure_model_version(version_of(&run_id, "k1"))
        .await
        .unwrap();
    handle
        .ensure_model_version(version_of(&run_id, "k2"))
        .await
        .unwrap();
    let mut changes = handle.subscribe();
    handle
        .set_alias("late-flights", "champion", "1")
        .await
        .unwrap();
    let change = RegistryChange::Model {
        name: "late-flights".to_owned(),
    };
    assert_eq!(changes.next().await, Some(change));
    let resolved = handle
        .resolve("models:/late-flights@champion")
        .await
        .unwrap();
    assert_eq!(resolved.version.version, "1");
    let path = format!("experiments/0/{run_id}/artifacts/model");
    assert_eq!(resolved.artifact_path.as_str(), path);
    let resolved = handle.resolve("models:/late-flights/latest").await.unwrap();
    assert_eq!(resolved.version.version, "2");
    handle
        .set_alias("late-flights", "champion", "2")
        .await
        .unwrap();
    let champion = handle
        .get_alias("late-flights", "champion")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (champion.version.as_str(), champion.aliases),
        ("2", vec!["champion".to_owned()])
    );
    handle
        .delete_alias("late-flights", "champion")
        .await
        .unwrap();
    assert_eq!(
        handle.get_alias("late-flights", "champion").await.unwrap(),
        None
    );
    assert!(
        handle
            .set_alias("late-flights", "latest", "1")
            .await
            .is_err()
    );
    assert!(handle.set_alias("late-flights", "v2", "1").await.is_err());
    assert!(
        handle
            .set_alias("late-flights", "champion", "9")
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn a_slow_listener_learns_that_it_missed_something() {
    let server = super::start().await;
    let run_id = server.run().await;
    server
        .handle
        .ensure_model_version(version_of(&run_id, "k"))
        .await
        .unwrap();
    let mut changes = server.handle.subscribe();
    for n in 0..1100_i32 {
        let tag = KeyValue::new("n", n.to_string());
        server
            .handle
            .set_registered_model_tag("late-flights", tag)
            .await
            .unwrap();
    }
    assert_eq!(changes.next().await, Some(RegistryChange::Missed));
}

#[tokio::test]
async fn sources_outside_the_store_are_refused() {
    let server = super::start().await;
    let run_id = server.run().await;
    let mut shown = String::new();
    for source in [
        "/etc/passwd",
        "file:///etc/passwd",
        "s3://bucket/key",
        "mlflow-artifacts:/../../etc",
        "mlflow-artifacts:/%252e%252e/x",
        "mlflow-artifacts://host/x",
        "runs:/00000000000000000000000000000000/model",
        "models:/m-00000000000000000000000000000000",
        "models:/nothing/1",
    ] {
        let mut request = version_of(&run_id, "k");
        request.source = Some(source.to_owned());
        let error = server
            .handle
            .ensure_model_version(request)
            .await
            .unwrap_err();
        let text = error.message.replace(
            "A source is a place in this platform's store: mlflow-artifacts:/<path>, \
             runs:/<run id>/<path>, models:/<model> or cumulo:<path>.",
            "[help]",
        );
        shown.push_str(&format!("{:?} {text}\n", error.code));
    }
    insta::assert_snapshot!(shown, @r"
    InvalidParameterValue Invalid model version source: '/etc/passwd'. It is a local path. [help]
    InvalidParameterValue Invalid model version source: 'file:///etc/passwd'. It is a local path. [help]
    InvalidParameterValue Invalid model version source: 's3://bucket/key'. The scheme 's3' is not one of ours. [help]
    InvalidParameterValue Invalid model version source: 'mlflow-artifacts:/../../etc'. Invalid path '../../etc': it has a part named `.` or `..`. [help]
    InvalidParameterValue Invalid model version source: 'mlflow-artifacts:/%252e%252e/x'. Invalid path '%252e%252e/x': it has a part named `.` or `..`. [help]
    InvalidParameterValue Invalid model version source: 'mlflow-artifacts://host/x'. Invalid artifact URI 'mlflow-artifacts://host/x': it must not name a host. [help]
    InvalidParameterValue Invalid model version source: 'runs:/00000000000000000000000000000000/model'. Run with id=00000000000000000000000000000000 not found. [help]
    InvalidParameterValue Invalid model version source: 'models:/m-00000000000000000000000000000000'. Logged model with ID 'm-00000000000000000000000000000000' not found. [help]
    InvalidParameterValue Invalid model version source: 'models:/nothing/1'. Model Version (name=nothing, version=1) not found. [help]
    ");
}
