//! The artifact store over HTTP: nothing leads out of it.

use reqwest::StatusCode;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::Server;

const ROOT: &str = "/api/2.0/mlflow-artifacts/artifacts";

/// A request line sent as it is: HTTP clients would tidy the path up.
async fn raw(server: &Server, method: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn no_path_leads_out() {
    let server = Server::start().await;
    std::fs::write(server.folder.path().join("secret"), "secret").unwrap();
    std::fs::create_dir(server.folder.path().join("victim")).unwrap();
    for path in [
        "../secret",
        "%2e%2e/secret",
        "%2e%2e%2fsecret",
        "%252e%252e%252fsecret",
        "%25252e%25252e%25252fsecret",
        "a/../../secret",
        "a/%2e%2e/%2e%2e/secret",
        "..%5csecret",
        "%2fetc/passwd",
        "/etc/passwd",
        "a%00",
        "./secret",
        ".uploads/x",
        "%2euploads/x",
        "%252e%252e/victim",
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = raw(&server, method, &format!("{ROOT}/{path}")).await;
            let refused = answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 404");
            assert!(
                refused && !answer.contains("secret\r\n"),
                "{method} {path}: {answer}"
            );
        }
        let answer = raw(&server, "GET", &format!("{ROOT}?path={path}")).await;
        assert!(!answer.contains("victim"), "{path}: {answer}");
    }
    assert_eq!(
        std::fs::read_to_string(server.folder.path().join("secret")).unwrap(),
        "secret"
    );
    // CVE-2024-1560: a doubly encoded path deleted folders outside.
    assert!(server.folder.path().join("victim").is_dir());
}

#[cfg(unix)]
#[tokio::test]
async fn symbolic_links_lead_nowhere() {
    let server = Server::start().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let store = server.handle.artifacts().folder().to_owned();
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

#[tokio::test]
async fn blobs_are_what_their_name_says() {
    let server = Server::start().await;
    let content = "a,b\n1,2\n";
    let digest = hex::encode(Sha256::digest(content));
    let path = format!("{ROOT}/blobs/sha256/{digest}/table.csv");
    let (status, answer) = server.put(&path, "something else").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer.contains("nothing was stored"), "{answer}");
    assert_eq!(server.get(&path).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.put(&path, content).await.0, StatusCode::OK);
    assert_eq!(
        server.get(&path).await,
        (StatusCode::OK, content.to_owned())
    );
    for wrong in ["blobs/x", "blobs/sha256/abc/x", "blobs/md5/0/x"] {
        let (status, answer) = server.put(&format!("{ROOT}/{wrong}"), "x").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    }
}

#[tokio::test]
async fn the_store_itself_cannot_be_deleted() {
    let server = Server::start().await;
    server.put(&format!("{ROOT}/experiments/0/x"), "x").await;
    assert_eq!(
        server.delete(&format!("{ROOT}/experiments")).await.0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        server.delete(&format!("{ROOT}/experiments/")).await.0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(server.get(&format!("{ROOT}/experiments/0/x")).await.1, "x");
    assert_eq!(
        server.delete(&format!("{ROOT}/experiments/0")).await.0,
        StatusCode::OK
    );
    assert_eq!(
        server.get(&format!("{ROOT}/experiments/0/x")).await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_broken_upload_leaves_nothing() {
    let server = Server::start().await;
    let mut stream = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let request = format!("PUT {ROOT}/half HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok();
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(
        server.get(&format!("{ROOT}/half")).await.0,
        StatusCode::NOT_FOUND
    );
    let uploads = server.handle.artifacts().folder().join(".uploads");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::fs::read_dir(&uploads).unwrap().count() > 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "the temporary file stays"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn ranges_are_served() {
    let server = Server::start().await;
    server.put(&format!("{ROOT}/file"), "0123456789").await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = server.url(&format!("{ROOT}/file"));
    let answer = http
        .get(url)
        .header("Range", "bytes=2-4")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.headers()["content-range"], "bytes 2-4/10");
    assert_eq!(answer.text().await.unwrap(), "234");
}
