//! `cumulo exec`: the user's command in its own Python environment, as a
//! tracked run. What the command logs as a model is registered.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Component, Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use cumulo_data::{ArtifactStore, snapshot_names};
use cumulo_node::environment::{Environment, EnvironmentOptions, EnvironmentSpec, prepare};
use cumulo_node::sandbox::{self, Access, Policy};
use cumulo_track::client::Client;
use cumulo_track::{KeyValue, RunStatus};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::rendezvous::Together;
use super::task::{self, Failure};
use crate::cli::ExecArgs;

/// Lines of standard error that are kept to say why a script failed.
const KEPT_LINES: usize = 200;
/// Metrics in the termination message.
const MESSAGE_METRICS: usize = 40;

/// What is to be run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    name: String,
    uid: String,
    experiment: String,
    environment: Option<EnvironmentSpecification>,
    #[serde(default)]
    files: Vec<File>,
    #[serde(default)]
    inputs: BTreeMap<String, Input>,
    command: Vec<String>,
    output: Option<Output>,
    train_key: Option<String>,
    /// Where this pod stands, when several run it.
    together: Option<Together>,
}

/// An environment as the API writes it: what is absent is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EnvironmentSpecification {
    python: Option<String>,
    packages: Vec<String>,
    requirements: Option<String>,
    lock: Option<String>,
}

#[derive(Debug, Deserialize)]
struct File {
    path: String,
    uri: String,
}

#[derive(Debug, Deserialize)]
struct Input {
    uri: String,
    version: String,
    dataset: String,
}

#[derive(Debug, Deserialize)]
struct Output {
    model: String,
}

/// Runs the role.
pub fn run(arguments: ExecArgs) -> Result<ExitCode> {
    task::log();
    if !arguments.command.is_empty() {
        return Err(untracked(&arguments)?);
    }
    let result = task::runtime(2)?.block_on(tracked());
    Ok(task::finish(result))
}

/// Becomes the command in an environment that satisfies the requirements.
/// Returns only when that fails.
fn untracked(arguments: &ExecArgs) -> Result<anyhow::Error> {
    let mut specification = EnvironmentSpec {
        python: arguments.python.clone(),
        ..EnvironmentSpec::default()
    };
    if let Some(path) = &arguments.requirements {
        specification.requirements = Some(
            std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?,
        );
    }
    let environment =
        task::runtime(1)?.block_on(prepare(&specification, &environment_options()?))?;
    // The environment is built; from here on nothing but the user's code runs.
    if let Some(mut policy) = user_policy(Some(&environment))? {
        for path in &arguments.read {
            policy.allow(path, Access::Read);
        }
        sandbox::enter(&policy)?;
    }
    let mut command = std::process::Command::new(&arguments.command[0]);
    command
        .args(&arguments.command[1..])
        .envs(variables(&environment))
        .env_remove(sandbox::POLICY_VARIABLE);
    let error = command.exec();
    Ok(anyhow::Error::from(error).context(format!("cannot run {:?}", arguments.command[0])))
}

/// What the user's command may reach: what the node agent said, and the
/// environment that was made for it. `None` when no agent started this.
fn user_policy(environment: Option<&Environment>) -> Result<Option<Policy>> {
    let policy = Policy::from_environment()
        .with_context(|| format!("{} is not understood", sandbox::POLICY_VARIABLE))?;
    Ok(policy.map(|mut policy| {
        if let Some(environment) = environment {
            environment.compile_aside();
            for path in environment.folders() {
                policy.allow(path, Access::Read);
            }
        }
        policy
    }))
}

fn environment_options() -> Result<EnvironmentOptions> {
    let cache = match std::env::var_os("CUMULO_CACHE") {
        Some(path) => PathBuf::from(path),
        None => crate::home::Home::find()?.path("cache"),
    };
    Ok(EnvironmentOptions::new(cache))
}

fn variables(environment: &Environment) -> Vec<(String, String)> {
    environment.variables(&std::env::var("PATH").unwrap_or_default())
}

async fn tracked() -> Result<String, Failure> {
    let task: Task = task::read("CUMULO_EXEC")?;
    let mut child_environment = Vec::new();
    let mut own_environment = None;
    if let Some(specification) = &task.environment {
        let specification = EnvironmentSpec {
            python: specification.python.clone(),
            packages: specification.packages.clone(),
            requirements: specification.requirements.clone(),
            lock: specification.lock.clone(),
        };
        let environment = prepare(&specification, &environment_options()?)
            .await
            .map_err(|error| Failure::new("EnvironmentUnresolvable", error.to_string()))?;
        child_environment.extend(variables(&environment));
        own_environment = Some(environment);
    }
    let policy = user_policy(own_environment.as_ref())?;
    let store = ArtifactStore::from_url(&task::variable("CUMULO_ARTIFACTS")?)
        .context("the artifact store cannot be opened")?;
    place_files(&task, &store).await?;
    for (name, input) in &task.inputs {
        let path = fetch_input(name, input, &store).await?;
        child_environment.push((
            format!(
                "CUMULO_INPUT_{}",
                name.to_uppercase().replace(['-', '.'], "_")
            ),
            path.display().to_string(),
        ));
    }

    let client = Client::from_environment().context("tracking")?;
    let experiment = client
        .ensure_experiment(&task.experiment)
        .await
        .context("tracking")?;
    let mut tags = vec![KeyValue::new("mlflow.source.type", "JOB")];
    for (name, input) in &task.inputs {
        tags.push(KeyValue::new(
            format!("cumulo.input.{name}"),
            format!("{}@{}", input.dataset, input.version),
        ));
    }
    let run = client
        .ensure_run(&experiment, &task.uid, &task.name, tags)
        .await
        .context("tracking")?;
    let run_id = run.info.run_id;
    let leads = task.together.is_none_or(|together| together.rank == 0);
    if let Some(together) = &task.together {
        child_environment.extend(together.variables(&client, &run_id).await?);
    }
    // A script that chooses its own experiment cannot continue this run: MLflow
    // refuses a run of another experiment. It makes a run of its own then.
    // Of several pods only the first logs to it, or every metric would be there often.
    if leads && !chooses_experiment(&task) {
        child_environment.push(("MLFLOW_RUN_ID".to_owned(), run_id.clone()));
    }
    child_environment.push(("MLFLOW_EXPERIMENT_ID".to_owned(), experiment.clone()));

    let (status, last_lines) = spawn(&task.command, child_environment, policy).await?;
    let failure = explain(&task, status, &last_lines);
    let state = match (&failure, status.signal()) {
        (None, _) => RunStatus::Finished,
        (Some(_), Some(_)) => RunStatus::Killed,
        (Some(_), None) => RunStatus::Failed,
    };
    if leads {
        client.end_run(&run_id, state).await.context("tracking")?;
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    if !leads {
        return Ok(json!({"run": run_id}).to_string());
    }
    result(&task, &client, &experiment, &run_id).await
}

/// Puts the task's files into the working folder.
async fn place_files(task: &Task, store: &ArtifactStore) -> Result<()> {
    for file in &task.files {
        let path = inside(&file.path)?;
        let blob = file.uri.strip_prefix("cumulo:").with_context(|| {
            format!(
                "file {:?}: {:?} is not in the artifact store",
                file.path, file.uri
            )
        })?;
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            tokio::fs::create_dir_all(parent).await?;
        }
        let found = store
            .download(blob, &path)
            .await
            .with_context(|| format!("file {:?}", file.path))?;
        if !found {
            bail!(
                "file {:?} is not in the artifact store: apply the manifest again with `cumulo apply`",
                file.path
            );
        }
    }
    Ok(())
}

/// A path that stays in the working folder.
fn inside(path: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || path.as_os_str().is_empty() {
        bail!(
            "file {:?} must be a path inside the working folder",
            path.display()
        );
    }
    Ok(path)
}

/// The Parquet file of an input, in the working folder.
async fn fetch_input(name: &str, input: &Input, store: &ArtifactStore) -> Result<PathBuf> {
    let relative = relative_to_store(&input.uri, store)
        .with_context(|| format!("input {name}: {} is not in the artifact store", input.uri))?;
    let folder = inside(&format!("inputs/{name}"))?;
    tokio::fs::create_dir_all(&folder).await?;
    // Copies, also where the store is a folder: what the user's program does to them is
    // its own affair.
    let parts: Vec<String> = snapshot_names(store, &relative)
        .await?
        .into_iter()
        .filter(|file| file.ends_with(".parquet"))
        .collect();
    if parts.is_empty() {
        bail!(
            "input {name}: version {} of dataset {} is gone from the artifact store",
            input.version,
            input.dataset
        );
    }
    for part in &parts {
        store
            .download(&format!("{relative}/{part}"), &folder.join(part))
            .await?;
    }
    let path = match parts.as_slice() {
        [one] => folder.join(one),
        _ => folder,
    };
    Ok(std::path::absolute(path)?)
}

/// The path of a snapshot below the store's root.
pub fn relative_to_store(uri: &str, store: &ArtifactStore) -> Option<String> {
    if let Some(relative) = uri.strip_prefix("cumulo:") {
        return Some(relative.trim_matches('/').to_owned());
    }
    let root = store.url_of("");
    uri.strip_prefix(root.trim_end_matches('/'))
        .map(|rest| rest.trim_matches('/').to_owned())
}

fn chooses_experiment(task: &Task) -> bool {
    task.files
        .iter()
        .filter(|file| file.path.ends_with(".py"))
        .filter_map(|file| std::fs::read_to_string(&file.path).ok())
        .any(|text| text.contains("set_experiment("))
}

/// Runs the command in its sandbox; its exit status and the last lines of its
/// standard error.
async fn spawn(
    command: &[String],
    environment: Vec<(String, String)>,
    policy: Option<Policy>,
) -> Result<(ExitStatus, Vec<String>), Failure> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Failure::new("CommandInvalid", "the job names no script and no command"))?;
    let mut terminate = signal(SignalKind::terminate()).context("signals")?;
    // The search path of the environment counts for the program too.
    let found = environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .and_then(|(_, path)| find_program(program, path));
    let mut command = Command::new(found.unwrap_or_else(|| PathBuf::from(program)));
    command
        .args(arguments)
        .envs(environment)
        .env_remove("CUMULO_EXEC")
        .env_remove(sandbox::POLICY_VARIABLE)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // The keys to the store are Cumulo's; the user's program asks the platform.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CUMULO_AWS_") {
            command.env_remove(name);
        }
    }
    if let Some(policy) = policy {
        sandbox::prepare(&policy)
            .map_err(|error| Failure::new("SandboxFailed", error.to_string()))?
            .confine(command.as_std_mut())
            .map_err(|error| Failure::new("SandboxFailed", error.to_string()))?;
    }
    let mut child = command.spawn().map_err(|error| {
        Failure::new("CommandInvalid", format!("cannot run {program:?}: {error}"))
    })?;
    let stderr = child.stderr.take().context("standard error")?;
    let keep = tokio::spawn(keep_last_lines(stderr));
    let pid = child.id();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.context("waiting for the command")?,
            // The whole group gets the signal; this process stays to tell the end.
            _ = terminate.recv() => {
                if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
                }
            }
        }
    };
    let lines = keep.await.unwrap_or_default();
    Ok((status, lines))
}

fn find_program(program: &str, path: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return None;
    }
    path.split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|candidate| candidate.is_file())
}

/// Copies standard error through and keeps its end.
async fn keep_last_lines(stream: impl tokio::io::AsyncRead + Unpin) -> Vec<String> {
    let mut reader = BufReader::new(stream);
    let mut output = tokio::io::stderr();
    let mut kept = VecDeque::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return kept.into(),
            Ok(_) => {
                let _ = output.write_all(&line).await;
                let _ = output.flush().await;
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                let text: String = String::from_utf8_lossy(&line)
                    .trim_end()
                    .chars()
                    .take(500)
                    .collect();
                kept.push_back(text);
            }
        }
    }
}

/// Why the command failed, if it did.
fn explain(task: &Task, status: ExitStatus, lines: &[String]) -> Option<Failure> {
    if status.success() {
        return None;
    }
    let what = task
        .command
        .iter()
        .find(|word| word.ends_with(".py"))
        .or(task.command.first())
        .map_or("the command", String::as_str);
    if let Some(signal) = status.signal() {
        let name =
            nix::sys::signal::Signal::try_from(signal).map_or("a signal", |signal| signal.as_str());
        return Some(Failure::new(
            "Killed",
            format!("{what} was ended by {name}"),
        ));
    }
    let code = status.code().unwrap_or(1);
    // The exception is the first line after the last traceback that is not indented.
    let raised = lines
        .iter()
        .rposition(|line| line.starts_with("Traceback (most recent call last)"))
        .and_then(|start| {
            lines[start + 1..]
                .iter()
                .find(|line| !line.is_empty() && !line.starts_with(' '))
        })
        .filter(|_| code == 1);
    Some(match raised {
        Some(exception) => Failure::new(
            "Raised",
            format!(
                "{what} raised {exception} (the log has the traceback: cumulo logs trainjob/{})",
                task.name
            ),
        ),
        None => Failure::new(
            "ExitCode",
            format!(
                "{what} ended with exit code {code} (see cumulo logs trainjob/{})",
                task.name
            ),
        ),
    })
}

/// Registers what was logged as a model, and tells the result.
async fn result(
    task: &Task,
    client: &Client,
    experiment: &str,
    run_id: &str,
) -> Result<String, Failure> {
    let run = client.get_run(run_id).await.context("tracking")?;
    let metrics: BTreeMap<String, f64> = run
        .data
        .metrics
        .into_iter()
        .filter(|metric| metric.value.is_finite())
        .take(MESSAGE_METRICS)
        .map(|metric| (metric.key, metric.value))
        .collect();
    let mut model = None;
    if let Some(output) = &task.output {
        let logged = client
            .logged_models_of_run(experiment, run_id)
            .await
            .context("tracking")?;
        let newest = logged.first().ok_or_else(|| {
            Failure::new(
                "NoModel",
                format!(
                    "the script logged no model, so there is nothing to register as {}: log one with mlflow, such as mlflow.sklearn.log_model(model, name=\"model\")",
                    output.model
                ),
            )
        })?;
        let key = task.train_key.as_deref().unwrap_or(&task.uid);
        let tags = task
            .inputs
            .iter()
            .map(|(name, input)| {
                KeyValue::new(
                    format!("cumulo.input.{name}"),
                    format!("{}@{}", input.dataset, input.version),
                )
            })
            .collect();
        let version = client
            .register(newest, &output.model, key, tags)
            .await
            .context("registry")?;
        model = Some(json!({"name": version.name, "version": version.version}));
    }
    Ok(json!({"run": run_id, "model": model, "metrics": metrics}).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw_status: i32, lines: &[&str]) -> String {
        let task = Task {
            name: "job".to_owned(),
            uid: String::new(),
            experiment: String::new(),
            environment: None,
            files: Vec::new(),
            inputs: BTreeMap::new(),
            command: vec!["python".to_owned(), "train.py".to_owned()],
            output: None,
            train_key: None,
            together: None,
        };
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        match explain(&task, ExitStatus::from_raw(raw_status), &lines) {
            None => "success".to_owned(),
            Some(failure) => format!("{failure:?}"),
        }
    }

    #[test]
    fn failures_are_told_apart() {
        assert_eq!(check(0, &[]), "success");
        let raised = check(
            1 << 8,
            &[
                "Traceback (most recent call last):",
                "  File \"train.py\", line 1",
                "ValueError: boom",
                "and more lines of its message",
            ],
        );
        assert!(
            raised.contains("Raised") && raised.contains("train.py raised ValueError: boom"),
            "{raised}"
        );
        assert!(check(3 << 8, &[]).contains("ended with exit code 3"));
        assert!(check(9, &[]).contains("was ended by SIGKILL"));
    }

    #[test]
    fn files_stay_in_the_working_folder() {
        assert!(inside("a/b.py").is_ok());
        for bad in ["../a", "/etc/passwd", "a/../../b", ""] {
            assert!(inside(bad).is_err(), "{bad}");
        }
    }
}
