//! Counters as Prometheus text.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const REQUESTS: &str = "cumulo_serve_requests_total";
const SECONDS: &str = "cumulo_serve_request_seconds";
const IN_FLIGHT: &str = "cumulo_serve_requests_in_flight";
const ROWS: &str = "cumulo_serve_rows_total";

/// Upper bounds of the latency buckets in microseconds.
const BOUNDS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000, 30_000_000,
];
/// Classes of statuses.
const CODES: [&str; 4] = ["2xx", "4xx", "5xx", "other"];

/// The server's counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    codes: [AtomicU64; CODES.len()],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
    rows: AtomicU64,
    in_flight: AtomicI64,
}

/// Counts a request as in flight until it is dropped.
pub(crate) struct InFlight<'a>(&'a Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    pub(crate) fn observe(&self, status: u16, took: Duration) {
        let code = match status {
            200..300 => 0,
            400..500 => 1,
            500..600 => 2,
            _ => 3,
        };
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.codes[code].fetch_add(1, Ordering::Relaxed);
        let bucket = BOUNDS.partition_point(|bound| *bound < microseconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    pub(crate) fn rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn render(&self, model: &str) -> String {
        let label = format!(
            "model=\"{}\"",
            model.replace('\\', "\\\\").replace('"', "\\\"")
        );
        let mut text = String::new();
        let _ = writeln!(
            text,
            "# HELP {REQUESTS} Inference requests answered, by class of status.\n# TYPE {REQUESTS} counter"
        );
        for (code, count) in CODES.iter().zip(&self.codes) {
            let count = count.load(Ordering::Relaxed);
            let _ = writeln!(text, "{REQUESTS}{{{label},code=\"{code}\"}} {count}");
        }
        let _ = writeln!(
            text,
            "# HELP {SECONDS} Time from the whole request to its answer.\n# TYPE {SECONDS} histogram"
        );
        let mut sum = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            sum += bucket.load(Ordering::Relaxed);
            let bound = BOUNDS
                .get(index)
                .map(|bound| (*bound as f64 / 1e6).to_string());
            let bound = bound.unwrap_or_else(|| "+Inf".into());
            let _ = writeln!(text, "{SECONDS}_bucket{{{label},le=\"{bound}\"}} {sum}");
        }
        let total = self.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(
            text,
            "{SECONDS}_sum{{{label}}} {total}\n{SECONDS}_count{{{label}}} {sum}"
        );
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let _ = writeln!(
            text,
            "# HELP {IN_FLIGHT} Inference requests being answered.\n# TYPE {IN_FLIGHT} gauge\n{IN_FLIGHT}{{{label}}} {in_flight}"
        );
        let rows = self.rows.load(Ordering::Relaxed);
        let _ = writeln!(
            text,
            "# HELP {ROWS} Rows predicted.\n# TYPE {ROWS} counter\n{ROWS}{{{label}}} {rows}"
        );
        text
    }
}
