//! Attaching to a running container: what it says from now on, and what it is
//! told. The output is the log as it grows, since the supervisor alone holds the
//! process's pipes; so it comes by whole lines.

use std::io;

use bytes::Bytes;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::logs::{self, Begin, Done, LineSink, Stop};
use crate::record::AttemptDir;
use crate::shim::OutputStream;

/// The streams of a container that runs.
#[derive(Debug)]
pub struct Attached {
    /// Its standard input, when it was asked for.
    pub stdin: Option<pipe::Sender>,
    /// What it writes; ends when it has ended.
    pub output: mpsc::Receiver<(OutputStream, Bytes)>,
}

/// Hands on lines without their times.
struct Live<'a> {
    sender: &'a mpsc::Sender<(OutputStream, Bytes)>,
}

impl LineSink for Live<'_> {
    fn line(&mut self, raw: &[u8]) -> Result<(), Done> {
        let Some(line) = logs::parse(raw) else {
            return Ok(());
        };
        let mut content = line.content.to_vec();
        if !line.partial {
            content.push(b'\n');
        }
        self.sender
            .blocking_send((line.stream, content.into()))
            .map_err(|_| Done)
    }

    fn flush(&mut self) -> Result<(), Done> {
        if self.sender.is_closed() {
            Err(Done)
        } else {
            Ok(())
        }
    }
}

/// Where a log ends at present.
pub(super) fn end_of(attempt: &AttemptDir) -> Begin {
    Begin::At(std::fs::metadata(attempt.log()).map_or(0, |metadata| metadata.len()))
}

/// Follows a log into `sender`; blocks, so it runs on a thread of its own.
/// `is_over` says whether nothing will be added any more.
pub(super) fn follow(
    attempt: &AttemptDir,
    begin: Begin,
    sender: &mpsc::Sender<(OutputStream, Bytes)>,
    is_over: impl Fn() -> bool,
) {
    let mut live = Live { sender };
    if let Err(Stop::Failed(error)) = logs::read_files(attempt, begin, true, &mut live, &is_over) {
        tracing::warn!(%error, folder = %attempt.0.display(), "cannot follow a log");
    }
}

/// Opens a container's standard input.
///
/// # Errors
/// When nobody reads it any more.
pub(super) async fn open_stdin(attempt: &AttemptDir) -> io::Result<pipe::Sender> {
    // Between two clients the supervisor has it closed for a moment.
    const TRIES: u32 = 20;
    let mut tried = 0;
    loop {
        match pipe::OpenOptions::new().open_sender(attempt.stdin()) {
            Err(error) if tried < TRIES && error.raw_os_error() == Some(NO_READER) => {
                tried += 1;
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            opened => return opened,
        }
    }
}

/// What opening a FIFO says that nobody reads (`ENXIO`).
const NO_READER: i32 = nix::errno::Errno::ENXIO as i32;
