//! The audit log: a line of JSON for each request from outside, in the form of
//! Kubernetes' `audit.k8s.io/v1` at level `Metadata`.
//!
//! ```text
//! request ─ try_send ─► bounded queue ─► writer ─► audit.log, audit.log.1 …
//! ```
//!
//! A request never waits for the log: what the queue has no room for is dropped
//! and counted. No body, no token and no query is in it (a query may hold the
//! command of an `exec`).

mod event;
mod file;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use event::{Event, SourceAddress};

use file::LogFile;

/// Events written at once.
const BATCH: usize = 512;
/// How long what comes is gathered, at most, before it is written.
const GATHER: Duration = Duration::from_millis(20);

/// Where the log lies and how much it may take.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// The newest file; older ones have `.1`, `.2` … behind its name.
    pub path: PathBuf,
    /// Bytes of a file before the next is begun.
    pub file_bytes: u64,
    /// Older files that are kept.
    pub older_files: usize,
    /// Events that may wait to be written.
    pub queue: usize,
}

impl AuditOptions {
    /// A log of at most 5 files of 16 MiB.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            file_bytes: 16 << 20,
            older_files: 4,
            queue: 8192,
        }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the audit log {path}: {source}")]
pub struct AuditError {
    path: String,
    source: std::io::Error,
}

/// Takes events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditLog {
    events: mpsc::Sender<Box<Event>>,
    dropped: Arc<AtomicU64>,
}

/// Writes what the log takes, once it runs.
#[derive(Debug)]
pub(crate) struct AuditWriter {
    events: mpsc::Receiver<Box<Event>>,
    dropped: Arc<AtomicU64>,
    file: LogFile,
}

/// Opens the log.
pub(crate) fn open(options: &AuditOptions) -> Result<(AuditLog, AuditWriter), AuditError> {
    let file = LogFile::open(options).map_err(|source| AuditError {
        path: options.path.display().to_string(),
        source,
    })?;
    let (sender, events) = mpsc::channel(options.queue.max(1));
    let dropped = Arc::new(AtomicU64::new(0));
    let log = AuditLog {
        events: sender,
        dropped: dropped.clone(),
    };
    Ok((
        log,
        AuditWriter {
            events,
            dropped,
            file,
        },
    ))
}

impl AuditLog {
    /// Hands an event over, or drops and counts it.
    pub fn record(&self, event: Event) {
        if self.events.try_send(Box::new(event)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl AuditWriter {
    /// Writes until `stop`, and then what is still in the queue.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut told = 0;
        loop {
            let taken = tokio::select! {
                biased;
                taken = self.events.recv_many(&mut batch, BATCH) => taken,
                () = stop.cancelled() => {
                    // No more will come: an empty queue ends the loop.
                    self.events.close();
                    self.events.recv_many(&mut batch, BATCH).await
                }
            };
            if taken == 0 {
                return;
            }
            // What comes within a moment is written with it: handing each event to
            // another thread by itself costs as much as the rest of a small request.
            if taken < BATCH {
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    () = stop.cancelled() => {}
                }
            }
            while batch.len() < BATCH {
                let Ok(event) = self.events.try_recv() else {
                    break;
                };
                batch.push(event);
            }
            let taken = batch.len();
            let events = std::mem::take(&mut batch);
            let Ok((file, result)) = tokio::task::spawn_blocking({
                let mut file = self.file;
                move || {
                    let result = file.write(&events);
                    (file, result)
                }
            })
            .await
            else {
                tracing::error!("the audit log's writer ended");
                return;
            };
            self.file = file;
            if let Err(error) = result {
                self.dropped.fetch_add(taken as u64, Ordering::Relaxed);
                tracing::warn!(%error, "audit events were not written");
            }
            let dropped = self.dropped.load(Ordering::Relaxed);
            if dropped > told {
                told = dropped;
                tracing::warn!(dropped, "audit events were dropped since the start");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Attributes, Decision, UserInfo};

    fn event(name: &str) -> Event {
        Event {
            user: Some(UserInfo::new("ada", &[])),
            impersonated: None,
            attributes: Attributes {
                verb: "get".into(),
                group: "apps".into(),
                version: "v1".into(),
                resource: "deployments".into(),
                subresource: "scale".into(),
                namespace: "n".into(),
                name: name.into(),
                path: String::new(),
            },
            path: "/apis/apps/v1/namespaces/n/deployments/d/scale".into(),
            source: Some([127, 0, 0, 1].into()),
            agent: "kubectl/1".into(),
            code: 403,
            decision: Some(Decision::Deny(String::new())),
            received: chrono::DateTime::from_timestamp(1_700_000_000, 1_000).expect("a time"),
            completed: chrono::DateTime::from_timestamp(1_700_000_000, 2_000_000).expect("a time"),
        }
    }

    fn options(folder: &tempfile::TempDir) -> AuditOptions {
        AuditOptions {
            file_bytes: 4096,
            older_files: 2,
            queue: 4,
            ..AuditOptions::new(folder.path().join("audit.log"))
        }
    }

    #[tokio::test]
    async fn files_are_bounded_and_drops_are_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = options(&folder);
        let (log, writer) = open(&options).expect("a log");
        for n in 0..6 {
            log.record(event(&n.to_string()));
        }
        assert_eq!(log.dropped(), 2);
        let stop = CancellationToken::new();
        let running = tokio::spawn(writer.run(stop.clone()));
        for n in 0..100 {
            while log.events.capacity() == 0 {
                tokio::task::yield_now().await;
            }
            log.record(event(&n.to_string()));
        }
        stop.cancel();
        running.await.expect("the writer ends");
        assert_eq!(log.dropped(), 2);
        let mut files: Vec<String> = std::fs::read_dir(folder.path())
            .expect("the folder")
            .map(|entry| {
                entry
                    .expect("a file")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        files.sort();
        assert_eq!(files, ["audit.log", "audit.log.1", "audit.log.2"]);
        for file in files {
            let path = folder.path().join(file);
            use std::os::unix::fs::PermissionsExt;
            let metadata = path.metadata().expect("the file");
            assert!(metadata.len() <= 4096);
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            let text = std::fs::read_to_string(path).expect("the file");
            assert!(
                text.lines()
                    .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
            );
        }
        let newest = std::fs::read_to_string(&options.path).expect("the file");
        assert!(
            newest
                .lines()
                .last()
                .expect("a line")
                .contains(r#""name":"99""#)
        );
    }

    #[test]
    fn an_event_is_kubernetes_own() {
        let line = event("d").to_line().expect("a line");
        let mut value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        value["auditID"] = "id".into();
        insta::assert_snapshot!(value, @r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id","stage":"ResponseComplete","requestURI":"/apis/apps/v1/namespaces/n/deployments/d/scale","verb":"get","user":{"username":"ada","groups":["system:authenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"kubectl/1","objectRef":{"resource":"deployments","namespace":"n","name":"d","apiGroup":"apps","apiVersion":"v1","subresource":"scale"},"responseStatus":{"metadata":{},"code":403},"requestReceivedTimestamp":"2023-11-14T22:13:20.000001Z","stageTimestamp":"2023-11-14T22:13:20.002000Z","annotations":{"authorization.k8s.io/decision":"forbid","authorization.k8s.io/reason":""}}"#);
    }
}
