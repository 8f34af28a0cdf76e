//! What other objects say of a write: rules of definitions, admission policies,
//! quotas, classes.

use serde_json::{Value, json};

use crate::definitions::{THINGS, define, definition, thing};
use crate::support::{Running, until};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}},
    ]}})
}

#[tokio::test]
async fn rules_of_a_definition() {
    let server = Running::new().await;
    let mut crd = definition();
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"]["x-kubernetes-validations"] = json!([
        {"rule": "self.replicas <= 10 || self.size == 'large'", "messageExpression": "'at most 10 replicas when ' + self.size", "fieldPath": ".replicas"},
        {"rule": "self.size == oldSelf.size", "message": "the size stays", "reason": "FieldValueForbidden"},
    ]);
    let mut broken = crd.clone();
    broken["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"]
        [0]["rule"] = json!("slef.replicas > 1");
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut messages = vec![server.json("POST", path, &broken).await.message()];
    define(&server, &crd).await;
    let create =
        async |name: &str, spec: Value| server.json("POST", THINGS, &thing(name, spec)).await;
    messages.push(
        create("a", json!({"size": "small", "replicas": 11}))
            .await
            .message(),
    );
    assert_eq!(create("a", json!({"size": "small"})).await.status, 201);
    let patch = async |patch: &str| {
        let path = format!("{THINGS}/a");
        server
            .call(
                "PATCH",
                &path,
                "application/merge-patch+json",
                patch.to_owned(),
            )
            .await
    };
    messages.push(patch(r#"{"spec":{"size":"large"}}"#).await.message());
    assert_eq!(patch(r#"{"spec":{"replicas":5}}"#).await.status, 200);
    insta::assert_snapshot!(messages.join("\n"), @r#"
    422 Invalid: CustomResourceDefinition.apiextensions.k8s.io "things.test.dev" is invalid: spec.versions[0].schema.openAPIV3Schema: Invalid value: "object": schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: "slef.replicas > 1": compilation failed: undeclared reference to 'slef'
    422 Invalid: Thing.test.dev "a" is invalid: spec.replicas: Invalid value: at most 10 replicas when small
    422 Invalid: Thing.test.dev "a" is invalid: spec: Forbidden: the size stays
    "#);
    server.close().await;
}

#[tokio::test]
async fn policies_deny_and_warn() {
    let server = Running::new().await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({
        "metadata": {"name": "few"},
        "spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "DELETE"], "resources": ["configmaps"]},
            ]},
            "validations": [
                {"expression": "request.operation == 'DELETE' || object.data.size() < 2", "message": "one entry is enough"},
                {"expression": "request.operation != 'DELETE' || oldObject.metadata.name != 'kept'", "message": "it is kept"},
            ],
        },
    });
    let created = server
        .json(
            "POST",
            &format!("{group}/validatingadmissionpolicies"),
            &policy,
        )
        .await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.body["spec"]["failurePolicy"], "Fail");
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str, data: Value| json!({"metadata": {"name": name}, "data": data});
    // Nobody is bound to it yet.
    let free = server
        .json("POST", maps, &map("kept", json!({"a": "1", "b": "2"})))
        .await;
    assert_eq!(free.status, 201);
    let bindings = format!("{group}/validatingadmissionpolicybindings");
    let binding = |name: &str, action: &str| json!({"metadata": {"name": name}, "spec": {"policyName": "few", "validationActions": [action]}});
    server
        .json("POST", &bindings, &binding("warns", "Warn"))
        .await;
    let warned = server
        .json("POST", maps, &map("b", json!({"a": "1", "b": "2"})))
        .await;
    assert_eq!(warned.status, 201);
    server
        .json("POST", &bindings, &binding("denies", "Deny"))
        .await;
    let denied = server
        .json("POST", maps, &map("c", json!({"a": "1", "b": "2"})))
        .await;
    let kept = server
        .call("DELETE", &format!("{maps}/kept"), "application/json", "")
        .await;
    let gone = server
        .call("DELETE", &format!("{maps}/b"), "application/json", "")
        .await;
    assert_eq!(gone.status, 200);
    insta::assert_snapshot!(
        format!("{}\n{}\n{}", warned.headers["warning"].to_str().expect("text"), denied.message(), kept.message()),
        @r#"
    299 - "Validation failed for ValidatingAdmissionPolicy 'few' with binding 'warns': one entry is enough"
    422 Invalid: configmaps "c" is forbidden: ValidatingAdmissionPolicy 'few' with binding 'denies' denied request: one entry is enough
    422 Invalid: configmaps "kept" is forbidden: ValidatingAdmissionPolicy 'few' with binding 'denies' denied request: it is kept
    "#
    );
    server.close().await;
}

#[tokio::test]
async fn quotas_are_counted_and_kept() {
    let server = Running::new().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2", "requests.cpu": "1", "count/leases.coordination.k8s.io": "0"}}});
    server.json("POST", quotas, &quota).await;
    let used = async || server.get(&format!("{quotas}/q")).await.body["status"]["used"].clone();
    until("nothing is used", async || used().await["pods"] == "0").await;
    assert_eq!(
        server.json("POST", PODS, &pod("a", "600m")).await.status,
        201
    );
    let mut messages = vec![server.json("POST", PODS, &pod("b", "500m")).await.message()];
    let mut silent = pod("c", "1");
    silent["spec"]["containers"][0]["resources"] = json!({});
    messages.push(server.json("POST", PODS, &silent).await.message());
    let lease = json!({"metadata": {"name": "l"}, "spec": {}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    messages.push(server.json("POST", leases, &lease).await.message());
    until("the pod is counted", async || {
        let used = used().await;
        used["pods"] == "1" && used["requests.cpu"] == "600m"
    })
    .await;
    server
        .call("DELETE", &format!("{PODS}/a"), "application/json", "")
        .await;
    until("the pod is no longer counted", async || {
        used().await["requests.cpu"] == "0"
    })
    .await;
    assert_eq!(
        server.json("POST", PODS, &pod("b", "500m")).await.status,
        201
    );
    insta::assert_snapshot!(messages.join("\n"), @r#"
    403 Forbidden: pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1
    403 Forbidden: pods "c" is forbidden: failed quota: q: must specify requests.cpu for: c
    403 Forbidden: leases.coordination.k8s.io "l" is forbidden: exceeded quota: q, requested: count/leases.coordination.k8s.io=1, used: count/leases.coordination.k8s.io=0, limited: count/leases.coordination.k8s.io=0
    "#);
    server.close().await;
}

#[tokio::test]
async fn classes_are_looked_up() {
    let server = Running::new().await;
    let class = json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
    server
        .json("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", &class)
        .await;
    let mut high = pod("high", "1");
    high["spec"]["priorityClassName"] = json!("high");
    let created = server.json("POST", PODS, &high).await;
    assert_eq!(created.body["spec"]["priority"], 1000);
    assert_eq!(created.body["spec"]["preemptionPolicy"], "Never");
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses/high";
    let changed = server
        .call(
            "PATCH",
            path,
            "application/merge-patch+json",
            r#"{"value":7}"#,
        )
        .await;
    assert_eq!(changed.status, 422);
    let mut unknown = pod("unknown", "1");
    unknown["spec"]["priorityClassName"] = json!("higher");
    let mut runtime = pod("runtime", "1");
    runtime["spec"]["runtimeClassName"] = json!("gvisor");
    let messages = [
        server.json("POST", PODS, &unknown).await.message(),
        server.json("POST", PODS, &runtime).await.message(),
    ];
    insta::assert_snapshot!(messages.join("\n"), @r#"
    403 Forbidden: pods "unknown" is forbidden: no PriorityClass with name higher was found
    403 Forbidden: pods "runtime" is forbidden: pod rejected: RuntimeClass "gvisor" not found
    "#);
    server.close().await;
}

#[tokio::test]
async fn certificate_requests_say_who_asks_and_who_approved() {
    let server = Running::new().await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = json!({"metadata": {"name": "r"}, "spec": {
        "request": "eA==", "signerName": "example.com/x", "usages": ["client auth"], "username": "somebody else",
    }});
    let created = server.json("POST", path, &request).await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.body["spec"]["username"], "system:cumulo");
    let approval = json!({"status": {"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True", "reason": "t"}]}});
    let patch = async |part: &str| {
        let path = format!("{path}/r/{part}");
        let answer = server
            .call(
                "PATCH",
                &path,
                "application/merge-patch+json",
                approval.to_string(),
            )
            .await;
        answer.body["status"].clone()
    };
    let status = patch("approval").await;
    assert_eq!(status["conditions"][0]["type"], "Approved");
    assert!(status.get("certificate").is_none());
    assert_eq!(patch("status").await["certificate"], "eA==");
    server.close().await;
}
