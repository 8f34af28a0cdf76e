//! Trains on a Parquet file and writes the model folder:
//!
//! ```text
//! cargo run --release -p cumulo-learn --example train -- flights.parquet request.json folder
//! ```

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use cumulo_learn::artifact::{self, Identity};
use cumulo_learn::search::Trial;
use cumulo_learn::train::{HeldOut, Progress};
use cumulo_learn::{LoadedModel, TrainRequest, train};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

struct Stopwatch(Instant);

impl Progress for Stopwatch {
    fn elapsed(&mut self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    fn trial(&mut self, trial: &Trial) {
        println!(
            "trial {:3}  {:4} rounds  {:.4}  best {:.4}  {:5.1} s{}  {}",
            trial.trial,
            trial.rounds,
            trial.metric,
            trial.best,
            trial.elapsed,
            if trial.cut_short { " (cut short)" } else { "" },
            trial
                .settings
                .as_ref()
                .and_then(|settings| serde_json::to_string(settings).ok())
                .unwrap_or_default(),
        );
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, request, folder] = arguments.as_slice() else {
        return Err("usage: train DATA.parquet REQUEST.json FOLDER".into());
    };
    let mut watch = Stopwatch(Instant::now());
    let request: TrainRequest = serde_json::from_str(&std::fs::read_to_string(request)?)?;
    let batches = ParquetRecordBatchReaderBuilder::try_new(File::open(data)?)?
        .build()?
        .collect::<Result<Vec<_>, _>>()?;
    println!("read {data} in {:.2} s", watch.elapsed());
    let outcome = train(&request, &batches, &mut watch)?;
    for dropped in &outcome.plan.dropped {
        println!("not used: {} ({})", dropped.column, dropped.reason);
    }
    for (feature, share) in outcome.importance.iter().take(12) {
        println!("{:5.1}%  {feature}", share * 100.0);
    }
    println!("{:?} {:?}", outcome.winner, outcome.rows);
    println!(
        "held out: {:.4?} (baseline {:.4?})",
        outcome.metrics, outcome.baseline
    );
    println!(
        "trained in {:.2} s of {:.0} s",
        outcome.seconds, request.budget_seconds
    );

    let identity = Identity {
        model_uuid: "0".repeat(32),
        created: chrono::Utc::now(),
        run_id: None,
        model_id: None,
    };
    artifact::write(Path::new(folder), &outcome, &identity)?;
    let began = Instant::now();
    let model = LoadedModel::open(Path::new(folder))?;
    println!(
        "loaded {folder} in {:.1} ms",
        began.elapsed().as_secs_f64() * 1e3
    );
    let began = Instant::now();
    let held = HeldOut::new(&request, &batches)?;
    let scores = held.score(&model)?;
    println!(
        "scored {} held-out rows in {:.2} s: {:.4?}",
        held.rows(),
        began.elapsed().as_secs_f64(),
        scores.outcomes().all()
    );
    let columns = held.columns();
    let began = Instant::now();
    model.predict(&columns)?;
    println!(
        "predicted {} rows from columns in {:.2} s",
        columns.rows(),
        began.elapsed().as_secs_f64()
    );
    one_row(&model, &outcome.example)?;
    Ok(())
}

/// How long one row takes, encoding included.
fn one_row(model: &LoadedModel, example: &cumulo_learn::Columns) -> Result<(), Box<dyn Error>> {
    let row = cumulo_learn::Columns::new(
        example
            .iter()
            .map(|(name, column)| (name.to_owned(), first(column)))
            .collect(),
    )?;
    let mut times = Vec::with_capacity(2_000);
    for _ in 0..2_000 {
        let began = Instant::now();
        std::hint::black_box(model.predict(std::hint::black_box(&row))?);
        times.push(began.elapsed().as_nanos());
    }
    times.sort_unstable();
    println!(
        "one row: p50 {:.1} µs, p99 {:.1} µs ({} rounds, {} features)",
        times[1_000] as f64 / 1e3,
        times[1_980] as f64 / 1e3,
        model.trees().rounds(),
        model.trees().features()
    );
    Ok(())
}

fn first(column: &cumulo_learn::Column) -> cumulo_learn::Column {
    use cumulo_learn::Column;
    match column {
        Column::F64(values) => Column::F64(values[..1].to_vec()),
        Column::I64(values) => Column::I64(values[..1].to_vec()),
        Column::Bool(values) => Column::Bool(values[..1].to_vec()),
        Column::Str(values) => Column::Str(values[..1].to_vec()),
        Column::Timestamp(values) => Column::Timestamp(values[..1].to_vec()),
    }
}
