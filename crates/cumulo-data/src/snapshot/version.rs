//! A snapshot's version: a hash over everything that decides its rows.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::query::canonical::canonical;
use crate::source::ResolvedSource;

/// Counts up when the same sources and query would give other rows or files,
/// as after a change of type inference.
pub const FORMAT_GENERATION: u32 = 1;

/// The version of a query over sources: the first 16 hex digits of the SHA-256
/// of a canonical record. File names, paths and the machine do not enter it.
pub fn version(query: &str, sources: &[ResolvedSource]) -> String {
    let mut sorted: Vec<&ResolvedSource> = sources.iter().collect();
    sorted.sort_by(|left, right| left.name().cmp(right.name()));
    let sources: Vec<serde_json::Value> = sorted
        .iter()
        .map(|source| {
            let text = matches!(source.format, crate::request::FileFormatName::Csv);
            // Effective values: spelling a default out changes nothing.
            let options = if text {
                json!({
                    "delimiter": char::from(source.delimiter).to_string(),
                    "header": source.has_header(),
                    "nullValues": source.spec.options.effective_null_values(),
                })
            } else {
                json!({})
            };
            json!({
                "name": source.name(),
                "format": source.format,
                "options": options,
                "files": source.files.iter().map(|file| &file.sha256).collect::<Vec<_>>(),
            })
        })
        .collect();
    let record = json!({
        "generation": FORMAT_GENERATION,
        "query": canonical(query),
        "sources": sources,
    });
    let mut hash = hex::encode(Sha256::digest(record.to_string().as_bytes()));
    hash.truncate(16);
    hash
}
