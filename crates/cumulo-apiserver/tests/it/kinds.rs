//! What single built-in kinds have of their own: defaults, a status, a scale.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::Running;

#[tokio::test]
async fn secrets_take_plain_text_and_keep_their_type() {
    let server = Running::new().await;
    let api: Api<Secret> = Api::namespaced(server.client(), "default");
    let secret =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}}))
            .expect("a secret");
    let created = api
        .create(&PostParams::default(), &secret)
        .await
        .expect("created");
    assert_eq!(created.type_.as_deref(), Some("Opaque"));
    assert_eq!(created.data.expect("data")["k"].0, b"v");
    assert!(created.string_data.is_none());
    let changed = server
        .call(
            "PATCH",
            "/api/v1/namespaces/default/secrets/s",
            "application/merge-patch+json",
            r#"{"type":"other"}"#,
        )
        .await;
    assert_eq!(changed.status, 422);
    server.close().await;
}

#[tokio::test]
async fn pods_get_defaults_a_status_and_a_generation() {
    let server = Running::new().await;
    let api: Api<Pod> = Api::namespaced(server.client(), "default");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "cumulo.dev/runtime", "command": ["cumulo", "serve"]}]},
        "status": {"phase": "Running"},
    }))
    .expect("a pod");
    let created = api
        .create(&PostParams::default(), &pod)
        .await
        .expect("created");
    let spec = created.spec.expect("a spec");
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.termination_grace_period_seconds, Some(30));
    assert_eq!(
        created.status.expect("a status").phase.as_deref(),
        Some("Pending")
    );
    assert_eq!(created.metadata.generation, Some(1));
    // The main path does not write status, the status path nothing else.
    let main = api
        .patch(
            "p",
            &PatchParams::default(),
            &Patch::Merge(json!({"status": {"phase": "Running"}})),
        )
        .await
        .expect("patched");
    assert_eq!(
        main.status.expect("a status").phase.as_deref(),
        Some("Pending")
    );
    let status = api
        .patch_status(
            "p",
            &PatchParams::default(),
            &Patch::Merge(json!({"status": {"phase": "Running"}, "spec": {"nodeName": "n"}})),
        )
        .await
        .expect("patched");
    assert_eq!(
        status.status.expect("a status").phase.as_deref(),
        Some("Running")
    );
    assert_eq!(status.spec.expect("a spec").node_name, None);
    let immutable = api
        .patch(
            "p",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"nodeName": "n"}})),
        )
        .await
        .expect_err("immutable");
    assert!(
        immutable
            .to_string()
            .contains("pod updates may not change fields other than"),
        "{immutable}"
    );
    let empty = server
        .json(
            "POST",
            "/api/v1/namespaces/default/pods",
            &json!({"metadata": {"name": "q"}, "spec": {"containers": []}}),
        )
        .await;
    assert_eq!(
        empty.message(),
        "422 Invalid: Pod \"q\" is invalid: spec.containers: Required value"
    );
    let typed = server
        .json(
            "POST",
            "/api/v1/namespaces/default/pods",
            &json!({"metadata": {"name": "q"}, "spec": {"containers": "none"}}),
        )
        .await;
    assert_eq!(typed.status, 400, "{}", typed.text);
    server.close().await;
}

#[tokio::test]
async fn scale_is_read_and_written() {
    let server = Running::new().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created = server
        .json("POST", path, &json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}))
        .await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.body["spec"]["replicas"], 1);
    let scale = server.get(&format!("{path}/d/scale")).await;
    assert_eq!(scale.body["spec"]["replicas"], 1);
    assert_eq!(scale.body["status"]["selector"], "a=b");
    let patched = server
        .call(
            "PATCH",
            &format!("{path}/d/scale"),
            "application/merge-patch+json",
            r#"{"spec":{"replicas":3}}"#,
        )
        .await;
    assert_eq!(patched.body["spec"]["replicas"], 3, "{}", patched.text);
    let deployment = server.get(&format!("{path}/d")).await;
    assert_eq!(deployment.body["spec"]["replicas"], 3);
    assert_eq!(deployment.body["metadata"]["generation"], 2);
    server.close().await;
}
