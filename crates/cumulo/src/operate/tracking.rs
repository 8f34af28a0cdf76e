//! `cumulo tracking`: tracking, registry and artifacts.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use super::reviews::Reviews;
use super::serve::{Served, open, router};
use super::{SHUTDOWN, client, config, registry_changes};
use crate::cli::TrackingArgs;
use crate::platform::{Guard, Part, listener};

/// Runs the role until it is told to end.
pub fn run(arguments: &TrackingArgs) -> Result<()> {
    super::run(|shutdown| serve(arguments, shutdown))
}

async fn serve(arguments: &TrackingArgs, shutdown: CancellationToken) -> Result<()> {
    let client = client(config(&arguments.api).await?)?;
    let tracking = cumulo_track::Handle::open(&options(arguments)?)
        .await
        .context("the tracking database cannot be opened")?;
    let (socket, tls) = open(arguments.listen, &arguments.tls).await?;
    let working = tokio::spawn(tracking.clone().run(shutdown.clone()));
    let changes = registry_changes::router(tracking.clone(), shutdown.clone());
    let served = Served {
        guard: Guard::new(Reviews::new(client)),
        routes: vec![(Part::Tracking, changes.merge(tracking.router()))],
        passed: Vec::new(),
        ready: Arc::new(|| None),
    };
    listener::serve(socket, tls, router(served), shutdown).await;
    let _ = tokio::time::timeout(SHUTDOWN, working).await;
    Ok(())
}

fn options(arguments: &TrackingArgs) -> Result<cumulo_track::Options> {
    let path = |url: &str, scheme: &str, flag: &str| {
        url.strip_prefix(scheme)
            .filter(|path| path.starts_with('/'))
            .map(PathBuf::from)
            .with_context(|| {
                format!("{flag} {url:?} cannot be used: expected {scheme}/absolute/path")
            })
    };
    let mut options = cumulo_track::Options::below("/");
    options.database = path(&arguments.database, "sqlite://", "--database")?;
    options.artifacts = path(&arguments.artifacts, "file://", "--artifacts")?;
    Ok(options)
}
