//! From `models:/…` to a version and its files.

use crate::artifacts::ArtifactPath;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::wire::ModelVersion;

/// What a `models:/…` URI says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModelUri {
    /// `models:/name@alias`
    Alias { name: String, alias: String },
    /// `models:/name/3`
    Version { name: String, version: String },
    /// `models:/name/latest`, and `models:/name`
    Latest { name: String },
    /// `models:/name/Production`
    Stage { name: String, stage: String },
    /// `models:/m-0123…`: a logged model
    Logged(String),
}

impl ModelUri {
    pub(crate) fn parse(uri: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(format!(
                "Invalid model URI '{uri}': expected models:/<name>@<alias>, \
                 models:/<name>/<version>, models:/<name>/latest or models:/<model id>."
            ))
        };
        let rest = uri.strip_prefix("models:/").ok_or_else(invalid)?;
        let plain = !rest.is_empty()
            && !rest.contains(['\0', '%', ':', '?', '#', '\\'])
            && rest.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !plain {
            return Err(invalid());
        }
        if let Some((name, alias)) = rest.split_once('@') {
            if name.is_empty() || alias.is_empty() || rest.contains('/') {
                return Err(invalid());
            }
            return Ok(Self::Alias {
                name: name.to_owned(),
                alias: alias.to_owned(),
            });
        }
        let Some((name, tail)) = rest.split_once('/') else {
            let hex = rest.strip_prefix("m-").unwrap_or_default();
            if hex.len() == 32 && hex.chars().all(|c| c.is_ascii_hexdigit()) {
                return Ok(Self::Logged(rest.to_owned()));
            }
            return Ok(Self::Latest {
                name: rest.to_owned(),
            });
        };
        let name = name.to_owned();
        if tail.contains('/') {
            return Err(invalid());
        }
        if tail.chars().all(|c| c.is_ascii_digit()) {
            let version = tail.to_owned();
            return Ok(Self::Version { name, version });
        }
        if tail.eq_ignore_ascii_case("latest") {
            return Ok(Self::Latest { name });
        }
        let stage = tail.to_owned();
        Ok(Self::Stage { name, stage })
    }
}

/// A model version, and where in the artifact store its files are.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedModel {
    /// The version in the registry.
    pub version: ModelVersion,
    /// Its folder, relative to the root of the artifact store.
    pub artifact_path: ArtifactPath,
}

impl Handle {
    /// The version that `models:/name@alias`, `models:/name/3`, `models:/name/latest`
    /// or `models:/name/<stage>` means now, and where its files are.
    ///
    /// # Errors
    /// `RESOURCE_DOES_NOT_EXIST` while there is no such model, alias or version
    /// (an inference service waits for it then); `INVALID_PARAMETER_VALUE` when the
    /// URI is not one.
    pub async fn resolve(&self, uri: &str) -> Result<ResolvedModel> {
        let parsed = ModelUri::parse(uri)?;
        let version = self.find_version(&parsed).await?;
        let location = self.download_uri(&version.name, &version.version).await?;
        Ok(ResolvedModel {
            artifact_path: ArtifactPath::from_uri(&location)?,
            version,
        })
    }

    pub(super) async fn find_version(&self, uri: &ModelUri) -> Result<ModelVersion> {
        match uri {
            ModelUri::Alias { name, alias } => {
                self.get_alias(name, alias).await?.ok_or_else(|| {
                    Error::not_found(format!("Registered model {name} has no alias '{alias}'"))
                })
            }
            ModelUri::Version { name, version } => self.get_model_version(name, version).await,
            ModelUri::Latest { name } => self.latest_version(name).await,
            ModelUri::Stage { name, stage } => {
                let stages = [stage.clone()];
                let mut versions = self.latest_versions(name, &stages).await?;
                versions.pop().ok_or_else(|| {
                    Error::not_found(format!(
                        "Registered model {name} has no version in stage '{stage}'"
                    ))
                })
            }
            ModelUri::Logged(model_id) => Err(Error::invalid(format!(
                "'{model_id}' is a logged model, not a version of a registered model."
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ModelUri;

    #[test]
    fn uris_are_understood() {
        let shown: Vec<String> = [
            "models:/late-flights@champion",
            "models:/late-flights/3",
            "models:/late-flights/latest",
            "models:/late-flights",
            "models:/late-flights/Production",
            "models:/m-0123456789abcdef0123456789abcdef",
            "models://host/late-flights/1",
            "models:/../etc/passwd",
            "models:/a/%2e%2e",
            "models:/a/b/c",
            "runs:/a/b",
        ]
        .iter()
        .map(|uri| match ModelUri::parse(uri) {
            Ok(parsed) => format!("{parsed:?}"),
            Err(_) => "refused".to_owned(),
        })
        .collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        Alias { name: "late-flights", alias: "champion" }
        Version { name: "late-flights", version: "3" }
        Latest { name: "late-flights" }
        Latest { name: "late-flights" }
        Stage { name: "late-flights", stage: "Production" }
        Logged("m-0123456789abcdef0123456789abcdef")
        refused
        refused
        refused
        refused
        refused
        "#);
    }
}
