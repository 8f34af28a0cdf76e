//! MLflow's own Python client, unmodified.

use std::path::Path;
use std::process::Stdio;

/// A Python with MLflow: `CUMULO_TEST_PYTHON` if set, else one that `uv` makes.
fn python() -> tokio::process::Command {
    if let Some(python) = std::env::var_os("CUMULO_TEST_PYTHON") {
        return tokio::process::Command::new(python);
    }
    let mut uv = tokio::process::Command::new("uv");
    uv.args(["run", "--no-project", "--quiet", "--with", "mlflow>=3.1,<4"]);
    uv.args(["--with", "scikit-learn", "python"]);
    uv
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_client_works_unchanged() {
    let server = super::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/stock_client.py");
    let mut command = python();
    command
        .arg(script)
        .arg(server.url(""))
        .current_dir(server.folder.path())
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .env("MLFLOW_DISABLE_TELEMETRY", "true")
        .env("DO_NOT_TRACK", "true")
        .env_remove("MLFLOW_TRACKING_TOKEN")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.unwrap_or_else(|error| {
        panic!("cannot start Python ({error}): run `make test`, which fetches uv and MLflow first")
    });
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
