//! The platform that a command speaks to: the one of this machine's folder, or
//! any that a kubeconfig's context leads to.
//!
//! Everything is found from the context alone. Kubernetes objects come from its
//! API server; where tracking and inference are is in `endpoint`.

mod credential;
mod endpoint;
mod forward;
mod snapshots;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cli::{NamespaceArgs, PlaceArgs};
use crate::home::Home;

pub use endpoint::{CONFIGURATION, Endpoint};
pub use snapshots::Snapshots;

/// The namespace that `cumulo manifests` installs into unless told otherwise.
pub const SYSTEM_NAMESPACE: &str = "cumulo-system";
/// The variable that names another one.
pub const SYSTEM_NAMESPACE_VARIABLE: &str = "CUMULO_SYSTEM_NAMESPACE";

/// The platform that a command speaks to.
#[derive(Clone)]
pub enum Place {
    /// The one that `cumulo up` runs on this machine's folder.
    Home(Home),
    /// One that a kubeconfig leads to.
    Context(Box<ContextPlace>),
}

/// A platform that a kubeconfig leads to.
#[derive(Clone)]
pub struct ContextPlace {
    /// The context's name.
    name: String,
    /// The namespace that the context names, or `default`.
    namespace: String,
    config: Config,
}

impl Place {
    /// The place that the options name. Without any it is the home folder's
    /// platform, whatever `KUBECONFIG` says: a command that is typed without
    /// thinking stays on this machine.
    ///
    /// # Errors
    /// When there is no such kubeconfig or context; the message lists those there are.
    pub async fn find(options: &PlaceArgs) -> Result<Self> {
        if options.is_empty() {
            return Ok(Self::Home(Home::find()?));
        }
        Ok(Self::Context(Box::new(ContextPlace::find(options).await?)))
    }

    /// A client of its API server, which has answered once.
    ///
    /// # Errors
    /// When it does not answer; the message says what to do.
    pub async fn client(&self) -> Result<Client> {
        match self {
            Self::Home(home) => {
                home.require_running()?;
                let path = home.kubeconfig();
                let kubeconfig = Kubeconfig::read_from(&path)
                    .with_context(|| format!("cannot read {}: run `cumulo up`", path.display()))?;
                let config =
                    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                        .await?;
                let client = Client::try_from(config)?;
                client.apiserver_version().await.with_context(|| {
                    let address = home.running().map(|running| running.address).unwrap_or_default();
                    format!("the platform does not answer at {address}: start it with `cumulo up`, and see `cumulo status`")
                })?;
                Ok(client)
            }
            Self::Context(place) => {
                let client = Client::try_from(place.config.clone())
                    .with_context(|| format!("context {:?} cannot be used", place.name))?;
                client.apiserver_version().await.with_context(|| {
                    format!(
                        "the API server of context {:?} does not answer at {}",
                        place.name,
                        place.server()
                    )
                })?;
                Ok(client)
            }
        }
    }

    /// The namespace that a command means.
    pub fn namespace(&self, arguments: &NamespaceArgs) -> String {
        match (&arguments.namespace, self) {
            (Some(namespace), _) => namespace.clone(),
            (None, Self::Home(_)) => "default".to_owned(),
            (None, Self::Context(place)) => place.namespace.clone(),
        }
    }

    /// The home folder, for what exists on this machine only.
    ///
    /// # Errors
    /// For a context: `what` is not there; `instead` says what to do.
    pub fn home(&self, what: &str, instead: &str) -> Result<&Home> {
        match self {
            Self::Home(home) => Ok(home),
            Self::Context(place) => bail!(
                "{what} is of this machine's platform only, not of context {:?}: {instead}",
                place.name
            ),
        }
    }
}

impl ContextPlace {
    /// The context that the options name, or the kubeconfig's current one.
    ///
    /// # Errors
    /// As [`Place::find`].
    pub async fn find(options: &PlaceArgs) -> Result<Self> {
        let kubeconfig = read(options.kubeconfig.as_ref())?;
        let name = match (&options.context, &kubeconfig.current_context) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) if !name.is_empty() => name.clone(),
            _ => bail!(
                "the kubeconfig has no current context: choose one with --context ({})",
                contexts(&kubeconfig)
            ),
        };
        let context = kubeconfig
            .contexts
            .iter()
            .find(|context| context.name == name)
            .with_context(|| {
                format!(
                    "the kubeconfig has no context {name:?}: it has {}",
                    contexts(&kubeconfig)
                )
            })?;
        let namespace = context
            .context
            .as_ref()
            .and_then(|context| context.namespace.clone())
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        let options = KubeConfigOptions {
            context: Some(name.clone()),
            ..KubeConfigOptions::default()
        };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .with_context(|| format!("context {name:?} cannot be used"))?;
        Ok(Self {
            name,
            namespace,
            config,
        })
    }

    /// The context's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The API server's URL, without a slash at its end.
    pub fn server(&self) -> String {
        self.config
            .cluster_url
            .to_string()
            .trim_end_matches('/')
            .to_owned()
    }
}

/// The namespace that Cumulo is installed into.
pub fn system_namespace() -> String {
    std::env::var(SYSTEM_NAMESPACE_VARIABLE)
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| SYSTEM_NAMESPACE.to_owned())
}

/// The file that is named, or those that `KUBECONFIG` names, or `~/.kube/config`.
fn read(path: Option<&PathBuf>) -> Result<Kubeconfig> {
    match path {
        Some(path) => {
            Kubeconfig::read_from(path).with_context(|| format!("cannot use {}", path.display()))
        }
        None => Kubeconfig::read().context(
            "no kubeconfig can be read: name one with --kubeconfig, or in the variable KUBECONFIG",
        ),
    }
}

fn contexts(kubeconfig: &Kubeconfig) -> String {
    let names: Vec<&str> = kubeconfig
        .contexts
        .iter()
        .map(|context| context.name.as_str())
        .collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443'}}]
users: [{name: u, user: {token: t}}]
contexts:
- {name: staging, context: {cluster: c, user: u, namespace: team}}
- {name: production, context: {cluster: c, user: u}}
";

    async fn find(context: Option<&str>) -> Result<Place> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, KUBECONFIG).unwrap();
        Place::find(&PlaceArgs {
            context: context.map(str::to_owned),
            kubeconfig: Some(path),
        })
        .await
    }

    #[tokio::test]
    async fn a_context_brings_its_namespace_and_a_flag_goes_before_it() {
        let place = find(Some("staging")).await.unwrap();
        let named = |namespace: Option<&str>| NamespaceArgs {
            namespace: namespace.map(str::to_owned),
        };
        assert_eq!(place.namespace(&named(None)), "team");
        assert_eq!(place.namespace(&named(Some("other"))), "other");
        let place = find(Some("production")).await.unwrap();
        assert_eq!(place.namespace(&named(None)), "default");
        let Place::Context(place) = place else {
            panic!("a kubeconfig leads to a context");
        };
        assert_eq!(place.server(), "https://10.0.0.1:6443");
    }

    #[tokio::test]
    async fn what_is_missing_is_said_with_what_there_is() {
        let refusal = |found: Result<Place>| found.err().unwrap().to_string();
        insta::assert_snapshot!(refusal(find(Some("prod")).await), @r#"the kubeconfig has no context "prod": it has staging, production"#);
        insta::assert_snapshot!(refusal(find(None).await), @"the kubeconfig has no current context: choose one with --context (staging, production)");
    }

    #[tokio::test]
    async fn what_only_this_machine_has_is_refused() {
        let place = find(Some("staging")).await.unwrap();
        let refused = place.home("`cumulo user`", "use `kubectl create rolebinding`");
        insta::assert_snapshot!(refused.unwrap_err(), @r#"`cumulo user` is of this machine's platform only, not of context "staging": use `kubectl create rolebinding`"#);
    }
}
