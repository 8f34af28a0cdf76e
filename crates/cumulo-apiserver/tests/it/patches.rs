//! Changing a part: the four patches, and server-side apply through kube.

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::Running;

#[tokio::test]
async fn the_four_patches() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/configmaps/a";
    server
        .json(
            "POST",
            "/api/v1/namespaces/default/configmaps",
            &json!({"metadata": {"name": "a"}, "data": {"x": "1"}}),
        )
        .await;
    let json_patch = server
        .call("PATCH", path, "application/json-patch+json", r#"[{"op":"test","path":"/data/x","value":"1"},{"op":"add","path":"/data/y","value":"2"}]"#)
        .await;
    assert_eq!(json_patch.body["data"], json!({"x": "1", "y": "2"}));
    let merge = server
        .call(
            "PATCH",
            path,
            "application/merge-patch+json",
            r#"{"data":{"x":null}}"#,
        )
        .await;
    assert_eq!(merge.body["data"], json!({"y": "2"}));
    let strategic = server
        .call(
            "PATCH",
            path,
            "application/strategic-merge-patch+json",
            r#"{"metadata":{"finalizers":["a.b/c"]},"data":{"z":"3"}}"#,
        )
        .await;
    assert_eq!(strategic.body["metadata"]["finalizers"], json!(["a.b/c"]));
    let apply = server
        .call(
            "PATCH",
            &format!("{path}?fieldManager=m"),
            "application/apply-patch+yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {w: '4'}\n",
        )
        .await;
    assert_eq!(apply.body["data"], json!({"y": "2", "z": "3", "w": "4"}));
    let conflict = server
        .call(
            "PATCH",
            &format!("{path}?fieldManager=m"),
            "application/apply-patch+yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {z: 'mine'}\n",
        )
        .await;
    assert_eq!(conflict.status, 409, "{}", conflict.text);
    assert_eq!(
        conflict.body["details"]["causes"][0]["reason"],
        "FieldManagerConflict"
    );
    assert_eq!(conflict.body["details"]["causes"][0]["field"], ".data.z");
    let forced = server
        .call(
            "PATCH",
            &format!("{path}?fieldManager=m&force=true"),
            "application/apply-patch+yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {z: 'mine'}\n",
        )
        .await;
    // What is no longer applied goes, what others own stays.
    assert_eq!(forced.body["data"], json!({"y": "2", "z": "mine"}));
    let again = server
        .call(
            "PATCH",
            &format!("{path}?fieldManager=m&force=true"),
            "application/apply-patch+yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {z: 'mine'}\n",
        )
        .await;
    assert_eq!(
        again.body["metadata"]["resourceVersion"],
        forced.body["metadata"]["resourceVersion"]
    );
    let created = server
        .call(
            "PATCH",
            "/api/v1/namespaces/default/configmaps/new?fieldManager=m",
            "application/apply-patch+yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\n",
        )
        .await;
    assert_eq!(created.status, 201);
    server.close().await;
}

#[tokio::test]
async fn apply_through_kube() {
    let server = Running::new().await;
    let api: Api<Namespace> = Api::all(server.client());
    let apply = |labels: Value| {
        Patch::Apply(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": labels}}),
        )
    };
    let params = PatchParams::apply("controller");
    api.patch("team", &params, &apply(json!({"a": "1", "b": "2"})))
        .await
        .expect("applied");
    let second = api
        .patch("team", &params, &apply(json!({"b": "3"})))
        .await
        .expect("applied");
    let labels = second.metadata.labels.expect("labels");
    assert_eq!(labels.get("b").map(String::as_str), Some("3"));
    assert!(!labels.contains_key("a"));
    assert!(labels.contains_key("kubernetes.io/metadata.name"));
    server.close().await;
}
