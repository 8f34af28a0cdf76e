//! The protocol around the objects: discovery, negotiation, access, refusals.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cumulo_apiserver::auth::{Attributes, Authorization, Authorizer, Decision, UserInfo};
use cumulo_apiserver::{KubeletProxy, PodTarget};
use http::Request;
use serde_json::{Value, json};

use crate::definitions::definition;
use crate::support::{Running, TOKEN, until};

fn request(method: &str, path: &str, token: Option<&str>) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        builder = builder.header("authorization", format!("Bearer {token}"));
    }
    builder.body(Body::empty()).expect("a request")
}

#[tokio::test]
async fn health_needs_no_token_and_all_else_does() {
    let server = Running::new().await;
    for path in ["/livez", "/readyz", "/healthz", "/livez/ping"] {
        let answer = server.outside(request("GET", path, None)).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "ok"));
    }
    // Every path that discovery names, with every method.
    let mut paths = vec![
        "/".to_owned(),
        "/version".into(),
        "/api".into(),
        "/apis".into(),
        "/openapi/v3".into(),
        "/nothing".into(),
    ];
    let groups = server.get("/apis").await.body;
    let mut versions: Vec<String> = groups["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .flat_map(|g| g["versions"].as_array().expect("versions"))
        .map(|v| format!("/apis/{}", v["groupVersion"].as_str().expect("a version")))
        .collect();
    versions.push("/api/v1".into());
    for version in versions {
        for resource in server.get(&version).await.body["resources"]
            .as_array()
            .expect("resources")
        {
            let name = resource["name"].as_str().expect("a name");
            let name = name.replace('/', "/x/");
            let scope = if resource["namespaced"] == json!(true) {
                "/namespaces/default"
            } else {
                ""
            };
            paths.push(format!("{version}{scope}/{name}"));
            paths.push(format!("{version}{scope}/{name}/x"));
        }
        paths.push(version);
    }
    assert!(paths.len() > 150);
    for path in &paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            for token in [None, Some("wrong")] {
                let answer = server.outside(request(method, path, token)).await;
                assert_eq!(answer.status, 401, "{method} {path}");
                assert_eq!(answer.body["reason"], "Unauthorized");
            }
        }
    }
    let answer = server
        .outside(request("GET", "/version", Some(TOKEN)))
        .await;
    assert_eq!(answer.body["gitVersion"], "v1.35.4+cumulo");
    server.close().await;
}

#[derive(Debug)]
struct ReadOnly;

#[async_trait]
impl Authorizer for ReadOnly {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let reads = matches!(attributes.verb.as_str(), "get" | "list" | "watch");
        let reviews = attributes.resource.ends_with("reviews");
        if reads || reviews || user.groups.iter().any(|g| g == "system:masters") {
            Decision::Allow(String::new())
        } else {
            Decision::Deny(String::new())
        }
    }
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let server =
        Running::with(|o| o.authorization = Authorization::Custom(Arc::new(ReadOnly))).await;
    let path = "/api/v1/namespaces/default/pods";
    assert_eq!(
        server
            .outside(request("GET", path, Some(TOKEN)))
            .await
            .status,
        200
    );
    let refused = server
        .outside(request("DELETE", &format!("{path}/p"), Some(TOKEN)))
        .await;
    assert_eq!(
        refused.message(),
        "403 Forbidden: pods \"p\" is forbidden: User \"tester\" cannot delete resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let review = |spec: Value| {
        let mut request = request(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            Some(TOKEN),
        );
        *request.body_mut() = Body::from(json!({"spec": spec}).to_string());
        request
    };
    let may = server
        .outside(review(
            json!({"resourceAttributes": {"verb": "list", "resource": "pods"}}),
        ))
        .await;
    assert_eq!(may.body["status"]["allowed"], true, "{}", may.text);
    let may = server
        .outside(review(
            json!({"resourceAttributes": {"verb": "create", "resource": "pods"}}),
        ))
        .await;
    assert_eq!(may.body["status"]["allowed"], false);
    let mut who = request(
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        Some(TOKEN),
    );
    *who.body_mut() = Body::from("{}");
    let who = server.outside(who).await;
    assert_eq!(who.body["status"]["userInfo"]["username"], "tester");
    let token = server
        .json(
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            &json!({"spec": {"token": TOKEN}}),
        )
        .await;
    assert_eq!(token.body["status"]["authenticated"], true);
    let subject = server
        .json("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", &json!({"spec": {"user": "x", "resourceAttributes": {"verb": "delete", "resource": "pods"}}}))
        .await;
    assert_eq!(subject.body["status"]["allowed"], false);
    server.close().await;
}

#[tokio::test]
async fn discovery_in_both_forms() {
    let server = Running::new().await;
    let core = server.get("/api/v1").await.body;
    let names: Vec<&str> = core["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    for name in [
        "pods",
        "pods/log",
        "pods/status",
        "pods/eviction",
        "namespaces/finalize",
        "serviceaccounts/token",
    ] {
        assert!(names.contains(&name), "{name}");
    }
    let accept =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = server.accept("/apis", accept).await;
    assert_eq!(aggregated.body["kind"], "APIGroupDiscoveryList");
    assert!(
        aggregated.headers["content-type"]
            .to_str()
            .expect("text")
            .contains("as=APIGroupDiscoveryList")
    );
    let apps = aggregated.body["items"]
        .as_array()
        .expect("items")
        .iter()
        .find(|g| g["metadata"]["name"] == "apps")
        .expect("apps");
    let deployments = apps["versions"][0]["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .find(|r| r["resource"] == "deployments")
        .expect("deployments");
    assert_eq!(
        deployments["responseKind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert_eq!(deployments["subresources"][0]["subresource"], "scale");
    let etag = aggregated.headers["etag"].clone();
    let mut again = Request::builder()
        .uri("/apis")
        .header("accept", accept)
        .body(Body::empty())
        .expect("a request");
    again.headers_mut().insert("if-none-match", etag);
    assert_eq!(server.send(again).await.status, 304);

    server
        .json(
            "POST",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            &definition(),
        )
        .await;
    until("the group is discovered", async || {
        server.get("/apis/test.dev/v1").await.status == 200
    })
    .await;
    let index = server.get("/openapi/v3").await.body;
    for path in ["api/v1", "apis/apps/v1", "apis/test.dev/v1"] {
        let url = index["paths"][path]["serverRelativeURL"]
            .as_str()
            .expect("a document");
        let document = server.get(url).await;
        assert_eq!(document.status, 200, "{path}");
        assert!(
            document.body["paths"].is_object()
                && document.body["components"]["schemas"].is_object()
        );
    }
    server.close().await;
}

#[tokio::test]
async fn what_is_not_understood_is_refused_with_a_status() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let mut answers = vec![
        server.get("/nothing/here").await,
        server.get("/api/v1/nothings").await,
        server.get("/apis/nothing.dev/v1/things").await,
        server
            .call("POST", path, "application/vnd.kubernetes.protobuf", "k8s\0")
            .await,
        server
            .call("POST", path, "application/json", "{not json")
            .await,
        server.call("POST", path, "text/plain", "x").await,
        server.accept(path, "text/html").await,
        server
            .call("PATCH", &format!("{path}/x"), "application/json", "{}")
            .await,
        server
            .call(
                "PATCH",
                &format!("{path}/x"),
                "application/apply-patch+yaml",
                "{}",
            )
            .await,
        server.call("PUT", path, "application/json", "{}").await,
        server
            .call("POST", "/version", "application/json", "{}")
            .await,
        server.get(&format!("{path}?labelSelector=a%20b")).await,
        server.get(&format!("{path}?limit=x")).await,
        server.get(&format!("{path}?resourceVersion=x")).await,
        server
            .json(
                "POST",
                "/api/v1/namespaces/default/serviceaccounts/default/token",
                &json!({}),
            )
            .await,
    ];
    let large = format!(
        "{{\"metadata\":{{\"name\":\"x\"}},\"data\":{{\"a\":\"{}\"}}}}",
        "x".repeat(3 << 20)
    );
    answers.push(server.call("POST", path, "application/json", large).await);
    let all: Vec<String> = answers
        .iter()
        .map(|a| {
            assert_eq!(a.body["kind"], "Status", "{}", a.text);
            assert_eq!(a.body["code"], a.status.as_u16());
            a.message()
        })
        .collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    404 NotFound: the server could not find the requested resource
    404 NotFound: the server could not find the requested resource
    404 NotFound: the server could not find the requested resource
    400 BadRequest: the object provided is unrecognized: empty body
    400 BadRequest: the object provided is unrecognized: key must be a string at line 1 column 2
    415 UnsupportedMediaType: the body of the request was in an unknown format "text/plain" - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf
    406 NotAcceptable: only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf
    415 UnsupportedMediaType: the body of the request was in an unknown format "application/json" - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml
    400 BadRequest: PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch
    405 MethodNotAllowed: the server does not allow this method on the requested resource
    405 MethodNotAllowed: the server does not allow this method on the requested resource
    400 BadRequest: unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt
    400 BadRequest: query parameter limit: "x" is not a whole number
    400 BadRequest: Invalid value: "x": strconv.ParseUint: parsing "x": invalid syntax
    501 NotImplemented: this server has no key to sign service account tokens with
    413 RequestEntityTooLarge: Request entity too large: limit is 3145728
    "#);
    let yaml = server
        .call(
            "POST",
            path,
            "application/yaml",
            "metadata:\n  name: y\ndata:\n  a: 'b'\n",
        )
        .await;
    assert_eq!(yaml.status, 201, "{}", yaml.text);
    let yaml = server
        .accept(&format!("{path}/y"), "application/yaml")
        .await;
    assert!(yaml.text.contains("a: b"), "{}", yaml.text);
    server.close().await;
}

#[tokio::test]
async fn tables_and_metadata_alone() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/pods";
    server
        .json("POST", path, &json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}))
        .await;
    let table = server
        .accept(path, "application/json;as=Table;v=v1;g=meta.k8s.io")
        .await
        .body;
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(columns[..5], ["Name", "Ready", "Status", "Restarts", "Age"]);
    assert_eq!(table["rows"][0]["cells"][0], "p");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = server
        .accept(
            path,
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        )
        .await
        .body;
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(partial["items"][0].get("spec"), None);
    let watch = server
        .accept(
            &format!("{path}?watch=1&timeoutSeconds=1"),
            "application/json;as=Table;v=v1;g=meta.k8s.io",
        )
        .await;
    let event: Value =
        serde_json::from_str(watch.text.lines().next().expect("an event")).expect("json");
    assert_eq!(
        (&event["type"], &event["object"]["kind"]),
        (&json!("ADDED"), &json!("Table"))
    );
    server.close().await;
}

#[tokio::test]
async fn events_are_one_thing_in_two_groups() {
    let server = Running::new().await;
    let created = server
        .json(
            "POST",
            "/apis/events.k8s.io/v1/namespaces/default/events",
            &json!({"metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "regarding": {"kind": "Pod", "name": "p"}, "note": "hello", "reason": "Why", "type": "Normal", "action": "a", "reportingController": "c", "reportingInstance": "i"}),
        )
        .await;
    assert_eq!(created.status, 201, "{}", created.text);
    let core = server
        .get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp")
        .await
        .body;
    assert_eq!(core["items"][0]["message"], "hello");
    assert_eq!(core["items"][0]["apiVersion"], "v1");
    let new = server
        .get("/apis/events.k8s.io/v1/namespaces/default/events/e")
        .await
        .body;
    assert_eq!(new["note"], "hello");
    server.close().await;
}

#[derive(Debug)]
struct Logs;

#[async_trait]
impl KubeletProxy for Logs {
    async fn forward(&self, target: PodTarget, request: Request<Body>) -> Response {
        format!(
            "{} {} {:?}",
            target.node,
            target.container,
            request.uri().query()
        )
        .into_response()
    }
}

#[tokio::test]
async fn logs_are_asked_of_the_node() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}});
    server.json("POST", path, &pod).await;
    let log = format!("{path}/p/log");
    assert_eq!(
        server.get(&log).await.message(),
        "400 BadRequest: a container name must be specified for pod p, choose one of: [a b]"
    );
    assert_eq!(
        server.get(&format!("{log}?container=x")).await.message(),
        "400 BadRequest: container x is not valid for pod p"
    );
    assert_eq!(
        server.get(&format!("{log}?container=a")).await.message(),
        "400 BadRequest: pod p does not have a host assigned"
    );
    server
        .json(
            "POST",
            &format!("{path}/p/binding"),
            &json!({"target": {"name": "n1"}}),
        )
        .await;
    assert_eq!(server.get(&format!("{log}?container=a")).await.status, 503);
    server.handle.set_kubelet(Arc::new(Logs));
    assert_eq!(
        server
            .get(&format!("{log}?container=a&tailLines=5"))
            .await
            .text,
        "n1 a Some(\"container=a&tailLines=5\")"
    );
    assert_eq!(server.get(&format!("{path}/q/log")).await.status, 404);
    server.close().await;
}

#[tokio::test]
async fn the_same_over_a_socket() {
    use k8s_openapi::api::core::v1::Namespace;
    let server = Running::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = tokio_util::sync::CancellationToken::new();
    let router = server.handle.router();
    let serving = tokio::spawn({
        let stop = stop.clone();
        async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(stop.cancelled_owned())
                .await
        }
    });
    let mut config = kube::Config::new(format!("http://{address}").parse().expect("a url"));
    config.auth_info.token = Some(TOKEN.to_owned().into());
    let client = kube::Client::try_from(config).expect("a client");
    let api: kube::Api<Namespace> = kube::Api::all(client);
    let listed = api
        .list(&kube::api::ListParams::default())
        .await
        .expect("a list");
    let names: Vec<String> = listed
        .items
        .into_iter()
        .filter_map(|n| n.metadata.name)
        .collect();
    assert_eq!(
        names,
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
    drop(api);
    server.close().await;
    stop.cancel();
    serving.await.expect("the task").expect("no error");
}
