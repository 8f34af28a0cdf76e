//! The area under the receiver operating characteristic.

use super::{Weights, weight};

/// Rows by rising prediction of a class.
pub(super) fn order(predictions: &[f64], class: usize, width: usize) -> Vec<u32> {
    let mut rows: Vec<u32> = (0..(predictions.len() / width) as u32).collect();
    let score = |row: &u32| predictions[*row as usize * width + class];
    rows.sort_unstable_by(|a, b| score(a).total_cmp(&score(b)));
    rows
}

/// The share of pairs of a positive and a negative row in which the positive
/// row's score is higher, ties counting half; rows in rising `order`.
pub(super) fn auc(
    order: &[u32],
    predictions: &[f64],
    class: usize,
    width: usize,
    labels: &[f64],
    positive: f64,
    weights: Weights<'_>,
) -> Option<f64> {
    let score = |row: u32| predictions[row as usize * width + class];
    let (mut below, mut wins, mut positives) = (0.0, 0.0, 0.0);
    let mut from = 0;
    while from < order.len() {
        let tied = score(order[from]);
        let (mut positive_ties, mut negative_ties) = (0.0, 0.0);
        let mut to = from;
        while to < order.len() && score(order[to]) == tied {
            let row = order[to] as usize;
            let weight = weight(weights, row);
            if labels[row] == positive {
                positive_ties += weight;
            } else {
                negative_ties += weight;
            }
            to += 1;
        }
        if to == from {
            // A score that is not a number ranks nothing.
            return None;
        }
        wins += positive_ties * (below + negative_ties / 2.0);
        positives += positive_ties;
        below += negative_ties;
        from = to;
    }
    let pairs = positives * below;
    (pairs > 0.0).then(|| wins / pairs)
}
