//! Tests of the server with clients that speak protobuf and nothing else.

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{MEDIA, WATCH_MEDIA, decode, encode};
use crate::{Handle, Options, Server};

struct Running {
    handle: Handle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Running {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (server, handle) = Server::open(Options::new(folder.path()))
            .await
            .expect("the server opens");
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Self {
            handle,
            stop,
            task,
            _folder: folder,
        }
    }

    async fn close(self) {
        self.stop.cancel();
        self.task.await.expect("the server ends");
    }

    async fn send(&self, method: &str, path: &str, accept: &str, body: Bytes) -> Response<Body> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, accept)
            .header(header::CONTENT_TYPE, MEDIA)
            .body(Body::from(body))
            .expect("a request");
        let service = self.handle.client_service();
        service.oneshot(request).await.expect("an answer")
    }

    /// Asks and answers in protobuf: the status and the object.
    async fn call(&self, method: &str, path: &str, object: Option<&Value>) -> (u16, Value) {
        let body = object.map(|object| encode(object).expect("encoded"));
        let body = Bytes::from(body.unwrap_or_default());
        let answer = self.send(method, path, MEDIA, body).await;
        assert_eq!(answer.headers()[header::CONTENT_TYPE], MEDIA);
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body");
        (status, decode(&body.to_bytes()).expect("protobuf"))
    }
}

async fn json_of(answer: Response<Body>) -> Value {
    let body = answer.into_body().collect().await.expect("a body");
    serde_json::from_slice(&body.to_bytes()).expect("JSON")
}

#[tokio::test]
async fn objects_lists_and_errors() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let sent = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a"}, "data": {"x": "1"}, "binaryData": {"y": "/wA="},
    });
    let (status, created) = server.call("POST", path, Some(&sent)).await;
    assert_eq!((status, &created["data"]), (201, &sent["data"]));
    assert_eq!(created["binaryData"], sent["binaryData"]);
    assert_eq!(created["kind"], "ConfigMap");
    let (status, error) = server.call("POST", path, Some(&sent)).await;
    assert_eq!((status, error["kind"].as_str()), (409, Some("Status")));
    assert_eq!(error["reason"], "AlreadyExists");
    assert_eq!(error["details"]["name"], "a");

    let mut changed = created.clone();
    changed["data"]["x"] = json!("2");
    let (_, updated) = server
        .call("PUT", &format!("{path}/a"), Some(&changed))
        .await;
    assert_eq!(updated["data"]["x"], "2");
    let (_, list) = server.call("GET", path, None).await;
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"][0]["data"]["x"], "2");
    assert_eq!(
        list["metadata"]["resourceVersion"],
        updated["metadata"]["resourceVersion"]
    );

    // Who accepts JSON too gets it, also for a body of protobuf.
    let accept = format!("{MEDIA}, */*");
    let answer = server.send("GET", path, &accept, Bytes::new()).await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
    // Metadata alone has a message, tables have none.
    let partial = format!("{MEDIA};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let answer = server.send("GET", path, &partial, Bytes::new()).await;
    let body = answer.into_body().collect().await.expect("a body");
    let list = decode(&body.to_bytes()).expect("protobuf");
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    let table = format!("{MEDIA};as=Table;g=meta.k8s.io;v=v1");
    let answer = server.send("GET", path, &table, Bytes::new()).await;
    assert_eq!(answer.status(), 406);

    let stale = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "another"},
    });
    let named = format!("{path}/a");
    let (status, _) = server.call("DELETE", &named, Some(&stale)).await;
    assert_eq!(status, 409);
    let (status, gone) = server.call("DELETE", &named, None).await;
    assert_eq!((status, gone["status"].as_str()), (200, Some("Success")));
    // Discovery has messages as well, the version has none.
    let (_, resources) = server.call("GET", "/apis/apps/v1", None).await;
    assert_eq!(resources["kind"], "APIResourceList");
    assert_eq!(resources["groupVersion"], "apps/v1");
    assert!(resources["resources"][0]["verbs"].is_array());
    let version = server.send("GET", "/version", MEDIA, Bytes::new()).await;
    assert_eq!(json_of(version).await["major"], "1");
    server.close().await;
}

#[tokio::test]
async fn a_watch_is_a_stream_of_messages() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let watch = format!("{path}?watch=true&resourceVersion=0");
    let accept = format!("{MEDIA};stream=watch");
    let answer = server.send("GET", &watch, &accept, Bytes::new()).await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], WATCH_MEDIA);
    let mut body = answer.into_body();
    let mut read: Vec<u8> = Vec::new();
    let mut seen = Vec::new();
    let object = |value: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a"}, "data": {"x": value},
        })
    };
    server.call("POST", path, Some(&object("1"))).await;
    let named = format!("{path}/a");
    server.call("PUT", &named, Some(&object("2"))).await;
    server.call("DELETE", &named, None).await;
    while seen.len() < 3 {
        let frame = body.frame().await.expect("a frame").expect("data");
        read.extend_from_slice(frame.data_ref().expect("data"));
        while let Some((length, rest)) = read.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let Some(event) = rest.get(..length) else {
                break;
            };
            let event = super::tests::watch_event_of(event);
            seen.push(format!(
                "{} {} {}",
                event["type"], event["object"]["kind"], event["object"]["data"]["x"]
            ));
            read.drain(..length + 4);
        }
    }
    assert_eq!(
        seen,
        [
            r#""ADDED" "ConfigMap" "1""#,
            r#""MODIFIED" "ConfigMap" "2""#,
            r#""DELETED" "ConfigMap" "2""#,
        ]
    );
    server.close().await;
}

#[tokio::test]
async fn custom_resources_have_no_messages() {
    let server = Running::new().await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.test.dev"},
        "spec": {
            "group": "test.dev", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "additionalProperties": {"type": "integer"}},
                }},
            }}],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (status, created) = server.call("POST", definitions, Some(&definition)).await;
    assert_eq!(status, 201, "{created}");
    let schema = &created["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(
        schema["properties"]["spec"]["additionalProperties"],
        json!({"type": "integer"})
    );
    let path = "/apis/test.dev/v1/namespaces/default/things";
    while server.call("GET", "/apis/test.dev/v1", None).await.0 != 200 {
        tokio::task::yield_now().await;
    }
    let (status, error) = server.call("GET", path, None).await;
    assert_eq!(status, 406, "{error}");
    let body = super::tests::body("test.dev/v1", "Thing", b"");
    let answer = server.send("POST", path, "*/*", body.into()).await;
    assert_eq!(answer.status(), 415);
    insta::assert_snapshot!(
        format!("{}\n{}", error["message"], json_of(answer).await["message"]),
        @r#"
    "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    "the body of the request was in an unknown format \"application/vnd.kubernetes.protobuf\" - accepted media types include: application/json, application/yaml (no kind \"Thing\" is registered for version \"test.dev/v1\": only built-in kinds are read as protobuf)"
    "#
    );
    server.close().await;
}
