//! A consistent copy of the platform while it runs, as one tar archive.
//!
//! Databases come first, each as one moment left it: the objects, then tracking and
//! the registry, which objects refer to. Artifacts come last, because what is
//! referred to is stored before: whatever the copied databases name is in the copy,
//! unless it was deleted meanwhile. The archive's last entry says that it is whole.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tokio::sync::mpsc;

use crate::commands::backup::{COMPLETE, FORMAT, MANIFEST};
use crate::home::Home;

/// Bytes of a piece of the answer, and pieces that may wait for a slow client.
const PIECE: usize = 256 * 1024;
const WAITING: usize = 8;
/// Files beside the databases and the artifacts: who may do what, and the keys.
const FILES: &[&str] = &["config.yaml", "credentials.json", "users.json", "pki"];
/// Folders that hold what is not finished.
const UNFINISHED: &[&str] = &[".uploads", ".building-"];

#[derive(Clone)]
struct Source {
    home: Home,
    api: cumulo_apiserver::Handle,
    tracking: cumulo_track::Handle,
}

/// `GET /backup`. It does not ask who sends the request; the guard before it does.
pub fn router(
    home: &Home,
    api: cumulo_apiserver::Handle,
    tracking: cumulo_track::Handle,
) -> Router {
    Router::new()
        .route("/backup", get(backup))
        .with_state(Source {
            home: home.clone(),
            api,
            tracking,
        })
}

async fn backup(State(source): State<Source>) -> Response {
    match databases(&source).await {
        Ok(copies) => {
            let (sender, mut pieces) = mpsc::channel(WAITING);
            let home = source.home;
            tokio::task::spawn_blocking(move || {
                let mut output = Pieces {
                    sender,
                    waiting: Vec::with_capacity(PIECE),
                };
                if let Err(error) = archive(&home, copies.path(), &mut output) {
                    tracing::warn!(%error, "a backup broke off");
                    // The client sees an answer that ends too early, not a short one.
                    let _ = output.sender.blocking_send(Err(io::Error::other(error)));
                }
            });
            let mut response = Body::from_stream(futures::stream::poll_fn(move |context| {
                pieces.poll_recv(context)
            }))
            .into_response();
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-tar"),
            );
            response
        }
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "no backup could be made");
            let body = json!({"error": format!("no copy could be made: {error:#}")});
            (StatusCode::INSUFFICIENT_STORAGE, axum::Json(body)).into_response()
        }
    }
}

/// Consistent copies of the databases, in a folder that is removed with its handle.
async fn databases(source: &Source) -> Result<tempfile::TempDir> {
    let copies = tempfile::Builder::new()
        .prefix(".backup-")
        .tempdir_in(source.home.root())
        .context("no folder for the copies")?;
    let objects = copies.path().join("objects.sqlite");
    source.api.copy_to(&objects).await.context("objects")?;
    let tracking = copies.path().join("tracking.db");
    source
        .tracking
        .copy_database(&tracking)
        .await
        .context("tracking")?;
    Ok(copies)
}

fn archive(home: &Home, copies: &Path, output: &mut Pieces) -> io::Result<()> {
    let mut tar = tar::Builder::new(output);
    tar.follow_symlinks(false);
    let manifest = json!({
        "format": FORMAT,
        "version": env!("CARGO_PKG_VERSION"),
        "created": chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
    });
    text(&mut tar, MANIFEST, &manifest.to_string())?;
    file(
        &mut tar,
        &copies.join("objects.sqlite"),
        "apiserver/objects.sqlite",
    )?;
    file(&mut tar, &copies.join("tracking.db"), "tracking.db")?;
    for name in FILES {
        tree(&mut tar, &home.path(name), name)?;
    }
    tree(&mut tar, &home.path("artifacts"), "artifacts")?;
    text(&mut tar, COMPLETE, "")?;
    tar.into_inner()?.flush()
}

fn text<W: Write>(tar: &mut tar::Builder<W>, name: &str, text: &str) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, text.as_bytes())
}

/// Adds a file; one that has gone meanwhile is left out.
fn file<W: Write>(tar: &mut tar::Builder<W>, path: &Path, name: &str) -> io::Result<()> {
    match std::fs::File::open(path) {
        Ok(mut file) => tar.append_file(name, &mut file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Adds a file, or a folder with what is in it, in the order of the names.
fn tree<W: Write>(tar: &mut tar::Builder<W>, path: &Path, name: &str) -> io::Result<()> {
    let mut waiting: Vec<(PathBuf, String)> = vec![(path.to_owned(), name.to_owned())];
    while let Some((path, name)) = waiting.pop() {
        let metadata = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_file() {
            file(tar, &path, &name)?;
        } else if metadata.is_dir() {
            let mut below = Vec::new();
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                let Ok(child) = entry.file_name().into_string() else {
                    continue;
                };
                if UNFINISHED.iter().all(|start| !child.starts_with(start)) {
                    below.push((entry.path(), format!("{name}/{child}")));
                }
            }
            below.sort();
            waiting.extend(below.into_iter().rev());
        }
        // Links and the like are nothing of the platform's.
    }
    Ok(())
}

/// Hands on what is written, a piece at a time.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    waiting: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.waiting, Vec::with_capacity(PIECE));
        self.sender
            .blocking_send(Ok(piece.into()))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away"))
    }
}
