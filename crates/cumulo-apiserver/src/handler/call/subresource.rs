//! Subresources: status, scale, and what only pods have.

use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode};
use serde_json::Value;

use super::Call;
use crate::convert;
use crate::handler::accept::negotiate;
use crate::handler::respond::{self, View};
use crate::handler::{eviction, pods, request};
use crate::kubelet::PodStream;
use crate::operation::{Patch, Target, scale_of, scale_replicas};
use crate::status::ApiError;

/// The refusal of what pods that are processes do not have.
fn not_on_processes(subresource: &str) -> ApiError {
    let why = match subresource {
        "resize" => {
            "the resources of a running pod are not changed: delete it and create it with others"
        }
        _ => {
            "debug containers are not supported, as pods are processes without images: use kubectl exec, which has the machine's programs"
        }
    };
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", why)
}

impl Call<'_> {
    pub(super) async fn subresource(
        &self,
        name: &str,
        verb: &str,
        request: Request<Body>,
    ) -> Result<Response, ApiError> {
        let Some(found) = self.resource.subresources.iter().find(|s| s.name == name) else {
            return Err(ApiError::no_such_path());
        };
        if !found.verbs.iter().any(|v| v == verb) {
            return Err(ApiError::method_not_allowed());
        }
        let target = self.target();
        if self.resource.is("", "pods")
            && let Some(stream) = PodStream::parse(name)
        {
            return pods::stream(self.engine, &target, stream, &self.context.query, request).await;
        }
        match (name, verb) {
            ("scale", _) => self.scale(verb, request).await,
            ("binding", "create") => {
                let body = self.body(request).await?;
                let decoded = request::object(&self.context.headers, &body)?;
                self.bind(&decoded.value, self.view()?).await
            }
            ("eviction", "create") => {
                let body = self.body(request).await?;
                let decoded = request::object(&self.context.headers, &body)?;
                let options = self
                    .context
                    .query
                    .delete_options(&decoded.value["deleteOptions"])?;
                let status = eviction::evict(self.engine, &target, &options).await?;
                Ok(respond::value(StatusCode::CREATED, self.view()?, &status))
            }
            ("token", "create") => {
                let body = self.body(request).await?;
                let decoded = request::object(&self.context.headers, &body)?;
                let issued = self.engine.issue_token(&target, decoded.value)?;
                Ok(respond::value(StatusCode::CREATED, self.view()?, &issued))
            }
            // Accepting what nobody carries out would be a lie.
            ("ephemeralcontainers" | "resize", "patch" | "update") => {
                self.engine.get(&target)?;
                Err(not_on_processes(name).about(&self.resource, &target.name))
            }
            (_, "get") => self.object("get", request).await,
            (_, "update") => {
                let mut options = self.write_options()?;
                let body = self.body(request).await?;
                let decoded = request::object(&self.context.headers, &body)?;
                options.duplicates = decoded.duplicates;
                let written = self
                    .engine
                    .update(&target, Some(name), decoded.value, &options)
                    .await?;
                Ok(self.written(&written, self.view()?))
            }
            (_, "patch") => {
                let (patch, options) = self.patch(request).await?;
                let written = self
                    .engine
                    .patch(&target, Some(name), &patch, &options)
                    .await?;
                Ok(self.written(&written, self.view()?))
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// Gives a pod its node.
    pub(super) async fn bind(&self, binding: &Value, view: View) -> Result<Response, ApiError> {
        let catalog = self.engine.registry.catalog();
        let pods = catalog
            .find("", "v1", "pods")
            .ok_or_else(ApiError::no_such_path)?;
        let name = match &self.path.name {
            Some(name) => name.clone(),
            None => binding["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        };
        let target = Target::new(pods, self.namespace(), &name);
        let dry_run = self.write_options()?.dry_run;
        let status = pods::bind(self.engine, &target, binding, dry_run).await?;
        Ok(respond::value(StatusCode::CREATED, view, &status))
    }

    async fn scale(&self, verb: &str, request: Request<Body>) -> Result<Response, ApiError> {
        let target = self.target();
        let paths = self
            .resource
            .scale
            .as_ref()
            .ok_or_else(ApiError::no_such_path)?;
        let view = View {
            accept: negotiate(&self.context.headers, false)?,
            ..View::default()
        };
        let current = self.engine.get(&target)?;
        let object = convert::present_value(&self.resource, &current);
        let scale = scale_of(paths, &object);
        let wanted = match verb {
            "get" => return Ok(respond::value(StatusCode::OK, view, &scale)),
            "update" => {
                let body = self.body(request).await?;
                request::object(&self.context.headers, &body)?.value
            }
            _ => {
                let media = request::media_type(&self.context.headers);
                let body = self.body(request).await?;
                let (patch, _) = Patch::read(&media, &body)?;
                patch.plain(&scale)?
            }
        };
        let options = self.write_options()?;
        let replicas = scale_replicas(&self.resource, &target.name, &wanted)?;
        // The version is that of the object, so a stale one is refused as usual.
        let version = wanted["metadata"]["resourceVersion"].clone();
        let written = self
            .engine
            .set_replicas(&target, paths, replicas, &version, &options)
            .await?;
        let scaled = scale_of(
            paths,
            &convert::present_value(&self.resource, &written.object),
        );
        Ok(respond::value(StatusCode::OK, view, &scaled))
    }
}
