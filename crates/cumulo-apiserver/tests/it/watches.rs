//! Watches: order, selectors, bookmarks, streaming lists, 410.

use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::Request;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::WatchParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::Running;

const PATH: &str = "/api/v1/namespaces/default/configmaps";

/// A watch over plain HTTP.
struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    async fn new(server: &Running, query: &str) -> Self {
        let request = Request::builder()
            .uri(format!("{PATH}?watch=true&{query}"))
            .body(Body::empty())
            .expect("a request");
        let response = server
            .handle
            .client_service()
            .oneshot(request)
            .await
            .expect("an answer");
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body(),
            rest: Vec::new(),
        }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event"));
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame())
                .await
                .expect("an event in time")?
                .expect("a frame");
            self.rest.extend_from_slice(frame.data_ref().expect("data"));
        }
    }

    async fn shown(&mut self) -> String {
        match self.next().await {
            None => "end".into(),
            Some(event) => format!(
                "{} {}",
                event["type"].as_str().unwrap_or_default(),
                event["object"]["metadata"]["name"].as_str().unwrap_or("-")
            ),
        }
    }
}

async fn create(server: &Running, name: &str, label: &str) -> String {
    let answer = server
        .json(
            "POST",
            PATH,
            &json!({"metadata": {"name": name, "labels": {"l": label}}}),
        )
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned()
}

async fn label(server: &Running, name: &str, label: &str) {
    let body = json!({"metadata": {"labels": {"l": label}}}).to_string();
    let answer = server
        .call(
            "PATCH",
            &format!("{PATH}/{name}"),
            "application/merge-patch+json",
            body,
        )
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn what_no_longer_matches_is_deleted() {
    let server = Running::new().await;
    let version = create(&server, "before", "x").await;
    let mut watch = Watch::new(
        &server,
        &format!("labelSelector=l%3Dx&resourceVersion={version}"),
    )
    .await;
    create(&server, "a", "x").await;
    create(&server, "other", "y").await;
    label(&server, "a", "y").await;
    label(&server, "a", "x").await;
    label(&server, "other", "z").await;
    server
        .call("DELETE", &format!("{PATH}/a"), "application/json", "")
        .await;
    for expected in ["ADDED a", "DELETED a", "ADDED a", "DELETED a"] {
        assert_eq!(watch.shown().await, expected);
    }
    server.close().await;
    assert_eq!(watch.shown().await, "end", "watches end with the server");
}

#[tokio::test]
async fn every_watcher_sees_the_same_order() {
    let server = Running::new().await;
    let version = create(&server, "first", "x").await;
    let mut watches = Vec::new();
    for _ in 0..5 {
        watches.push(Watch::new(&server, &format!("resourceVersion={version}")).await);
    }
    let writes = (0..40).map(|n| {
        let server = &server;
        async move {
            create(server, &format!("c{n}"), "x").await;
        }
    });
    futures::future::join_all(writes).await;
    let mut orders = Vec::new();
    for watch in &mut watches {
        let mut order = Vec::new();
        let mut last: u64 = version.parse().expect("a number");
        for _ in 0..40 {
            let event = watch.next().await.expect("an event");
            let version: u64 = event["object"]["metadata"]["resourceVersion"]
                .as_str()
                .and_then(|v| v.parse().ok())
                .expect("a version");
            assert!(version > last);
            last = version;
            order.push(event["object"]["metadata"]["name"].to_string());
        }
        orders.push(order);
    }
    assert!(orders.windows(2).all(|w| w[0] == w[1]));
    server.close().await;
}

#[tokio::test]
async fn streaming_lists_end_with_a_bookmark() {
    let server = Running::new().await;
    create(&server, "a", "x").await;
    create(&server, "b", "x").await;
    let mut watch = Watch::new(
        &server,
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1",
    )
    .await;
    assert_eq!(watch.shown().await, "ADDED a");
    assert_eq!(watch.shown().await, "ADDED b");
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    // Before its time is over, a watch says how far it came.
    let last = watch.next().await.expect("a bookmark");
    assert_eq!(last["type"], "BOOKMARK");
    assert_eq!(watch.shown().await, "end");
    let wrong = server
        .get(&format!("{PATH}?watch=1&sendInitialEvents=true"))
        .await;
    assert_eq!(wrong.status, 422);
    server.close().await;
}

#[tokio::test]
async fn bookmarks_come_on_their_own() {
    let server = Running::with(|o| o.settings.bookmark_interval = Duration::from_millis(20)).await;
    let version = create(&server, "a", "x").await;
    let mut watch = Watch::new(
        &server,
        &format!("allowWatchBookmarks=true&resourceVersion={version}"),
    )
    .await;
    watch.next().await.expect("a bookmark");
    // Something of another type moves the version on, which the next bookmarks show.
    server
        .json(
            "POST",
            "/api/v1/namespaces/default/secrets",
            &json!({"metadata": {"name": "s"}}),
        )
        .await;
    let now = server.handle.version();
    for bookmark in 0.. {
        assert!(bookmark < 50, "the version does not move on");
        let event = watch.next().await.expect("an event");
        assert_eq!(event["type"], "BOOKMARK");
        let seen: u64 = event["object"]["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|v| v.parse().ok())
            .expect("a version");
        if seen >= now {
            break;
        }
    }
    server.close().await;
}

#[tokio::test]
async fn too_old_is_410() {
    let server = Running::new().await;
    let version = create(&server, "a", "x").await;
    create(&server, "b", "x").await;
    server.handle.compact();
    let mut watch = Watch::new(&server, &format!("resourceVersion={version}")).await;
    let event = watch.next().await.expect("an event");
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["code"], 410);
    assert_eq!(event["object"]["reason"], "Expired");
    assert_eq!(watch.shown().await, "end");
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let mut stream = api
        .watch(&WatchParams::default(), &version)
        .await
        .expect("a watch")
        .boxed();
    match stream.next().await {
        Some(Ok(kube::api::WatchEvent::Error(status))) => assert_eq!(status.code, 410),
        other => panic!("{other:?}"),
    }
    server.close().await;
}

#[tokio::test]
async fn a_slow_watcher_falls_off_and_is_told() {
    let server = Running::with(|o| o.history.changes = 8).await;
    let version = create(&server, "a", "x").await;
    let mut watch = Watch::new(&server, &format!("resourceVersion={version}")).await;
    for n in 0..20 {
        create(&server, &format!("c{n}"), "x").await;
    }
    let event = watch.next().await.expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    server.close().await;
}

type Objects = futures::stream::BoxStream<'static, Result<ConfigMap, watcher::Error>>;

async fn next(stream: &mut Objects) -> ConfigMap {
    tokio::time::timeout(Duration::from_secs(10), stream.next())
        .await
        .expect("in time")
        .expect("an object")
        .expect("no error")
}

async fn follow(server: &Running, config: watcher::Config) {
    create(server, "old", "x").await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let mut stream = watcher(api, config).applied_objects().boxed();
    let first = next(&mut stream).await;
    assert_eq!(first.name_any(), "old");
    create(server, "new", "x").await;
    let second = next(&mut stream).await;
    assert_eq!(second.name_any(), "new");
    // A forgotten history makes the watcher list again, not fail.
    server.handle.compact();
    label(server, "new", "y").await;
    let third = next(&mut stream).await;
    assert_eq!(third.name_any(), "new");
}

#[tokio::test]
async fn kube_watchers_list_then_watch() {
    let server = Running::new().await;
    follow(&server, watcher::Config::default()).await;
    server.close().await;
}

#[tokio::test]
async fn kube_watchers_stream_lists() {
    let server = Running::new().await;
    follow(&server, watcher::Config::default().streaming_lists()).await;
    server.close().await;
}
