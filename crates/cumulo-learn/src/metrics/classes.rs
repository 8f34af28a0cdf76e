//! Precision, recall and F1.

use super::{Kind, Metric, Outcomes, Weights, weight};

/// Of the positive class with two classes, otherwise the mean over classes that
/// occur as a label or as a prediction.
pub(super) fn score(outcomes: &Outcomes<'_>, metric: Metric, weights: Weights<'_>) -> Option<f64> {
    let classes = match outcomes.kind {
        Kind::Multiclass { classes } => classes,
        _ => 2,
    };
    let mut right = vec![0.0; classes];
    let mut predicted = vec![0.0; classes];
    let mut actual = vec![0.0; classes];
    for row in 0..outcomes.labels.len() {
        let weight = weight(weights, row);
        let class = outcomes.class(row);
        let label = outcomes.labels[row] as usize;
        predicted[class] += weight;
        *actual.get_mut(label)? += weight;
        if class == label {
            right[class] += weight;
        }
    }
    let of = |class: usize| {
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        match metric {
            Metric::Precision => share(right[class], predicted[class]),
            Metric::Recall => share(right[class], actual[class]),
            _ => share(2.0 * right[class], predicted[class] + actual[class]),
        }
    };
    if let Kind::Binary { .. } = outcomes.kind {
        return Some(of(1));
    }
    let present: Vec<usize> = (0..classes)
        .filter(|class| predicted[*class] + actual[*class] > 0.0)
        .collect();
    (!present.is_empty())
        .then(|| present.iter().map(|class| of(*class)).sum::<f64>() / present.len() as f64)
}
