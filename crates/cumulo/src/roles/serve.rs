//! `cumulo serve`: one model behind the Open Inference Protocol.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cumulo_serve::{Options, RuntimeChoice};
use cumulo_track::client::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::task::{self, Failure};
use crate::cli::ServeArgs;

/// Runs the role.
pub fn run(arguments: ServeArgs) -> Result<ExitCode> {
    task::log();
    let runtime = task::runtime(2)?;
    Ok(match runtime.block_on(serve(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => task::finish(Err(failure)),
    })
}

async fn serve(arguments: ServeArgs) -> Result<(), Failure> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals")?;
    let stop = shutdown.clone();
    let watch = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    let runtime = arguments
        .runtime
        .parse::<RuntimeChoice>()
        .map_err(|problem| Failure::new("RuntimeInvalid", problem))?;
    let folder = model_folder(&arguments).await?;
    let mut options = options(
        &arguments.name,
        arguments.model_version.as_deref(),
        folder,
        runtime,
    )?;
    options.address = arguments.address;
    let result = cumulo_serve::run(options, shutdown)
        .await
        .map_err(|error| Failure::new("ModelInvalid", error.to_string()));
    watch.abort();
    result
}

/// Options of a server for a model in a folder, with Python as `cumulo exec` prepares it.
pub fn options(
    name: &str,
    version: Option<&str>,
    model: PathBuf,
    runtime: RuntimeChoice,
) -> Result<Options> {
    let executable = std::env::current_exe().context("cannot tell where this program lies")?;
    Ok(Options {
        name: name.to_owned(),
        version: version.map(str::to_owned),
        model,
        runtime,
        python_command: [
            &executable.to_string_lossy() as &str,
            "exec",
            "--requirements",
            "{model}/requirements.txt",
            "--read",
            "{model}",
            "--",
            "python",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Options::default()
    })
}

/// The model's folder on this machine. A registered version never changes, so
/// what was fetched once is not fetched again.
async fn model_folder(arguments: &ServeArgs) -> Result<PathBuf> {
    let Some(reference) = arguments.model_uri.strip_prefix("models:/") else {
        return Ok(PathBuf::from(&arguments.model_uri));
    };
    let (name, version) = match (&arguments.model_name, &arguments.model_version) {
        (Some(name), Some(version)) => (name.clone(), version.clone()),
        _ => {
            let (name, version) = reference
                .rsplit_once('/')
                .with_context(|| format!("{} must be models:/NAME/VERSION", arguments.model_uri))?;
            (name.to_owned(), version.to_owned())
        }
    };
    let client = Client::from_environment()?;
    let uri = client.download_uri(&name, &version).await?;
    // On a laptop the store is a folder of this machine: nothing is copied.
    if let (Ok(store), Some(relative)) = (
        std::env::var("CUMULO_ARTIFACTS"),
        uri.strip_prefix("mlflow-artifacts:/"),
    ) {
        let store = cumulo_data::ArtifactStore::from_url(&store)?;
        if let Some(path) = store.local_path(relative.trim_start_matches('/'))?
            && path.join("MLmodel").is_file()
        {
            return Ok(path);
        }
    }
    let folder = std::path::absolute("model")?;
    client
        .download(&uri, &folder)
        .await
        .with_context(|| format!("models:/{name}/{version} cannot be fetched"))?;
    Ok(folder)
}
