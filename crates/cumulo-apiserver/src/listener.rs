//! One port for TLS and plain HTTP: the first byte of a connection says which
//! it is. kubectl sends a bearer token over TLS only; `curl` and MLflow clients
//! on the same machine need no certificate.
//!
//! It is here, and not where sockets are opened, because the state machines of
//! HTTP and TLS are compiled where they are used, and this crate is compiled for
//! speed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::{Request, Version};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::audit::SourceAddress;
use crate::auth::{CertificateUser, UserInfo};
use crate::connection::SharedStream;

/// The first byte of a TLS handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// How long a new connection may take to say what it is.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// How many connections may be open at once; more wait in the system's backlog.
const CONNECTIONS: usize = 4096;
/// How long open connections may take to finish after the shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

/// Whom a client's certificate (DER) names; none when it names nobody.
pub type CertificateName = fn(&[u8]) -> Option<UserInfo>;

/// In the extensions of a request that came over TLS.
#[derive(Debug, Clone)]
pub struct Encrypted {
    /// Whom the client's certificate names, which a trusted authority signed.
    pub user: Option<UserInfo>,
}

/// Serves the router on the listener until the shutdown, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    certificate_name: CertificateName,
    router: Router,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = places.clone().acquire_owned() => match place {
                Ok(place) => place,
                Err(_) => break,
            },
        };
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: serving what is open frees some.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (acceptor, router, shutdown) = (acceptor.clone(), router.clone(), shutdown.clone());
        connections.spawn(async move {
            let _place = place;
            let tls = (acceptor, certificate_name);
            if let Err(error) = connection(stream, peer.ip(), tls, router, shutdown).await {
                debug!(error, "connection ended");
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait())
        .await
        .is_err()
    {
        debug!("open connections did not finish in time");
    }
}

async fn connection(
    stream: TcpStream,
    peer: IpAddr,
    (acceptor, certificate_name): (TlsAcceptor, CertificateName),
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), String> {
    // Answers are small and their delay is what a caller feels.
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let mut first = [0_u8];
    let peeked = tokio::time::timeout(FIRST_BYTE, stream.peek(&mut first))
        .await
        .map_err(|_| "sent nothing".to_owned())?
        .map_err(|error| error.to_string())?;
    if peeked == 0 {
        return Ok(());
    }
    if first[0] == TLS_HANDSHAKE {
        let stream = tokio::time::timeout(FIRST_BYTE, acceptor.accept(stream))
            .await
            .map_err(|_| "the TLS handshake took too long".to_owned())?
            .map_err(|error| error.to_string())?;
        // Whether the authority signed it was checked in the handshake.
        let certificates = stream.get_ref().1.peer_certificates();
        let user = certificates
            .and_then(|chain| chain.first())
            .and_then(|certificate| certificate_name(certificate));
        let stream = SharedStream::new(stream);
        let origin = Origin {
            peer,
            encrypted: Some((Encrypted { user }, stream.clone())),
        };
        http(TokioIo::new(stream), origin, router, shutdown).await
    } else {
        let origin = Origin {
            peer,
            encrypted: None,
        };
        http(TokioIo::new(stream), origin, router, shutdown).await
    }
}

/// Where the requests of a connection come from.
#[derive(Clone)]
struct Origin {
    peer: IpAddr,
    encrypted: Option<(Encrypted, SharedStream)>,
}

impl Origin {
    fn describe(&self, request: &mut Request<Incoming>) {
        let version = request.version();
        let extensions = request.extensions_mut();
        // The audit log says where a request comes from.
        extensions.insert(SourceAddress(self.peer));
        if let Some((encrypted, stream)) = &self.encrypted {
            extensions.insert(encrypted.clone());
            if let Some(user) = &encrypted.user {
                extensions.insert(CertificateUser(user.clone()));
            }
            // For bodies that reach hyper as they are: a layer that rewrites some, as
            // compression does, has to take this out. HTTP/2 writes other streams besides.
            if version == Version::HTTP_11 {
                extensions.insert(stream.clone());
            }
        }
    }
}

async fn http<IO>(
    io: IO,
    origin: Origin,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), String>
where
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1024);
    let service = router.map_request(move |mut request: Request<Incoming>| {
        origin.describe(&mut request);
        request
    });
    let connection = builder.serve_connection_with_upgrades(io, TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => result.map_err(|error| error.to_string()),
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await.map_err(|error| error.to_string())
        }
    }
}
