//! A container's environment variables: `envFrom`, `env` and `valueFrom`.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, ResourceFieldSelector};

use super::source::{ConfigSource, Data, SourceError};
use crate::{quantity, variables};

/// Why a container cannot be configured (yet).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An object that the container needs does not exist.
    #[error(
        "{kind} {name:?} not found; create it in namespace {namespace:?} or mark the reference optional"
    )]
    MissingObject {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace that was searched.
        namespace: String,
        /// Name.
        name: String,
    },
    /// The object lacks a key.
    #[error("{kind} {name:?} has no key {key:?}")]
    MissingKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Name.
        name: String,
        /// Key.
        key: String,
    },
    /// A field reference that is not supported.
    #[error("unsupported field {0:?} in a downward API reference")]
    Field(String),
    /// A value that no environment variable can hold.
    #[error("the value of {0} is not UTF-8 text")]
    NotText(String),
    /// A volume cannot be provided.
    #[error("volume {name:?}: {problem}")]
    Volume {
        /// Name of the volume.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A path leaves the container's folder.
    #[error("path {0:?} must not contain '..'")]
    Path(String),
    /// A link that a container made leads out of its folder.
    #[error(
        "{0} leads out of the container's folder: something that ran in the container made a link there; delete the pod and make it again"
    )]
    Escape(String),
    /// An annotation that is not understood.
    #[error(transparent)]
    Egress(#[from] crate::sandbox::EgressError),
    /// The lookup itself failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The file system refused.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        error: std::io::Error,
    },
}

/// What the downward API can tell about a pod on this node.
#[derive(Debug, Clone)]
pub struct Downward<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its address.
    pub pod_ip: Ipv4Addr,
    /// The node's address.
    pub host_ip: Ipv4Addr,
    /// The node's name.
    pub node_name: &'a str,
    /// Processors and bytes of memory of the node, for limits that are not set.
    pub node_capacity: (u64, u64),
}

impl Downward<'_> {
    /// Value of a `fieldRef`.
    pub fn field(&self, path: &str) -> Result<String, ConfigError> {
        let metadata = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let keyed = |prefix: &str, map: &Option<std::collections::BTreeMap<String, String>>| {
            let key = path
                .strip_prefix(prefix)?
                .strip_prefix("['")?
                .strip_suffix("']")?;
            Some(
                map.as_ref()
                    .and_then(|map| map.get(key).cloned())
                    .unwrap_or_default(),
            )
        };
        if let Some(value) = keyed("metadata.labels", &metadata.labels)
            .or_else(|| keyed("metadata.annotations", &metadata.annotations))
        {
            return Ok(value);
        }
        let lines = |map: &Option<std::collections::BTreeMap<String, String>>| {
            map.iter()
                .flatten()
                .map(|(key, value)| format!("{key}={value:?}\n"))
                .collect::<String>()
        };
        Ok(match path {
            "metadata.name" => metadata.name.clone().unwrap_or_default(),
            "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
            "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
            "metadata.labels" => lines(&metadata.labels),
            "metadata.annotations" => lines(&metadata.annotations),
            "spec.nodeName" => self.node_name.to_owned(),
            "spec.serviceAccountName" => spec
                .and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_else(|| "default".to_owned()),
            "status.hostIP" | "status.hostIPs" => self.host_ip.to_string(),
            "status.podIP" | "status.podIPs" => self.pod_ip.to_string(),
            other => return Err(ConfigError::Field(other.to_owned())),
        })
    }

    /// Value of a `resourceFieldRef`.
    pub fn resource(
        &self,
        selector: &ResourceFieldSelector,
        container: Option<&Container>,
    ) -> Result<String, ConfigError> {
        let unknown = || ConfigError::Field(selector.resource.clone());
        let named = selector
            .container_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .and_then(|name| {
                self.pod.spec.as_ref().and_then(|spec| {
                    super::lifecycle::containers(spec)
                        .map(|(_, container)| container)
                        .find(|container| container.name == name)
                })
            });
        let container = named.or(container).ok_or_else(unknown)?;
        let (kind, resource) = selector.resource.split_once('.').ok_or_else(unknown)?;
        let resources = container.resources.as_ref();
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let quantity = match kind {
            "limits" => limits.and_then(|limits| limits.get(resource)),
            "requests" => requests
                .and_then(|requests| requests.get(resource))
                .or_else(|| limits.and_then(|limits| limits.get(resource))),
            _ => return Err(unknown()),
        };
        let value = match (quantity, kind, resource) {
            (Some(quantity), ..) => quantity::milli(quantity).ok_or_else(unknown)?,
            // An absent limit is the node's capacity.
            (None, "limits", "cpu") => i128::from(self.node_capacity.0) * 1000,
            (None, "limits", "memory") => i128::from(self.node_capacity.1) * 1000,
            (None, ..) => 0,
        };
        let divisor = match &selector.divisor {
            Some(divisor) => quantity::milli(divisor)
                .filter(|value| *value > 0)
                .unwrap_or(1000),
            None => 1000,
        };
        let quotient = value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0);
        Ok(quotient.to_string())
    }
}

/// Resolves a container's declared variables onto `base`, in Kubernetes'
/// order: `envFrom` first, then `env`, later entries over earlier ones.
pub async fn resolve(
    container: &Container,
    downward: &Downward<'_>,
    source: &dyn ConfigSource,
    mut base: Vec<(String, String)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let namespace = downward
        .pod
        .metadata
        .namespace
        .as_deref()
        .unwrap_or("default");
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = if let Some(reference) = &from.config_map_ref {
            ("ConfigMap", &reference.name, reference.optional)
        } else if let Some(reference) = &from.secret_ref {
            ("Secret", &reference.name, reference.optional)
        } else {
            continue;
        };
        let optional = optional.unwrap_or(false);
        for (key, value) in fetch(source, kind, namespace, name, optional)
            .await?
            .unwrap_or_default()
        {
            // Keys that are no variable names are skipped, as the kubelet does.
            if key.is_empty() || key.contains(['=', '\0']) {
                continue;
            }
            let value = text(&key, value)?;
            variables::set(&mut base, &format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => variables::expand(value, |name| variables::lookup(&base, name)),
            (None, Some(from)) => {
                match value_from(from, container, downward, source, namespace).await? {
                    Some(value) => value,
                    None => continue,
                }
            }
            (None, None) => String::new(),
        };
        variables::set(&mut base, &variable.name, value);
    }
    Ok(base)
}

async fn value_from(
    from: &EnvVarSource,
    container: &Container,
    downward: &Downward<'_>,
    source: &dyn ConfigSource,
    namespace: &str,
) -> Result<Option<String>, ConfigError> {
    if let Some(field) = &from.field_ref {
        return downward.field(&field.field_path).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return downward.resource(selector, Some(container)).map(Some);
    }
    let (kind, name, key, optional) = if let Some(selector) = &from.config_map_key_ref {
        (
            "ConfigMap",
            &selector.name,
            &selector.key,
            selector.optional,
        )
    } else if let Some(selector) = &from.secret_key_ref {
        ("Secret", &selector.name, &selector.key, selector.optional)
    } else {
        return Err(ConfigError::Field("fileKeyRef".to_owned()));
    };
    let optional = optional.unwrap_or(false);
    let Some(mut data) = fetch(source, kind, namespace, name, optional).await? else {
        return Ok(None);
    };
    match data.remove(key) {
        Some(value) => text(key, value).map(Some),
        None if optional => Ok(None),
        None => Err(ConfigError::MissingKey {
            kind,
            name: name.clone(),
            key: key.clone(),
        }),
    }
}

fn text(key: &str, value: Vec<u8>) -> Result<String, ConfigError> {
    String::from_utf8(value)
        .ok()
        .filter(|value| !value.contains('\0'))
        .ok_or_else(|| ConfigError::NotText(key.to_owned()))
}

/// Content of a ConfigMap or Secret; `None` only when it is optional.
pub async fn fetch(
    source: &dyn ConfigSource,
    kind: &'static str,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<Option<Data>, ConfigError> {
    let data = match kind {
        "Secret" => source.secret(namespace, name).await?,
        _ => source.config_map(namespace, name).await?,
    };
    match data {
        None if !optional => Err(ConfigError::MissingObject {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        data => Ok(data),
    }
}
