//! Tokens of service accounts: what they say, and until when they hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cumulo_apiserver::audit::AuditOptions;
use cumulo_apiserver::auth::Authorization;
use cumulo_apiserver::{Clock, Options, TokenKey};
use http::Request;
use serde_json::{Value, json};

use crate::support::{Answer, Running, TOKEN, until};

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/robot";

fn with_key(options: &mut Options) {
    let document = TokenKey::generate().expect("a document");
    options.token_key = Some(Arc::new(TokenKey::from_pkcs8(&document).expect("a key")));
    options.authorization = Authorization::Roles(Vec::new());
}

async fn robot(server: &Running) {
    let made = server
        .json(
            "POST",
            "/api/v1/namespaces/default/serviceaccounts",
            &json!({"metadata": {"name": "robot"}}),
        )
        .await;
    assert_eq!(made.status, 201, "{}", made.text);
}

async fn issue(server: &Running, spec: Value) -> Answer {
    server
        .json("POST", &format!("{ACCOUNT}/token"), &json!({"spec": spec}))
        .await
}

fn token_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body["status"]["token"]
        .as_str()
        .expect("a token")
        .to_owned()
}

async fn who(server: &Running, token: &str) -> Answer {
    let request = Request::builder()
        .method("POST")
        .uri("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("authorization", format!("Bearer {token}"))
        .body(Body::from("{}"))
        .expect("a request");
    server.outside(request).await
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("claims");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

#[tokio::test]
async fn a_token_says_who_and_for_how_long() {
    let now = Arc::new(AtomicI64::new(1_700_000_000));
    let clock = now.clone();
    let server = Running::with(|options| {
        with_key(options);
        options.clock = Clock::new(move || {
            chrono::DateTime::from_timestamp(clock.load(Ordering::Relaxed), 0).expect("a time")
        });
    })
    .await;
    robot(&server).await;
    let issued = issue(&server, json!({"expirationSeconds": 600})).await;
    assert_eq!(
        issued.body["status"]["expirationTimestamp"],
        "2023-11-14T22:23:20Z"
    );
    let token = token_of(&issued);
    let said = claims(&token);
    let uid = server.get(ACCOUNT).await.body["metadata"]["uid"].clone();
    let issuer = "https://kubernetes.default.svc.cluster.local";
    assert_eq!(
        said,
        json!({
            "aud": [issuer], "exp": 1_700_000_600, "iat": 1_700_000_000, "iss": issuer,
            "jti": said["jti"],
            "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "robot", "uid": uid}},
            "nbf": 1_700_000_000, "sub": "system:serviceaccount:default:robot",
        })
    );
    let user = who(&server, &token).await;
    let user = &user.body["status"]["userInfo"];
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    assert_eq!(user["uid"], uid);
    assert_eq!(
        user["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ])
    );
    now.fetch_add(599, Ordering::Relaxed);
    assert_eq!(who(&server, &token).await.status, 201);
    now.fetch_add(1, Ordering::Relaxed);
    assert_eq!(who(&server, &token).await.status, 401);
    server.close().await;
}

#[tokio::test]
async fn a_token_holds_while_account_and_pod_are_there() {
    let server = Running::with(with_key).await;
    robot(&server).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |account: &str| {
        json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": account,
               "containers": [{"name": "c", "image": "i"}]}})
    };
    server.json("POST", pods, &pod("default")).await;
    let bound = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}});
    let other = issue(&server, bound.clone()).await;
    server
        .json("DELETE", &format!("{pods}/p"), &json!({}))
        .await;
    let missing = issue(&server, bound.clone()).await;
    server.json("POST", pods, &pod("robot")).await;
    let wrong = issue(
        &server,
        json!({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "other"}}),
    )
    .await;
    let secret = issue(
        &server,
        json!({"boundObjectRef": {"kind": "Secret", "name": "s"}}),
    )
    .await;
    let short = issue(&server, json!({"expirationSeconds": 10})).await;
    let all: Vec<String> = [&other, &missing, &wrong, &secret, &short]
        .iter()
        .map(|answer| answer.message())
        .collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    400 BadRequest: cannot bind token for serviceaccount "robot" to pod running with different serviceaccount name.
    404 NotFound: pods "p" not found
    409 Conflict: Operation cannot be fulfilled on pods "p": the UID in the bound object reference (other) does not match the UID in record. The object might have been deleted and then recreated
    400 BadRequest: cannot bind token to a "Secret" object: only to a Pod
    422 Invalid: ServiceAccount "robot" is invalid: spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes
    "#);
    let of_pod = token_of(&issue(&server, bound).await);
    let of_account = token_of(&issue(&server, json!({})).await);
    let user = who(&server, &of_pod).await;
    assert_eq!(
        user.body["status"]["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["p"])
    );
    // Another pod of the name is another pod.
    server
        .json("DELETE", &format!("{pods}/p"), &json!({}))
        .await;
    assert_eq!(who(&server, &of_pod).await.status, 401);
    server.json("POST", pods, &pod("robot")).await;
    assert_eq!(who(&server, &of_pod).await.status, 401);
    assert_eq!(who(&server, &of_account).await.status, 201);
    // And another account another account.
    server.json("DELETE", ACCOUNT, &json!({})).await;
    assert_eq!(who(&server, &of_account).await.status, 401);
    robot(&server).await;
    assert_eq!(who(&server, &of_account).await.status, 401);
    server.close().await;
}

#[tokio::test]
async fn tokens_are_for_their_audience() {
    let server = Running::with(with_key).await;
    robot(&server).await;
    let token = token_of(&issue(&server, json!({"audiences": ["vault"]})).await);
    assert_eq!(who(&server, &token).await.status, 401);
    let review = async |spec: Value| {
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer = server.json("POST", path, &json!({"spec": spec})).await;
        answer.body["status"].clone()
    };
    let status = review(json!({"token": token, "audiences": ["vault", "x"]})).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!(["vault"]));
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:robot"
    );
    assert_eq!(
        review(json!({"token": token})).await["authenticated"],
        false
    );
    assert_eq!(
        review(json!({"token": TOKEN, "audiences": ["x"]})).await["authenticated"],
        false
    );
    let keys = server.get("/openid/v1/jwks").await;
    assert_eq!(keys.body["keys"][0]["alg"], "ES256");
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    let issuer = server.get("/.well-known/openid-configuration").await;
    assert_eq!(
        issuer.body["id_token_signing_alg_values_supported"],
        json!(["ES256"])
    );
    server.close().await;
}

#[tokio::test]
async fn a_default_account_comes_back() {
    let server = Running::new().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default";
    until("the account", async || server.get(path).await.status == 200).await;
    let before = server.get(path).await.body["metadata"]["uid"].clone();
    server.json("DELETE", path, &json!({})).await;
    until("the account again", async || {
        let found = server.get(path).await;
        found.status == 200 && found.body["metadata"]["uid"] != before
    })
    .await;
    server.close().await;
}

#[tokio::test]
async fn what_comes_from_outside_is_logged() {
    let server = Running::with(|options| {
        with_key(options);
        let path = options.folder.join("audit.log");
        options.audit = Some(AuditOptions::new(path));
    })
    .await;
    let request = |method: &str, path: &str, token: &str, body: &'static str| {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header("user-agent", "tester/1")
            .body(Body::from(body))
            .expect("a request")
    };
    // The server's own clients and the health checks leave no line.
    robot(&server).await;
    let token = token_of(&issue(&server, json!({})).await);
    server.outside(request("GET", "/readyz", "", "")).await;
    let path = "/api/v1/namespaces/default/secrets";
    let body = r#"{"metadata":{"name":"s"},"stringData":{"k":"hidden"}}"#;
    server.outside(request("POST", path, &token, body)).await;
    server
        .outside(request("GET", "/apis?x=hidden", &token, ""))
        .await;
    server.outside(request("GET", path, "hidden", "")).await;
    let folder = server.close().await;
    let text = std::fs::read_to_string(folder.path().join("audit.log")).expect("the log");
    assert!(!text.contains("hidden") && !text.contains(&token));
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).expect("JSON");
            format!(
                "{} {} {} {} {} {}",
                event["user"]["username"],
                event["verb"],
                event["requestURI"],
                event["objectRef"],
                event["responseStatus"]["code"],
                event["annotations"],
            )
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    "system:serviceaccount:default:robot" "create" "/api/v1/namespaces/default/secrets" {"resource":"secrets","namespace":"default","apiVersion":"v1"} 403 {"authorization.k8s.io/decision":"forbid","authorization.k8s.io/reason":""}
    "system:serviceaccount:default:robot" "get" "/apis" null 200 {"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC: allowed by ClusterRoleBinding \"system:discovery\" of ClusterRole \"system:discovery\" to Group \"system:authenticated\""}
    null "get" "/api/v1/namespaces/default/secrets" null 401 null
    "#);
}
