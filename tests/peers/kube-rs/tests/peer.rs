//! A kube-rs program that is not part of Cumulo lists and watches through the socket.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Config, Discovery};
use serde_json::json;

/// `cumulo up` on a folder of its own, ended when dropped.
struct Platform {
    home: tempfile::TempDir,
}

impl Platform {
    fn start() -> Self {
        let platform = Self {
            home: tempfile::tempdir().unwrap(),
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        platform.cumulo(&["up", "--listen", &format!("127.0.0.1:{port}")]);
        platform
    }

    fn cumulo(&self, arguments: &[&str]) {
        let output = Command::new(binary())
            .args(arguments)
            .env("CUMULO_HOME", self.home.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.home.path().join("kubeconfig")).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        Client::try_from(config).unwrap()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.cumulo(&["down"]);
    }
}

/// The binary that the same build made: it lies two folders above this test's.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let binary = test.parent().and_then(Path::parent).unwrap().join("cumulo");
    assert!(
        binary.exists(),
        "{} is not there: build the whole workspace, as `make test` does",
        binary.display()
    );
    binary
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"tier": "test"}},
        "data": {"key": value},
    }))
    .unwrap()
}

#[tokio::test]
async fn lists_watches_and_writes() {
    let platform = Platform::start();
    let client = platform.client().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());

    // A list in pages, its resource version the start of a watch.
    for number in 0..25 {
        maps.create(
            &PostParams::default(),
            &config_map(&format!("map-{number:02}"), "a"),
        )
        .await
        .unwrap();
    }
    let mut names = Vec::new();
    let mut page = ListParams::default().labels("tier=test").limit(10);
    let version = loop {
        let list = maps.list(&page).await.unwrap();
        names.extend(
            list.items
                .iter()
                .map(|map| map.metadata.name.clone().unwrap()),
        );
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break list.metadata.resource_version.unwrap(),
        }
    };
    let expected: Vec<String> = (0..25).map(|number| format!("map-{number:02}")).collect();
    assert_eq!(names, expected);

    let params = WatchParams::default().labels("tier=test").timeout(20);
    let events = maps.watch(&params, &version).await.unwrap().boxed();
    maps.patch(
        "map-03",
        &PatchParams::apply("peer").force(),
        &Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map-03"}, "data": {"key": "b"},
        })),
    )
    .await
    .unwrap();
    maps.delete("map-04", &DeleteParams::default())
        .await
        .unwrap();
    let seen: Vec<(String, String)> = events
        .try_filter_map(|event| async move {
            Ok(match event {
                WatchEvent::Added(map) => Some(("added".to_owned(), map.metadata.name.unwrap())),
                WatchEvent::Modified(map) => {
                    Some(("modified".to_owned(), map.metadata.name.unwrap()))
                }
                WatchEvent::Deleted(map) => {
                    Some(("deleted".to_owned(), map.metadata.name.unwrap()))
                }
                WatchEvent::Bookmark(_) => None,
                WatchEvent::Error(status) => panic!("{status:?}"),
            })
        })
        .take(2)
        .try_collect()
        .await
        .unwrap();
    let event = |what: &str, name: &str| (what.to_owned(), name.to_owned());
    assert_eq!(
        seen,
        [event("modified", "map-03"), event("deleted", "map-04")]
    );

    // The controllers' watcher, by list and watch and by streaming list.
    for config in [
        watcher::Config::default().labels("tier=test"),
        watcher::Config::default()
            .labels("tier=test")
            .streaming_lists(),
    ] {
        let mut stream = watcher::watcher(maps.clone(), config).boxed();
        let mut initial = 0;
        loop {
            match next(&mut stream).await {
                Event::Init => {}
                Event::InitApply(_) => initial += 1,
                Event::InitDone => break,
                other => panic!("{other:?} before the list was done"),
            }
        }
        assert_eq!(initial, 24);
        maps.create(&PostParams::default(), &config_map("late", "c"))
            .await
            .unwrap();
        let Event::Apply(map) = next(&mut stream).await else {
            panic!("the new object was not seen");
        };
        assert_eq!(map.metadata.name.as_deref(), Some("late"));
        maps.delete("late", &DeleteParams::default()).await.unwrap();
        let Event::Delete(map) = next(&mut stream).await else {
            panic!("the deletion was not seen");
        };
        assert_eq!(map.metadata.name.as_deref(), Some("late"));
    }
}

async fn next<S>(stream: &mut S) -> Event<ConfigMap>
where
    S: futures::Stream<Item = Result<Event<ConfigMap>, watcher::Error>> + Unpin,
{
    tokio::time::timeout(Duration::from_secs(20), stream.next())
        .await
        .expect("an event within 20 s")
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn finds_cumulos_kinds_by_discovery() {
    let platform = Platform::start();
    let client = platform.client().await;
    assert!(
        client
            .apiserver_version()
            .await
            .unwrap()
            .minor
            .parse::<u32>()
            .is_ok()
    );
    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    let kind = GroupVersionKind::gvk("cumulo.dev", "v1alpha1", "Dataset");
    let (resource, capabilities) = discovery.resolve_gvk(&kind).expect("the kind is served");
    assert_eq!(resource.plural, "datasets");
    assert!(
        capabilities
            .subresources
            .iter()
            .any(|(sub, _)| sub.plural == "status")
    );

    let datasets: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    let dataset = DynamicObject::new("numbers", &resource).data(json!({
        "spec": {"sources": {"t": {"uri": "file:///nowhere/t.csv"}}, "query": "SELECT a FROM t"},
    }));
    datasets
        .create(&PostParams::default(), &dataset)
        .await
        .unwrap();
    let mut events = watcher::watcher(datasets.clone(), watcher::Config::default()).boxed();
    // The controller answers in the status: the watcher sees it come.
    let reason = loop {
        let event = tokio::time::timeout(Duration::from_secs(30), events.next())
            .await
            .expect("an event within 30 s")
            .unwrap()
            .unwrap();
        if let Event::Apply(object) | Event::InitApply(object) = event
            && let Some(degraded) = object.data["status"]["conditions"]
                .as_array()
                .and_then(|all| all.iter().find(|one| one["type"] == "Degraded"))
            && degraded["status"] == "True"
        {
            break degraded["message"].as_str().unwrap().to_owned();
        }
    };
    assert!(
        reason.contains("outside the folders that may be read"),
        "{reason}"
    );

    // Errors come as the typed statuses that clients test for.
    let missing = datasets.get("none").await.unwrap_err();
    assert!(
        matches!(&missing, kube::Error::Api(status) if status.code == 404),
        "{missing}"
    );
    let twice = datasets
        .create(&PostParams::default(), &dataset)
        .await
        .unwrap_err();
    assert!(
        matches!(&twice, kube::Error::Api(status) if status.reason == "AlreadyExists"),
        "{twice}"
    );
    let all: Api<Namespace> = Api::all(client);
    assert!(all.get("default").await.is_ok());
    let _ = ApiResource::erase::<ConfigMap>(&());
}
