//! Custom resources.

use serde_json::{Value, json};

use crate::support::{Running, until};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub const THINGS: &str = "/apis/test.dev/v1/namespaces/default/things";

pub fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.test.dev"},
        "spec": {
            "group": "test.dev", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"], "categories": ["cumulo"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "string", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                ],
                "selectableFields": [{"jsonPath": ".spec.size"}],
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                    "spec": {"type": "object", "required": ["size"], "properties": {
                        "size": {"type": "string", "enum": ["small", "large"]},
                        "replicas": {"type": "integer", "minimum": 0, "default": 1},
                        "query": {"type": "string"},
                    }},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}},
            }],
        },
    })
}

pub async fn define(server: &Running, definition: &Value) {
    let answer = server.json("POST", DEFINITIONS, definition).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let name = definition["metadata"]["name"].as_str().expect("a name");
    until("the definition is established", async || {
        let found = server.get(&format!("{DEFINITIONS}/{name}")).await.body;
        found["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Established" && c["status"] == "True")
    })
    .await;
}

pub fn thing(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "test.dev/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_definition_serves_a_type() {
    let server = Running::new().await;
    define(&server, &definition()).await;
    let created = server
        .json("POST", THINGS, &thing("a", json!({"size": "small"})))
        .await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.body["spec"]["replicas"], 1);
    assert_eq!(created.body["metadata"]["generation"], 1);
    let mistakes = [
        json!({"size": "huge"}),
        json!({"size": "small", "replicas": "two"}),
        json!({"size": "small", "replicas": -1}),
        json!({}),
    ];
    let mut messages = Vec::new();
    for spec in mistakes {
        messages.push(
            server
                .json("POST", THINGS, &thing("b", spec))
                .await
                .message(),
        );
    }
    let typo = thing("b", json!({"size": "small", "qurey": "x"}));
    messages.push(
        server
            .json("POST", &format!("{THINGS}?fieldValidation=Strict"), &typo)
            .await
            .message(),
    );
    let strategic = server
        .call(
            "PATCH",
            &format!("{THINGS}/a"),
            "application/strategic-merge-patch+json",
            "{}",
        )
        .await;
    messages.push(strategic.message());
    insta::assert_snapshot!(messages.join("\n"), @r#"
    422 Invalid: Thing.test.dev "b" is invalid: spec.size: Unsupported value: "huge": supported values: "small", "large"
    422 Invalid: Thing.test.dev "b" is invalid: spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"
    422 Invalid: Thing.test.dev "b" is invalid: spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0
    422 Invalid: Thing.test.dev "b" is invalid: spec.size: Required value
    400 BadRequest: strict decoding error: unknown field "spec.qurey", did you mean "query"?
    415 UnsupportedMediaType: the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml
    "#);

    // Status and the rest are written apart.
    let status = server
        .call("PATCH", &format!("{THINGS}/a/status"), "application/merge-patch+json", r#"{"spec":{"size":"large"},"status":{"replicas":1,"conditions":[{"type":"Ready","status":"True"}]}}"#)
        .await;
    assert_eq!(status.body["spec"]["size"], "small");
    assert_eq!(status.body["metadata"]["generation"], 1);
    let table = server
        .accept(
            THINGS,
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        )
        .await
        .body;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"], json!(["a", "small", "True"]));
    let selected = server
        .get(&format!("{THINGS}?fieldSelector=spec.size%3Dlarge"))
        .await
        .body;
    assert_eq!(selected["items"], json!([]));
    let scaled = server
        .call(
            "PATCH",
            &format!("{THINGS}/a/scale"),
            "application/merge-patch+json",
            r#"{"spec":{"replicas":4}}"#,
        )
        .await;
    assert_eq!(scaled.body["spec"]["replicas"], 4, "{}", scaled.text);
    let unconditional = server
        .json(
            "PUT",
            &format!("{THINGS}/a"),
            &thing("a", json!({"size": "large"})),
        )
        .await;
    assert_eq!(unconditional.status, 422);
    let listed = server.get(THINGS).await.body;
    assert_eq!(
        (&listed["kind"], &listed["apiVersion"]),
        (&json!("ThingList"), &json!("test.dev/v1"))
    );
    server.close().await;
}

#[tokio::test]
async fn types_are_there_after_a_restart_and_objects_with_them() {
    let server = Running::new().await;
    define(&server, &definition()).await;
    server
        .json("POST", THINGS, &thing("a", json!({"size": "small"})))
        .await;
    let folder = server.close().await;
    let server = Running::open(folder, |_| {}).await;
    let found = server.get(&format!("{THINGS}/a")).await;
    assert_eq!(found.status, 200, "served as soon as the server is open");
    server.close().await;
}

#[tokio::test]
async fn several_versions_and_defaults_from_storage() {
    let server = Running::new().await;
    let mut two = definition();
    let mut second = two["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    second["storage"] = json!(false);
    two["spec"]["versions"]
        .as_array_mut()
        .expect("versions")
        .push(second);
    define(&server, &two).await;
    server
        .json("POST", THINGS, &thing("a", json!({"size": "small"})))
        .await;
    let other = "/apis/test.dev/v2/namespaces/default/things/a";
    assert_eq!(server.get(other).await.body["apiVersion"], "test.dev/v2");
    let group = server.get("/apis/test.dev").await.body;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    // A default that the schema gets later is there for what was stored before.
    let patch = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/color", "value": {"type": "string", "default": "red"}}]);
    let patched = server
        .call(
            "PATCH",
            &format!("{DEFINITIONS}/things.test.dev"),
            "application/json-patch+json",
            patch.to_string(),
        )
        .await;
    assert_eq!(patched.status, 200, "{}", patched.text);
    until("the default is seen", async || {
        server.get(&format!("{THINGS}/a")).await.body["spec"]["color"] == "red"
    })
    .await;
    server.close().await;
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let server = Running::new().await;
    define(&server, &definition()).await;
    server
        .json("POST", THINGS, &thing("a", json!({"size": "small"})))
        .await;
    let answer = server
        .call(
            "DELETE",
            &format!("{DEFINITIONS}/things.test.dev"),
            "application/json",
            "",
        )
        .await;
    assert_eq!(answer.status, 200);
    until("the definition is gone", async || {
        server
            .get(&format!("{DEFINITIONS}/things.test.dev"))
            .await
            .status
            == 404
    })
    .await;
    until("the type is gone", async || {
        server.get(THINGS).await.status == 404
    })
    .await;
    define(&server, &definition()).await;
    assert_eq!(server.get(THINGS).await.body["items"], json!([]));
    server.close().await;
}

#[tokio::test]
async fn mistakes_and_conflicts_are_named() {
    let server = Running::new().await;
    let mut wrong = definition();
    wrong["metadata"]["name"] = json!("other.test.dev");
    wrong["spec"]["versions"][0]["storage"] = json!(false);
    let answer = server.json("POST", DEFINITIONS, &wrong).await;
    assert_eq!(answer.status, 422);
    assert!(
        answer
            .message()
            .contains("must be spec.names.plural+\".\"+spec.group"),
        "{}",
        answer.message()
    );
    assert!(
        answer
            .message()
            .contains("must have exactly one version marked as storage version"),
        "{}",
        answer.message()
    );
    define(&server, &definition()).await;
    let mut second = definition();
    second["metadata"]["name"] = json!("others.test.dev");
    second["spec"]["names"] = json!({"plural": "others", "singular": "other", "kind": "Thing"});
    server.json("POST", DEFINITIONS, &second).await;
    until("the conflict is said", async || {
        let found = server
            .get(&format!("{DEFINITIONS}/others.test.dev"))
            .await
            .body;
        found["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| {
                c["type"] == "NamesAccepted"
                    && c["status"] == "False"
                    && c["message"] == "\"Thing\" is already in use"
            })
    })
    .await;
    server.close().await;
}
