//! What only a folder can have.

use reqwest::StatusCode;

use crate::server::{Place, Server};

const ROOT: &str = "/api/2.0/mlflow-artifacts/artifacts";

#[cfg(unix)]
#[tokio::test]
async fn symbolic_links_lead_nowhere() {
    let server = Server::start_at(Place::Laptop).await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let store = server.handle.artifacts().folder().unwrap().to_owned();
    std::os::unix::fs::symlink(outside.path(), store.join("link")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("new"), store.join("dangling")).unwrap();
    assert_eq!(
        server.get(&format!("{ROOT}/link/secret")).await.0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        server.put(&format!("{ROOT}/link/new"), "x").await.0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        server.put(&format!("{ROOT}/dangling"), "x").await.0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        server.delete(&format!("{ROOT}/link/secret")).await.0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}
