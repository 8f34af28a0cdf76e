//! Sources over HTTP, from a server on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;

use crate::fixture::{Fixture, request};

const CSV: &str = "a\n1\n2\n";

/// A server that ends with the test's runtime.
async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn an_allowed_host_is_downloaded_from_and_redirects_are_followed() {
    let router = Router::new().route("/t.csv", get(|| async { CSV })).route(
        "/moved.csv",
        get(|| async { Redirect::temporary("/t.csv") }),
    );
    let address = serve(router).await;
    let mut fixture = Fixture::new();
    fixture.options.allowed_hosts = vec![address.to_string()];
    for path in ["t.csv", "moved.csv"] {
        let url = format!("http://{address}/{path}?token=secret");
        let request = request(&[("t", &url)], "SELECT a FROM t");
        let outcome = fixture.build(&request).await.expect("built");
        assert_eq!(outcome.rows, 2);
        let manifest = fixture.folder_of(&request, &outcome).join("manifest.json");
        let manifest = std::fs::read_to_string(manifest).expect("a manifest");
        assert!(!manifest.contains("secret"), "{manifest}");
    }
}

#[tokio::test]
async fn what_is_refused_and_what_fails() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let router = Router::new()
        .route(
            "/elsewhere.csv",
            get(|| async { Redirect::temporary("http://127.0.0.2:9/x.csv") }),
        )
        .route(
            "/scheme.csv",
            get(|| async { Redirect::temporary("file:///etc/passwd") }),
        )
        .route(
            "/loop.csv",
            get(|| async { Redirect::temporary("/loop.csv") }),
        )
        .route("/large.csv", get(|| async { "a\n".repeat(1000) }))
        .route(
            "/endless.csv",
            get(|| async {
                // No length told: the limit holds while it streams.
                let chunks = futures::stream::iter(
                    (0..1000).map(|_| Ok::<_, std::io::Error>("a\n".repeat(100))),
                );
                Body::from_stream(chunks)
            }),
        )
        .route(
            "/page.csv",
            get(|| async {
                (
                    [(header::CONTENT_TYPE, "text/html")],
                    "<html>sign in</html>",
                )
                    .into_response()
            }),
        )
        .route(
            "/busy.csv",
            get(move || {
                let counted = Arc::clone(&counted);
                async move {
                    if counted.fetch_add(1, Ordering::SeqCst) < 1 {
                        StatusCode::SERVICE_UNAVAILABLE.into_response()
                    } else {
                        CSV.into_response()
                    }
                }
            }),
        );
    let address = serve(router).await;
    let mut fixture = Fixture::new();
    fixture.options.max_download_bytes = 1000;
    let message = async |fixture: &Fixture, path: &str| {
        let url = format!("http://{address}/{path}");
        fixture
            .failure(&request(&[("t", &url)], "SELECT a FROM t"))
            .await
            .replace(&address.port().to_string(), "PORT")
    };
    insta::assert_snapshot!(message(&fixture, "large.csv").await, @r#"[SourceForbidden] source "t": http://127.0.0.1:PORT/large.csv: the host 127.0.0.1 is not among the hosts that may be downloaded from (none): add it to the allowed hosts (CUMULO_ALLOWED_HOSTS)"#);
    // A wildcard allows public hosts alone.
    fixture.options.allowed_hosts = vec!["*".to_owned()];
    insta::assert_snapshot!(message(&fixture, "large.csv").await, @r#"[SourceForbidden] source "t": http://127.0.0.1:PORT/large.csv: 127.0.0.1 is the address 127.0.0.1, which is not a public one: list the host literally to allow it"#);
    fixture.options.allowed_hosts = vec![address.to_string()];
    insta::assert_snapshot!(message(&fixture, "large.csv").await, @r#"[SourceDownloadFailed] source "t": http://127.0.0.1:PORT/large.csv is larger than 1000 bytes, the most that is downloaded"#);
    insta::assert_snapshot!(message(&fixture, "endless.csv").await, @r#"[SourceDownloadFailed] source "t": http://127.0.0.1:PORT/endless.csv is larger than 1000 bytes, the most that is downloaded"#);
    insta::assert_snapshot!(message(&fixture, "elsewhere.csv").await, @r#"[SourceForbidden] source "t": http://127.0.0.2:9/x.csv: the host 127.0.0.2 is not among the hosts that may be downloaded from (127.0.0.1:PORT): add it to the allowed hosts (CUMULO_ALLOWED_HOSTS)"#);
    insta::assert_snapshot!(message(&fixture, "scheme.csv").await, @r#"[SourceDownloadFailed] source "t": downloading http://127.0.0.1:PORT/scheme.csv failed: 307 Temporary Redirect without a place to go on to"#);
    insta::assert_snapshot!(message(&fixture, "loop.csv").await, @r#"[SourceDownloadFailed] source "t": downloading http://127.0.0.1:PORT/loop.csv failed: more than 5 redirects"#);
    insta::assert_snapshot!(message(&fixture, "absent.csv").await, @r#"[SourceDownloadFailed] source "t": downloading http://127.0.0.1:PORT/absent.csv failed: the server answered 404 Not Found"#);
    insta::assert_snapshot!(message(&fixture, "page.csv").await, @r#"[SourceInvalid] source "t": http://127.0.0.1:PORT/page.csv says .csv but looks like an HTML page: the address probably answers with a web page rather than the file"#);
    // Busy once: tried again.
    let url = format!("http://{address}/busy.csv");
    let outcome = fixture
        .build(&request(&[("t", &url)], "SELECT a FROM t"))
        .await
        .expect("built");
    assert_eq!((outcome.rows, tries.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn a_transfer_that_breaks_off_is_told() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).await;
            let _ = socket
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\na\n1\n")
                .await;
        }
    });
    let mut fixture = Fixture::new();
    fixture.options.allowed_hosts = vec!["127.0.0.1".to_owned()];
    let url = format!("http://{address}/t.csv");
    let message = fixture
        .failure(&request(&[("t", &url)], "SELECT a FROM t"))
        .await
        .replace(&address.port().to_string(), "PORT");
    assert!(
        message.starts_with("[SourceDownloadFailed] source \"t\": downloading http://127.0.0.1:PORT/t.csv failed: the transfer broke off after 4 bytes"),
        "{message}"
    );
}
