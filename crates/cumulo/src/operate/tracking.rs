//! `cumulo tracking`: tracking, registry and artifacts.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use super::reviews::Reviews;
use super::serve::{Served, open, router};
use super::{SHUTDOWN, client, config, registry_changes};
use crate::cli::{PlaceArgs, TrackingArgs};
use crate::platform::{Guard, Part, listen};

/// Runs the role until it is told to end.
pub fn run(place: &PlaceArgs, arguments: &TrackingArgs) -> Result<()> {
    super::run(|shutdown| serve(place, arguments, shutdown))
}

async fn serve(
    place: &PlaceArgs,
    arguments: &TrackingArgs,
    shutdown: CancellationToken,
) -> Result<()> {
    let client = client(config(place).await?)?;
    let tracking = cumulo_track::Handle::open(&cumulo_track::Options::at(
        &arguments.database,
        &arguments.artifacts,
    ))
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
    listen(socket, tls, router(served), shutdown).await;
    let _ = tokio::time::timeout(SHUTDOWN, working).await;
    Ok(())
}
