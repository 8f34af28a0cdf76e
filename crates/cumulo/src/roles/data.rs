//! `cumulo data build`: one snapshot of a Dataset.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use cumulo_data::{
    ArtifactStore, BuildRequest, CheckResult, Options, Progress, build as build_snapshot,
};
use serde_json::{Value, json};

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
        .map_err(|error| {
            let failure = Failure::new(error.reason(), error.to_string());
            match error.check_results() {
                Some(results) => failure.with("checks", told(results, MESSAGE_LIMIT / 2)),
                None => failure,
            }
        })?;
    Ok(outcome.to_message(MESSAGE_LIMIT))
}

/// How the checks went, for the Dataset's status, in at most `limit` bytes:
/// what does not fit is left out from the end, first of what passed.
fn told(results: &[CheckResult], limit: usize) -> Value {
    let mut told: Vec<Value> = results
        .iter()
        .map(|result| {
            json!({
                "name": result.name,
                "passed": result.passed,
                "failedRows": result.failed_rows,
            })
        })
        .collect();
    // Brackets, and a comma after each.
    let size = |told: &[Value]| -> usize {
        told.iter()
            .map(|check| check.to_string().len() + 1)
            .sum::<usize>()
            + 2
    };
    while size(&told) > limit {
        let passed = told.iter().rposition(|check| check["passed"] == true);
        told.remove(passed.unwrap_or(told.len() - 1));
    }
    told.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_checks_the_broken_ones_are_told() {
        let check = |name: &str, failed_rows: u64| CheckResult {
            name: name.to_owned(),
            passed: failed_rows == 0,
            failed_rows,
            ..CheckResult::default()
        };
        let results = [check("a", 0), check("b", 2), check("c", 0), check("d", 1)];
        let names = |limit: usize| -> String {
            told(&results, limit)
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|check| check["name"].as_str())
                .collect()
        };
        assert_eq!(names(4096), "abcd");
        assert_eq!(names(140), "abd");
        assert_eq!(names(100), "bd");
        assert_eq!(names(50), "b");
        assert_eq!(names(2), "");
    }
}
