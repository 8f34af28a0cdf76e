use proptest::prelude::*;

use super::*;
use crate::metrics::Kind;

fn metrics(values: &[(&str, f64)]) -> BTreeMap<String, f64> {
    values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}

fn criteria(text: &[(&str, &str)]) -> Criteria {
    Criteria::parse(text.iter().copied()).unwrap()
}

fn decision(
    candidate: &[(&str, f64)],
    champion: Option<&[(&str, f64)]>,
    wanted: &[(&str, &str)],
    metric: Metric,
) -> String {
    let champion = champion.map(metrics);
    let decision = decide(
        &metrics(candidate),
        champion.as_ref(),
        &criteria(wanted),
        metric,
    );
    format!(
        "{}: {}",
        if decision.promotes() {
            "promote"
        } else {
            "keep"
        },
        decision.reason()
    )
}

#[test]
fn decisions_come_with_reasons() {
    insta::assert_snapshot!(decision(&[("auc", 0.6912)], None, &[("auc", ">= 0.68")], Metric::Auc),
        @"promote: there is no champion yet and it meets the criteria (auc 0.6912 >= 0.68)");
    insta::assert_snapshot!(decision(&[("auc", 0.67)], None, &[("auc", ">= 0.68")], Metric::Auc),
        @"keep: the candidate does not meet the criteria: auc is 0.6700, >= 0.68 is asked");
    insta::assert_snapshot!(decision(&[("auc", 0.679999)], None, &[("auc", ">= 0.68"), ("logloss", "< 0.5")], Metric::Auc),
        @"keep: the candidate does not meet the criteria: auc is 0.679999, >= 0.68 is asked; logloss is not defined on these rows, < 0.5 is asked");
    insta::assert_snapshot!(decision(&[("auc", 0.70)], Some(&[("auc", 0.69)]), &[("auc", "0.68")], Metric::Auc),
        @"promote: the candidate is better than the champion: auc 0.7000 against 0.6900 on the same rows; it meets the criteria (auc 0.7000 >= 0.68)");
    insta::assert_snapshot!(decision(&[("auc", 0.69)], Some(&[("auc", 0.69)]), &[], Metric::Auc),
        @"keep: the candidate is not better than the champion: auc 0.6900 against 0.6900 on the same rows");
    insta::assert_snapshot!(decision(&[("rmse", 1.5)], Some(&[("rmse", 2.5)]), &[("rmse", "<= 2")], Metric::Rmse),
        @"promote: the candidate is better than the champion: rmse 1.5000 against 2.5000 on the same rows; it meets the criteria (rmse 1.5000 <= 2)");
    insta::assert_snapshot!(decision(&[("brier", 0.1)], Some(&[("auc", 0.7)]), &[], Metric::Auc),
        @"keep: the candidate has no auc on these rows, so nothing says that it is better");
}

#[test]
fn criteria_are_read_and_corrected() {
    let error = |metric: &str, text: &str| Criterion::parse(metric, text).unwrap_err().to_string();
    assert_eq!(
        Criterion::parse("auc", "≥0.7").unwrap(),
        Criterion {
            metric: Metric::Auc,
            relation: Relation::AtLeast,
            bound: 0.7
        }
    );
    assert_eq!(
        Criterion::parse("logloss", " 0.5 ").unwrap().relation,
        Relation::AtMost
    );
    insta::assert_snapshot!(error("auc", "=> 0.7"), @r#"the criterion "=> 0.7" for `auc` is not understood; write a relation and a number, as in ">= 0.75""#);
    insta::assert_snapshot!(error("rmse", "small"), @r#"the criterion "small" for `rmse` is not understood; write a relation and a number, as in "<= 0.75""#);
    insta::assert_snapshot!(error("acuracy", "> 0.7"), @"`acuracy` is no metric; there are `accuracy`");
}

const BINARY: Kind = Kind::Binary { threshold: 0.5 };

proptest! {
    /// A model compared with itself differs by nothing, and an exchange of sides changes the sign.
    #[test]
    fn a_comparison_is_fair(
        rows in prop::collection::vec((prop::bool::ANY, 0u8..10, 0u8..10), 20..60),
        seed in any::<u64>(),
    ) {
        let labels: Vec<f64> = rows.iter().map(|row| f64::from(u8::from(row.0))).collect();
        let a: Vec<f64> = rows.iter().map(|row| f64::from(row.1) / 9.0).collect();
        let b: Vec<f64> = rows.iter().map(|row| f64::from(row.2) / 9.0).collect();
        let first = Outcomes { labels: &labels, predictions: &a, kind: BINARY };
        let second = Outcomes { labels: &labels, predictions: &b, kind: BINARY };
        for metric in [Metric::Auc, Metric::Brier] {
            let ask = |x: &Outcomes<'_>, y: &Outcomes<'_>| compare(x, Some(y), metric, seed).unwrap().difference;
            if let Some(same) = ask(&first, &first) {
                prop_assert_eq!((same.value, same.low, same.high), (0.0, 0.0, 0.0));
            }
            if let (Some(there), Some(back)) = (ask(&first, &second), ask(&second, &first)) {
                prop_assert!((there.value + back.value).abs() < 1e-12);
                prop_assert!(there.low <= there.high);
                prop_assert_eq!(Some(there), ask(&first, &second));
            }
        }
    }

    /// Whatever the numbers, a candidate is promoted only if it meets the criteria and is better.
    #[test]
    fn no_worse_model_is_promoted(ours in 0.0..1.0f64, theirs in prop::option::of(0.0..1.0f64), bound in 0.0..1.0f64) {
        for (metric, sign) in [(Metric::Auc, ">="), (Metric::LogLoss, "<=")] {
            let name = metric.name();
            let champion = theirs.map(|theirs| metrics(&[(name, theirs)]));
            let wanted = Criteria::parse([(name, format!("{sign} {bound}").as_str())]).unwrap();
            let decision = decide(&metrics(&[(name, ours)]), champion.as_ref(), &wanted, metric);
            let meets = if metric.higher_is_better() { ours >= bound } else { ours <= bound };
            let better = theirs.is_none_or(|theirs| metric.better(ours, theirs));
            prop_assert_eq!(decision.promotes(), meets && better);
        }
    }
}

#[test]
fn a_clear_difference_has_an_interval_above_zero() {
    let labels: Vec<f64> = (0..400).map(|row| f64::from(row % 2)).collect();
    let good: Vec<f64> = (0..400)
        .map(|row| f64::from(row % 2) * 0.6 + f64::from(row % 7) / 20.0)
        .collect();
    let poor: Vec<f64> = (0..400).map(|row| f64::from(row % 13) / 13.0).collect();
    let outcomes = |predictions| Outcomes {
        labels: &labels,
        predictions,
        kind: BINARY,
    };
    let evaluation = compare(&outcomes(&good), Some(&outcomes(&poor)), Metric::Auc, 1).unwrap();
    let difference = evaluation.difference.unwrap();
    assert!(
        0.0 < difference.low
            && difference.low < difference.value
            && difference.value < difference.high
    );
    let decision = decide_evaluation(&evaluation, &Criteria::default(), Metric::Auc);
    assert!(
        decision.promotes() && decision.reason().contains("95% interval"),
        "{}",
        decision.reason()
    );
    let short = Outcomes {
        labels: &labels[..9],
        predictions: &poor[..9],
        kind: BINARY,
    };
    insta::assert_snapshot!(compare(&outcomes(&good), Some(&short), Metric::Auc, 1).unwrap_err(),
        @"the candidate was scored on 400 rows and the champion on 9; both must meet the same rows");
}
