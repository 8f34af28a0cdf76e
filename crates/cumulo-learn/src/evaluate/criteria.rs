//! Acceptance criteria: `auc: ">= 0.75"`.

use std::collections::BTreeMap;

use crate::metrics::{Metric, UnknownMetric};

/// How a value must stand to its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
}

impl Relation {
    fn sign(self) -> &'static str {
        match self {
            Relation::Above => ">",
            Relation::AtLeast => ">=",
            Relation::Below => "<",
            Relation::AtMost => "<=",
        }
    }

    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Relation::Above => value > bound,
            Relation::AtLeast => value >= bound,
            Relation::Below => value < bound,
            Relation::AtMost => value <= bound,
        }
    }
}

/// A metric with its bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Criterion {
    /// The metric.
    pub metric: Metric,
    /// The relation.
    pub relation: Relation,
    /// The bound.
    pub bound: f64,
}

/// Criteria that all must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Criteria(Vec<Criterion>);

/// A text that is no criterion.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CriteriaError {
    /// The metric is unknown.
    #[error(transparent)]
    Metric(#[from] UnknownMetric),
    /// The bound cannot be read.
    #[error(
        "the criterion {text:?} for `{metric}` is not understood; write a relation and a number, as in {example:?}"
    )]
    Bound {
        /// The metric.
        metric: String,
        /// The text.
        text: String,
        /// One that works.
        example: String,
    },
}

impl Criterion {
    /// Reads `">= 0.75"`; a number alone means at least (at most where less is better).
    pub fn parse(metric: &str, text: &str) -> Result<Self, CriteriaError> {
        let known = Metric::parse(metric)?;
        let trimmed = text.trim();
        let default = if known.higher_is_better() {
            Relation::AtLeast
        } else {
            Relation::AtMost
        };
        let (relation, rest) = [
            (">=", Relation::AtLeast),
            ("≥", Relation::AtLeast),
            ("<=", Relation::AtMost),
            ("≤", Relation::AtMost),
            (">", Relation::Above),
            ("<", Relation::Below),
        ]
        .into_iter()
        .find_map(|(sign, relation)| Some((relation, trimmed.strip_prefix(sign)?)))
        .unwrap_or((default, trimmed));
        match rest.trim().parse::<f64>() {
            Ok(bound) if bound.is_finite() => Ok(Self {
                metric: known,
                relation,
                bound,
            }),
            _ => Err(CriteriaError::Bound {
                metric: metric.to_owned(),
                text: text.to_owned(),
                example: format!("{} 0.75", default.sign()),
            }),
        }
    }

    /// Why it is not met; none when it is.
    pub(super) fn failure(&self, metrics: &BTreeMap<String, f64>) -> Option<String> {
        let name = self.metric.name();
        let (sign, bound) = (self.relation.sign(), self.bound);
        match metrics.get(name) {
            None => Some(format!(
                "{name} is not defined on these rows, {sign} {bound} is asked"
            )),
            Some(value) if self.relation.holds(*value, bound) => None,
            Some(value) => Some(format!(
                "{name} is {}, {sign} {bound} is asked",
                precise(*value, bound)
            )),
        }
    }
}

impl Criteria {
    /// Reads criteria by metric.
    pub fn parse<'a>(
        criteria: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, CriteriaError> {
        criteria
            .into_iter()
            .map(|(metric, text)| Criterion::parse(metric, text))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The criteria.
    pub fn iter(&self) -> impl Iterator<Item = &Criterion> {
        self.0.iter()
    }

    /// The values with their bounds; none without criteria.
    pub(super) fn describe(&self, metrics: &BTreeMap<String, f64>) -> Option<String> {
        let parts: Vec<String> = self
            .0
            .iter()
            .filter_map(|criterion| {
                let name = criterion.metric.name();
                let value = precise(*metrics.get(name)?, criterion.bound);
                Some(format!(
                    "{name} {value} {} {}",
                    criterion.relation.sign(),
                    criterion.bound
                ))
            })
            .collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// Four decimals, or more where they would hide on which side of the bound a value lies.
fn precise(value: f64, bound: f64) -> String {
    for decimals in [4, 6, 9] {
        let text = format!("{value:.decimals$}");
        if value == bound || text.parse::<f64>().is_ok_and(|shown| shown != bound) {
            return text;
        }
    }
    value.to_string()
}
