//! `cumulo run`: apply a project, follow it to a served model.

use std::time::Instant;

use anyhow::Result;

use crate::cli::RunArgs;
use crate::cluster::Cluster;
use crate::place::Place;
use crate::project::apply::{Outcome, apply};
use crate::project::follow::follow;
use crate::project::load::load;
use crate::project::step::{Step, behind, read};

/// Runs `cumulo run`.
pub async fn run(place: &Place, arguments: RunArgs) -> Result<()> {
    let started = Instant::now();
    let mut project = load(&arguments.project)?;
    let cluster = Cluster::connect(place).await?;
    let applied = apply(
        &cluster,
        place,
        &mut project,
        &place.namespace(&arguments.namespace),
        false,
        |applied| {
            if applied.outcome != Outcome::Unchanged {
                eprintln!("{} {}", applied.reference, applied.outcome.word());
            }
        },
    )
    .await?;
    let settled = behind(
        &applied
            .iter()
            .map(|applied| &applied.object)
            .collect::<Vec<_>>(),
    )
    .is_none();
    let unchanged = settled
        && applied.iter().all(|applied| {
            applied.outcome == Outcome::Unchanged && matches!(read(&applied.object), Step::Done(_))
        });
    let objects: Vec<_> = applied.into_iter().map(|applied| applied.object).collect();
    if unchanged {
        println!("{}: everything is up to date", project.name);
    } else {
        follow(&cluster, &objects, arguments.timeout).await?;
        println!(
            "{}: done in {:.1} s",
            project.name,
            started.elapsed().as_secs_f64()
        );
    }
    for object in &objects {
        if object
            .types
            .as_ref()
            .is_some_and(|types| types.kind == "InferenceService")
        {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            println!("ask it with: cumulo predict {name} --data FILE");
        }
    }
    Ok(())
}
