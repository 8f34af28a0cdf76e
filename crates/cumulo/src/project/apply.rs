//! Sends a project's objects to the API server.

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::Value;

use super::files::Uploader;
use super::load::{Manifest, Project};
use crate::cluster::Cluster;
use crate::place::Place;

/// The field manager of everything the command line applies.
pub const FIELD_MANAGER: &str = "cumulo";
/// Objects that are sent before the first of them is answered.
const AT_ONCE: usize = 16;

/// What applying an object did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there before.
    Created,
    /// It is different now.
    Configured,
    /// It was there, the same.
    Unchanged,
}

impl Outcome {
    /// The word that kubectl uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// An applied object.
pub struct Applied {
    /// As the server has it now.
    pub object: DynamicObject,
    /// What changed.
    pub outcome: Outcome,
    /// `dataset.cumulo.dev/flights`.
    pub reference: String,
}

/// Uploads the project's files, then applies its objects in order (server-side apply).
///
/// # Errors
/// When a file is missing or the server refuses an object; the message names the object.
/// What was applied before stays applied, and some of what follows may be, too.
pub async fn apply(
    cluster: &Cluster,
    place: &Place,
    project: &mut Project,
    namespace: &str,
    dry_run: bool,
    mut report: impl FnMut(&Applied),
) -> Result<Vec<Applied>> {
    let mut uploader = Uploader::new(place);
    // Everything is looked up before anything is sent.
    for manifest in &project.objects {
        cluster
            .type_of(&manifest.object)
            .with_context(|| format!("{} ({})", manifest.title(), manifest.file.display()))?;
    }
    for manifest in &mut project.objects {
        uploader.localize(manifest).await?;
    }
    let mut applied = Vec::new();
    // One kind after the other, of each some at once: what a write waits for most is the disk.
    let kinds = project
        .objects
        .chunk_by_mut(|one, next| one.object.types == next.object.types);
    for manifests in kinds {
        let asked = manifests
            .iter_mut()
            .map(|manifest| apply_one(cluster, manifest, namespace, dry_run));
        let mut answers = stream::iter(asked).buffered(AT_ONCE);
        while let Some(one) = answers.next().await {
            let one = one?;
            report(&one);
            applied.push(one);
        }
    }
    Ok(applied)
}

async fn apply_one(
    cluster: &Cluster,
    manifest: &mut Manifest,
    namespace: &str,
    dry_run: bool,
) -> Result<Applied> {
    let title = manifest.title();
    let resource = cluster.type_of(&manifest.object)?;
    let api: Api<DynamicObject> = if resource.namespaced {
        let namespace = manifest
            .object
            .metadata
            .namespace
            .get_or_insert_with(|| namespace.to_owned());
        Api::namespaced_with(cluster.client.clone(), namespace, &resource.resource)
    } else {
        Api::all_with(cluster.client.clone(), &resource.resource)
    };
    let name = manifest
        .object
        .metadata
        .name
        .clone()
        .with_context(|| format!("{title}: apply needs metadata.name"))?;
    let before = api
        .get_opt(&name)
        .await
        .map_err(|error| api_error(&error))
        .with_context(|| title.clone())?;
    let mut parameters = PatchParams::apply(FIELD_MANAGER).force();
    parameters.field_validation = Some(kube::api::ValidationDirective::Strict);
    parameters.dry_run = dry_run;
    let after = api
        .patch(&name, &parameters, &Patch::Apply(&manifest.object))
        .await
        .map_err(|error| api_error(&error))
        .with_context(|| format!("{title} ({})", manifest.file.display()))?;
    let outcome = match &before {
        None => Outcome::Created,
        Some(before) if same_wanted(before, &after) => Outcome::Unchanged,
        Some(_) => Outcome::Configured,
    };
    let reference = format!(
        "{}/{name}",
        if resource.resource.group.is_empty() {
            resource.resource.kind.to_lowercase()
        } else {
            format!(
                "{}.{}",
                resource.resource.kind.to_lowercase(),
                resource.resource.group
            )
        }
    );
    Ok(Applied {
        object: after,
        outcome,
        reference,
    })
}

/// Whether two states of an object want the same: all but status and bookkeeping.
fn same_wanted(before: &DynamicObject, after: &DynamicObject) -> bool {
    let wanted = |object: &DynamicObject| {
        let mut data = object.data.clone();
        if let Value::Object(fields) = &mut data {
            fields.remove("status");
        }
        (
            data,
            object.metadata.labels.clone(),
            object.metadata.annotations.clone(),
        )
    };
    wanted(before) == wanted(after)
}

/// What the server said, without the client library's wrapping.
pub fn api_error(error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
        other => anyhow::anyhow!("{other}"),
    }
}
