//! The command line's side of the Kubernetes API: finding a resource type by
//! whatever name a person gives it.

use anyhow::{Context, Result, bail};
use http::Request;
use kube::Client;
use kube::api::{ApiResource, DynamicObject};
use serde_json::Value;

use crate::place::Place;

/// A connection to an API server.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
    types: Vec<ResourceType>,
}

/// A resource type as discovery tells it.
#[derive(Clone, Debug)]
pub struct ResourceType {
    /// Group, version, kind and plural name.
    pub resource: ApiResource,
    /// Whether objects lie in namespaces.
    pub namespaced: bool,
    names: Vec<String>,
    categories: Vec<String>,
}

impl ResourceType {
    /// `plural.group`, or the plural alone for the core group.
    pub fn full_name(&self) -> String {
        if self.resource.group.is_empty() {
            self.resource.plural.clone()
        } else {
            format!("{}.{}", self.resource.plural, self.resource.group)
        }
    }

    /// The path of the collection, or of one object in it.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = if self.resource.group.is_empty() {
            format!("/api/{}", self.resource.version)
        } else {
            format!("/apis/{}/{}", self.resource.group, self.resource.version)
        };
        if let (true, Some(namespace)) = (self.namespaced, namespace) {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push_str(&format!("/{}", self.resource.plural));
        if let Some(name) = name {
            path.push_str(&format!("/{name}"));
        }
        path
    }
}

impl Cluster {
    /// Connects and asks which resource types there are.
    pub async fn connect(place: &Place) -> Result<Self> {
        let client = place.client().await?;
        let mut types = Vec::new();
        for path in ["/api", "/apis"] {
            let request = Request::get(path)
                .header(
                    http::header::ACCEPT,
                    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                )
                .body(Vec::new())?;
            let groups: Value = client.request(request).await.context("discovery failed")?;
            types.extend(parse_discovery(&groups));
        }
        Ok(Self { client, types })
    }

    /// All types that a name stands for: one for a plural, singular, short name or
    /// kind (with or without `.group`), several for a category such as `cumulo`.
    pub fn find(&self, name: &str) -> Result<Vec<&ResourceType>> {
        let wanted = name.to_lowercase();
        let (short, group) = match wanted.split_once('.') {
            Some((short, group)) => (short, Some(group)),
            None => (wanted.as_str(), None),
        };
        let found: Vec<_> = self
            .types
            .iter()
            .filter(|candidate| {
                candidate.names.iter().any(|known| known == short)
                    && group.is_none_or(|group| candidate.resource.group == group)
            })
            .collect();
        if let Some(first) = found.first() {
            return Ok(vec![first]);
        }
        let category: Vec<_> = self
            .types
            .iter()
            .filter(|candidate| candidate.categories.contains(&wanted))
            .collect();
        if !category.is_empty() {
            return Ok(category);
        }
        let nearest = self
            .types
            .iter()
            .flat_map(|candidate| &candidate.names)
            .map(|known| (strsim::damerau_levenshtein(known, &wanted), known))
            .min()
            .filter(|(distance, _)| *distance <= 3)
            .map(|(_, known)| format!(", did you mean {known:?}?"));
        bail!(
            "the server has no resource type {name:?}{}",
            nearest.unwrap_or_else(|| ": `kubectl api-resources` lists what there is".to_owned())
        )
    }

    /// The type of an object that names its `apiVersion` and `kind`.
    pub fn type_of(&self, object: &DynamicObject) -> Result<&ResourceType> {
        let types = object
            .types
            .as_ref()
            .context("the object names no apiVersion and kind")?;
        self.types
            .iter()
            .find(|candidate| {
                candidate.resource.api_version == types.api_version
                    && candidate.resource.kind == types.kind
            })
            .with_context(|| {
                let near = self
                    .types
                    .iter()
                    .map(|candidate| {
                        (
                            strsim::damerau_levenshtein(&candidate.resource.kind, &types.kind),
                            candidate,
                        )
                    })
                    .min_by_key(|(distance, _)| *distance)
                    .filter(|(distance, _)| *distance <= 3)
                    .map(|(_, candidate)| {
                        format!(
                            ", did you mean {} in {}?",
                            candidate.resource.kind, candidate.resource.api_version
                        )
                    });
                format!(
                    "the server knows no kind {:?} in {:?}{}",
                    types.kind,
                    types.api_version,
                    near.unwrap_or_default()
                )
            })
    }
}

/// Reads an aggregated discovery document (`APIGroupDiscoveryList`, v2).
fn parse_discovery(groups: &Value) -> Vec<ResourceType> {
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|text| text.as_str().map(str::to_lowercase))
            .collect()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut types = Vec::new();
    for group in groups["items"].as_array().into_iter().flatten() {
        let group_name = text(&group["metadata"]["name"]);
        for version in group["versions"].as_array().into_iter().flatten() {
            let version_name = text(&version["version"]);
            for resource in version["resources"].as_array().into_iter().flatten() {
                let kind = text(&resource["responseKind"]["kind"]);
                let plural = text(&resource["resource"]);
                let mut names = texts(&resource["shortNames"]);
                names.extend([
                    plural.to_lowercase(),
                    text(&resource["singularResource"]).to_lowercase(),
                    kind.to_lowercase(),
                ]);
                let api_version = if group_name.is_empty() {
                    version_name.clone()
                } else {
                    format!("{group_name}/{version_name}")
                };
                types.push(ResourceType {
                    resource: ApiResource {
                        group: group_name.clone(),
                        version: version_name.clone(),
                        api_version,
                        kind,
                        plural,
                    },
                    namespaced: resource["scope"] == "Namespaced",
                    names,
                    categories: texts(&resource["categories"]),
                });
            }
        }
    }
    types
}
