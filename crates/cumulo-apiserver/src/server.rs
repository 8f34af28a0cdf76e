//! The server as a component: options, a service that runs, a handle.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, AuditError, AuditLog, AuditOptions, AuditWriter};
use crate::auth::{
    AllowAuthenticated, Attributes, Authenticator, Authorization, Authorizer, Decision,
    StaticTokens, UserInfo,
};
use crate::client::ClientService;
use crate::control;
use crate::engine::{Clock, Engine, Settings};
use crate::handler;
use crate::kubelet::KubeletProxy;
use crate::resource::Registry;
use crate::roles::RoleAuthorizer;
use crate::storage::{
    self, DatabaseError, FolderLock, HistoryLimits, LockError, WriteError, Writer,
};
use crate::tokens::TokenKey;

/// What a server is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder for the database and its lock.
    pub folder: PathBuf,
    /// Most bytes that the database may take; none: what the disk has.
    pub storage_limit: Option<u64>,
    /// Limits of the watch history.
    pub history: HistoryLimits,
    /// Limits and intervals of requests.
    pub settings: Settings,
    /// Where the time comes from.
    pub clock: Clock,
    /// Turns tokens into users.
    pub authenticator: Arc<dyn Authenticator>,
    /// Decides what users may do.
    pub authorization: Authorization,
    /// The audit log; none: none is written.
    pub audit: Option<AuditOptions>,
    /// Signs the tokens of service accounts; none: none are issued.
    pub token_key: Option<Arc<TokenKey>>,
    /// The certificates that clients trust this server by (PEM): published in
    /// every namespace.
    pub authority: Option<String>,
}

impl Options {
    /// Options for a folder: no token is known, whoever is authenticated may do
    /// everything. The in-process client works from the start.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            storage_limit: None,
            history: HistoryLimits::default(),
            settings: Settings::default(),
            clock: Clock::default(),
            authenticator: Arc::new(StaticTokens::default()),
            authorization: Authorization::Custom(Arc::new(AllowAuthenticated)),
            audit: None,
            token_key: None,
            authority: None,
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder is in use, or cannot be written.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The database does not take writes.
    #[error("the API server could not make the default namespaces and roles: {0}")]
    Bootstrap(String),
}

/// A server that was opened. Reads work from now on, writes once it runs.
#[derive(Debug)]
pub struct Server {
    engine: Arc<Engine>,
    writer: Writer,
    audit: Option<AuditWriter>,
    lock: FolderLock,
}

/// Access to a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    engine: Arc<Engine>,
    router: Router,
}

impl Server {
    /// Opens the folder, reads everything, and serves the types that are defined.
    pub async fn open(options: Options) -> Result<(Self, Handle), Error> {
        let started = std::time::Instant::now();
        let lock = FolderLock::take(&options.folder)?;
        let (store, writer) =
            storage::open(&options.folder, options.history, options.storage_limit).await?;
        let (authorizer, roles, defaults) = match options.authorization {
            Authorization::Custom(authorizer) => (authorizer, None, None),
            Authorization::Roles(more) => {
                let roles = Arc::new(RoleAuthorizer::new(&store));
                let authorizer: Arc<dyn Authorizer> = roles.clone();
                (authorizer, Some(roles), Some(more))
            }
        };
        let (audit, audit_writer) = options.audit.as_ref().map(audit::open).transpose()?.unzip();
        let engine = Arc::new(Engine {
            store,
            registry: Registry::default(),
            clock: options.clock,
            settings: options.settings,
            authenticator: options.authenticator,
            authorizer,
            roles,
            audit,
            token_key: options.token_key,
            authority: options.authority.map(Into::into),
            kubelet: RwLock::new(None),
            evictions: tokio::sync::Mutex::default(),
            quotas: Arc::default(),
            policies: crate::admission::PolicyCache::default(),
            fanout: crate::handler::Fanout::default(),
        });
        control::install(&engine);
        let writer = bootstrap(&engine, writer, defaults).await?;
        tracing::info!(
            version = engine.store.version(),
            millis = started.elapsed().as_millis(),
            "object store opened"
        );
        let router = handler::router(engine.clone());
        let handle = Handle {
            engine: engine.clone(),
            router,
        };
        let server = Self {
            engine,
            writer,
            audit: audit_writer,
            lock,
        };
        Ok((server, handle))
    }

    /// Runs until `shutdown`: then watches end, what was accepted is stored, the
    /// database is closed and the folder let go.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self {
            engine,
            writer,
            audit,
            lock,
        } = self;
        let writer_stop = CancellationToken::new();
        let controllers = async {
            control::run(engine.clone(), shutdown.clone()).await;
            shutdown.cancelled().await;
            // Controllers have stopped; nothing of this crate writes any more.
            engine.store.end_watches();
            writer_stop.cancel();
        };
        let audit_stop = writer_stop.clone();
        let audit = async move {
            if let Some(audit) = audit {
                audit.run(audit_stop).await;
            }
        };
        tokio::join!(writer.run(writer_stop.clone()), audit, controllers);
        drop(lock);
        tracing::info!("object store closed");
    }
}

/// Makes what is there by default, with the writer running only for that.
async fn bootstrap(
    engine: &Engine,
    mut writer: Writer,
    roles: Option<Vec<serde_json::Value>>,
) -> Result<Writer, Error> {
    let mut work = std::pin::pin!(async {
        control::ensure_default_namespaces(engine).await?;
        control::ensure_default_service_range(engine).await?;
        match roles {
            Some(more) => control::ensure_default_roles(engine, more).await,
            None => Ok(()),
        }
    });
    loop {
        tokio::select! {
            result = &mut work => {
                result.map_err(|e| Error::Bootstrap(e.to_string()))?;
                break;
            }
            () = writer.step() => {}
        }
    }
    Ok(writer)
}

impl Handle {
    /// The routes, to be served or merged into others. Its fallback answers 404
    /// with a `Status`. Every route but the health checks wants a bearer token.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// The service for an in-process `kube::Client`, with the platform's identity.
    pub fn client_service(&self) -> ClientService {
        self.client_service_as(UserInfo::platform())
    }

    /// The service for an in-process `kube::Client`, with another identity.
    pub fn client_service_as(&self, user: UserInfo) -> ClientService {
        ClientService::new(self.router.clone(), user)
    }

    /// The user of a bearer token, or none for a token that is not known.
    pub async fn authenticate(&self, token: &str) -> Option<UserInfo> {
        let authenticated = self.engine.authenticate(token, &[]).await?;
        Some(authenticated.user)
    }

    /// Whether a user may do something. For what is served beside this server.
    pub async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        self.engine.authorizer.authorize(user, attributes).await
    }

    /// The audit log, where there is one. For what is served beside this server.
    pub fn audit(&self) -> Option<&AuditLog> {
        self.engine.audit.as_ref()
    }

    /// Says who answers for pods: logs, exec, attach, port-forward.
    pub fn set_kubelet(&self, proxy: Arc<dyn KubeletProxy>) {
        *self.engine.kubelet.write() = Some(proxy);
    }

    /// The newest resource version.
    pub fn version(&self) -> u64 {
        self.engine.store.version()
    }

    /// Writes a consistent copy of the database to a file that does not exist yet.
    pub async fn copy_to(&self, path: &Path) -> Result<(), WriteError> {
        self.engine.store.copy_to(path).await
    }

    /// Forgets the watch history: watches and continuations from before are
    /// answered with 410.
    pub fn compact(&self) {
        self.engine.store.compact();
    }
}
