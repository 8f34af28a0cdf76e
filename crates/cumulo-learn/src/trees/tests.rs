use proptest::prelude::*;

use super::*;
use crate::booster::{Booster, Dataset, Matrix};
use crate::random::Random;

/// Rows of two numbers (one with gaps), a number with many zeros, and a category.
fn rows(seed: u64, count: usize) -> Vec<f64> {
    let mut random = Random::new(seed);
    let mut values = Vec::with_capacity(count * 4);
    for _ in 0..count {
        values.push(random.between(-5.0, 5.0));
        values.push(if random.unit() < 0.2 {
            f64::NAN
        } else {
            random.between(0.0, 1e6)
        });
        values.push(if random.unit() < 0.6 {
            0.0
        } else {
            random.between(-1.0, 1.0)
        });
        values.push(if random.unit() < 0.1 {
            f64::NAN
        } else {
            random.below(70) as f64
        });
    }
    values
}

fn labels(rows: &[f64], classes: usize) -> Vec<f32> {
    rows.chunks_exact(4)
        .map(|row| {
            let odd = if row[3].is_nan() {
                0.4
            } else {
                (row[3] % 3.0) / 3.0
            };
            let gap = f64::from(u8::from(row[1].is_nan()));
            let score = (row[0].sin() + odd + gap + row[2]).abs();
            match classes {
                0 => score as f32,
                classes => ((score * classes as f64 / 2.0) as usize).min(classes - 1) as f32,
            }
        })
        .collect()
}

/// Trains on random rows and compares our prediction with LightGBM's on others.
fn check(seed: u64, parameters: &str, classes: usize) {
    let training = rows(seed, 1_500);
    let outputs = if classes > 2 { classes } else { 1 };
    let parameters = format!(
        "{parameters} categorical_feature=3 verbosity=-1 num_threads=1 seed=1 min_data_in_leaf=5 min_data_per_group=5 learning_rate=0.2"
    );
    let matrix = |values| Matrix { values, columns: 4 };
    let data = Dataset::new(
        matrix(&training),
        &labels(&training, classes),
        &parameters,
        None,
    )
    .unwrap();
    let mut booster = Booster::new(&data, &parameters).unwrap();
    for _ in 0..20 {
        booster.update().unwrap();
    }
    let trees = Trees::parse(&booster.save(None).unwrap()).unwrap();
    assert_eq!(trees.outputs(), outputs);
    // Unseen categories and rows that do not fill a block are among them.
    let mut fresh = rows(seed ^ 1, 333);
    fresh[3] = 1_000.0;
    fresh[7] = -3.0;
    let theirs = booster.predict(matrix(&fresh), outputs).unwrap();
    let mut ours = vec![0.0; theirs.len()];
    trees.predict_into(&fresh, &mut ours);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!(
            (ours - theirs).abs() <= 1e-14 * theirs.abs().max(1.0),
            "{ours} {theirs}"
        );
    }
    let distinct: std::collections::BTreeSet<u64> = ours.iter().map(|v| v.to_bits()).collect();
    assert!(distinct.len() > 50, "the model tells rows apart");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn predictions_are_those_of_lightgbm(seed in any::<u64>()) {
        check(seed, "objective=regression", 0);
        check(seed, "objective=regression zero_as_missing=true", 0);
        check(seed, "objective=regression use_missing=false", 0);
        check(seed, "objective=regression_l1", 0);
        check(seed, "objective=binary", 2);
        check(seed, "objective=multiclass num_class=4", 4);
    }

    /// A damaged text is refused or evaluated, never a panic or an endless walk.
    #[test]
    fn a_damaged_text_does_no_harm(at in 0.0..1.0f64, byte in prop::sample::select(b"0123456789-= \n.aT".to_vec()), cut in any::<bool>()) {
        let mut bytes = small_model().into_bytes();
        let at = (at * bytes.len() as f64) as usize;
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let trees = Trees::parse(&String::from_utf8(bytes).unwrap());
        if let Ok(trees) = trees && trees.features() < 100 && trees.outputs() < 100 {
            let row = vec![0.5; trees.features()];
            trees.predict_into(&row, &mut vec![0.0; trees.outputs()]);
        }
    }
}

fn small_model() -> String {
    let training = rows(3, 300);
    let parameters = "objective=binary categorical_feature=3 verbosity=-1 num_threads=1 num_leaves=5 min_data_per_group=5";
    let data = Dataset::new(
        Matrix {
            values: &training,
            columns: 4,
        },
        &labels(&training, 2),
        parameters,
        None,
    )
    .unwrap();
    let mut booster = Booster::new(&data, parameters).unwrap();
    for _ in 0..3 {
        booster.update().unwrap();
    }
    booster.save(None).unwrap()
}

#[test]
fn features_that_no_tree_splits_on_are_known() {
    let trees = Trees::parse(&small_model()).unwrap();
    assert_eq!(trees.features(), 4);
    assert_eq!(trees.rounds(), 3);
    assert!((0..4).any(|feature| trees.uses(feature)));
    assert!(!trees.uses(99));
}

#[test]
fn texts_of_other_things_are_refused() {
    let error = |text: &str| Trees::parse(text).unwrap_err().to_string();
    insta::assert_snapshot!(error("hello"), @"the model text has no `tree` in the header; it is cut off or not a LightGBM model");
    let model = small_model();
    insta::assert_snapshot!(error(&model[..model.find("end of trees").unwrap()]), @"the model text has no `end of trees` in its end; it is cut off or not a LightGBM model");
    insta::assert_snapshot!(error(&model.replace("objective=binary", "objective=lambdarank")), @"the model uses the objective `lambdarank`, which is not evaluated here; load it in Python instead");
    insta::assert_snapshot!(error(&model.replacen("num_leaves=5", "num_leaves=6", 1)), @"`leaf_value` in tree 0 of the model text is wrong: it holds 5 values where 6 belong");
}
