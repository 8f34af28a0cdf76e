//! `cumulo user`: who may use the platform besides its owner.
//!
//! The name and the token's hash are in a file of the platform's folder; the
//! role is a binding in the API, like any other.

use anyhow::{Context, Result, bail};
use chrono::{SecondsFormat, Utc};
use clap::ValueEnum;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use super::print;
use crate::cli::{UserAddArgs, UserCommand, UserRole};
use crate::home::{Home, kubeconfig};
use crate::place::Place;
use crate::project::apply::api_error;
use crate::users::{self, Users};

/// The label of the bindings that `cumulo user` makes; its value is the user.
const LABEL: &str = "cumulo.dev/user";
const RBAC: &str = "rbac.authorization.k8s.io";

/// Runs `cumulo user`.
pub async fn run(place: &Place, command: UserCommand) -> Result<()> {
    let home = place.home(
        "`cumulo user`",
        "a cluster has its own users; give them roles with `kubectl create rolebinding` (docs/access.md)",
    )?;
    let client = place.client().await?;
    match command {
        UserCommand::Add(arguments) => add(home, &client, &arguments).await,
        UserCommand::List => list(home, &client).await,
        UserCommand::Remove { name } => remove(home, &client, &name).await,
    }
}

fn role_name(role: UserRole) -> String {
    role.to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

async fn add(home: &Home, client: &Client, arguments: &UserAddArgs) -> Result<()> {
    let name = &arguments.name;
    users::check_name(name)?;
    if Users::load(&users::path(home))?
        .users
        .iter()
        .any(|user| user.name == *name)
    {
        bail!("there is a user {name} already: `cumulo user remove {name}` removes it");
    }
    // What an interrupted command left behind must not be what the user gets.
    unbind(client, name).await?;
    bind(client, name, arguments.role, arguments.namespace.as_deref()).await?;
    let created = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let token = match Users::change(home, |users| users.add(name, created)) {
        Ok(token) => token,
        Err(error) => {
            unbind(client, name).await?;
            return Err(error);
        }
    };
    let path = home.authority_path();
    let authority = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let text = kubeconfig(
        &home.require_running()?.address,
        &authority,
        (name, &token),
        arguments.namespace.as_deref().unwrap_or("default"),
    )?;
    print!("{text}");
    Ok(())
}

async fn bind(client: &Client, user: &str, role: UserRole, namespace: Option<&str>) -> Result<()> {
    let binding = json!({
        "metadata": {"name": format!("cumulo:user:{user}"), "labels": {LABEL: user}},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role_name(role)},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
    });
    let parameters = PostParams::default();
    match namespace {
        Some(namespace) => {
            let api: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
            let binding = serde_json::from_value(binding)?;
            api.create(&parameters, &binding)
                .await
                .map_err(|error| api_error(&error))?;
        }
        None => {
            let api: Api<ClusterRoleBinding> = Api::all(client.clone());
            let binding = serde_json::from_value(binding)?;
            api.create(&parameters, &binding)
                .await
                .map_err(|error| api_error(&error))?;
        }
    }
    Ok(())
}

/// A role that a user has.
struct Bound {
    user: String,
    role: String,
    namespace: String,
}

/// The bindings that `cumulo user` has made.
async fn bound(client: &Client) -> Result<Vec<Bound>> {
    let parameters = ListParams::default().labels(LABEL);
    let narrow: Api<RoleBinding> = Api::all(client.clone());
    let wide: Api<ClusterRoleBinding> = Api::all(client.clone());
    let narrow = narrow
        .list(&parameters)
        .await
        .map_err(|error| api_error(&error))?;
    let wide = wide
        .list(&parameters)
        .await
        .map_err(|error| api_error(&error))?;
    let mut found = Vec::new();
    for binding in wide.items {
        found.push(read(&binding, &binding.role_ref.name));
    }
    for binding in narrow.items {
        found.push(read(&binding, &binding.role_ref.name));
    }
    Ok(found)
}

fn read<K: Resource<DynamicType = ()>>(binding: &K, role: &str) -> Bound {
    Bound {
        user: binding.labels().get(LABEL).cloned().unwrap_or_default(),
        role: role.to_owned(),
        namespace: binding.namespace().unwrap_or_default(),
    }
}

/// Takes back what `cumulo user` has given; false when there was nothing.
async fn unbind(client: &Client, user: &str) -> Result<bool> {
    let mut any = false;
    for binding in bound(client).await? {
        if binding.user != user {
            continue;
        }
        any = true;
        let name = format!("cumulo:user:{user}");
        let parameters = DeleteParams::default();
        let result = if binding.namespace.is_empty() {
            let api: Api<ClusterRoleBinding> = Api::all(client.clone());
            api.delete(&name, &parameters).await.map(|_| ())
        } else {
            let api: Api<RoleBinding> = Api::namespaced(client.clone(), &binding.namespace);
            api.delete(&name, &parameters).await.map(|_| ())
        };
        match result {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => result.map_err(|error| api_error(&error))?,
        }
    }
    Ok(any)
}

async fn list(home: &Home, client: &Client) -> Result<()> {
    let users = Users::load(&users::path(home))?.users;
    if users.is_empty() {
        println!("no users: `cumulo user add NAME --role view` adds one");
        return Ok(());
    }
    let bound = bound(client).await?;
    let rows: Vec<Vec<String>> = users
        .iter()
        .map(|user| {
            let role = bound.iter().find(|bound| bound.user == user.name);
            let namespace = match role {
                Some(role) if role.namespace.is_empty() => "(all)",
                Some(role) => &role.namespace,
                None => "",
            };
            vec![
                user.name.clone(),
                role.map_or_else(|| "(none)".to_owned(), |role| role.role.clone()),
                namespace.to_owned(),
                user.created.clone(),
            ]
        })
        .collect();
    print!(
        "{}",
        print::columns(
            &print::header(&["NAME", "ROLE", "NAMESPACE", "CREATED"]),
            &rows
        )
    );
    Ok(())
}

async fn remove(home: &Home, client: &Client, name: &str) -> Result<()> {
    // The token first: it is what lets somebody in.
    let known = Users::change(home, |users| Ok(users.remove(name)))?;
    let bound = unbind(client, name).await?;
    if !known && !bound {
        bail!("there is no user {name}: `cumulo user list` shows who there is");
    }
    println!("user {name} is removed");
    Ok(())
}
