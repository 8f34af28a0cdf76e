//! The container log: lines in the format of the container runtime interface,
//! `2026-01-01T00:00:00.000000000Z stdout F text`, in a file that is rotated
//! by size.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use jiff::Timestamp;

/// Longer lines are split into parts of this many bytes, marked `P` but for
/// the last.
pub const MAX_LINE: usize = 16 << 10;

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Turns a stream of bytes into log lines.
pub struct Lines {
    stream: Stream,
    pending: Vec<u8>,
    /// The last line written was the first part of a longer one.
    partial: bool,
}

impl Lines {
    /// An empty stream.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
            partial: false,
        }
    }

    /// Adds bytes; returns the lines that they complete.
    pub fn push(&mut self, mut bytes: &[u8], now: Timestamp) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 64);
        while !bytes.is_empty() {
            let room = MAX_LINE - self.pending.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            match end {
                Some(end) => {
                    self.pending.extend_from_slice(&bytes[..end]);
                    self.emit(&mut out, b'F', now);
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() >= room => {
                    self.pending.extend_from_slice(&bytes[..room]);
                    bytes = &bytes[room..];
                    // A line of exactly the limit ends here, not in an empty part.
                    if let Some(rest) = bytes.strip_prefix(b"\n") {
                        bytes = rest;
                        self.emit(&mut out, b'F', now);
                    } else {
                        self.emit(&mut out, b'P', now);
                    }
                }
                None => {
                    self.pending.extend_from_slice(bytes);
                    bytes = &[];
                }
            }
        }
        out
    }

    /// The stream ended: an unfinished line becomes a line.
    pub fn finish(&mut self, now: Timestamp) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.pending.is_empty() || self.partial {
            self.emit(&mut out, b'F', now);
        }
        out
    }

    fn emit(&mut self, out: &mut Vec<u8>, tag: u8, now: Timestamp) {
        let stream = match self.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        self.partial = tag == b'P';
        let _ = write!(out, "{now:.9} {stream} ");
        out.push(tag);
        out.push(b' ');
        out.append(&mut self.pending);
        out.push(b'\n');
    }
}

/// A log file that moves aside to `rotated` when it exceeds its limit, so at
/// most twice the limit is kept. When the disk is full lines are dropped: a
/// container must not stop because its log cannot be written.
pub struct RotatedLog {
    path: PathBuf,
    rotated: PathBuf,
    limit: u64,
    size: u64,
    file: Option<File>,
}

impl RotatedLog {
    /// Opens the log, appending to what is there.
    pub fn open(path: PathBuf, rotated: PathBuf, limit: u64) -> Self {
        let mut log = Self {
            path,
            rotated,
            limit,
            size: 0,
            file: None,
        };
        log.reopen();
        log
    }

    fn reopen(&mut self) {
        self.file = File::options()
            .append(true)
            .create(true)
            .open(&self.path)
            .ok();
        self.size = self
            .file
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .map_or(0, |metadata| metadata.len());
    }

    /// Appends whole lines.
    pub fn write(&mut self, mut lines: &[u8]) {
        while !lines.is_empty() {
            let room = usize::try_from(self.limit.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let fitting = if lines.len() <= room {
                lines.len()
            } else {
                end_of_last_line(&lines[..room]).unwrap_or(0)
            };
            if fitting == 0 && self.size > 0 {
                let _ = fs::rename(&self.path, &self.rotated);
                self.reopen();
                if self.size > 0 {
                    // It cannot be moved: drop the lines rather than grow.
                    return;
                }
                continue;
            }
            // A line longer than the whole limit is written all the same.
            let end = if fitting > 0 {
                fitting
            } else {
                lines
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .map_or(lines.len(), |position| position + 1)
            };
            if self.file.is_none() {
                self.reopen();
            }
            let written = self
                .file
                .as_mut()
                .is_some_and(|file| file.write_all(&lines[..end]).is_ok());
            if !written {
                return;
            }
            self.size += end as u64;
            lines = &lines[end..];
        }
    }
}

fn end_of_last_line(lines: &[u8]) -> Option<usize> {
    lines
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map(|position| position + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at() -> Timestamp {
        "2026-01-02T03:04:05.006Z".parse().unwrap()
    }

    #[test]
    fn lines_carry_time_stream_and_tag() {
        let mut lines = Lines::new(Stream::Stdout);
        let mut text = lines.push(b"one\ntw", at());
        text.extend(lines.push(b"o\nrest", at()));
        text.extend(lines.finish(at()));
        insta::assert_snapshot!(String::from_utf8(text).unwrap(), @r"
        2026-01-02T03:04:05.006000000Z stdout F one
        2026-01-02T03:04:05.006000000Z stdout F two
        2026-01-02T03:04:05.006000000Z stdout F rest
        ");
    }

    #[test]
    fn rotation_keeps_twice_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut log = RotatedLog::open(path.clone(), rotated.clone(), 1000);
        let line = |line: u32| format!("line {line:03} {}\n", "x".repeat(40));
        log.write((0..50).map(line).collect::<String>().as_bytes());
        for number in 50..100 {
            log.write(line(number).as_bytes());
        }
        assert!(fs::metadata(&path).unwrap().len() <= 1000);
        assert!(fs::metadata(&rotated).unwrap().len() <= 1000);
        let all = fs::read_to_string(rotated).unwrap() + &fs::read_to_string(path).unwrap();
        assert!(all.ends_with(&format!("line 099 {}\n", "x".repeat(40))));
        let numbers: Vec<u32> = all.lines().map(|l| l[5..8].parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }

    proptest! {
        #[test]
        fn content_survives_any_chunking(
            text in proptest::collection::vec(prop_oneof![3 => Just(b'a'), 1 => Just(b'\n')], 0..200),
            long in 0usize..40_000,
            cut in 1usize..5000,
        ) {
            let mut input = text;
            input.extend(std::iter::repeat_n(b'z', long));
            let mut lines = Lines::new(Stream::Stderr);
            let mut out = Vec::new();
            for chunk in input.chunks(cut) {
                out.extend(lines.push(chunk, at()));
            }
            out.extend(lines.finish(at()));
            let mut restored = Vec::new();
            for line in out.split_inclusive(|byte| *byte == b'\n') {
                let text = std::str::from_utf8(line).unwrap();
                let mut parts = text.splitn(4, ' ');
                let tag = parts.by_ref().nth(2).unwrap().to_owned();
                let content = parts.next().unwrap().trim_end_matches('\n');
                prop_assert!(content.len() <= MAX_LINE);
                restored.extend_from_slice(content.as_bytes());
                if tag == "F" {
                    restored.push(b'\n');
                }
            }
            let mut expected = input;
            if expected.last().is_some_and(|byte| *byte != b'\n') {
                expected.push(b'\n');
            }
            prop_assert_eq!(restored, expected);
        }
    }
}
