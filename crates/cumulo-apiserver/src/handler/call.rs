//! A request to a resource: what was asked for becomes an operation, and its
//! result an answer.

mod subresource;

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::accept::{Accept, Form, Format, negotiate, not_acceptable};
use super::request::{self, ResourcePath};
use super::respond::{self, View};
use super::{Context, Record, access, api_services, metrics, reviews, table_view, watch};
use crate::auth::Attributes;
use crate::engine::Engine;
use crate::operation::{DeleteOptions, Deleted, Listed, Patch, Target, WriteOptions, Written};
use crate::resource::ResourceType;
use crate::status::{ApiError, success_deleted};
use crate::table::IncludeObject;

/// Finds the resource that a path names, if the user may, and answers.
pub(super) async fn answer(
    engine: &Arc<Engine>,
    context: Context,
    path: ResourcePath,
    request: Request<Body>,
    record: &mut Record,
) -> Result<Response, ApiError> {
    let watching = path.watch || context.query.flag("watch").unwrap_or(false);
    let method = request.method().clone();
    let verb = request::verb(&method, &path, watching).ok_or_else(ApiError::method_not_allowed)?;
    // The authorizer is asked before anything says what is there.
    let own_namespace = path.plural == "namespaces" && path.group.is_empty();
    let attributes = Attributes {
        verb: verb.to_owned(),
        group: path.group.clone(),
        version: path.version.clone(),
        resource: path.plural.clone(),
        subresource: path.subresource.clone().unwrap_or_default(),
        namespace: match &path.namespace {
            Some(namespace) => namespace.clone(),
            None if own_namespace => path.name.clone().unwrap_or_default(),
            None => String::new(),
        },
        name: match &path.name {
            Some(name) => name.clone(),
            None if verb == "create" => String::new(),
            None => context.query.selected_name().unwrap_or_default(),
        },
        path: String::new(),
    };
    access::authorize(engine, &context.user, &attributes, record).await?;
    let resource = engine
        .registry
        .catalog()
        .find(&path.group, &path.version, &path.plural)
        .cloned()
        .ok_or_else(ApiError::no_such_path)?;
    if !resource.namespaced && path.namespace.is_some() {
        return Err(ApiError::no_such_path());
    }
    if resource.namespaced && path.namespace.is_none() && path.name.is_some() {
        return Err(ApiError::no_such_path());
    }
    let call = Call {
        engine,
        context,
        resource,
        path,
    };
    if call.resource.storage.is_empty() {
        return call.computed(verb).await;
    }
    match call.path.subresource.clone() {
        Some(subresource) => call.subresource(&subresource, verb, request).await,
        None => call.object(verb, request).await,
    }
}

/// A request to a resource.
struct Call<'a> {
    engine: &'a Arc<Engine>,
    context: Context,
    resource: Arc<ResourceType>,
    path: ResourcePath,
}

impl Call<'_> {
    fn namespace(&self) -> &str {
        self.path.namespace.as_deref().unwrap_or_default()
    }

    fn target(&self) -> Target {
        let name = self.path.name.as_deref().unwrap_or_default();
        Target::new(&self.resource, self.namespace(), name)
    }

    fn view(&self) -> Result<View, ApiError> {
        // What is answered but not kept (reviews) has no metadata to show alone.
        let accept = negotiate(&self.context.headers, self.resource.has_verb("get"))?;
        // Custom resources have no messages, but their metadata has.
        if accept.format == Format::Protobuf
            && accept.form == Form::Plain
            && self.resource.custom.is_some()
        {
            return Err(not_acceptable());
        }
        Ok(View {
            accept,
            include: self
                .context
                .query
                .text("includeObject")
                .unwrap_or_default()
                .parse::<IncludeObject>()
                .map_err(|e| ApiError::bad_request(e.to_string()))?,
        })
    }

    /// The options of a write, with who writes.
    fn write_options(&self) -> Result<WriteOptions, ApiError> {
        let mut options = self.context.query.write_options(&self.context.headers)?;
        options.user = Some(self.context.user.clone());
        Ok(options)
    }

    async fn body(&self, request: Request<Body>) -> Result<bytes::Bytes, ApiError> {
        request::collect(request.into_body(), self.engine.settings.body_limit).await
    }

    fn written(&self, written: &Written, view: View) -> Response {
        let status = if written.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let mut response =
            respond::object(self.engine, &self.resource, &written.object, status, view);
        respond::warn(&mut response, &written.warnings);
        response
    }

    async fn object(&self, verb: &str, request: Request<Body>) -> Result<Response, ApiError> {
        if !self.resource.has_verb(verb) {
            return Err(ApiError::method_not_allowed());
        }
        if matches!(verb, "update" | "patch") && self.path.name.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        let query = &self.context.query;
        let view = self.view()?;
        match verb {
            "get" => {
                let object = self.engine.get(&self.target())?;
                Ok(respond::object(
                    self.engine,
                    &self.resource,
                    &object,
                    StatusCode::OK,
                    view,
                ))
            }
            "list" => {
                let options = query.list_options(self.path.namespace.as_deref())?;
                let listed = self.engine.list(&self.resource, &options).await?;
                Ok(respond::list(self.engine, &self.resource, &listed, view))
            }
            "watch" => {
                let options = query.watch_options(self.path.namespace.as_deref())?;
                let events = self.engine.watch(&self.resource, options).await?;
                // An answer to HEAD has no body to write.
                let connection = (*request.method() == Method::GET)
                    .then(|| request.extensions().get().cloned())
                    .flatten();
                Ok(watch::respond(
                    events,
                    view,
                    &self.engine.fanout,
                    connection,
                ))
            }
            "create" => self.create(view, request).await,
            "update" => {
                let mut options = self.write_options()?;
                let body = self.body(request).await?;
                let decoded = request::object(&self.context.headers, &body)?;
                options.duplicates = decoded.duplicates;
                let written = self
                    .engine
                    .update(&self.target(), None, decoded.value, &options)
                    .await?;
                Ok(self.written(&written, view))
            }
            "patch" => {
                let (patch, options) = self.patch(request).await?;
                let written = self
                    .engine
                    .patch(&self.target(), None, &patch, &options)
                    .await?;
                Ok(self.written(&written, view))
            }
            "delete" => {
                let options = self.delete_options(request).await?;
                let target = self.target();
                match self.engine.delete(&target, &options).await? {
                    Deleted::Gone(object) => {
                        let status =
                            success_deleted(&self.resource, &target.name, &object.meta.uid);
                        let plain = View {
                            accept: Accept {
                                format: view.accept.format,
                                ..Accept::default()
                            },
                            ..view
                        };
                        Ok(respond::value(StatusCode::OK, plain, &status))
                    }
                    Deleted::Pending(object) => Ok(respond::object(
                        self.engine,
                        &self.resource,
                        &object,
                        StatusCode::OK,
                        view,
                    )),
                }
            }
            "deletecollection" => {
                let list = query.list_options(self.path.namespace.as_deref())?;
                let options = self.delete_options(request).await?;
                let (objects, version) = self
                    .engine
                    .delete_collection(&self.resource, &list, &options)
                    .await?;
                let listed = Listed {
                    objects,
                    version,
                    continue_token: None,
                    remaining: None,
                };
                Ok(respond::list(self.engine, &self.resource, &listed, view))
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// Answers for what is not stored: `metrics.k8s.io`, which is measured, and
    /// `apiregistration.k8s.io`, which says what is served.
    async fn computed(&self, verb: &str) -> Result<Response, ApiError> {
        if !self.resource.has_verb(verb) {
            return Err(ApiError::method_not_allowed());
        }
        if self.path.subresource.is_some() {
            return Err(ApiError::no_such_path());
        }
        let mut view = self.view()?;
        if view.accept.format == Format::Protobuf {
            return Err(not_acceptable());
        }
        let namespace = self.path.namespace.as_deref();
        let query = &self.context.query;
        let served = self.resource.group == api_services::GROUP;
        let catalog = self.engine.registry.catalog();
        let items = match &self.path.name {
            Some(name) if served => {
                api_services::get(&catalog, &self.resource, name).map(|item| vec![item])?
            }
            None if served => {
                let options = query.list_options(namespace)?;
                api_services::list(&catalog, &self.resource, &options)
            }
            Some(name) => metrics::one(self.engine, &self.resource, self.namespace(), name)
                .await
                .map(|item| vec![item])?,
            None => {
                let options = query.list_options(namespace)?;
                metrics::list(self.engine, &self.resource, &options).await?
            }
        };
        let answer = match (view.accept.form, &self.path.name) {
            (Form::Table, _) => table_view::render(
                self.engine,
                &self.resource,
                &items,
                view.include,
                &json!({}),
            ),
            (_, Some(_)) => items.into_iter().next().unwrap_or_default(),
            (_, None) => json!({
                "kind": self.resource.list_kind,
                "apiVersion": self.resource.api_version(),
                "metadata": {},
                "items": items,
            }),
        };
        view.accept.form = Form::Plain;
        Ok(respond::value(StatusCode::OK, view, &answer))
    }

    async fn create(&self, view: View, request: Request<Body>) -> Result<Response, ApiError> {
        if self.path.name.is_some() {
            return Err(ApiError::method_not_allowed());
        }
        if self.resource.namespaced && self.path.namespace.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        let mut options = self.write_options()?;
        let body = self.body(request).await?;
        let decoded = request::object(&self.context.headers, &body)?;
        options.duplicates = decoded.duplicates;
        if reviews::may_be_review(&self.resource)
            && let Some(review) = reviews::answer(
                self.engine,
                &self.context.user,
                &self.resource,
                self.namespace(),
                decoded.value.clone(),
            )
            .await
        {
            return Ok(respond::value(StatusCode::CREATED, view, &review?));
        }
        if self.resource.is("", "bindings") {
            return self.bind(&decoded.value, view).await;
        }
        let written = self
            .engine
            .create(
                &self.resource,
                self.namespace(),
                "",
                decoded.value,
                &options,
            )
            .await?;
        Ok(self.written(&written, view))
    }

    async fn delete_options(&self, request: Request<Body>) -> Result<DeleteOptions, ApiError> {
        let body = self.body(request).await?;
        let value = if body.is_empty() {
            Value::Null
        } else {
            request::object(&self.context.headers, &body)?.value
        };
        let mut options = self.context.query.delete_options(&value)?;
        options.user = Some(self.context.user.clone());
        Ok(options)
    }

    async fn patch(&self, request: Request<Body>) -> Result<(Patch, WriteOptions), ApiError> {
        let mut options = self.write_options()?;
        let media = request::media_type(&self.context.headers);
        let explicit = self.context.query.text("fieldManager").is_some();
        let body = self.body(request).await?;
        let (patch, duplicates) = Patch::read(&media, &body)?;
        if matches!(patch, Patch::Apply(_)) && !explicit {
            return Err(ApiError::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        if options.force && !matches!(patch, Patch::Apply(_)) {
            return Err(ApiError::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
            ));
        }
        options.duplicates = duplicates;
        Ok((patch, options))
    }
}
