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
    let server = super::start().await;
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

#[tokio::test]
async fn blobs_are_what_their_name_says() {
    let server = super::start().await;
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
    let server = super::start().await;
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
    let server = super::start().await;
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
    let Some(store) = server.handle.artifacts().folder() else {
        return;
    };
    let uploads = store.join(".uploads");
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
    let server = super::start().await;
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

/// Bytes that no two places of which are alike.
fn varied(length: u32) -> Vec<u8> {
    (0..length)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_are_whole_and_replaced_whole() {
    let server = super::start().await;
    let content = varied(20_000_003);
    let digest = hex::encode(Sha256::digest(&content));
    let path = format!("{ROOT}/blobs/sha256/{digest}/large.bin");
    let mut wrong = content.clone();
    wrong[19_999_999] ^= 1;
    let (status, answer) = server.put(&path, wrong).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert_eq!(server.get(&path).await.0, StatusCode::NOT_FOUND);
    let (status, answer) = server.put(&path, content.clone()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = |range: &'static str| {
        let request = http.get(server.url(&path)).header("Range", range);
        async { request.send().await.unwrap().bytes().await.unwrap() }
    };
    assert!(get("bytes=0-").await == content, "all of it");
    // Over the border of two parts, and at the end.
    assert!(get("bytes=8388000-16777300").await == content[8_388_000..=16_777_300]);
    assert!(get("bytes=-5").await == content[19_999_998..]);
    let path = format!("{ROOT}/experiments/0/file");
    for content in [content.as_slice(), b"", b"short"] {
        server.put(&path, content.to_vec()).await;
        let answer = http.get(server.url(&path)).send().await.unwrap();
        assert_eq!(answer.content_length(), Some(content.len() as u64));
        assert!(answer.bytes().await.unwrap() == content);
    }
}

#[tokio::test]
async fn folders_are_listed_and_deleted_with_what_is_in_them() {
    let server = super::start().await;
    for name in ["a", "f/b", "f/g/c", "f/ü 1%.bin", "ff/d"] {
        let encoded = name.replace('%', "%25").replace(' ', "%20");
        let (status, answer) = server
            .put(&format!("{ROOT}/experiments/0/{encoded}"), name)
            .await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    let list = |folder: &str| {
        let path = format!("{ROOT}?path=experiments/0/{folder}");
        let server = &server;
        async move {
            let answer: serde_json::Value =
                serde_json::from_str(&server.get(&path).await.1).unwrap();
            let files = answer["files"].as_array().unwrap().clone();
            files
                .iter()
                .map(|f| format!("{} {} {}", f["path"], f["is_dir"], f["file_size"]))
                .collect::<Vec<_>>()
                .join(", ")
        }
    };
    assert_eq!(
        list("").await,
        r#""a" false 1, "f" true null, "ff" true null"#
    );
    assert_eq!(
        list("f").await,
        r#""b" false 3, "g" true null, "ü 1%.bin" false 11"#
    );
    // A file, and what is not there, have nothing in them.
    assert_eq!(list("a").await, "");
    assert_eq!(list("none").await, "");
    let (status, answer) = server.get(&format!("{ROOT}/experiments/0/f")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let (status, content) = server
        .get(&format!("{ROOT}/experiments/0/f/%C3%BC%201%25.bin"))
        .await;
    assert_eq!((status, content.as_str()), (StatusCode::OK, "f/ü 1%.bin"));
    let deleted = server.delete(&format!("{ROOT}/experiments/0/f")).await;
    assert_eq!(deleted.0, StatusCode::OK, "{deleted:?}");
    assert_eq!(list("").await, r#""a" false 1, "ff" true null"#);
    let again = server.delete(&format!("{ROOT}/experiments/0/f")).await;
    assert_eq!(again.0, StatusCode::OK, "{again:?}");
}

#[tokio::test]
async fn an_upload_in_parts_is_one_file() {
    let server = super::start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mpu = |what: &str, body: serde_json::Value| {
        let url = server.url(&format!(
            "/api/2.0/mlflow-artifacts/mpu/{what}/experiments/0/model"
        ));
        let request = http.post(url).json(&body);
        async {
            let answer = request.send().await.unwrap();
            let status = answer.status();
            (status, answer.json::<serde_json::Value>().await.unwrap())
        }
    };
    let start = serde_json::json!({"path": "/home/me/weights.bin", "num_parts": 3});
    let (_, upload) = mpu("create", start.clone()).await;
    let id = upload["upload_id"].as_str().unwrap().to_owned();
    let content = varied(300_000);
    let mut parts = Vec::new();
    // In any order, and one of them twice, as after a broken connection.
    for number in [3, 1, 2, 1] {
        let url = upload["credentials"][number - 1]["url"].as_str().unwrap();
        let piece = content[(number - 1) * 100_000..number * 100_000].to_vec();
        let answer = http.put(url).body(piece).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        parts.retain(|part: &serde_json::Value| part["part_number"] != number);
        parts.push(serde_json::json!({"part_number": number, "etag": tag}));
    }
    let two = parts[..2].to_vec();
    let complete =
        |parts| serde_json::json!({"path": "weights.bin", "upload_id": id, "parts": parts});
    let (status, answer) = mpu("complete", complete(two)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let (status, answer) = mpu("complete", complete(parts.clone())).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let url = server.url(&format!("{ROOT}/experiments/0/model/weights.bin"));
    let stored = http.get(url).send().await.unwrap().bytes().await.unwrap();
    assert!(stored == content, "{} bytes", stored.len());
    // It is over: neither can it be completed again, nor is anything of it left.
    let (status, answer) = mpu("complete", complete(parts)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    let (_, upload) = mpu("create", start).await;
    let abort = serde_json::json!({"path": "weights.bin", "upload_id": upload["upload_id"]});
    assert_eq!(mpu("abort", abort).await.0, StatusCode::OK);
    let url = upload["credentials"][0]["url"].as_str().unwrap();
    let answer = http.put(url).body("late").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}
