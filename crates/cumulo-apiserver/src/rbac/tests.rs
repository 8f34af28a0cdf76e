//! The decider against cases from Kubernetes' documentation, and properties.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn index(roles: &[Value], bindings: &[Value]) -> Index {
    Index::new(
        roles.iter().map(|role| Arc::new(Role::read(role))),
        bindings
            .iter()
            .map(|binding| Arc::new(Binding::read(binding))),
    )
}

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "rules": rules})
}

fn binding(namespace: &str, name: &str, kind: &str, role: &str, subjects: Value) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name},
        "roleRef": {"kind": kind, "name": role},
        "subjects": subjects,
    })
}

/// `verb namespace group resource/subresource name`, `-` for nothing, or
/// `verb path`.
fn asked(text: &str) -> Attributes {
    let words: Vec<&str> = text.split(' ').collect();
    let own = |word: &str| word.trim_matches('-').to_owned();
    if let [verb, path] = words.as_slice() {
        return Attributes {
            verb: own(verb),
            path: own(path),
            ..Attributes::default()
        };
    }
    let (resource, subresource) = words[3].split_once('/').unwrap_or((words[3], ""));
    Attributes {
        verb: own(words[0]),
        namespace: own(words[1]),
        group: own(words[2]),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: own(words[4]),
        ..Attributes::default()
    }
}

fn decide(index: &Index, user: &UserInfo, text: &str) -> String {
    match index.decide(user, &asked(text)) {
        Decision::Allow(reason) => format!("{text}: yes, {reason}"),
        Decision::Deny(reason) => format!("{text}: no {reason}").trim_end().to_owned(),
    }
}

#[test]
fn who_may_what_where() {
    let index = index(
        &[
            role(
                "",
                "reader",
                json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]}]),
            ),
            role(
                "a",
                "settings",
                json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["s"]}]),
            ),
            role(
                "",
                "scaler",
                json!([{"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]},
                       {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/*"]}]),
            ),
        ],
        &[
            binding(
                "a",
                "readers",
                "ClusterRole",
                "reader",
                json!([{"kind": "User", "name": "ada"}]),
            ),
            binding(
                "a",
                "settings",
                "Role",
                "settings",
                json!([{"kind": "ServiceAccount", "name": "robot"}]),
            ),
            binding(
                "",
                "scalers",
                "ClusterRole",
                "scaler",
                json!([{"kind": "Group", "name": "ops"}]),
            ),
            binding(
                "a",
                "lost",
                "Role",
                "gone",
                json!([{"kind": "Group", "name": "ops"}]),
            ),
        ],
    );
    let ada = UserInfo::new("ada", &[]);
    let robot = UserInfo::new("system:serviceaccount:a:robot", &[]);
    let ops = UserInfo::new("olga", &["ops"]);
    let all = [
        decide(&index, &ada, "get a - pods p"),
        decide(&index, &ada, "get a - pods/log p"),
        decide(&index, &ada, "get a - pods/exec p"),
        decide(&index, &ada, "get b - pods p"),
        decide(&index, &ada, "list - - pods -"),
        decide(&index, &ada, "get a apps pods p"),
        decide(&index, &robot, "delete a - configmaps s"),
        decide(&index, &robot, "delete a - configmaps t"),
        decide(&index, &robot, "list a - configmaps -"),
        decide(&index, &ops, "update b apps deployments/scale d"),
        decide(&index, &ops, "update b apps deployments d"),
        decide(&index, &ops, "get /logs/a/b"),
        decide(&index, &ops, "get /log"),
        decide(&index, &ops, "get a - pods p"),
        decide(&index, &UserInfo::platform(), "delete - - nodes n"),
    ];
    insta::assert_snapshot!(all.join("\n"), @r#"
    get a - pods p: yes, RBAC: allowed by RoleBinding "readers/a" of ClusterRole "reader" to User "ada"
    get a - pods/log p: yes, RBAC: allowed by RoleBinding "readers/a" of ClusterRole "reader" to User "ada"
    get a - pods/exec p: no
    get b - pods p: no
    list - - pods -: no
    get a apps pods p: no
    delete a - configmaps s: yes, RBAC: allowed by RoleBinding "settings/a" of Role "settings" to ServiceAccount "robot/a"
    delete a - configmaps t: no
    list a - configmaps -: no
    update b apps deployments/scale d: yes, RBAC: allowed by ClusterRoleBinding "scalers" of ClusterRole "scaler" to Group "ops"
    update b apps deployments d: no
    get /logs/a/b: yes, RBAC: allowed by ClusterRoleBinding "scalers" of ClusterRole "scaler" to Group "ops"
    get /log: no
    get a - pods p: no RBAC: role.rbac.authorization.k8s.io "gone" not found
    delete - - nodes n: yes, RBAC: the user is in group "system:masters"
    "#);
}

#[test]
fn a_refusal_says_what_is_missing() {
    let index = index(
        &[role(
            "",
            "reader",
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]),
        )],
        &[binding(
            "",
            "r",
            "ClusterRole",
            "reader",
            json!([{"kind": "User", "name": "ada"}]),
        )],
    );
    let ada = UserInfo::new("ada", &[]);
    let wanted = PolicyRule::read_all(&json!([
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "secrets"]},
        {"verbs": ["get"], "nonResourceURLs": ["/metrics"]},
    ]));
    let refused = index
        .confirm_no_escalation(&ada, "", &wanted)
        .expect_err("more than is held");
    insta::assert_snapshot!(refused, @r#"
    user "ada" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:
    {APIGroups:[""], Resources:["pods"], Verbs:["list"]}
    {APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}
    {NonResourceURLs:["/metrics"], Verbs:["get"]}
    "#);
    let held = PolicyRule::read_all(
        &json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"]}]),
    );
    assert_eq!(index.confirm_no_escalation(&ada, "ns", &held), Ok(()));
}

#[test]
fn defaults_parse_and_collect() {
    let objects = defaults::objects().expect("the file parses");
    let mut roles: Vec<Value> = objects
        .iter()
        .filter(|object| object["kind"] == "ClusterRole")
        .cloned()
        .collect();
    roles.sort_by_key(|role| role["metadata"]["name"].to_string());
    for _ in 0..3 {
        for n in 0..roles.len() {
            if aggregate::is_aggregated(&roles[n]) {
                let rules = aggregate::rules(&roles[n], &roles).expect("selectors");
                roles[n]["rules"] = json!(rules);
            }
        }
    }
    for object in &objects {
        let causes = match object["kind"].as_str() {
            Some("ClusterRole") => validate::role(object, false),
            _ => validate::binding(object, None, false),
        };
        assert!(causes.is_empty(), "{causes:?}");
    }
    let allowed = |name: &str, text: &str| {
        let role = roles
            .iter()
            .find(|role| role["metadata"]["name"] == name)
            .expect("the role");
        Role::read(role)
            .rules
            .iter()
            .any(|rule| rule.allows(&asked(text)))
    };
    assert!(allowed("view", "list a - pods -"));
    assert!(!allowed("view", "get a - secrets s"));
    assert!(!allowed("view", "create a - pods -"));
    assert!(allowed("edit", "get a - secrets s"));
    assert!(allowed("edit", "list a - pods -"));
    assert!(!allowed(
        "edit",
        "create a rbac.authorization.k8s.io rolebindings -"
    ));
    assert!(allowed(
        "admin",
        "create a rbac.authorization.k8s.io rolebindings -"
    ));
    assert!(!allowed("admin", "create a - namespaces -"));
    assert!(allowed("cluster-admin", "create a - namespaces -"));
}

#[test]
fn defaults_complete_and_keep() {
    let default = role(
        "",
        "r",
        json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]),
    );
    let mut object = role(
        "",
        "r",
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["*"]}]),
    );
    defaults::complete(&mut object, &default);
    assert_eq!(
        object["rules"],
        json!([
            {"verbs": ["get"], "apiGroups": [""], "resources": ["*"]},
            {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]},
        ])
    );
    let settled = object.clone();
    defaults::complete(&mut object, &default);
    assert_eq!(object, settled);
}

fn some(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(words), 1..3)
        .prop_map(|list| list.into_iter().map(str::to_owned).collect())
}

fn any_rule() -> impl Strategy<Value = PolicyRule> {
    let resource = (
        some(&["get", "list", "update", "*"]),
        some(&["", "apps", "*"]),
        some(&["pods", "pods/log", "*/log", "secrets", "*"]),
        prop_oneof![Just(Vec::new()), some(&["a", "b"])],
    )
        .prop_map(
            |(verbs, api_groups, resources, resource_names)| PolicyRule {
                verbs,
                api_groups,
                resources,
                resource_names,
                ..PolicyRule::default()
            },
        );
    let path = (
        some(&["get", "*"]),
        some(&["/a", "/a/*", "/a/b", "/a/b/*", "*"]),
    )
        .prop_map(|(verbs, non_resource_urls)| PolicyRule {
            verbs,
            non_resource_urls,
            ..PolicyRule::default()
        });
    prop_oneof![3 => resource, 1 => path]
}

fn any_request() -> impl Strategy<Value = Attributes> {
    let of = |words: &'static [&'static str]| prop::sample::select(words);
    let resource = (
        of(&["get", "list", "update", "watch"]),
        of(&["", "apps", "batch"]),
        of(&["pods", "secrets", "jobs"]),
        of(&["", "log", "status"]),
        of(&["", "a", "b", "c"]),
    )
        .prop_map(|(verb, group, resource, subresource, name)| Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            namespace: "n".into(),
            ..Attributes::default()
        });
    let path = (
        of(&["get", "post"]),
        of(&["/a", "/a/", "/a/b", "/a/b/c", "/b"]),
    )
        .prop_map(|(verb, path)| Attributes {
            verb: verb.into(),
            path: path.into(),
            ..Attributes::default()
        });
    prop_oneof![3 => resource, 1 => path]
}

proptest! {
    /// What is covered can be granted without giving anything new: whatever the
    /// covered rules allow, the covering ones allow.
    #[test]
    fn what_is_covered_gives_nothing_new(
        own in prop::collection::vec(any_rule(), 0..4),
        wanted in prop::collection::vec(any_rule(), 0..3),
        requests in prop::collection::vec(any_request(), 20),
    ) {
        if missing(&own, &wanted).is_empty() {
            for request in &requests {
                if wanted.iter().any(|rule| rule.allows(request)) {
                    prop_assert!(own.iter().any(|rule| rule.allows(request)), "{request:?}");
                }
            }
        }
    }

    /// Rules cover themselves, everything covers them, and what was missing,
    /// once it is there, is missing no more.
    #[test]
    fn covering_is_sound(
        own in prop::collection::vec(any_rule(), 0..4),
        wanted in prop::collection::vec(any_rule(), 0..3),
    ) {
        prop_assert_eq!(missing(&wanted, &wanted), Vec::new());
        prop_assert_eq!(missing(&PolicyRule::everything(), &wanted), Vec::new());
        let mut completed = own.clone();
        completed.extend(missing(&own, &wanted));
        prop_assert_eq!(missing(&completed, &wanted), Vec::new());
    }

    /// A RoleBinding gives nothing outside of its namespace, and a rule more takes
    /// nothing away.
    #[test]
    fn bindings_stay_at_home_and_rules_only_add(
        rules in prop::collection::vec(any_rule(), 1..4),
        more in any_rule(),
        request in any_request(),
    ) {
        let user = UserInfo::new("u", &[]);
        let build = |rules: &[PolicyRule], namespace: &str| {
            let rules: Vec<Value> = rules.iter().map(PolicyRule::to_value).collect();
            index(
                &[role("", "r", json!(rules))],
                &[binding(namespace, "b", "ClusterRole", "r", json!([{"kind": "User", "name": "u"}]))],
            )
        };
        let allowed = |index: &Index, request: &Attributes| {
            matches!(index.decide(&user, request), Decision::Allow(_))
        };
        let elsewhere = build(&rules, "elsewhere");
        prop_assert!(!allowed(&elsewhere, &request));
        let mut longer = rules.clone();
        longer.push(more);
        if allowed(&build(&rules, ""), &request) {
            prop_assert!(allowed(&build(&longer, ""), &request));
        }
    }
}
