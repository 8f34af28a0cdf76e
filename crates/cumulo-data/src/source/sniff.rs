//! What a file is, by its first and last bytes, against what it is said to be.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::SourceFile;
use super::error::SourceError;
use crate::request::{FileFormatName, SourceSpec};

/// How many bytes are looked at.
pub const SAMPLE: u64 = 8192;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// By the first bytes.
    pub fn of(start: &[u8]) -> Self {
        if start.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::None
        }
    }

    /// Opens a file and decompresses it on the way.
    pub fn open(self, path: &Path) -> std::io::Result<Box<dyn Read + Send>> {
        let file = BufReader::with_capacity(1 << 17, File::open(path)?);
        Ok(match self {
            Self::None => Box::new(file),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
        })
    }
}

/// The format that a name's extension means, and whether it is tab-separated.
/// Compression's extension and a URL's query are looked through.
pub fn format_of_name(name: &str) -> Option<(FileFormatName, bool)> {
    let extension = extension(name)?;
    Some(match extension.as_str() {
        "parquet" | "pq" => (FileFormatName::Parquet, false),
        "csv" | "txt" => (FileFormatName::Csv, false),
        "tsv" => (FileFormatName::Csv, true),
        "json" | "jsonl" | "ndjson" => (FileFormatName::Json, false),
        "arrow" | "feather" | "ipc" => (FileFormatName::Arrow, false),
        _ => return None,
    })
}

fn extension(name: &str) -> Option<String> {
    let name = if name.contains("://") {
        name.split(['?', '#']).next().unwrap_or(name)
    } else {
        name
    };
    let name = name.rsplit('/').next()?.to_ascii_lowercase();
    let name = compression_of_name(&name).map_or(name.as_str(), |(_, stem)| stem);
    name.rsplit_once('.')
        .map(|(_, extension)| extension.to_owned())
}

fn compression_of_name(name: &str) -> Option<(Compression, &str)> {
    [
        (".gz", Compression::Gzip),
        (".gzip", Compression::Gzip),
        (".zst", Compression::Zstd),
        (".zstd", Compression::Zstd),
    ]
    .into_iter()
    .find_map(|(suffix, compression)| Some((compression, name.strip_suffix(suffix)?)))
}

/// What some first bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    Parquet,
    Arrow,
    ArrowStream,
    Gzip,
    Zstd,
    Zip,
    Bzip2,
    Xz,
    Sqlite,
    Pdf,
    Html,
    JsonArray,
    JsonLines,
    Utf16,
    Text,
    OtherEncoding,
    Binary,
}

impl Looks {
    fn describe(self) -> &'static str {
        match self {
            Self::Parquet => "Parquet",
            Self::Arrow => "Arrow IPC",
            Self::ArrowStream => "an Arrow IPC stream",
            Self::Gzip => "gzip-compressed data",
            Self::Zstd => "zstd-compressed data",
            Self::Zip => "a zip archive (or an Excel workbook)",
            Self::Bzip2 => "bzip2-compressed data",
            Self::Xz => "xz-compressed data",
            Self::Sqlite => "a SQLite database",
            Self::Pdf => "a PDF document",
            Self::Html => "an HTML page",
            Self::JsonArray => "one JSON array",
            Self::JsonLines => "JSON lines",
            Self::Utf16 => "text in UTF-16",
            Self::Text => "CSV or other text",
            Self::OtherEncoding => "text that is not UTF-8",
            Self::Binary => "binary data",
        }
    }

    fn of(start: &[u8]) -> Self {
        let magic: [(&[u8], Self); 12] = [
            (b"PAR1", Self::Parquet),
            (b"ARROW1", Self::Arrow),
            (&[0xff, 0xff, 0xff, 0xff], Self::ArrowStream),
            (&[0x1f, 0x8b], Self::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
            (b"PK\x03\x04", Self::Zip),
            (b"BZh", Self::Bzip2),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
            (b"SQLite format 3\0", Self::Sqlite),
            (b"%PDF-", Self::Pdf),
            (&[0xff, 0xfe], Self::Utf16),
            (&[0xfe, 0xff], Self::Utf16),
        ];
        if let Some((_, looks)) = magic.iter().find(|(bytes, _)| start.starts_with(bytes)) {
            return *looks;
        }
        if start.contains(&0) {
            return Self::Binary;
        }
        match std::str::from_utf8(start) {
            Err(error) if error.error_len().is_some() => return Self::OtherEncoding,
            _ => {}
        }
        let text = String::from_utf8_lossy(start);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let lower = text.get(..14).unwrap_or(text).to_ascii_lowercase();
        if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
            Self::Html
        } else if text.starts_with('[') {
            Self::JsonArray
        } else if text.starts_with('{') {
            Self::JsonLines
        } else {
            Self::Text
        }
    }
}

/// Refuses a file that is not what its extension or `format` says, or that
/// visibly ends too early.
pub(super) fn verify(
    spec: &SourceSpec,
    format: FileFormatName,
    file: &SourceFile,
    start: &[u8],
) -> Result<(), SourceError> {
    let lower = file.label.to_ascii_lowercase();
    let said = compression_of_name(&lower).map(|(compression, _)| compression);
    let mismatch = |claim: String, looks: Looks, advice: String| SourceError::Mismatch {
        source_name: spec.name.clone(),
        file: file.label.clone(),
        claim,
        looks: looks.describe().to_owned(),
        advice,
    };
    let claim = || match (spec.format, extension(&file.label)) {
        (None, Some(extension)) => format!("says .{extension}"),
        _ => format!("should be {format}"),
    };
    if let Some(said) = said
        && said != file.compression
    {
        let suffix = lower.rsplit('.').next().unwrap_or_default();
        return Err(mismatch(
            format!("says .{suffix}"),
            Looks::of(start),
            "give the file the extension of what it is".to_owned(),
        ));
    }
    let binary = matches!(format, FileFormatName::Parquet | FileFormatName::Arrow);
    if file.compression != Compression::None {
        if binary {
            return Err(mismatch(
                claim(),
                Looks::of(start),
                format!("{format} files are compressed inside; decompress the file"),
            ));
        }
        if said.is_none() && spec.format.is_none() {
            return Err(mismatch(
                claim(),
                Looks::of(start),
                "add .gz or .zst to its name".to_owned(),
            ));
        }
        return verify_compressed(spec, format, file, claim());
    }
    verify_content(spec, format, file, start, claim())?;
    verify_end(spec, format, file)
}

fn verify_compressed(
    spec: &SourceSpec,
    format: FileFormatName,
    file: &SourceFile,
    claim: String,
) -> Result<(), SourceError> {
    let mut start = Vec::new();
    file.compression
        .open(&file.path)
        .and_then(|reader| reader.take(SAMPLE).read_to_end(&mut start))
        .map_err(|error| decompression_error(&spec.name, file, &error))?;
    if start.is_empty() {
        return Err(SourceError::Empty {
            source_name: spec.name.clone(),
            file: file.label.clone(),
        });
    }
    verify_content(spec, format, file, &start, claim)
}

/// What a failing decompressor means.
pub(super) fn decompression_error(
    source_name: &str,
    file: &SourceFile,
    error: &std::io::Error,
) -> SourceError {
    let text = error.to_string();
    let kind = match file.compression {
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
        Compression::None => {
            return SourceError::Malformed {
                source_name: source_name.to_owned(),
                file: file.label.clone(),
                line: None,
                problem: text,
            };
        }
    };
    if error.kind() == std::io::ErrorKind::UnexpectedEof || text.contains("incomplete frame") {
        SourceError::Truncated {
            source_name: source_name.to_owned(),
            file: file.label.clone(),
            problem: format!("its {kind} data ends in the middle"),
        }
    } else {
        SourceError::Malformed {
            source_name: source_name.to_owned(),
            file: file.label.clone(),
            line: None,
            problem: format!("its {kind} data is damaged ({text}); get the file again"),
        }
    }
}

fn verify_content(
    spec: &SourceSpec,
    format: FileFormatName,
    file: &SourceFile,
    start: &[u8],
    claim: String,
) -> Result<(), SourceError> {
    let looks = Looks::of(start);
    let good = match format {
        FileFormatName::Parquet => looks == Looks::Parquet,
        FileFormatName::Arrow => looks == Looks::Arrow,
        FileFormatName::Json => looks == Looks::JsonLines,
        // A CSV file may start with a bracket or a brace: then its lines decide.
        FileFormatName::Csv => matches!(looks, Looks::Text | Looks::JsonArray | Looks::JsonLines),
    };
    if good && !(format == FileFormatName::Csv && looks == Looks::JsonLines && parses(start)) {
        return Ok(());
    }
    let advice = match looks {
        Looks::Html => "the address probably answers with a web page rather than the file",
        Looks::JsonArray => "give one object a line (jq -c '.[]' makes it so)",
        Looks::Utf16 | Looks::OtherEncoding => "convert it to UTF-8 (iconv -t utf-8)",
        Looks::ArrowStream => "write it as an Arrow IPC file (random access), or as Parquet",
        Looks::Zip | Looks::Bzip2 | Looks::Xz => {
            "extract it, or compress it with gzip or zstd instead"
        }
        Looks::Parquet | Looks::Arrow | Looks::JsonLines | Looks::Text => {
            "correct the extension or give `format`"
        }
        _ => "give a Parquet, CSV, JSON lines or Arrow file",
    };
    Err(SourceError::Mismatch {
        source_name: spec.name.clone(),
        file: file.label.clone(),
        claim,
        looks: looks.describe().to_owned(),
        advice: advice.to_owned(),
    })
}

/// Whether the first line is a JSON object.
fn parses(start: &[u8]) -> bool {
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or(start);
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line).is_ok()
}

/// Parquet and Arrow files end with their magic bytes: without them the file was cut.
fn verify_end(
    spec: &SourceSpec,
    format: FileFormatName,
    file: &SourceFile,
) -> Result<(), SourceError> {
    let magic: &[u8] = match format {
        FileFormatName::Parquet => b"PAR1",
        FileFormatName::Arrow => b"ARROW1",
        FileFormatName::Csv | FileFormatName::Json => return Ok(()),
    };
    let io = |error| SourceError::io(&spec.name, &file.path, error);
    let mut end = vec![0; magic.len()];
    let enough = file.bytes >= 2 * magic.len() as u64;
    if enough {
        let mut input = File::open(&file.path).map_err(io)?;
        input
            .seek(SeekFrom::Start(file.bytes - magic.len() as u64))
            .and_then(|_| input.read_exact(&mut end))
            .map_err(io)?;
    }
    if enough && end == magic {
        return Ok(());
    }
    Err(SourceError::Truncated {
        source_name: spec.name.clone(),
        file: file.label.clone(),
        problem: format!("{format} files end with a footer, and this one does not"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_read_through_compression_and_queries() {
        let format = format_of_name;
        assert_eq!(format("a/b.csv.gz"), Some((FileFormatName::Csv, false)));
        assert_eq!(format("B.TSV.ZST"), Some((FileFormatName::Csv, true)));
        assert_eq!(
            format("https://x.org/f.parquet?sig=1.csv"),
            Some((FileFormatName::Parquet, false))
        );
        assert_eq!(format("a.ndjson"), Some((FileFormatName::Json, false)));
        assert_eq!(format("a.xlsx"), None);
        assert_eq!(format("gz"), None);
    }

    #[test]
    fn first_bytes_tell() {
        assert_eq!(Looks::of(b"PAR1xxxx"), Looks::Parquet);
        assert_eq!(Looks::of(b"a,b\n1,2\n"), Looks::Text);
        assert_eq!(Looks::of(b"  {\"a\":1}"), Looks::JsonLines);
        assert_eq!(Looks::of(b"<!DOCTYPE html><html>"), Looks::Html);
        assert_eq!(Looks::of(b"caf\xe9,1\n"), Looks::OtherEncoding);
        assert_eq!(Looks::of(b"ab\0c"), Looks::Binary);
        // A sample that cuts a character in two is still text.
        assert_eq!(Looks::of(b"caf\xc3"), Looks::Text);
    }
}
