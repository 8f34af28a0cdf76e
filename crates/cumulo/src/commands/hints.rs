//! `cumulo hints`: how to go on with a service that is ready.

use std::path::Path;

use anyhow::{Context, Result};
use cumulo_api::InferenceService;
use kube::Api;

use crate::place::Place;

/// Prints the address, a `curl`, a Python snippet, and how to stop; each can be
/// copied and runs as it is.
pub async fn run(place: &Place, service: &str, data: &Path) -> Result<()> {
    let home = place.home("`cumulo hints`", "`cumulo predict` asks a service anywhere")?;
    let url = home.require_running()?.url();
    let services: Api<InferenceService> = Api::default_namespaced(place.client().await?);
    let found = services
        .get(service)
        .await
        .with_context(|| format!("InferenceService {service}"))?;
    let model = found.spec.model;
    let data = data.display();
    let credentials = home.credentials_path();
    let credentials = credentials.display();
    let kubeconfig = home.kubeconfig();
    let kubeconfig = kubeconfig.display();
    println!(
        r#"
the platform is up at {url}

with curl:
  TOKEN=$(sed -n 's/.*"admin": *"\([0-9a-f]*\)".*/\1/p' {credentials})
  cumulo predict {service} --data {data} --print-request > /tmp/request.json
  curl -H "Authorization: Bearer $TOKEN" -d @/tmp/request.json {url}/v2/models/{service}/infer

with Python (pip install mlflow lightgbm pandas):
  import json, os, mlflow, pandas
  os.environ["MLFLOW_TRACKING_TOKEN"] = json.load(open("{credentials}"))["admin"]
  mlflow.set_tracking_uri("{url}")
  model = mlflow.pyfunc.load_model("{model}")
  print(model.predict(pandas.read_csv("{data}")))

with kubectl:
  kubectl --kubeconfig {kubeconfig} get cumulo -A

stop it with:
  cumulo down"#
    );
    Ok(())
}
