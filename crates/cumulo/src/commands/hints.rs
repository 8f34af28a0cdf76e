//! `cumulo hints`: how to go on with a service that is ready.

use anyhow::Result;

use crate::home::Home;

/// Prints the address, a `curl`, a Python snippet, and how to stop.
pub fn run(home: &Home, service: &str) -> Result<()> {
    let running = home.require_running()?;
    let url = running.url();
    let kubeconfig = home.kubeconfig();
    let kubeconfig = kubeconfig.display();
    println!(
        r#"
the platform is up at {url}

with curl:
  TOKEN=$(sed -n 's/.*token: *"\{{0,1\}}\([0-9a-f]*\).*/\1/p' {kubeconfig})
  curl -H "Authorization: Bearer $TOKEN" {url}/v2/models/{service}

with Python (pip install mlflow lightgbm pandas):
  import os, mlflow
  os.environ["MLFLOW_TRACKING_TOKEN"] = "<the token in {kubeconfig}>"
  mlflow.set_tracking_uri("{url}")
  model = mlflow.pyfunc.load_model("models:/late-flights@champion")

with kubectl:
  kubectl --kubeconfig {kubeconfig} get cumulo -A

stop it with:
  cumulo down"#
    );
    Ok(())
}
