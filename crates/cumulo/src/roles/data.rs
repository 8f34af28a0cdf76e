//! `cumulo data build`: one snapshot of a Dataset.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use cumulo_data::{ArtifactStore, BuildRequest, Options, Progress, build as build_snapshot};

use super::task::{self, Failure, MESSAGE_LIMIT};

/// Runs the role.
pub fn build() -> anyhow::Result<ExitCode> {
    task::log();
    Ok(task::finish(run()))
}

fn run() -> Result<String, Failure> {
    let request: BuildRequest = task::read("CUMULO_DATASET")?;
    let store = ArtifactStore::from_url(&task::variable("CUMULO_ARTIFACTS")?)
        .context("the artifact store cannot be opened")?;
    let options = Options {
        roots: list("CUMULO_ALLOWED_ROOTS")
            .into_iter()
            .map(PathBuf::from)
            .collect(),
        allowed_hosts: list("CUMULO_ALLOWED_HOSTS"),
        temporary_folder: std::env::var_os("TMPDIR").map(PathBuf::from),
        ..Options::default()
    };
    let said = Mutex::new(Instant::now() - Duration::from_secs(10));
    let outcome = task::runtime(2)?
        .block_on(build_snapshot(&request, &store, &options, |progress| {
            // A line a second is enough for a log.
            let mut said = said
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let transient = matches!(progress, Progress::Downloading { .. });
            if !transient || said.elapsed() > Duration::from_secs(1) {
                *said = Instant::now();
                eprintln!("{progress}");
            }
        }))
        .map_err(|error| Failure::new(error.reason(), error.to_string()))?;
    Ok(outcome.to_message(MESSAGE_LIMIT))
}

/// A list from the environment, separated as `PATH` is.
fn list(variable: &str) -> Vec<String> {
    std::env::var(variable)
        .unwrap_or_default()
        .split(if variable.ends_with("ROOTS") {
            ':'
        } else {
            ','
        })
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}
