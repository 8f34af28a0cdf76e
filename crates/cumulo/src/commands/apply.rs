//! `cumulo apply`.

use anyhow::Result;

use crate::cli::ApplyArgs;
use crate::cluster::Cluster;
use crate::home::Home;
use crate::project::{apply, load};

/// Runs `cumulo apply`.
pub async fn run(home: &Home, arguments: ApplyArgs) -> Result<()> {
    let mut projects = Vec::new();
    for path in &arguments.files {
        projects.push(load::load(path)?);
    }
    let cluster = Cluster::connect(home).await?;
    let suffix = if arguments.dry_run { " (dry run)" } else { "" };
    for mut project in projects {
        apply::apply(
            &cluster,
            home,
            &mut project,
            &arguments.namespace.namespace,
            arguments.dry_run,
            |applied| println!("{} {}{suffix}", applied.reference, applied.outcome.word()),
        )
        .await?;
    }
    Ok(())
}
