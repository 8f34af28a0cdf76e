//! Whether a candidate becomes the champion. Pure.

use std::collections::BTreeMap;
use std::fmt;

use cumulo_api::model::{Against, ModelSpec, Task};

/// A decision with the reason that a person reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may become the champion.
    Promote(String),
    /// The champion (or nothing) stays.
    Keep(String),
}

/// Metrics of which less is better.
const LESS_IS_BETTER: &[&str] = &[
    "brier", "error", "logloss", "log_loss", "mae", "mape", "mse", "rmse",
];

fn less_is_better(metric: &str) -> bool {
    LESS_IS_BETTER.contains(&metric)
}

/// The metric by which two versions are compared and the summary is made.
pub(crate) fn main_metric(spec: &ModelSpec, metrics: &BTreeMap<String, f64>) -> Option<String> {
    let asked = spec
        .train
        .automl
        .as_ref()
        .and_then(|automl| automl.metric.clone());
    let usual: &[&str] = match spec.task {
        Task::Classification => &["auc", "logloss", "accuracy", "f1"],
        Task::Regression => &["rmse", "mae", "r2"],
    };
    asked
        .into_iter()
        .chain(spec.evaluate.metrics.keys().cloned())
        .chain(usual.iter().map(|name| (*name).to_owned()))
        .chain(metrics.keys().cloned())
        .find(|name| metrics.contains_key(name))
}

/// One line for listings, such as `auc 0.691`.
pub(crate) fn summary(spec: &ModelSpec, metrics: &BTreeMap<String, f64>) -> Option<String> {
    let metric = main_metric(spec, metrics)?;
    let value = metrics.get(&metric)?;
    Some(format!("{metric} {}", Shown(*value)))
}

/// Decides on a candidate: it must meet every criterion, and where there is a
/// champion to compare with, be better on the same rows.
pub(crate) fn decide(
    spec: &ModelSpec,
    candidate: &BTreeMap<String, f64>,
    champion: Option<(&str, &BTreeMap<String, f64>)>,
) -> Verdict {
    let mut met = Vec::new();
    for (metric, criterion) in &spec.evaluate.metrics {
        let criterion = match Criterion::parse(criterion) {
            Ok(criterion) => criterion,
            Err(error) => return Verdict::Keep(format!("evaluate.metrics.{metric}: {error}")),
        };
        let Some(value) = candidate.get(metric) else {
            let known: Vec<&str> = candidate.keys().map(String::as_str).collect();
            return Verdict::Keep(format!(
                "the evaluation has no metric {metric:?}; it has {}",
                known.join(", ")
            ));
        };
        if !criterion.holds(*value) {
            return Verdict::Keep(format!(
                "{metric} is {} and must be {criterion}",
                Shown(*value)
            ));
        }
        met.push(format!("{metric} {} is {criterion}", Shown(*value)));
    }
    let criteria = if met.is_empty() {
        "no criterion is set".to_owned()
    } else {
        met.join(", ")
    };
    let (Some((version, before)), Against::Champion) = (champion, spec.evaluate.against) else {
        return Verdict::Promote(format!("{criteria}; there is no champion to beat"));
    };
    let Some(metric) = main_metric(spec, candidate) else {
        return Verdict::Keep("the evaluation gave no metric to compare by".to_owned());
    };
    let (Some(new), Some(old)) = (candidate.get(&metric), before.get(&metric)) else {
        return Verdict::Keep(format!(
            "champion {version} has no {metric} to compare with on these rows"
        ));
    };
    let better = if less_is_better(&metric) {
        new < old
    } else {
        new > old
    };
    let compared = format!(
        "{metric} {} against {} of champion {version} on the same rows",
        Shown(*new),
        Shown(*old)
    );
    if better {
        Verdict::Promote(format!("{criteria}; {compared}"))
    } else {
        Verdict::Keep(format!("not better than the champion: {compared}"))
    }
}

/// A metric as a person reads it.
struct Shown(f64);

impl fmt::Display for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 != 0.0 && self.0.abs() < 0.001 || self.0.abs() >= 1e6 {
            write!(formatter, "{:.3e}", self.0)
        } else {
            write!(formatter, "{:.4}", self.0)
        }
    }
}

/// A bound on a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Criterion {
    comparison: Comparison,
    bound: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    MoreThan,
    AtMost,
    LessThan,
}

impl Criterion {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (comparison, rest) = [
            (">=", Comparison::AtLeast),
            ("<=", Comparison::AtMost),
            (">", Comparison::MoreThan),
            ("<", Comparison::LessThan),
        ]
        .into_iter()
        .find_map(|(sign, comparison)| Some((comparison, text.strip_prefix(sign)?)))
        .ok_or_else(|| format!("{text:?} must begin with >=, >, <= or <, such as \">= 0.75\""))?;
        match rest.trim().parse::<f64>() {
            Ok(bound) if bound.is_finite() => Ok(Self { comparison, bound }),
            _ => Err(format!("{:?} is not a number, in {text:?}", rest.trim())),
        }
    }

    fn holds(self, value: f64) -> bool {
        match self.comparison {
            Comparison::AtLeast => value >= self.bound,
            Comparison::MoreThan => value > self.bound,
            Comparison::AtMost => value <= self.bound,
            Comparison::LessThan => value < self.bound,
        }
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.comparison {
            Comparison::AtLeast => ">=",
            Comparison::MoreThan => ">",
            Comparison::AtMost => "<=",
            Comparison::LessThan => "<",
        };
        write!(formatter, "{sign} {}", self.bound)
    }
}
