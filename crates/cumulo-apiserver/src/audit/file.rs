//! The files of the log: appended to, and turned over by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::{AuditOptions, Event};

/// The newest file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    most: u64,
    older: usize,
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl LogFile {
    /// Opens the newest file, to go on in it.
    pub fn open(options: &AuditOptions) -> io::Result<Self> {
        let file = append(&options.path)?;
        Ok(Self {
            size: file.metadata()?.len(),
            path: options.path.clone(),
            file,
            most: options.file_bytes,
            older: options.older_files,
        })
    }

    /// Appends events, a line each.
    pub fn write(&mut self, events: &[Box<Event>]) -> io::Result<()> {
        let mut text = Vec::new();
        for event in events {
            let line = event.to_line()?;
            let length = line.len() as u64 + 1;
            if self.size + text.len() as u64 + length > self.most {
                self.append(&text)?;
                text.clear();
                self.turn_over()?;
            }
            text.extend_from_slice(&line);
            text.push(b'\n');
        }
        self.append(&text)
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        self.file.write_all(text)?;
        self.size += text.len() as u64;
        Ok(())
    }

    /// Begins a new file; the oldest goes.
    fn turn_over(&mut self) -> io::Result<()> {
        if self.size == 0 {
            return Ok(());
        }
        let numbered = |n: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        if self.older == 0 {
            fs::remove_file(&self.path)?;
        }
        for n in (0..self.older).rev() {
            let from = if n == 0 {
                self.path.clone()
            } else {
                numbered(n)
            };
            match fs::rename(from, numbered(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}
