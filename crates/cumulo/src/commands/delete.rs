//! `cumulo delete`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{Api, DeleteParams, DynamicObject};

use super::get::split_target;
use crate::cli::DeleteArgs;
use crate::cluster::{Cluster, ResourceType};
use crate::place::Place;
use crate::project::apply::api_error;
use crate::project::load;

/// How long `delete` waits until an object is gone.
const GONE: Duration = Duration::from_secs(60);

/// Runs `cumulo delete`.
pub async fn run(place: &Place, arguments: DeleteArgs) -> Result<()> {
    let cluster = Cluster::connect(place).await?;
    let namespace = place.namespace(&arguments.namespace);
    let namespace = namespace.as_str();
    if let Some(resource) = &arguments.resource {
        let (resource, first) = split_target(resource, None)?;
        let names: Vec<String> = first
            .into_iter()
            .chain(arguments.names.iter().cloned())
            .collect();
        if names.is_empty() {
            bail!("name what to delete: cumulo delete {resource} NAME");
        }
        let types = cluster.find(&resource)?;
        let [resource] = types[..] else {
            bail!("{resource:?} is a category: name a type");
        };
        for name in names {
            delete(
                &cluster,
                resource,
                namespace,
                &name,
                !arguments.no_wait,
                false,
            )
            .await?;
        }
    }
    for path in &arguments.files {
        // In reverse, so that nothing is left waiting for what is gone.
        for manifest in load::load(path)?.objects.iter().rev() {
            let resource = cluster.type_of(&manifest.object)?;
            let namespace = manifest
                .object
                .metadata
                .namespace
                .as_deref()
                .unwrap_or(namespace);
            let name = manifest.object.metadata.name.as_deref().unwrap_or_default();
            delete(
                &cluster,
                resource,
                namespace,
                name,
                !arguments.no_wait,
                true,
            )
            .await?;
        }
    }
    Ok(())
}

async fn delete(
    cluster: &Cluster,
    resource: &ResourceType,
    namespace: &str,
    name: &str,
    wait: bool,
    missing_is_fine: bool,
) -> Result<()> {
    let api: Api<DynamicObject> = if resource.namespaced {
        Api::namespaced_with(cluster.client.clone(), namespace, &resource.resource)
    } else {
        Api::all_with(cluster.client.clone(), &resource.resource)
    };
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 && missing_is_fine => return Ok(()),
        Err(error) => return Err(api_error(&error)),
    }
    if wait {
        let gone =
            kube::runtime::wait::await_condition(api, name, |object: Option<&DynamicObject>| {
                object.is_none()
            });
        tokio::time::timeout(GONE, gone)
            .await
            .with_context(|| {
                format!(
                    "{}/{name} is being deleted but is not gone yet",
                    resource.full_name()
                )
            })?
            .with_context(|| format!("cannot watch {}/{name}", resource.full_name()))?;
    }
    println!("{}/{name} deleted", resource.full_name());
    Ok(())
}
