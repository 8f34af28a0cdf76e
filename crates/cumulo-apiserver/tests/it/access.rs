//! Roles and bindings: who may do what, and who may give it on.

use axum::body::Body;
use cumulo_apiserver::auth::{Authorization, StaticTokens, UserInfo};
use http::Request;
use serde_json::{Value, json};

use crate::support::{Answer, Running, until};

/// Ada edits in `a`, Bob may do everything there that `admin` may, Carl nothing.
async fn server() -> Running {
    let server = Running::with(|options| {
        let mut tokens = StaticTokens::default();
        for name in ["ada", "bob", "carl"] {
            tokens = tokens.with(name, UserInfo::new(name, &["people"]));
        }
        options.authenticator = std::sync::Arc::new(tokens);
        options.authorization = Authorization::Roles(vec![json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {
                "name": "things",
                "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"},
            },
            "rules": [{"verbs": ["get"], "apiGroups": ["x.y"], "resources": ["things"]}],
        })]);
    })
    .await;
    let namespace = json!({"metadata": {"name": "a"}});
    server.json("POST", "/api/v1/namespaces", &namespace).await;
    for (user, role) in [("ada", "edit"), ("bob", "admin")] {
        let made = server
            .json("POST", &bindings("a"), &binding(user, role))
            .await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
    server
}

fn bindings(namespace: &str) -> String {
    format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings")
}

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

fn binding(user: &str, role: &str) -> Value {
    json!({
        "metadata": {"name": format!("{user}-{role}")},
        "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user}],
    })
}

/// A request of somebody, who is their own token.
async fn of(server: &Running, user: &str, method: &str, path: &str, body: Value) -> Answer {
    let media = match method {
        "PATCH" => "application/apply-patch+yaml",
        _ => "application/json",
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {user}"))
        .header("content-type", media)
        .body(Body::from(body.to_string()))
        .expect("a request");
    server.outside(request).await
}

#[tokio::test]
async fn roles_decide() {
    let server = server().await;
    let pods = "/api/v1/namespaces/a/configmaps";
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let all = [
        of(&server, "ada", "POST", pods, object.clone()).await,
        of(
            &server,
            "ada",
            "GET",
            "/api/v1/namespaces/default/configmaps",
            json!({}),
        )
        .await,
        of(&server, "ada", "GET", "/api/v1/nodes", json!({})).await,
        of(&server, "carl", "GET", pods, json!({})).await,
        of(&server, "carl", "GET", "/apis", json!({})).await,
        of(&server, "carl", "GET", "/openid/v1/jwks", json!({})).await,
    ];
    let all: Vec<String> = all.iter().map(Answer::message).collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    201 -: -
    403 Forbidden: configmaps is forbidden: User "ada" cannot list resource "configmaps" in API group "" in the namespace "default"
    403 Forbidden: nodes is forbidden: User "ada" cannot list resource "nodes" in API group "" at the cluster scope
    403 Forbidden: configmaps is forbidden: User "carl" cannot list resource "configmaps" in API group "" in the namespace "a"
    200 -: -
    403 Forbidden: forbidden: User "carl" cannot get path "/openid/v1/jwks"
    "#);
    // A binding works, and stops working, with the next request.
    let made = server
        .json("POST", &bindings("a"), &binding("carl", "view"))
        .await;
    assert_eq!(made.status, 201);
    assert_eq!(
        of(&server, "carl", "GET", pods, json!({})).await.status,
        200
    );
    server
        .json(
            "DELETE",
            &format!("{}/carl-view", bindings("a")),
            &json!({}),
        )
        .await;
    assert_eq!(
        of(&server, "carl", "GET", pods, json!({})).await.status,
        403
    );
    server.close().await;
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let server = server().await;
    let role = |name: &str, resource: &str| {
        json!({"metadata": {"name": name},
               "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]})
    };
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles";
    let mut secret_namespaces = role("mine", "namespaces/secrets");
    secret_namespaces["apiVersion"] = json!("rbac.authorization.k8s.io/v1");
    secret_namespaces["kind"] = json!("Role");
    let apply = format!("{roles}/mine?fieldManager=test");
    let mut no_verbs = role("wrong", "pods");
    no_verbs["rules"][0]["verbs"] = json!([]);
    let mut moved = binding("bob", "view");
    moved["metadata"]["name"] = json!("bob-admin");
    let all = [
        // `edit` may not touch roles at all.
        of(
            &server,
            "ada",
            "POST",
            &bindings("a"),
            binding("ada", "admin"),
        )
        .await,
        // `admin` may give on what it has, in its namespace.
        of(&server, "bob", "POST", roles, role("readers", "pods")).await,
        of(&server, "bob", "POST", roles, role("nodes", "nodes")).await,
        of(
            &server,
            "bob",
            "POST",
            &bindings("a"),
            binding("carl", "admin"),
        )
        .await,
        of(
            &server,
            "bob",
            "POST",
            &bindings("a"),
            binding("carl", "cluster-admin"),
        )
        .await,
        of(
            &server,
            "bob",
            "POST",
            &bindings("a"),
            binding("carl", "nothing"),
        )
        .await,
        of(&server, "bob", "PATCH", &apply, secret_namespaces).await,
        of(&server, "bob", "POST", ROLES, role("x", "pods")).await,
        of(&server, "bob", "POST", roles, no_verbs).await,
        of(
            &server,
            "bob",
            "PUT",
            &format!("{}/bob-admin", bindings("a")),
            moved,
        )
        .await,
    ];
    let all: Vec<String> = all.iter().map(Answer::message).collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    403 Forbidden: rolebindings.rbac.authorization.k8s.io is forbidden: User "ada" cannot create resource "rolebindings" in API group "rbac.authorization.k8s.io" in the namespace "a"
    201 -: -
    403 Forbidden: roles.rbac.authorization.k8s.io "nodes" is forbidden: user "bob" (groups=["people" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:
    {APIGroups:[""], Resources:["nodes"], Verbs:["get"]}
    201 -: -
    403 Forbidden: rolebindings.rbac.authorization.k8s.io "carl-cluster-admin" is forbidden: user "bob" (groups=["people" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:
    {APIGroups:["*"], Resources:["*"], Verbs:["*"]}
    {NonResourceURLs:["*"], Verbs:["*"]}
    404 NotFound: clusterrole.rbac.authorization.k8s.io "nothing" not found
    403 Forbidden: roles.rbac.authorization.k8s.io "mine" is forbidden: user "bob" (groups=["people" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:
    {APIGroups:[""], Resources:["namespaces/secrets"], Verbs:["get"]}
    403 Forbidden: clusterroles.rbac.authorization.k8s.io is forbidden: User "bob" cannot create resource "clusterroles" in API group "rbac.authorization.k8s.io" at the cluster scope
    422 Invalid: Role.rbac.authorization.k8s.io "wrong" is invalid: rules[0].verbs: Required value: verbs must contain at least one value
    422 Invalid: RoleBinding.rbac.authorization.k8s.io "bob-admin" is invalid: roleRef: Invalid value: {"kind":"ClusterRole","name":"view","apiGroup":"rbac.authorization.k8s.io"}: cannot change roleRef
    "#);
    // With the verbs `bind` and `escalate` they may.
    let more = json!({
        "metadata": {"name": "grants", "namespace": "a"},
        "rules": [
            {"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"],
             "resources": ["clusterroles"], "resourceNames": ["cluster-admin"]},
            {"verbs": ["escalate"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]},
        ],
    });
    assert_eq!(server.json("POST", roles, &more).await.status, 201);
    let mut to_role = binding("bob", "grants");
    to_role["roleRef"]["kind"] = json!("Role");
    assert_eq!(
        server.json("POST", &bindings("a"), &to_role).await.status,
        201
    );
    let bound = of(
        &server,
        "bob",
        "POST",
        &bindings("a"),
        binding("carl", "cluster-admin"),
    )
    .await;
    assert_eq!(bound.status, 201, "{}", bound.text);
    let escalated = of(&server, "bob", "POST", roles, role("nodes", "nodes")).await;
    assert_eq!(escalated.status, 201, "{}", escalated.text);
    server.close().await;
}

#[tokio::test]
async fn roles_are_aggregated_and_reconciled() {
    let server = server().await;
    let rules = async |name: &str| {
        let role = server.get(&format!("{ROLES}/{name}")).await;
        role.body["rules"].to_string()
    };
    // From the start, and through two levels.
    assert!(rules("view").await.contains("things"));
    assert!(rules("admin").await.contains("things"));
    let role = json!({
        "metadata": {"name": "more", "labels": {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}},
        "rules": [{"verbs": ["create"], "apiGroups": ["x.y"], "resources": ["others"]}],
    });
    assert_eq!(server.json("POST", ROLES, &role).await.status, 201);
    until("admin to have what edit has", async || {
        rules("admin").await.contains("others")
    })
    .await;
    assert!(!rules("view").await.contains("others"));
    server
        .json("DELETE", &format!("{ROLES}/more"), &json!({}))
        .await;
    until("admin to have lost it", async || {
        !rules("admin").await.contains("others")
    })
    .await;

    // What is removed from a default comes back at the next start, what was
    // added stays, and what is annotated is left alone.
    let patch = |body: Value| body.to_string();
    let change = async |name: &str, body: Value| {
        let changed = server
            .call(
                "PATCH",
                &format!("{ROLES}/{name}"),
                "application/merge-patch+json",
                patch(body),
            )
            .await;
        assert_eq!(changed.status, 200, "{}", changed.text);
    };
    let own = json!([{"verbs": ["get"], "apiGroups": ["own"], "resources": ["own"]}]);
    change("system:basic-user", json!({"rules": own})).await;
    change(
        "system:discovery",
        json!({"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "rules": own}),
    )
    .await;
    let folder = server.close().await;
    let server = Running::open(folder, |options| {
        options.authorization = Authorization::Roles(Vec::new());
    })
    .await;
    let basic = server.get(&format!("{ROLES}/system:basic-user")).await;
    assert!(basic.text.contains("selfsubjectreviews") && basic.text.contains("\"own\""));
    let discovery = server.get(&format!("{ROLES}/system:discovery")).await;
    assert_eq!(discovery.body["rules"], own);
    // A start that finds everything in order writes nothing.
    let version = server.handle.version();
    let folder = server.close().await;
    let server = Running::open(folder, |options| {
        options.authorization = Authorization::Roles(Vec::new());
    })
    .await;
    assert_eq!(server.handle.version(), version);
    server.close().await;
}

#[tokio::test]
async fn reviews_answer_from_the_roles() {
    let server = server().await;
    let review = async |user: &str, kind: &str, spec: Value| {
        let path = format!("/apis/authorization.k8s.io/v1/{kind}");
        let answer = of(&server, user, "POST", &path, json!({"spec": spec})).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.body["status"].clone()
    };
    let may = review(
        "ada",
        "selfsubjectaccessreviews",
        json!({"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": "a"}}),
    )
    .await;
    assert_eq!(
        may,
        json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"ada-edit/a\" of ClusterRole \"edit\" to User \"ada\""})
    );
    let may = review(
        "ada",
        "selfsubjectaccessreviews",
        json!({"resourceAttributes": {"verb": "create", "resource": "pods"}}),
    )
    .await;
    assert_eq!(may, json!({"allowed": false}));
    let rules = review("carl", "selfsubjectrulesreviews", json!({"namespace": "a"})).await;
    assert_eq!(rules["incomplete"], false);
    assert!(rules.to_string().contains("selfsubjectaccessreviews"));
    assert!(rules["nonResourceRules"].to_string().contains("/openapi/*"));
    assert!(!rules.to_string().contains("configmaps"));
    let rules = review("ada", "selfsubjectrulesreviews", json!({"namespace": "a"})).await;
    assert!(rules["resourceRules"].to_string().contains("configmaps"));
    // Asking about others needs a permission.
    let refused = of(
        &server,
        "ada",
        "POST",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        json!({"spec": {"user": "bob"}}),
    )
    .await;
    assert_eq!(refused.status, 403);
    let local = of(
        &server,
        "bob",
        "POST",
        "/apis/authorization.k8s.io/v1/namespaces/a/localsubjectaccessreviews",
        json!({"spec": {"user": "ada", "resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "a"}}}),
    )
    .await;
    assert_eq!(local.body["status"]["allowed"], true, "{}", local.text);
    server.close().await;
}

#[tokio::test]
async fn who_may_read_one_object_may_list_it_by_name() {
    let server = server().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles";
    let role = json!({
        "metadata": {"name": "one"},
        "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]}],
    });
    assert_eq!(server.json("POST", roles, &role).await.status, 201);
    let mut bound = binding("carl", "one");
    bound["roleRef"]["kind"] = json!("Role");
    assert_eq!(
        server.json("POST", &bindings("a"), &bound).await.status,
        201
    );
    let secrets = "/api/v1/namespaces/a/secrets";
    for name in ["s", "t"] {
        let secret = json!({"metadata": {"name": name}});
        assert_eq!(server.json("POST", secrets, &secret).await.status, 201);
    }
    let list = async |selector: &str| {
        let path = format!("{secrets}?fieldSelector={selector}");
        let answer = of(&server, "carl", "GET", &path, json!({})).await;
        (
            answer.status.as_u16(),
            answer.body["items"].as_array().map_or(0, Vec::len),
        )
    };
    assert_eq!(list("metadata.name=s").await, (200, 1));
    // No way around it: all terms have to hold.
    assert_eq!(list("metadata.name=s,metadata.name=t").await, (200, 0));
    assert_eq!(list("metadata.name!=s").await.0, 403);
    assert_eq!(list("metadata.name=t").await.0, 403);
    assert_eq!(list("").await.0, 403);
    server.close().await;
}

#[tokio::test]
async fn acting_as_somebody_else_needs_a_permission() {
    let server = server().await;
    let who = async |token: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder()
            .method("POST")
            .uri("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("authorization", format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from("{}")).expect("a request");
        let answer = server.outside(request).await;
        match answer.status.as_u16() {
            201 => answer.body["status"]["userInfo"].to_string(),
            _ => answer.message(),
        }
    };
    let robot = "system:serviceaccount:a:robot";
    let all = [
        who("carl", &[("impersonate-user", "bob")]).await,
        who("ada", &[("impersonate-user", robot)]).await,
        who(
            "ada",
            &[("impersonate-user", "system:serviceaccount:b:robot")],
        )
        .await,
        who(
            "ada",
            &[
                ("impersonate-user", robot),
                ("impersonate-group", "system:masters"),
            ],
        )
        .await,
        who("carl", &[("impersonate-group", "system:masters")]).await,
        who("carl", &[("impersonate-future", "x")]).await,
    ];
    insta::assert_snapshot!(all.join("\n"), @r#"
    403 Forbidden: users "bob" is forbidden: User "carl" cannot impersonate resource "users" in API group "" at the cluster scope
    {"username":"system:serviceaccount:a:robot","groups":["system:serviceaccounts","system:serviceaccounts:a","system:authenticated"]}
    403 Forbidden: serviceaccounts "robot" is forbidden: User "ada" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "b"
    403 Forbidden: groups "system:masters" is forbidden: User "ada" cannot impersonate resource "groups" in API group "" at the cluster scope
    400 BadRequest: groups, a uid or extras are impersonated without a user
    400 BadRequest: the header impersonate-future is not known
    "#);
    server.close().await;
}

#[tokio::test]
async fn an_update_that_creates_needs_create() {
    let server = server().await;
    let role = json!({
        "metadata": {"name": "patcher", "namespace": "a"},
        "rules": [{"verbs": ["patch", "update"], "apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases"]}],
    });
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles";
    assert_eq!(server.json("POST", roles, &role).await.status, 201);
    let mut bound = binding("carl", "patcher");
    bound["roleRef"]["kind"] = json!("Role");
    assert_eq!(
        server.json("POST", &bindings("a"), &bound).await.status,
        201
    );
    let refused = of(
        &server,
        "carl",
        "PATCH",
        "/api/v1/namespaces/a/configmaps/c?fieldManager=t",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}),
    )
    .await;
    assert_eq!(
        refused.message(),
        "403 Forbidden: configmaps \"c\" is forbidden: User \"carl\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"a\""
    );
    let refused = of(
        &server,
        "carl",
        "PUT",
        "/apis/coordination.k8s.io/v1/namespaces/a/leases/l",
        json!({"metadata": {"name": "l"}}),
    )
    .await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    server.close().await;
}
