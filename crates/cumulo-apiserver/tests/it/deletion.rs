//! Deletion: grace, finalizers, owners, namespaces.

use serde_json::{Value, json};

use crate::support::{Answer, Running, until};

const CONFIG: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn create(server: &Running, path: &str, object: Value) -> Value {
    let answer = server.json("POST", path, &object).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body
}

async fn delete(server: &Running, path: &str, options: Value) -> Answer {
    server.json("DELETE", path, &options).await
}

async fn gone(server: &Running, path: &str) {
    until(&format!("{path} is gone"), async || {
        server.get(path).await.status == 404
    })
    .await;
}

fn owned(name: &str, owner: &Value, block: bool) -> Value {
    json!({"metadata": {"name": name, "ownerReferences": [{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": block,
    }]}})
}

#[tokio::test]
async fn dependents_follow_in_the_background() {
    let server = Running::new().await;
    let owner = create(&server, CONFIG, json!({"metadata": {"name": "owner"}})).await;
    let child = create(&server, CONFIG, owned("child", &owner, true)).await;
    create(&server, CONFIG, owned("grandchild", &child, true)).await;
    create(&server, CONFIG, json!({"metadata": {"name": "stranger"}})).await;
    let answer = delete(&server, &format!("{CONFIG}/owner"), Value::Null).await;
    assert_eq!(answer.body["status"], "Success");
    assert_eq!(answer.body["details"]["uid"], owner["metadata"]["uid"]);
    gone(&server, &format!("{CONFIG}/child")).await;
    gone(&server, &format!("{CONFIG}/grandchild")).await;
    assert_eq!(server.get(&format!("{CONFIG}/stranger")).await.status, 200);
    // An owner that never was counts as gone.
    create(&server, CONFIG, owned("late", &owner, true)).await;
    gone(&server, &format!("{CONFIG}/late")).await;
    server.close().await;
}

#[tokio::test]
async fn a_foreground_owner_goes_last() {
    let server = Running::new().await;
    let owner = create(&server, CONFIG, json!({"metadata": {"name": "owner"}})).await;
    let mut child = owned("child", &owner, true);
    child["metadata"]["finalizers"] = json!(["test.dev/hold"]);
    create(&server, CONFIG, child).await;
    let answer = delete(
        &server,
        &format!("{CONFIG}/owner"),
        json!({"propagationPolicy": "Foreground"}),
    )
    .await;
    assert_eq!(
        answer.body["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    until("the child is being deleted", async || {
        server.get(&format!("{CONFIG}/child")).await.body["metadata"]["deletionTimestamp"]
            .is_string()
    })
    .await;
    assert_eq!(server.get(&format!("{CONFIG}/owner")).await.status, 200);
    let added = server
        .call(
            "PATCH",
            &format!("{CONFIG}/child"),
            "application/merge-patch+json",
            r#"{"metadata":{"finalizers":["test.dev/hold","test.dev/more"]}}"#,
        )
        .await;
    assert_eq!(added.status, 422, "no new finalizers while deleting");
    server
        .call(
            "PATCH",
            &format!("{CONFIG}/child"),
            "application/merge-patch+json",
            r#"{"metadata":{"finalizers":null}}"#,
        )
        .await;
    gone(&server, &format!("{CONFIG}/child")).await;
    gone(&server, &format!("{CONFIG}/owner")).await;
    server.close().await;
}

#[tokio::test]
async fn orphans_stay_without_their_owner() {
    let server = Running::new().await;
    let owner = create(&server, CONFIG, json!({"metadata": {"name": "owner"}})).await;
    create(&server, CONFIG, owned("child", &owner, true)).await;
    delete(
        &server,
        &format!("{CONFIG}/owner?propagationPolicy=Orphan"),
        Value::Null,
    )
    .await;
    gone(&server, &format!("{CONFIG}/owner")).await;
    let child = server.get(&format!("{CONFIG}/child")).await;
    assert_eq!(child.status, 200);
    assert_eq!(child.body["metadata"].get("ownerReferences"), None);
    server.close().await;
}

#[tokio::test]
async fn one_of_two_owners_is_enough_to_stay() {
    let server = Running::new().await;
    let one = create(&server, CONFIG, json!({"metadata": {"name": "one"}})).await;
    let two = create(&server, CONFIG, json!({"metadata": {"name": "two"}})).await;
    let mut child = owned("child", &one, true);
    let mut second = owned("child", &two, true)["metadata"]["ownerReferences"][0].clone();
    second["controller"] = json!(false);
    child["metadata"]["ownerReferences"]
        .as_array_mut()
        .expect("owners")
        .push(second);
    create(&server, CONFIG, child).await;
    delete(
        &server,
        &format!("{CONFIG}/one"),
        json!({"propagationPolicy": "Foreground"}),
    )
    .await;
    gone(&server, &format!("{CONFIG}/one")).await;
    let child = server.get(&format!("{CONFIG}/child")).await.body;
    assert_eq!(
        child["metadata"]["ownerReferences"]
            .as_array()
            .expect("owners")
            .len(),
        1
    );
    assert_eq!(child["metadata"]["ownerReferences"][0]["name"], "two");
    server.close().await;
}

#[tokio::test]
async fn a_circle_does_not_block() {
    let server = Running::new().await;
    let a = create(&server, CONFIG, json!({"metadata": {"name": "a"}})).await;
    let b = create(&server, CONFIG, owned("b", &a, true)).await;
    let references = json!({"metadata": {"ownerReferences": owned("a", &b, true)["metadata"]["ownerReferences"]}});
    server
        .call(
            "PATCH",
            &format!("{CONFIG}/a"),
            "application/merge-patch+json",
            references.to_string(),
        )
        .await;
    delete(
        &server,
        &format!("{CONFIG}/a"),
        json!({"propagationPolicy": "Foreground"}),
    )
    .await;
    gone(&server, &format!("{CONFIG}/a")).await;
    gone(&server, &format!("{CONFIG}/b")).await;
    server.close().await;
}

#[tokio::test]
async fn preconditions_and_collections() {
    let server = Running::new().await;
    for n in 0..3 {
        create(
            &server,
            CONFIG,
            json!({"metadata": {"name": format!("c{n}"), "labels": {"n": n.to_string()}}}),
        )
        .await;
    }
    let refused = delete(
        &server,
        &format!("{CONFIG}/c0"),
        json!({"preconditions": {"uid": "other"}}),
    )
    .await;
    assert_eq!(
        (refused.status.as_u16(), refused.body["reason"].as_str()),
        (409, Some("Conflict"))
    );
    let dry = delete(&server, &format!("{CONFIG}/c0?dryRun=All"), Value::Null).await;
    assert_eq!(dry.status, 200);
    assert_eq!(server.get(&format!("{CONFIG}/c0")).await.status, 200);
    let some = delete(
        &server,
        &format!("{CONFIG}?labelSelector=n%21%3D1"),
        Value::Null,
    )
    .await;
    assert_eq!(some.body["items"].as_array().expect("items").len(), 2);
    let left = server.get(CONFIG).await.body;
    assert_eq!(left["items"].as_array().expect("items").len(), 1);
    server.close().await;
}

#[tokio::test]
async fn a_namespace_takes_its_content_along() {
    let server = Running::new().await;
    create(
        &server,
        "/api/v1/namespaces",
        json!({"metadata": {"name": "team"}}),
    )
    .await;
    create(
        &server,
        "/api/v1/namespaces/team/secrets",
        json!({"metadata": {"name": "s"}}),
    )
    .await;
    create(
        &server,
        "/api/v1/namespaces/team/configmaps",
        json!({"metadata": {"name": "held", "finalizers": ["test.dev/hold"]}}),
    )
    .await;
    let answer = delete(&server, "/api/v1/namespaces/team", Value::Null).await;
    assert_eq!(answer.body["status"]["phase"], "Terminating");
    until("the namespace says what it waits for", async || {
        let namespace = server.get("/api/v1/namespaces/team").await.body;
        namespace["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
    })
    .await;
    gone(&server, "/api/v1/namespaces/team/secrets/s").await;
    let refused = server
        .json(
            "POST",
            "/api/v1/namespaces/team/secrets",
            &json!({"metadata": {"name": "t"}}),
        )
        .await;
    assert_eq!(refused.status, 403);
    assert_eq!(
        refused.body["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    server
        .call(
            "PATCH",
            "/api/v1/namespaces/team/configmaps/held",
            "application/merge-patch+json",
            r#"{"metadata":{"finalizers":null}}"#,
        )
        .await;
    gone(&server, "/api/v1/namespaces/team").await;
    let forbidden = delete(&server, "/api/v1/namespaces/default", Value::Null).await;
    assert_eq!(forbidden.status, 403);
    server.close().await;
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

async fn bind(server: &Running, name: &str) -> Answer {
    server
        .json(
            "POST",
            &format!("{PODS}/{name}/binding"),
            &json!({"target": {"kind": "Node", "name": "n1"}}),
        )
        .await
}

#[tokio::test]
async fn pods_end_gracefully() {
    let server = Running::new().await;
    create(&server, PODS, pod("early")).await;
    assert_eq!(
        delete(&server, &format!("{PODS}/early"), Value::Null)
            .await
            .body["status"],
        "Success"
    );
    create(&server, PODS, pod("p")).await;
    assert_eq!(bind(&server, "p").await.status, 201);
    assert_eq!(bind(&server, "p").await.status, 409);
    let bound = server
        .get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn1"))
        .await
        .body;
    assert_eq!(bound["items"].as_array().expect("items").len(), 1);
    assert_eq!(
        bound["items"][0]["status"]["conditions"][0]["type"],
        "PodScheduled"
    );
    let marked = delete(&server, &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(marked.body["metadata"]["deletionGracePeriodSeconds"], 30);
    let again = delete(&server, &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(
        again.body["metadata"]["resourceVersion"],
        marked.body["metadata"]["resourceVersion"]
    );
    let removed = delete(
        &server,
        &format!("{PODS}/p?gracePeriodSeconds=0"),
        Value::Null,
    )
    .await;
    assert_eq!(removed.body["status"], "Success");
    server.close().await;
}

#[tokio::test]
async fn evictions_respect_budgets() {
    let server = Running::new().await;
    create(&server, PODS, pod("p")).await;
    bind(&server, "p").await;
    server
        .call(
            "PATCH",
            &format!("{PODS}/p/status"),
            "application/merge-patch+json",
            r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#,
        )
        .await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    create(&server, budgets, budget).await;
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let refused = server
        .json("POST", &format!("{PODS}/p/eviction"), &eviction)
        .await;
    assert_eq!(refused.status, 429);
    assert_eq!(
        refused.body["message"],
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    assert_eq!(
        refused.body["details"]["causes"][0],
        json!({
            "reason": "DisruptionBudget",
            "message": "The disruption budget b needs 1 healthy pods and has 1 currently",
        })
    );
    // The status follows, for those who look before they ask.
    until("the budget's status", || async {
        let status = &server.get(&format!("{budgets}/b")).await.body["status"];
        status["expectedPods"] == 1 && status["disruptionsAllowed"] == 0
    })
    .await;
    server
        .call(
            "PATCH",
            &format!("{budgets}/b"),
            "application/merge-patch+json",
            r#"{"spec":{"minAvailable":"0%"}}"#,
        )
        .await;
    let evicted = server
        .json("POST", &format!("{PODS}/p/eviction"), &eviction)
        .await;
    assert_eq!(evicted.status, 201, "{}", evicted.text);
    assert!(
        server.get(&format!("{PODS}/p")).await.body["metadata"]["deletionTimestamp"].is_string()
    );
    server.close().await;
}
