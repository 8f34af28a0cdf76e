//! Create, read, change, delete, through kube.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::Running;

fn config(name: &str, data: Value) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).expect("a config map")
}

#[tokio::test]
async fn a_life_through_kube() {
    let server = Running::new().await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let created = api
        .create(&PostParams::default(), &config("a", json!({"k": "1"})))
        .await
        .expect("created");
    assert!(created.metadata.uid.is_some() && created.metadata.creation_timestamp.is_some());
    let again = api
        .create(&PostParams::default(), &config("a", json!({})))
        .await
        .expect_err("taken");
    assert!(
        matches!(&again, kube::Error::Api(s) if s.code == 409 && s.message == "configmaps \"a\" already exists")
    );

    let mut read = api.get("a").await.expect("found");
    assert_eq!(read, created);
    read.data
        .as_mut()
        .expect("data")
        .insert("k".into(), "2".into());
    let replaced = api
        .replace("a", &PostParams::default(), &read)
        .await
        .expect("replaced");
    assert_ne!(
        replaced.metadata.resource_version,
        created.metadata.resource_version
    );
    let stale = api
        .replace("a", &PostParams::default(), &read)
        .await
        .expect_err("stale");
    assert!(matches!(&stale, kube::Error::Api(s) if s.code == 409 && s.reason == "Conflict"));

    let merged = api
        .patch(
            "a",
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"m": "3"}})),
        )
        .await
        .expect("merged");
    assert_eq!(merged.data.expect("data").len(), 2);
    // The same once more changes nothing, not even the version.
    let same = api
        .patch(
            "a",
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"m": "3"}})),
        )
        .await
        .expect("merged");
    assert_eq!(
        same.metadata.resource_version,
        merged.metadata.resource_version
    );

    let listed = api.list(&ListParams::default()).await.expect("listed");
    assert_eq!(listed.items.len(), 1);
    api.delete("a", &DeleteParams::default())
        .await
        .expect("deleted");
    let missing = api.get("a").await.expect_err("gone");
    assert!(
        matches!(&missing, kube::Error::Api(s) if s.code == 404 && s.message == "configmaps \"a\" not found")
    );
    server.close().await;
}

#[tokio::test]
async fn names_are_generated_and_checked() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let one = server
        .json("POST", path, &json!({"metadata": {"generateName": "g-"}}))
        .await;
    let two = server
        .json("POST", path, &json!({"metadata": {"generateName": "g-"}}))
        .await;
    let name = |a: &crate::support::Answer| {
        a.body["metadata"]["name"]
            .as_str()
            .expect("a name")
            .to_owned()
    };
    assert!(name(&one).starts_with("g-") && name(&one) != name(&two));
    let none = server.json("POST", path, &json!({})).await;
    let bad = server
        .json("POST", path, &json!({"metadata": {"name": "Not_Good"}}))
        .await;
    let label = server
        .json(
            "POST",
            path,
            &json!({"metadata": {"name": "x", "labels": {"a b": "c"}}}),
        )
        .await;
    let nowhere = server
        .json(
            "POST",
            "/api/v1/namespaces/nowhere/configmaps",
            &json!({"metadata": {"name": "x"}}),
        )
        .await;
    let elsewhere = server
        .json(
            "POST",
            path,
            &json!({"metadata": {"name": "x", "namespace": "other"}}),
        )
        .await;
    let kind = server
        .json(
            "POST",
            path,
            &json!({"kind": "Secret", "metadata": {"name": "x"}}),
        )
        .await;
    let versioned = server
        .json(
            "POST",
            path,
            &json!({"metadata": {"name": "x", "resourceVersion": "5"}}),
        )
        .await;
    let text = server.json("POST", path, &json!("text")).await;
    let labels = server
        .json(
            "POST",
            path,
            &json!({"metadata": {"name": "x", "labels": {"a": 1}}}),
        )
        .await;
    let all = [
        none, bad, label, nowhere, elsewhere, kind, versioned, text, labels,
    ]
    .map(|a| a.message());
    insta::assert_snapshot!(all.join("\n"), @r#"
    422 Invalid: ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required
    422 Invalid: ConfigMap "Not_Good" is invalid: metadata.name: Invalid value: "Not_Good": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
    422 Invalid: ConfigMap "x" is invalid: metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
    404 NotFound: namespaces "nowhere" not found
    400 BadRequest: the namespace of the provided object does not match the namespace sent on the request: other and default
    400 BadRequest: the kind in the data (Secret) does not match the expected kind (ConfigMap)
    400 BadRequest: resourceVersion should not be set on objects to be created
    400 BadRequest: the request body is not an object: a JSON or YAML object with apiVersion, kind and metadata is wanted
    400 BadRequest: ConfigMap in version "v1" cannot be handled as a ConfigMap: metadata.labels has to be a map of strings
    "#);
    server.close().await;
}

#[tokio::test]
async fn dry_run_stores_nothing() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let version = server.handle.version();
    let dry = server
        .json(
            "POST",
            &format!("{path}?dryRun=All"),
            &json!({"metadata": {"name": "x"}}),
        )
        .await;
    assert_eq!(dry.status, 201);
    assert!(dry.body["metadata"]["uid"].is_string());
    assert_eq!(server.get(&format!("{path}/x")).await.status, 404);
    assert_eq!(server.handle.version(), version);
    let wrong = server
        .json(
            "POST",
            &format!("{path}?dryRun=Some"),
            &json!({"metadata": {"name": "x"}}),
        )
        .await;
    assert_eq!(wrong.status, 422);
    server.close().await;
}

#[tokio::test]
async fn unknown_and_repeated_fields() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let body = r#"{"metadata":{"name":"x"},"dota":{},"data":{"a":"1","a":"2"}}"#;
    let strict = server
        .call(
            "POST",
            &format!("{path}?fieldValidation=Strict"),
            "application/json",
            body,
        )
        .await;
    assert_eq!(strict.status, 400);
    insta::assert_snapshot!(strict.message(), @r#"
    400 BadRequest: strict decoding error: unknown field "dota", did you mean "data"?, duplicate field "data.a"
    "#);
    let warned = server.call("POST", path, "application/json", body).await;
    assert_eq!(warned.status, 201);
    assert_eq!(warned.body.get("dota"), None);
    let warnings: Vec<&str> = warned
        .headers
        .get_all("warning")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .collect();
    insta::assert_snapshot!(warnings.join("\n"), @r#"
    299 - "unknown field \"dota\", did you mean \"data\"?"
    299 - "duplicate field \"data.a\""
    "#);
    server.close().await;
}

#[tokio::test]
async fn sixteen_writers_lose_no_update() {
    let server = std::sync::Arc::new(Running::new().await);
    let path = "/api/v1/namespaces/default/configmaps";
    server
        .json(
            "POST",
            path,
            &json!({"metadata": {"name": "n"}, "data": {"n": "0"}}),
        )
        .await;
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while done < 10 {
                    let mut object = server
                        .get("/api/v1/namespaces/default/configmaps/n")
                        .await
                        .body;
                    let n: u64 = object["data"]["n"]
                        .as_str()
                        .and_then(|n| n.parse().ok())
                        .expect("a number");
                    object["data"]["n"] = json!((n + 1).to_string());
                    let answer = server
                        .json("PUT", "/api/v1/namespaces/default/configmaps/n", &object)
                        .await;
                    match answer.status.as_u16() {
                        200 => done += 1,
                        409 => {}
                        _ => panic!("{}", answer.text),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
    let object = server
        .get("/api/v1/namespaces/default/configmaps/n")
        .await
        .body;
    assert_eq!(object["data"]["n"], "160");
}

#[tokio::test]
async fn lists_select_and_page() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/configmaps";
    for n in 0..25 {
        let parity = if n % 2 == 0 { "even" } else { "odd" };
        server
            .json(
                "POST",
                path,
                &json!({"metadata": {"name": format!("c{n:02}"), "labels": {"p": parity}}}),
            )
            .await;
    }
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let odd = api
        .list(&ListParams::default().labels("p in (odd),p!=even"))
        .await
        .expect("listed");
    assert_eq!(odd.items.len(), 12);
    let one = api
        .list(&ListParams::default().fields("metadata.name=c03"))
        .await
        .expect("listed");
    assert_eq!(one.items.len(), 1);
    let first = server.get(&format!("{path}?limit=10")).await.body;
    assert_eq!(first["metadata"]["remainingItemCount"], 15);
    let token = first["metadata"]["continue"]
        .as_str()
        .expect("a token")
        .to_owned();
    // What happens between pages is not seen by the list that goes on.
    server
        .call("DELETE", &format!("{path}/c12"), "application/json", "")
        .await;
    server
        .json("POST", path, &json!({"metadata": {"name": "c11b"}}))
        .await;
    let second = server
        .get(&format!("{path}?limit=100&continue={token}"))
        .await
        .body;
    let names: Vec<&str> = second["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names.len(), 15);
    assert!(names.contains(&"c12") && !names.contains(&"c11b"));
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    // Once history is forgotten, 410 offers to go on without consistency.
    server.handle.compact();
    server
        .json("POST", path, &json!({"metadata": {"name": "z"}}))
        .await;
    let expired = server
        .get(&format!("{path}?limit=100&continue={token}"))
        .await;
    assert_eq!(
        (expired.status.as_u16(), expired.body["reason"].as_str()),
        (410, Some("Expired"))
    );
    let token = expired.body["metadata"]["continue"]
        .as_str()
        .expect("a token")
        .to_owned();
    let rest = server
        .get(&format!("{path}?limit=100&continue={token}"))
        .await
        .body;
    assert_eq!(rest["items"].as_array().expect("items").len(), 16);
    let wrong = server
        .get(&format!("{path}?fieldSelector=spec.x%3D1"))
        .await;
    assert_eq!(
        wrong.message(),
        "400 BadRequest: field label not supported: spec.x"
    );
    let exact = server
        .get(&format!("{path}?resourceVersionMatch=Exact"))
        .await;
    assert_eq!(exact.status, 422);
    let future = server
        .get(&format!("{path}?resourceVersion=999999999"))
        .await;
    assert_eq!(
        (future.status.as_u16(), future.body["reason"].as_str()),
        (504, Some("Timeout"))
    );
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_list_of_one_name_is_of_one_moment() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/configmaps";
    server
        .json("POST", path, &json!({"metadata": {"name": "busy"}}))
        .await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let writing = tokio::spawn(async move {
        for n in 1.. {
            let busy = config("busy", json!({"n": n.to_string()}));
            let put = api.replace("busy", &PostParams::default(), &busy).await;
            put.expect("a write");
        }
    });
    let query = format!("{path}?fieldSelector=metadata.name%3Dbusy");
    for _ in 0..60_000 {
        let list = server.get(&query).await.body;
        let version = |of: &Value| -> u64 {
            let version = of["metadata"]["resourceVersion"].as_str();
            version.and_then(|v| v.parse().ok()).expect("a version")
        };
        assert!(version(&list["items"][0]) <= version(&list));
    }
    writing.abort();
    server.close().await;
}
