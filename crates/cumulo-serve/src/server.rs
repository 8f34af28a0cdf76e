//! The server's life: listen, load, serve, drain, end.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::serve::ListenerExt;
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::{self, Phase, Shared};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::runtime::{self, LoadError};

/// Why the server ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't listen.
    #[error("cannot listen on {address}: {source}; choose another --address")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The model can't be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Accepting connections failed.
    #[error("the server failed: {0}")]
    Serve(#[from] std::io::Error),
}

/// A server that listens and doesn't serve yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Begins to listen.
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let failed = |source| Error::Listen {
            address: options.address,
            source,
        };
        let listener = TcpListener::bind(options.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            options,
            phase: RwLock::new(Phase::Loading),
            metrics: Metrics::default(),
        });
        Ok(Self {
            listener,
            address,
            shared,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loads the model and serves until `shutdown`, then drains and ends.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let options = &self.shared.options;
        let stop_accepting = CancellationToken::new();
        let app = http::router(self.shared.clone());
        let listener = self.listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "nodelay not set");
            }
        });
        let stopped = stop_accepting.clone().cancelled_owned();
        let mut serving = tokio::spawn(
            axum::serve(listener, app)
                .with_graceful_shutdown(stopped)
                .into_future(),
        );
        let loading = tokio::select! {
            loading = runtime::open(options) => loading,
            () = shutdown.cancelled() => {
                serving.abort();
                return Ok(());
            }
        };
        let model = match loading {
            Ok(model) => model,
            Err(error) => {
                serving.abort();
                return Err(error.into());
            }
        };
        *self.shared.phase.write() = Phase::Serving(model.clone());
        tracing::info!(model = options.name, version = options.version, address = %self.address, "ready");
        tokio::select! {
            () = shutdown.cancelled() => {}
            ended = &mut serving => {
                model.close().await;
                return ended.unwrap_or(Ok(())).map_err(Error::Serve);
            }
        }
        *self.shared.phase.write() = Phase::Draining(model.clone());
        tracing::info!(model = options.name, "draining");
        // Who does not know yet that this server is leaving still gets an answer.
        tokio::time::sleep(options.drain()).await;
        stop_accepting.cancel();
        if tokio::time::timeout(options.grace(), &mut serving)
            .await
            .is_err()
        {
            tracing::warn!(
                model = options.name,
                "requests were cut off at the end of the grace period"
            );
            serving.abort();
        }
        model.close().await;
        Ok(())
    }
}

/// Serves one model until `shutdown`.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    Server::bind(options).await?.run(shutdown).await
}
