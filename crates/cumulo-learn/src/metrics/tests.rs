use proptest::prelude::*;

use super::*;

fn close(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * (1.0 + a.abs()),
        _ => false,
    }
}

/// Every pair, as the definition says.
fn naive_auc(labels: &[f64], scores: &[f64], positive: f64) -> Option<f64> {
    let (mut wins, mut pairs) = (0.0, 0.0);
    for (i, a) in labels.iter().enumerate() {
        for (j, b) in labels.iter().enumerate() {
            if *a == positive && *b != positive {
                pairs += 1.0;
                wins += if scores[i] > scores[j] {
                    1.0
                } else if scores[i] == scores[j] {
                    0.5
                } else {
                    0.0
                };
            }
        }
    }
    (pairs > 0.0).then(|| wins / pairs)
}

fn binary_rows() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    prop::collection::vec((prop::bool::ANY, 0u8..12), 1..40).prop_map(|rows| {
        rows.into_iter()
            .map(|(label, score)| (f64::from(u8::from(label)), f64::from(score) / 11.0))
            .unzip()
    })
}

const BINARY: Kind = Kind::Binary { threshold: 0.5 };

proptest! {
    #[test]
    fn auc_is_the_share_of_ordered_pairs((labels, predictions) in binary_rows()) {
        let outcomes = Outcomes { labels: &labels, predictions: &predictions, kind: BINARY };
        prop_assert!(close(outcomes.metric(Metric::Auc), naive_auc(&labels, &predictions, 1.0)));
    }

    #[test]
    fn binary_metrics_agree_with_counting((labels, predictions) in binary_rows()) {
        let outcomes = Outcomes { labels: &labels, predictions: &predictions, kind: BINARY };
        let rows = labels.len() as f64;
        let count = |wanted: &dyn Fn(bool, bool) -> bool| labels.iter().zip(&predictions)
            .filter(|(label, score)| wanted(**label == 1.0, **score > 0.5)).count() as f64;
        let (tp, fp, fneg) = (count(&|l, p| l && p), count(&|l, p| !l && p), count(&|l, p| l && !p));
        let share = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        prop_assert!(close(outcomes.metric(Metric::Accuracy), Some(count(&|l, p| l == p) / rows)));
        prop_assert!(close(outcomes.metric(Metric::Precision), Some(share(tp, tp + fp))));
        prop_assert!(close(outcomes.metric(Metric::Recall), Some(share(tp, tp + fneg))));
        prop_assert!(close(outcomes.metric(Metric::F1), Some(share(2.0 * tp, 2.0 * tp + fp + fneg))));
        let brier = labels.iter().zip(&predictions).map(|(l, p)| (l - p) * (l - p)).sum::<f64>() / rows;
        prop_assert!(close(outcomes.metric(Metric::Brier), Some(brier)));
        let loss = labels.iter().zip(&predictions)
            .map(|(l, p)| -(if *l == 1.0 { *p } else { 1.0 - p }).clamp(1e-15, 1.0 - 1e-15).ln()).sum::<f64>() / rows;
        prop_assert!(close(outcomes.metric(Metric::LogLoss), Some(loss)));
    }

    /// Counting a row n times is the same as having it n times.
    #[test]
    fn weights_are_repetitions(
        (labels, predictions) in binary_rows(),
        repeats in prop::collection::vec(0u32..4, 40),
    ) {
        let weights = &repeats[..labels.len()];
        let repeat = |values: &[f64]| values.iter().zip(weights)
            .flat_map(|(value, weight)| std::iter::repeat_n(*value, *weight as usize)).collect::<Vec<_>>();
        for kind in [BINARY, Kind::Regression] {
            let weighted = Outcomes { labels: &labels, predictions: &predictions, kind };
            let (long_labels, long_predictions) = (repeat(&labels), repeat(&predictions));
            let repeated = Outcomes { labels: &long_labels, predictions: &long_predictions, kind };
            let ranked = weighted.rank();
            for metric in kind.metrics() {
                let (a, b) = (weighted.weighted(*metric, Some(&ranked), Some(weights)), repeated.metric(*metric));
                if !long_labels.is_empty() {
                    prop_assert!(close(a, b), "{metric}: {a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn regression_metrics_agree_with_their_definitions(
        rows in prop::collection::vec((-50i32..50, -50i32..50), 1..40),
    ) {
        let (labels, predictions): (Vec<f64>, Vec<f64>) =
            rows.iter().map(|(a, b)| (f64::from(*a), f64::from(*b))).unzip();
        let outcomes = Outcomes { labels: &labels, predictions: &predictions, kind: Kind::Regression };
        let n = labels.len() as f64;
        let squares: f64 = labels.iter().zip(&predictions).map(|(y, p)| (y - p).powi(2)).sum();
        let mean = labels.iter().sum::<f64>() / n;
        let spread: f64 = labels.iter().map(|y| (y - mean).powi(2)).sum();
        prop_assert!(close(outcomes.metric(Metric::Rmse), Some((squares / n).sqrt())));
        prop_assert!(close(outcomes.metric(Metric::Mae),
            Some(labels.iter().zip(&predictions).map(|(y, p)| (y - p).abs()).sum::<f64>() / n)));
        prop_assert!(close(outcomes.metric(Metric::R2), (spread > 0.0).then(|| 1.0 - squares / spread)));
        let shares: Vec<f64> = labels.iter().zip(&predictions).filter(|(y, _)| **y != 0.0)
            .map(|(y, p)| ((y - p) / y).abs()).collect();
        prop_assert!(close(outcomes.metric(Metric::Mape),
            (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)));
    }

    /// Two classes told as several give the same accuracy, loss and ranking.
    #[test]
    fn two_classes_are_a_case_of_several((labels, predictions) in binary_rows()) {
        let both: Vec<f64> = predictions.iter().flat_map(|p| [1.0 - p, *p]).collect();
        let two = Outcomes { labels: &labels, predictions: &predictions, kind: BINARY };
        let several = Outcomes { labels: &labels, predictions: &both, kind: Kind::Multiclass { classes: 2 } };
        for metric in [Metric::Accuracy, Metric::LogLoss, Metric::Auc] {
            prop_assert!(close(two.metric(metric), several.metric(metric)), "{metric}");
        }
        prop_assert!(close(two.metric(Metric::Brier).map(|brier| 2.0 * brier), several.metric(Metric::Brier)));
    }
}

#[test]
fn several_classes_are_averaged() {
    let labels = [0.0, 0.0, 1.0, 2.0];
    let predictions = [
        0.8, 0.1, 0.1, //
        0.2, 0.5, 0.3, //
        0.1, 0.7, 0.2, //
        0.2, 0.2, 0.6,
    ];
    let outcomes = Outcomes {
        labels: &labels,
        predictions: &predictions,
        kind: Kind::Multiclass { classes: 3 },
    };
    assert!(close(outcomes.metric(Metric::Accuracy), Some(0.75)));
    // precision 1, 1/2, 1; recall 1/2, 1, 1; F1 2/3, 2/3, 1
    assert!(close(outcomes.metric(Metric::Precision), Some(2.5 / 3.0)));
    assert!(close(outcomes.metric(Metric::Recall), Some(2.5 / 3.0)));
    assert!(close(
        outcomes.metric(Metric::F1),
        Some((2.0 / 3.0 + 2.0 / 3.0 + 1.0) / 3.0)
    ));
}

#[test]
fn what_is_not_defined_is_not_made_up() {
    let outcomes = Outcomes {
        labels: &[1.0, 1.0],
        predictions: &[0.2, 0.9],
        kind: BINARY,
    };
    assert_eq!(outcomes.metric(Metric::Auc), None);
    assert_eq!(outcomes.metric(Metric::Rmse), None);
    assert!(!outcomes.all().contains_key("auc"));
    let not_a_number = Outcomes {
        labels: &[0.0, 1.0],
        predictions: &[f64::NAN, 0.9],
        kind: BINARY,
    };
    assert_eq!(not_a_number.metric(Metric::Auc), None);
}

#[test]
fn slices_show_the_largest_groups_and_collect_the_rest() {
    let rows = 300;
    let labels: Vec<f64> = (0..rows)
        .map(|row| f64::from(u8::from(row % 3 == 0)))
        .collect();
    let predictions: Vec<f64> = (0..rows).map(|row| f64::from(row as u32) / 300.0).collect();
    let groups: Vec<usize> = (0..rows)
        .map(|row| if row < 150 { 0 } else { 1 + row % 30 })
        .collect();
    let names: Vec<String> = (0..31).map(|group| format!("group {group}")).collect();
    let outcomes = Outcomes {
        labels: &labels,
        predictions: &predictions,
        kind: BINARY,
    };
    let slices = slices(&outcomes, Metric::Accuracy, &groups, &names);
    assert_eq!(slices.len(), MAX_SLICES);
    assert_eq!((slices[0].value.as_str(), slices[0].rows), ("group 0", 150));
    assert_eq!(slices[MAX_SLICES - 1].value, "(other)");
    assert_eq!(slices.iter().map(|slice| slice.rows).sum::<usize>(), rows);
}

#[test]
fn metric_names_are_read_and_corrected() {
    assert_eq!(Metric::parse("ROC_AUC"), Ok(Metric::Auc));
    assert_eq!(Metric::parse("log_loss"), Ok(Metric::LogLoss));
    insta::assert_snapshot!(Metric::parse("accurracy").unwrap_err(), @"`accurracy` is no metric; there are `accuracy`");
    insta::assert_snapshot!(Metric::parse("gini").unwrap_err(), @"`gini` is no metric; there are `auc`, `logloss`, `brier`, `accuracy`, `precision`, `recall`, `f1`, `rmse`, `mae`, `r2`, `mape`");
}
