//! The in-process client: the same router, with an identity that is trusted
//! because no request from outside can carry it.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::Request;
use tower::Service;

use crate::auth::UserInfo;

/// A tower service over the router. `kube::Client::new(service, "default")` makes
/// a client of it: no socket, no TLS.
#[derive(Debug, Clone)]
pub struct ClientService {
    router: Router,
    user: UserInfo,
}

impl ClientService {
    pub(crate) fn new(router: Router, user: UserInfo) -> Self {
        Self { router, user }
    }
}

impl<B> Service<Request<B>> for ClientService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = axum::routing::future::RouteFuture<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.user.clone());
        self.router.call(request)
    }
}
