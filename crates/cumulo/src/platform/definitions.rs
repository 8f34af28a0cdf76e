//! Puts Cumulo's kinds and the things that it needs into the API server.

use anyhow::{Context, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};

/// Applies the CustomResourceDefinitions; what is there already and the same stays untouched.
pub async fn install(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let parameters = PatchParams::apply("cumulo-definitions").force();
    for crd in cumulo_api::crds() {
        let name = crd.metadata.name.clone().unwrap_or_default();
        api.patch(&name, &parameters, &Patch::Apply(&crd))
            .await
            .with_context(|| format!("the definition of {name} was refused"))?;
    }
    Ok(())
}
