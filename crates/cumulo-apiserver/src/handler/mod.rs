//! HTTP: one handler for every type. It reads the request, finds out who asks
//! and whether they may, calls the operation, and writes the answer.
//!
//! ```text
//! request ─ route ─ authenticate ─ authorize ─ operation ─ respond
//! ```

mod accept;
mod discovery;
mod pods;
mod request;
mod respond;
mod reviews;
mod table_view;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::Value;

pub use discovery::VERSION;

use self::accept::{Accept, aggregated_discovery, negotiate};
use self::request::{Query, ResourcePath, Route};
use self::respond::View;
use crate::auth::{Attributes, Decision, UserInfo};
use crate::convert;
use crate::engine::Engine;
use crate::kubelet::PodStream;
use crate::operation::{
    Deleted, Listed, Patch, Target, WriteOptions, Written, scale_of, scale_replicas,
};
use crate::resource::ResourceType;
use crate::status::{ApiError, success_deleted};
use crate::table::IncludeObject;

/// The routes of the server. The fallback answers 404 with a `Status`, so a
/// router that others are merged into keeps that for every path nobody serves.
pub fn router(engine: Arc<Engine>) -> Router {
    let mut router = Router::new();
    for path in [
        "/api",
        "/api/",
        "/api/v1",
        "/api/v1/",
        "/api/v1/{*path}",
        "/apis",
        "/apis/",
        "/apis/{*path}",
        "/openapi/{*path}",
        "/version",
        "/version/",
        "/livez",
        "/livez/{*path}",
        "/readyz",
        "/readyz/{*path}",
        "/healthz",
        "/healthz/{*path}",
    ] {
        router = router.route(path, axum::routing::any(handle));
    }
    router.fallback(handle).with_state(engine)
}

async fn handle(State(engine): State<Arc<Engine>>, request: Request<Body>) -> Response {
    let started = std::time::Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = match dispatch(&engine, request).await {
        Ok(response) => response,
        Err(error) => {
            if error.code.is_server_error() {
                tracing::error!(%method, path, code = error.code.as_u16(), error = %error, "request failed");
            }
            error.into_response()
        }
    };
    tracing::debug!(
        %method, path, code = response.status().as_u16(),
        micros = started.elapsed().as_micros(), "request"
    );
    response
}

/// What the operations need to know of a request.
struct Context {
    user: UserInfo,
    query: Query,
    headers: HeaderMap,
}

async fn dispatch(engine: &Arc<Engine>, mut request: Request<Body>) -> Result<Response, ApiError> {
    let route = request::route(request.uri().path());
    if let Route::Health(path) = &route {
        return health(path);
    }
    let user = authenticate(engine, &mut request).await?;
    let context = Context {
        user,
        query: Query::parse(request.uri().query()),
        headers: request.headers().clone(),
    };
    match route {
        Route::Resource(path) => resource(engine, context, path, request).await,
        route => {
            let attributes = Attributes {
                verb: request.method().as_str().to_lowercase(),
                path: request.uri().path().to_owned(),
                ..Attributes::default()
            };
            authorize(engine, &context.user, &attributes).await?;
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                return Err(match route {
                    Route::Unknown => ApiError::no_such_path(),
                    _ => ApiError::method_not_allowed(),
                });
            }
            information(engine, &context, route)
        }
    }
}

fn health(path: &str) -> Result<Response, ApiError> {
    match path.split_once('/') {
        None | Some((_, "ping")) => {
            let mut response = Response::new(Body::from("ok"));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                http::HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            Ok(response)
        }
        Some(_) => Err(ApiError::no_such_path()),
    }
}

async fn authenticate(engine: &Engine, request: &mut Request<Body>) -> Result<UserInfo, ApiError> {
    if let Some(user) = request.extensions_mut().remove::<UserInfo>() {
        return Ok(user);
    }
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| {
            let (scheme, token) = v.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        })
        .map(str::to_owned)
        .or_else(|| websocket_token(request.headers()));
    match token {
        Some(token) => engine
            .authenticator
            .authenticate(&token)
            .await
            .ok_or_else(ApiError::unauthorized),
        None => Err(ApiError::unauthorized()),
    }
}

/// Browsers cannot set headers on a websocket; Kubernetes takes the token as a
/// subprotocol from them.
fn websocket_token(headers: &HeaderMap) -> Option<String> {
    use base64::Engine as _;
    let encoded = headers
        .get(header::SEC_WEBSOCKET_PROTOCOL)?
        .to_str()
        .ok()?
        .split(',')
        .find_map(|p| {
            p.trim()
                .strip_prefix("base64url.bearer.authorization.k8s.io.")
        })?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(encoded)
        .ok()?;
    String::from_utf8(bytes).ok()
}

async fn authorize(
    engine: &Engine,
    user: &UserInfo,
    attributes: &Attributes,
) -> Result<(), ApiError> {
    match engine.authorizer.authorize(user, attributes).await {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) => {
            let mut message = attributes.refusal(user);
            if !reason.is_empty() {
                message = format!("{message}: {reason}");
            }
            let mut error = ApiError::forbidden(message);
            error.group = attributes.group.clone();
            error.kind = attributes.resource.clone();
            error.name = attributes.name.clone();
            Err(error)
        }
    }
}

/// Discovery, version and schemas.
fn information(engine: &Engine, context: &Context, route: Route) -> Result<Response, ApiError> {
    let catalog = engine.registry.catalog();
    let core = matches!(route, Route::CoreVersions);
    if matches!(route, Route::CoreVersions | Route::Groups)
        && let Some(version) = aggregated_discovery(&context.headers)
    {
        let body = discovery::aggregated(&catalog, core, version)
            .to_string()
            .into_bytes();
        let media = match version {
            "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        };
        return Ok(tagged(&context.headers, media, body));
    }
    let view = View {
        accept: negotiate(&context.headers, false)?,
        ..View::default()
    };
    let host = context
        .headers
        .get(header::HOST)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let answer = match &route {
        Route::Version => Some(discovery::version()),
        Route::CoreVersions => Some(discovery::core_versions(host)),
        Route::Groups => Some(discovery::groups(&catalog)),
        Route::Group(group) => discovery::group(&catalog, group, true),
        Route::Resources(group, version) => discovery::resources(&catalog, group, version),
        Route::OpenApiIndex => Some(table_view::openapi_index(engine)),
        Route::OpenApiDocument(group, version) => {
            return table_view::openapi_document(engine, group, version)
                .map(|body| tagged(&context.headers, "application/json", body))
                .ok_or_else(ApiError::no_such_path);
        }
        Route::Health(_) | Route::Resource(_) | Route::Unknown => None,
    };
    let answer = answer.ok_or_else(ApiError::no_such_path)?;
    Ok(respond::value(StatusCode::OK, view, &answer))
}

/// An answer that the client may have already: its hash is its `ETag`.
fn tagged(headers: &HeaderMap, media: &'static str, body: Vec<u8>) -> Response {
    use sha2::Digest;
    let hash = hex::encode(&sha2::Sha256::digest(&body)[..16]).to_uppercase();
    let tag = format!("\"{hash}\"");
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.split(',').any(|t| t.trim() == tag || t.trim() == "*"));
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes(StatusCode::OK, media, body.into())
    };
    if let Ok(tag) = tag.parse() {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
        .headers_mut()
        .insert(header::VARY, http::HeaderValue::from_static("Accept"));
    response
}

async fn resource(
    engine: &Arc<Engine>,
    context: Context,
    path: ResourcePath,
    request: Request<Body>,
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
        name: path.name.clone().unwrap_or_default(),
        path: String::new(),
    };
    authorize(engine, &context.user, &attributes).await?;
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
        Ok(View {
            accept: negotiate(&self.context.headers, true)?,
            include: self
                .context
                .query
                .text("includeObject")
                .unwrap_or_default()
                .parse::<IncludeObject>()
                .map_err(|e| ApiError::bad_request(e.to_string()))?,
        })
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
                Ok(respond::watch(self.engine.clone(), events, view))
            }
            "create" => self.create(view, request).await,
            "update" => {
                let mut options = query.write_options(&self.context.headers)?;
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
                                yaml: view.accept.yaml,
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

    async fn create(&self, view: View, request: Request<Body>) -> Result<Response, ApiError> {
        if self.path.name.is_some() {
            return Err(ApiError::method_not_allowed());
        }
        if self.resource.namespaced && self.path.namespace.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        let mut options = self.context.query.write_options(&self.context.headers)?;
        let body = self.body(request).await?;
        let decoded = request::object(&self.context.headers, &body)?;
        options.duplicates = decoded.duplicates;
        let review = reviews::answer(
            self.engine,
            &self.context.user,
            &self.resource,
            self.namespace(),
            decoded.value.clone(),
        )
        .await;
        if let Some(review) = review {
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

    async fn bind(&self, binding: &Value, view: View) -> Result<Response, ApiError> {
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
        let dry_run = self
            .context
            .query
            .write_options(&self.context.headers)?
            .dry_run;
        let status = pods::bind(self.engine, &target, binding, dry_run).await?;
        Ok(respond::value(StatusCode::CREATED, view, &status))
    }

    async fn delete_options(
        &self,
        request: Request<Body>,
    ) -> Result<crate::operation::DeleteOptions, ApiError> {
        let body = self.body(request).await?;
        let value = if body.is_empty() {
            Value::Null
        } else {
            request::object(&self.context.headers, &body)?.value
        };
        self.context.query.delete_options(&value)
    }

    async fn patch(&self, request: Request<Body>) -> Result<(Patch, WriteOptions), ApiError> {
        let mut options = self.context.query.write_options(&self.context.headers)?;
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

    async fn subresource(
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
                let status = pods::evict(self.engine, &target, &options).await?;
                Ok(respond::value(StatusCode::CREATED, self.view()?, &status))
            }
            ("token", "create") => Err(ApiError::new(
                StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                "this server does not issue service account tokens yet: use the token of the kubeconfig",
            )),
            (_, "get") => self.object("get", request).await,
            (_, "update") => {
                let mut options = self.context.query.write_options(&self.context.headers)?;
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
        let options = self.context.query.write_options(&self.context.headers)?;
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
