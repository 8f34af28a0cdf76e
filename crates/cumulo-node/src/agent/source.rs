//! ConfigMaps and Secrets from the API.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};

use crate::engine::source::{ConfigSource, Data, SourceError};

/// Reads from the API, each time anew.
pub(super) struct ApiSource {
    client: Client,
}

impl ApiSource {
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

fn failed(kind: &'static str, namespace: &str, name: &str, error: &kube::Error) -> SourceError {
    SourceError {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        reason: error.to_string(),
    }
}

#[async_trait]
impl ConfigSource for ApiSource {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, SourceError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let object = super::limited(api.get_opt(name))
            .await
            .map_err(|error| failed("ConfigMap", namespace, name, &error))?;
        Ok(object.map(|object| {
            let text = object.data.unwrap_or_default().into_iter();
            let binary = object.binary_data.unwrap_or_default().into_iter();
            text.map(|(key, value)| (key, value.into_bytes()))
                .chain(binary.map(|(key, value)| (key, value.0)))
                .collect()
        }))
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, SourceError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let object = super::limited(api.get_opt(name))
            .await
            .map_err(|error| failed("Secret", namespace, name, &error))?;
        Ok(object.map(|object| {
            object
                .data
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.0))
                .collect()
        }))
    }

    async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ResourceClaim>, SourceError> {
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), namespace);
        super::limited(api.get_opt(name))
            .await
            .map_err(|error| failed("ResourceClaim", namespace, name, &error))
    }
}
