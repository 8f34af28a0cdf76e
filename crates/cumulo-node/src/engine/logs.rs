//! Reading container logs: the whole, a tail, since a time, following.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::record::AttemptDir;
use crate::shim::OutputStream;

/// What of a log is wanted, as in Kubernetes' `PodLogOptions`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// The run before the present one.
    pub previous: bool,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Only lines since then.
    pub since: Option<Timestamp>,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

/// How often a followed log is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Output is handed on in pieces of about this size.
const PIECE: usize = 32 << 10;

/// Longer lines than the supervisor writes cannot occur; a damaged file must
/// not fill the memory.
const MAX_LINE: u64 = (crate::shim::MAX_LOG_LINE + 128) as u64;

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) time: &'a [u8],
    pub(super) stream: OutputStream,
    /// The line goes on in the next one.
    pub(super) partial: bool,
    pub(super) content: &'a [u8],
}

pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = parts.next()?;
    let stream = match parts.next()? {
        b"stderr" => OutputStream::Stderr,
        _ => OutputStream::Stdout,
    };
    let tag = parts.next()?;
    Some(Line {
        time,
        stream,
        partial: tag == b"P",
        content: parts.next()?,
    })
}

/// Turns lines of the file into what was asked for.
struct Output<'a> {
    options: &'a LogOptions,
    since: Option<Timestamp>,
    skip: u64,
    left: Option<u64>,
    inside_line: bool,
    skipping: bool,
    piece: Vec<u8>,
    sender: &'a mpsc::Sender<io::Result<Bytes>>,
}

/// The reader went away or has got what it asked for.
pub(super) struct Done;

/// Takes the lines of a log.
pub(super) trait LineSink {
    /// One line as it is in the file.
    fn line(&mut self, raw: &[u8]) -> Result<(), Done>;
    /// There is nothing more for the moment.
    fn flush(&mut self) -> Result<(), Done>;
}

impl LineSink for Output<'_> {
    fn line(&mut self, raw: &[u8]) -> Result<(), Done> {
        let Some(line) = parse(raw) else {
            return Ok(());
        };
        let begins = !self.inside_line;
        self.inside_line = line.partial;
        if begins {
            self.skipping = false;
            if let Some(since) = self.since {
                let time = std::str::from_utf8(line.time).ok();
                match time.and_then(|time| time.parse::<Timestamp>().ok()) {
                    Some(time) if time < since => self.skipping = true,
                    // Times only grow: no more comparing.
                    _ => self.since = None,
                }
            }
            if !self.skipping && self.skip > 0 {
                self.skip -= 1;
                self.skipping = true;
            }
        }
        if self.skipping {
            return Ok(());
        }
        if begins && self.options.timestamps {
            self.push(line.time)?;
            self.push(b" ")?;
        }
        self.push(line.content)?;
        if !line.partial {
            self.push(b"\n")?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Done> {
        if self.piece.is_empty() {
            return if self.sender.is_closed() {
                Err(Done)
            } else {
                Ok(())
            };
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        self.sender.blocking_send(Ok(piece)).map_err(|_| Done)
    }
}

impl Output<'_> {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Done> {
        let mut bytes = bytes;
        if let Some(left) = &mut self.left {
            let length = bytes
                .len()
                .min(usize::try_from(*left).unwrap_or(usize::MAX));
            bytes = &bytes[..length];
            *left -= length as u64;
        }
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE || self.left == Some(0) {
            self.flush()?;
        }
        if self.left == Some(0) {
            Err(Done)
        } else {
            Ok(())
        }
    }
}

/// Reads a log into `sender`; blocks, so it runs on a thread of its own.
/// `is_over` says whether nothing will be added any more.
pub fn read(
    attempt: &AttemptDir,
    options: &LogOptions,
    sender: &mpsc::Sender<io::Result<Bytes>>,
    is_over: impl Fn() -> bool,
) {
    let skip = match options.tail_lines {
        Some(tail) => match count_lines(attempt, options.since) {
            Ok(count) => count.saturating_sub(tail),
            Err(error) => {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        },
        None => 0,
    };
    // `skip` counts lines after `since`, so it is applied to those only.
    let mut output = Output {
        options,
        since: options.since,
        skip,
        left: options.limit_bytes,
        inside_line: false,
        skipping: false,
        piece: Vec::new(),
        sender,
    };
    if options.limit_bytes == Some(0) {
        return;
    }
    let begin = Begin::First;
    let read = read_files(attempt, begin, options.follow, &mut output, &is_over);
    if let Err(Stop::Failed(error)) = read {
        let _ = sender.blocking_send(Err(error));
    }
}

/// Where in a log reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// With the first line that is kept.
    First,
    /// With the line at this place of the current file.
    At(u64),
}

/// Why reading ends before the log does.
pub(super) enum Stop {
    Done,
    Failed(io::Error),
}

impl From<Done> for Stop {
    fn from(_: Done) -> Self {
        Self::Done
    }
}

/// Hands the lines of a log to `output`, as it grows if `follow` is set.
pub(super) fn read_files(
    attempt: &AttemptDir,
    begin: Begin,
    follow: bool,
    output: &mut impl LineSink,
    is_over: &impl Fn() -> bool,
) -> Result<(), Stop> {
    let mut current = open(&attempt.log())?;
    if let Begin::At(place) = begin {
        if let Some(log) = &mut current {
            let length = log.reader.get_ref().metadata().map_err(Stop::Failed)?.len();
            // A shorter file is a new one: all of it has been written since.
            let place = if place <= length { place } else { 0 };
            log.reader
                .seek(SeekFrom::Start(place))
                .map_err(Stop::Failed)?;
        }
    } else if let Some(mut rotated) = open(&attempt.rotated_log())?
        // Between the two openings the log may have been rotated: then the
        // rotated file is the one that was opened first.
        && inode(&rotated) != current.as_ref().and_then(inode)
    {
        drain(&mut rotated, output, true)?;
    }
    let mut reader = current;
    loop {
        // Asked before reading, so what came before the end is not missed.
        let over = !follow || is_over();
        if reader.is_none() {
            reader = open(&attempt.log())?;
        }
        if let Some(open_log) = &mut reader {
            drain(open_log, output, false)?;
            if inode(open_log) != path_inode(&attempt.log()) {
                // Rotated: empty the old file, go on with the new one.
                drain(open_log, output, true)?;
                reader = None;
                continue;
            }
        }
        output.flush()?;
        if over {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

struct OpenLog {
    reader: BufReader<File>,
    pending: Vec<u8>,
}

fn open(path: &Path) -> Result<Option<OpenLog>, Stop> {
    match File::open(path) {
        Ok(file) => Ok(Some(OpenLog {
            reader: BufReader::new(file),
            pending: Vec::new(),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Stop::Failed(error)),
    }
}

fn inode(log: &OpenLog) -> Option<u64> {
    log.reader
        .get_ref()
        .metadata()
        .ok()
        .map(|metadata| metadata.ino())
}

fn path_inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// Hands on all whole lines; at the end of a file that will not grow also an
/// unfinished one.
fn drain(log: &mut OpenLog, output: &mut impl LineSink, is_final: bool) -> Result<(), Stop> {
    loop {
        let mut limited = (&mut log.reader).take(MAX_LINE);
        let length = limited
            .read_until(b'\n', &mut log.pending)
            .map_err(Stop::Failed)?;
        let whole = log.pending.last() == Some(&b'\n') || log.pending.len() as u64 >= MAX_LINE;
        if whole || (length == 0 && is_final && !log.pending.is_empty()) {
            output.line(&log.pending)?;
            log.pending.clear();
        } else if length == 0 {
            return Ok(());
        }
    }
}

/// Counts the lines, those before `since` excluded.
fn count_lines(attempt: &AttemptDir, since: Option<Timestamp>) -> io::Result<u64> {
    let mut count = 0;
    let mut since = since;
    let mut inside_line = false;
    for path in [attempt.rotated_log(), attempt.log()] {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut reader = BufReader::new(file);
        let mut raw = Vec::new();
        loop {
            raw.clear();
            if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut raw)? == 0 {
                break;
            }
            let Some(line) = parse(&raw) else { continue };
            let begins = !inside_line;
            inside_line = line.partial;
            if !begins {
                continue;
            }
            if let Some(limit) = since {
                let time = std::str::from_utf8(line.time).ok();
                match time.and_then(|time| time.parse::<Timestamp>().ok()) {
                    Some(time) if time < limit => continue,
                    _ => since = None,
                }
            }
            count += 1;
        }
    }
    Ok(count)
}

/// The last lines of a log, at most 80 and 2 KiB: the termination message of
/// containers with `terminationMessagePolicy: FallbackToLogsOnError`.
pub fn last_lines(attempt: &AttemptDir) -> Option<String> {
    let content = std::fs::read(attempt.log()).ok()?;
    let mut kept = Vec::new();
    let mut size = 0;
    for raw in content
        .rsplit(|byte| *byte == b'\n')
        .filter(|raw| !raw.is_empty())
    {
        let Some(line) = parse(raw) else { continue };
        let text = String::from_utf8_lossy(line.content).into_owned();
        size += text.len() + 1;
        if kept.len() == 80 || size > 2048 {
            break;
        }
        kept.push(text);
    }
    kept.reverse();
    (!kept.is_empty()).then(|| kept.join("\n"))
}
