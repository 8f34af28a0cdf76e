//! Counts of what the controllers do.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Counts of reconciliations, by kind. Shared by the controllers and whoever shows them.
#[derive(Debug, Default)]
pub struct Metrics {
    kinds: Mutex<BTreeMap<&'static str, Counts>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    done: u64,
    failed: u64,
    time: Duration,
}

impl Metrics {
    pub(crate) fn record(&self, kind: &'static str, failed: bool, time: Duration) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = kinds.entry(kind).or_default();
        if failed {
            counts.failed += 1;
        } else {
            counts.done += 1;
        }
        counts.time += time;
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from(
            "# HELP cumulo_reconciliations_total Reconciliations by kind and outcome.\n# TYPE cumulo_reconciliations_total counter\n",
        );
        for (kind, counts) in kinds.iter() {
            for (outcome, count) in [("success", counts.done), ("failure", counts.failed)] {
                // Writing to a text cannot fail.
                let _ = writeln!(
                    text,
                    "cumulo_reconciliations_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} {count}"
                );
            }
        }
        text.push_str("# HELP cumulo_reconciliation_seconds_total Time spent in reconciliations.\n# TYPE cumulo_reconciliation_seconds_total counter\n");
        for (kind, counts) in kinds.iter() {
            let _ = writeln!(
                text,
                "cumulo_reconciliation_seconds_total{{kind=\"{kind}\"}} {:.6}",
                counts.time.as_secs_f64()
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown() {
        let metrics = Metrics::default();
        metrics.record("Dataset", false, Duration::from_millis(250));
        metrics.record("Dataset", true, Duration::from_millis(250));
        insta::assert_snapshot!(metrics.render(), @r#"
        # HELP cumulo_reconciliations_total Reconciliations by kind and outcome.
        # TYPE cumulo_reconciliations_total counter
        cumulo_reconciliations_total{kind="Dataset",outcome="success"} 1
        cumulo_reconciliations_total{kind="Dataset",outcome="failure"} 1
        # HELP cumulo_reconciliation_seconds_total Time spent in reconciliations.
        # TYPE cumulo_reconciliation_seconds_total counter
        cumulo_reconciliation_seconds_total{kind="Dataset"} 0.500000
        "#);
    }
}
