//! `cumulo apply`.

use anyhow::Result;

use crate::cli::ApplyArgs;
use crate::cluster::Cluster;
use crate::place::Place;
use crate::project::{apply, load};

/// Runs `cumulo apply`.
pub async fn run(place: &Place, arguments: ApplyArgs) -> Result<()> {
    let mut projects = Vec::new();
    for path in &arguments.files {
        projects.push(load::load(path)?);
    }
    let cluster = Cluster::connect(place).await?;
    let suffix = if arguments.dry_run { " (dry run)" } else { "" };
    for mut project in projects {
        apply::apply(
            &cluster,
            place,
            &mut project,
            &place.namespace(&arguments.namespace),
            arguments.dry_run,
            |applied| println!("{} {}{suffix}", applied.reference, applied.outcome.word()),
        )
        .await?;
    }
    Ok(())
}
