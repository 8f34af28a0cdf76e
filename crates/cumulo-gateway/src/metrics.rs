//! Counters per service, as Prometheus text.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;

use crate::dispatch::Counts;
use crate::table::ServiceKey;

const REQUESTS: &str = "cumulo_gateway_requests_total";
const SECONDS: &str = "cumulo_gateway_request_seconds";
const IN_FLIGHT: &str = "cumulo_gateway_requests_in_flight";
const QUEUED: &str = "cumulo_gateway_requests_queued";
const REPLICAS: &str = "cumulo_gateway_replicas";
const RETRIES: &str = "cumulo_gateway_retries_total";

/// Upper bounds of the latency buckets in microseconds.
const BOUNDS: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000, 30_000_000,
];

/// Statuses are counted by class and, for the two that say something of
/// capacity, each by itself; a client can't make new series.
const CODES: [&str; 7] = ["2xx", "3xx", "4xx", "429", "5xx", "503", "other"];

fn code(status: StatusCode) -> usize {
    match status.as_u16() {
        429 => 3,
        503 => 5,
        200..300 => 0,
        300..400 => 1,
        400..500 => 2,
        500..600 => 4,
        _ => 6,
    }
}

/// One service's counters.
#[derive(Debug, Default)]
pub(crate) struct ServiceMetrics {
    codes: [AtomicU64; CODES.len()],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
    retries: AtomicU64,
}

impl ServiceMetrics {
    pub(crate) fn observe(&self, status: StatusCode, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < microseconds);
        self.codes[code(status)].fetch_add(1, Ordering::Relaxed);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }
}

/// All services as Prometheus text, series of one metric together.
pub(crate) fn render(
    services: &[(ServiceKey, std::sync::Arc<crate::service::Service>, Counts)],
) -> String {
    let mut text = String::new();
    let labels =
        |key: &ServiceKey| format!("namespace=\"{}\",service=\"{}\"", key.namespace, key.name);
    let _ = writeln!(
        text,
        "# HELP {REQUESTS} Inference requests answered, by class of status.\n# TYPE {REQUESTS} counter"
    );
    for (key, service, _) in services {
        for (index, code) in CODES.iter().enumerate() {
            let count = service.metrics.codes[index].load(Ordering::Relaxed);
            if count > 0 {
                let _ = writeln!(
                    text,
                    "{REQUESTS}{{{},code=\"{code}\"}} {count}",
                    labels(key)
                );
            }
        }
    }
    let _ = writeln!(
        text,
        "# HELP {SECONDS} Time from the request to the head of its answer, waiting included.\n# TYPE {SECONDS} histogram"
    );
    for (key, service, _) in services {
        let labels = labels(key);
        let mut sum = 0;
        for (index, bucket) in service.metrics.buckets.iter().enumerate() {
            sum += bucket.load(Ordering::Relaxed);
            match BOUNDS.get(index) {
                Some(bound) => {
                    let seconds = *bound as f64 / 1e6;
                    let _ = writeln!(text, "{SECONDS}_bucket{{{labels},le=\"{seconds}\"}} {sum}");
                }
                None => {
                    let _ = writeln!(text, "{SECONDS}_bucket{{{labels},le=\"+Inf\"}} {sum}");
                }
            }
        }
        let total = service.metrics.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(
            text,
            "{SECONDS}_sum{{{labels}}} {total}\n{SECONDS}_count{{{labels}}} {sum}"
        );
    }
    let mut gauge = |name: &str,
                     help: &str,
                     kind: &str,
                     value: &dyn Fn(&crate::service::Service, &Counts) -> u64| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (key, service, counts) in services {
            let _ = writeln!(text, "{name}{{{}}} {}", labels(key), value(service, counts));
        }
    };
    gauge(
        IN_FLIGHT,
        "Requests at a replica now.",
        "gauge",
        &|_, counts| counts.in_flight as u64,
    );
    gauge(
        QUEUED,
        "Requests that wait for a replica now.",
        "gauge",
        &|_, counts| counts.queued as u64,
    );
    gauge(
        REPLICAS,
        "Replicas that take requests now.",
        "gauge",
        &|_, counts| counts.replicas as u64,
    );
    gauge(
        RETRIES,
        "Requests sent again to another replica.",
        "counter",
        &|service, _| service.metrics.retries.load(Ordering::Relaxed),
    );
    text
}
