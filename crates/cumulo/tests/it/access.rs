//! Who may do what: users, roles, service accounts, and every route that changes
//! something.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Platform, Text, http, kubectl, repository};

/// Adds a user; the kubeconfig that was printed, in a file.
fn add_user(platform: &Platform, name: &str, arguments: &[&str]) -> PathBuf {
    let mut all = vec!["user", "add", name];
    all.extend(arguments);
    let text = platform.cumulo(&all).success();
    let path = platform.home().join(format!("{name}.kubeconfig"));
    std::fs::write(&path, text).unwrap();
    path
}

/// kubectl as whoever a kubeconfig is of.
fn kubectl_as(platform: &Platform, kubeconfig: &Path, arguments: &[&str]) -> Output {
    Command::new(kubectl())
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--cache-dir")
        .arg(platform.home().join("kubectl-cache"))
        .args(arguments)
        .output()
        .unwrap()
}

fn token_of(kubeconfig: &Path) -> String {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let at = text.find("token: ").unwrap() + "token: ".len();
    let rest = text[at..].lines().next().unwrap();
    rest.trim_matches('"').to_owned()
}

/// Status of a request with JSON, with a token or none.
fn status(platform: &Platform, method: &Method, path: &str, token: Option<&str>) -> u16 {
    let mut request = http()
        .request(method.clone(), format!("{}{path}", platform.url()))
        .header("content-type", "application/json")
        .body("{}");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().unwrap().status().as_u16()
}

#[test]
fn users_may_what_their_role_says() {
    let platform = Platform::start();
    platform.kubectl(&["create", "namespace", "team"]).success();
    let vera = add_user(&platform, "vera", &["--role", "view"]);
    let ed = add_user(&platform, "ed", &["--role", "edit", "--namespace", "team"]);
    let alan = add_user(&platform, "alan", &["--role", "admin", "-n", "team"]);
    let of = |who: &Path, line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        kubectl_as(&platform, who, &words)
    };

    // `view` reads, and neither writes nor sees secrets.
    of(&vera, "get pods,configmaps,datasets,models,trainjobs -A").success();
    let refused = of(&vera, "create configmap c --from-literal=a=1").failure();
    assert!(
        refused.contains(
            "configmaps is forbidden: User \"vera\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\""
        ),
        "{refused}"
    );
    let refused = of(&vera, "get secrets").failure();
    assert!(
        refused.contains("cannot list resource \"secrets\""),
        "{refused}"
    );
    let refused = of(&vera, "delete dataset none").failure();
    assert!(
        refused.contains("datasets.cumulo.dev \"none\" is forbidden"),
        "{refused}"
    );

    // `edit` writes in its namespace, and gives no roles.
    of(&ed, "create configmap c --from-literal=a=1").success();
    of(&ed, "create secret generic s --from-literal=a=1").success();
    of(&ed, "create configmap c --from-literal=a=1 -n default").failure();
    let refused = of(&ed, "create rolebinding up --clusterrole=admin --user=ed").failure();
    assert!(
        refused.contains("cannot create resource \"rolebindings\""),
        "{refused}"
    );
    // `admin` gives what it has, and no more.
    of(
        &alan,
        "create rolebinding help --clusterrole=edit --user=vera",
    )
    .success();
    of(&vera, "get secrets -n team").success();
    let refused = of(
        &alan,
        "create rolebinding up --clusterrole=cluster-admin --user=alan",
    )
    .failure();
    assert!(
        refused.contains("is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}"),
        "{refused}"
    );

    // kubectl's own questions.
    assert_eq!(of(&ed, "auth can-i create pods").success(), "yes");
    assert_eq!(of(&ed, "auth can-i create pods -n default").out(), "no");
    assert_eq!(
        of(
            &ed,
            "auth can-i create inferenceservices.cumulo.dev --subresource=predict"
        )
        .success(),
        "yes"
    );
    let list = of(&vera, "auth can-i --list").success();
    assert!(
        list.contains("datasets.cumulo.dev") && !list.contains("secrets"),
        "{list}"
    );
    let may = platform.kubectl(&["--as", "vera", "auth", "can-i", "create", "pods"]);
    assert_eq!(may.out(), "no");
    of(&vera, "--as ed get pods").failure();
    let who = of(
        &ed,
        "auth whoami -o jsonpath={.status.userInfo.username}{.status.userInfo.groups}",
    );
    assert_eq!(
        who.success(),
        r#"ed["cumulo:users","system:authenticated"]"#
    );

    // Tracking and predictions ask the same roles.
    let search = "/api/2.0/mlflow/experiments/search";
    let create = "/api/2.0/mlflow/experiments/create";
    let (vera, ed) = (token_of(&vera), token_of(&ed));
    let post = |path: &str, token: &str| status(&platform, &Method::POST, path, Some(token));
    assert_eq!(post(search, &vera), 200);
    assert_eq!(post(create, &vera), 403);
    assert_eq!(post(search, &ed), 403, "tracking is in no namespace");
    assert_eq!(post("/namespaces/team/v2/models/none/infer", &ed), 404);
    assert_eq!(post("/v2/models/none/infer", &ed), 403);
    assert_eq!(post("/namespaces/team/v2/models/none/infer", "wrong"), 401);

    // Removed is refused at once; no token is on the disk.
    let list = platform.cumulo(&["user", "list"]).success();
    assert!(list.contains("ed     edit    team"), "{list}");
    let again = platform
        .cumulo(&["user", "add", "ed", "--role", "view"])
        .failure();
    assert!(again.contains("there is a user ed already"), "{again}");
    platform.cumulo(&["user", "remove", "ed"]).success();
    assert_eq!(post(search, &ed), 401);
    let file = platform.home().join("users.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!std::fs::read_to_string(file).unwrap().contains(&vera));
    let bindings = platform
        .kubectl(&[
            "get",
            "rolebindings,clusterrolebindings",
            "-A",
            "-o",
            "name",
        ])
        .success();
    assert!(!bindings.contains("cumulo:user:ed") && bindings.contains("cumulo:user:vera"));

    // The audit log says who was refused, and holds no token.
    let log = platform.home().join("logs/audit.log");
    let of_ed = |event: &Value| {
        event["user"]["username"] == "ed"
            && event["objectRef"]["resource"] == "rolebindings"
            && event["responseStatus"]["code"] == 403
            && event["annotations"]["authorization.k8s.io/decision"] == "forbid"
            && event["sourceIPs"] == json!(["127.0.0.1"])
            && event["userAgent"]
                .as_str()
                .is_some_and(|agent| agent.starts_with("kubectl/"))
    };
    crate::support::wait_for("the audit log", std::time::Duration::from_secs(10), || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines()
            .any(|line| serde_json::from_str(line).is_ok_and(|event| of_ed(&event)))
    });
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains(&vera) && !text.contains(platform.token()));
    assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn service_accounts_have_tokens() {
    let platform = Platform::start();
    let token = platform.kubectl(&["create", "token", "default"]).success();
    let as_account = |arguments: &[&str]| {
        let mut all = vec!["--token", &token];
        all.extend(arguments);
        // The flag goes before the token of the file.
        let bare = platform.home().join("bare.kubeconfig");
        let text = std::fs::read_to_string(platform.kubeconfig()).unwrap();
        std::fs::write(&bare, text.replace(platform.token(), "")).unwrap();
        kubectl_as(&platform, &bare, &all)
    };
    let who = as_account(&[
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
    ]);
    assert_eq!(who.success(), "system:serviceaccount:default:default");
    as_account(&["get", "pods"]).failure();
    platform
        .kubectl(&[
            "create",
            "rolebinding",
            "robots",
            "--clusterrole=view",
            "--serviceaccount=default:default",
        ])
        .success();
    as_account(&["get", "pods"]).success();
    // A restart changes nothing about it.
    platform.cumulo(&["down"]).success();
    platform.up().success();
    as_account(&["get", "pods"]).success();
    let key = platform.home().join("pki/service-accounts.key");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // Another account of the same name is another account.
    platform
        .kubectl(&["delete", "serviceaccount", "default"])
        .success();
    assert_eq!(status(&platform, &Method::GET, "/api", Some(&token)), 401);
}

#[test]
fn the_token_of_pods_opens_what_it_did() {
    let platform = Platform::start();
    let text = std::fs::read(platform.home().join("credentials.json")).unwrap();
    let credentials: Value = serde_json::from_slice(&text).unwrap();
    let token = credentials["workload"].as_str().unwrap();
    let ask = |method: Method, path: &str| status(&platform, &method, path, Some(token));
    // Tracking, artifacts and inference …
    assert_eq!(ask(Method::POST, "/api/2.0/mlflow/experiments/search"), 200);
    assert_eq!(ask(Method::POST, "/api/2.0/mlflow/experiments/create"), 400);
    assert_eq!(
        ask(Method::PUT, "/api/2.0/mlflow-artifacts/artifacts/t/a"),
        200
    );
    assert_eq!(
        ask(Method::DELETE, "/api/2.0/mlflow-artifacts/artifacts/t/a"),
        200
    );
    assert_eq!(ask(Method::GET, "/v2"), 200);
    assert_eq!(ask(Method::POST, "/v2/models/none/infer"), 404);
    assert_eq!(ask(Method::POST, "/namespaces/n/v2/models/none/infer"), 404);
    // … and nothing of the Kubernetes API.
    for path in ["/api", "/apis", "/version", "/openapi/v3", "/api/v1/pods"] {
        assert_eq!(ask(Method::GET, path), 403, "{path}");
    }
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    assert_eq!(ask(Method::POST, review), 403);
}

/// What discovery lists, as methods and paths that change something or open a
/// stream into a pod. Reviews of oneself are questions, open to everybody.
fn api_routes(platform: &Platform) -> Vec<(Method, String)> {
    let get = |path: &str| -> Value {
        let request = http().get(format!("{}{path}", platform.url()));
        let answer = request.bearer_auth(platform.token()).send().unwrap();
        answer.json().unwrap()
    };
    let mut versions = vec!["/api/v1".to_owned()];
    for group in get("/apis")["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            versions.push(format!(
                "/apis/{}",
                version["groupVersion"].as_str().unwrap()
            ));
        }
    }
    let mut routes = Vec::new();
    for version in versions {
        for resource in get(&version)["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            let scope = match resource["namespaced"] == true {
                true => "/namespaces/default",
                false => "",
            };
            let (plural, sub) = match name.split_once('/') {
                Some((plural, sub)) => (plural, format!("/{sub}")),
                None => (name, String::new()),
            };
            let one = format!("{version}{scope}/{plural}/x{sub}");
            let all = format!("{version}{scope}/{plural}");
            for verb in resource["verbs"].as_array().unwrap() {
                let stream = matches!(sub.as_str(), "/attach" | "/exec" | "/portforward");
                let route = match verb.as_str().unwrap() {
                    "create" if plural.starts_with("selfsubject") => continue,
                    "create" if sub.is_empty() => (Method::POST, &all),
                    "create" => (Method::POST, &one),
                    "update" => (Method::PUT, &one),
                    "patch" => (Method::PATCH, &one),
                    "delete" => (Method::DELETE, &one),
                    "deletecollection" => (Method::DELETE, &all),
                    "get" if stream => (Method::GET, &one),
                    _ => continue,
                };
                routes.push((route.0, route.1.clone()));
            }
        }
    }
    routes
}

/// The texts that follow `.route(` in a source file, with `{…}` filled in.
fn routes_in(file: &str) -> Vec<String> {
    let source = std::fs::read_to_string(repository().join(file)).unwrap();
    source
        .split(".route(")
        .skip(1)
        .map(|rest| rest.split('"').nth(1).unwrap().to_owned())
        .map(|path| {
            let filled: Vec<&str> = path
                .split('/')
                .map(|part| if part.starts_with('{') { "x" } else { part })
                .collect();
            filled.join("/")
        })
        .collect()
}

/// What is served beside the Kubernetes API: the routes that the sources name,
/// and the first segments that the platform tells apart.
fn other_paths() -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let folder = "crates/cumulo-track/src/rest";
    for (file, below) in [
        ("tracking.rs", "mlflow"),
        ("registry.rs", "mlflow"),
        ("logged_models.rs", "mlflow"),
        ("artifacts.rs", "mlflow-artifacts"),
    ] {
        let routes = routes_in(&format!("{folder}/{file}"));
        assert!(routes.len() > 4, "no routes are found in {file}");
        for route in routes {
            paths.insert(format!("/api/2.0/{below}{route}"));
            paths.insert(format!("/ajax-api/2.0/{below}{route}"));
        }
    }
    paths.extend(routes_in(&format!("{folder}/mod.rs")));
    paths.extend(routes_in("crates/cumulo-gateway/src/routes.rs"));
    paths.insert("/v2/models/x/infer".to_owned());
    paths.insert("/namespaces/x/v2/models/x/infer".to_owned());
    let source = std::fs::read_to_string(repository().join("crates/cumulo/src/platform/routes.rs"));
    let source = source.unwrap();
    let table = source.split("match first {").nth(1).unwrap();
    let table = table.split("Part::Nobody").next().unwrap();
    let segments: Vec<&str> = table.split('"').skip(1).step_by(2).collect();
    assert!(segments.contains(&"openapi") && segments.contains(&"v2"));
    // `demand` is served by the gateway's own role, not beside the API.
    for segment in segments.into_iter().filter(|segment| *segment != "demand") {
        paths.insert(format!("/{segment}"));
        paths.insert(format!("/{segment}/x"));
    }
    // The only ones that ask for nothing, and change nothing.
    paths.retain(|path| {
        !["livez", "readyz", "healthz"]
            .iter()
            .any(|health| path.contains(health))
    });
    paths
}

#[test]
fn every_route_that_changes_something_asks_who_and_whether() {
    let platform = Platform::start();
    platform
        .kubectl(&["create", "serviceaccount", "nobody"])
        .success();
    let nobody = platform.kubectl(&["create", "token", "nobody"]).success();
    let mut routes = api_routes(&platform);
    assert!(routes.len() > 250, "{} routes", routes.len());
    for path in other_paths() {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            routes.push((method, path.clone()));
        }
    }
    let mut wrong = Vec::new();
    for (method, path) in &routes {
        for (who, token, wanted) in [
            ("no credential", None, 401),
            ("a wrong one", Some("wrong"), 401),
            ("a forged one", Some("eyJhbGciOiJub25lIn0.e30."), 401),
            ("one without permission", Some(nobody.as_str()), 403),
        ] {
            let found = status(&platform, method, path, token);
            if found != wanted {
                wrong.push(format!("{method} {path} with {who}: {found}, not {wanted}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        routes.len(),
        wrong.join("\n")
    );
    println!("{} routes refuse as they should", routes.len());
}
