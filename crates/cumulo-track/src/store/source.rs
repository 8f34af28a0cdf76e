//! Where a model version comes from: only places in our own store.
//!
//! A version's source is later read by every server that loads the model, with
//! that server's rights. MLflow accepted local paths (CVE-2023-1177 and its
//! bypasses), relative paths and foreign URI schemes (CVE-2023-2356); here a
//! source is `mlflow-artifacts:/…`, `runs:/…`, `models:/…` or `cumulo:…`, names no
//! host, and its path is plain.

use super::resolve::ModelUri;
use crate::artifacts::ArtifactPath;
use crate::database::query;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::validate;
use crate::wire::CreateModelVersion;

/// A source, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// As given.
    pub(super) source: String,
    /// The files, as `mlflow-artifacts:/…`.
    pub(super) storage_location: String,
    pub(super) run_id: Option<String>,
    pub(super) model_id: Option<String>,
}

fn refuse(source: &str, because: &str) -> Error {
    Error::invalid(format!(
        "Invalid model version source: '{source}'. {because} A source is a place in this \
         platform's store: mlflow-artifacts:/<path>, runs:/<run id>/<path>, models:/<model> or \
         cumulo:<path>."
    ))
}

fn consistent(source: &str, what: &str, given: Option<&str>, found: &str) -> Result<()> {
    match given {
        Some(given) if given != found => Err(refuse(
            source,
            &format!(
                "The {what} request parameter must identify the resource that contains the source."
            ),
        )),
        _ => Ok(()),
    }
}

/// Understands the source of a request, or says why it is refused.
pub(super) async fn resolve(handle: &Handle, request: &CreateModelVersion) -> Result<Origin> {
    let source = validate::required(request.source.clone(), "source")?;
    let given_run = request.run_id.clone().filter(|id| !id.is_empty());
    let given_model = request.model_id.clone().filter(|id| !id.is_empty());
    let Some((scheme, rest)) = source.split_once(':') else {
        return Err(refuse(&source, "It is a local path."));
    };
    let (storage_location, found_run, found_model) = match scheme {
        "mlflow-artifacts" | "cumulo" => {
            let path =
                ArtifactPath::from_uri(&source).map_err(|error| refuse(&source, &error.message))?;
            (path.to_uri(), None, None)
        }
        "runs" => {
            let path = rest
                .strip_prefix('/')
                .filter(|rest| !rest.starts_with('/'))
                .ok_or_else(|| refuse(&source, "It names another host."))?;
            let path =
                ArtifactPath::parse(path).map_err(|error| refuse(&source, &error.message))?;
            let (run_id, below) = path.split_first();
            let below = below.ok_or_else(|| refuse(&source, "It names no path in the run."))?;
            consistent(&source, "run_id", given_run.as_deref(), run_id)?;
            let run = handle
                .get_run(run_id)
                .await
                .map_err(|error| refuse(&source, &format!("{error}.")))?;
            // Since MLFLow 3, log_model(name="model") in a run makes a logged model of
            // that name, and runs:/<run>/model means its files.
            match handle.logged_model_of_run(run_id, below.as_str()).await? {
                Some((model_id, location)) => (location, Some(run_id.to_owned()), Some(model_id)),
                None => {
                    let root = ArtifactPath::from_uri(&run.info.artifact_uri)?;
                    (root.join(&below).to_uri(), Some(run_id.to_owned()), None)
                }
            }
        }
        "models" => {
            let uri = ModelUri::parse(&source).map_err(|error| refuse(&source, &error.message))?;
            if let ModelUri::Logged(model_id) = &uri {
                consistent(&source, "model_id", given_model.as_deref(), model_id)?;
                let model = handle
                    .get_logged_model(model_id)
                    .await
                    .map_err(|error| refuse(&source, &format!("{error}")))?;
                let run = model.info.source_run_id;
                (model.info.artifact_uri, run, Some(model_id.clone()))
            } else {
                let version = handle
                    .find_version(&uri)
                    .await
                    .map_err(|error| refuse(&source, &format!("{error}.")))?;
                let location = handle.download_uri(&version.name, &version.version).await?;
                let run = Some(version.run_id).filter(|id| !id.is_empty());
                (location, run, version.model_id)
            }
        }
        "file" => return Err(refuse(&source, "It is a local path.")),
        other => {
            return Err(refuse(
                &source,
                &format!("The scheme '{other}' is not one of ours."),
            ));
        }
    };
    let model_id = given_model.or(found_model);
    let mut run_id = given_run.or(found_run);
    if let Some(model_id) = &model_id {
        let model = handle
            .get_logged_model(model_id)
            .await
            .map_err(|error| refuse(&source, &format!("{error}")))?;
        run_id = run_id.or(model.info.source_run_id);
    }
    if let Some(run_id) = &run_id {
        handle
            .get_run(run_id)
            .await
            .map_err(|error| refuse(&source, &format!("{error}.")))?;
    }
    Ok(Origin {
        source,
        storage_location,
        run_id,
        model_id,
    })
}

impl Handle {
    /// The newest logged model of that name that the run made, and where its files are.
    pub(super) async fn logged_model_of_run(
        &self,
        run_id: &str,
        name: &str,
    ) -> Result<Option<(String, String)>> {
        let row = query(
            "SELECT model_id, artifact_location FROM logged_models WHERE source_run_id = $1 \
             AND name = $2 AND lifecycle_stage = 'active' \
             ORDER BY creation_timestamp_ms DESC, model_id LIMIT 1",
        )
        .with(run_id)
        .with(name)
        .fetch_optional(self.database().readers())
        .await?;
        row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .transpose()
    }
}
