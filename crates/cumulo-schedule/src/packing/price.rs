//! What the parts of a device are worth: prices of fractions by linear programming.
//!
//! If all fractions of the usual mix were to be put on as few devices as possible, a
//! size that combines well with others would cost little more than its share and one
//! that leaves a hole the whole device. Those prices are the dual of that program
//! (cutting stock, as an arc-flow model), which is solved as it is:
//!
//! ```text
//! maximise   Σ share of a size × its price
//! so that    worth(free) ≥ worth(free − size) + price of the size, worth(whole) = 1
//! ```

use good_lp::{Expression, Solution, SolverModel, constraint, variable, variables};

use super::fgd::Typical;
use super::state::WHOLE;

/// Steps of a device that prices tell apart; sizes are rounded up.
const STEPS: usize = 100;
const STEP: u16 = WHOLE / STEPS as u16;

/// Prices of fractions, and what free parts of a device are worth by them.
#[derive(Clone, Debug)]
pub(super) struct Prices {
    /// Per step of free device, in thousandths of a GPU.
    worth: Vec<f64>,
    /// Per step of size, in thousandths of a GPU; zero for sizes that never come.
    price: Vec<f64>,
}

impl Prices {
    /// Of the fractions of a mix.
    pub fn new(typical: &Typical) -> Self {
        let mut shares = vec![0.0; STEPS + 1];
        for (shape, share) in &typical.mix {
            if shape.is_fraction() {
                shares[steps(shape.milli)] += share;
            }
        }
        solve(&shares).unwrap_or_else(|| Self {
            worth: (0..=STEPS).map(|at| at as f64 * f64::from(STEP)).collect(),
            price: vec![0.0; STEPS + 1],
        })
    }

    /// What a fraction spoils on a device: what the free part is worth before, less
    /// what it is worth after and what the fraction itself is. Never negative.
    pub fn spoils(&self, free: u16, milli: u16) -> f64 {
        let before = usize::from(free / STEP);
        let after = usize::from((free - milli) / STEP);
        (self.worth[before] - self.worth[after] - self.price[steps(milli)]).max(0.0)
    }
}

fn steps(milli: u16) -> usize {
    usize::from(milli.div_ceil(STEP))
}

fn solve(shares: &[f64]) -> Option<Prices> {
    let mut all = variables!();
    let worth = all.add_vector(variable().min(0.0).max(1.0), STEPS + 1);
    let price = all.add_vector(variable().min(0.0).max(1.0), STEPS + 1);
    let target: Expression = shares
        .iter()
        .zip(&price)
        .map(|(share, price)| *share * *price)
        .sum();
    let mut problem = all.maximise(target).using(good_lp::microlp);
    problem = problem.with(constraint!(worth[0] == 0.0));
    for at in 0..STEPS {
        problem = problem.with(constraint!(worth[at] <= worth[at + 1]));
        for size in (1..=STEPS - at).filter(|size| shares[*size] > 0.0) {
            problem = problem.with(constraint!(worth[at] + price[size] <= worth[at + size]));
        }
    }
    let solution = problem.solve().ok()?;
    let values = |of: &[good_lp::Variable]| {
        of.iter()
            .map(|at| solution.value(*at) * f64::from(WHOLE))
            .collect()
    };
    Some(Prices {
        worth: values(&worth),
        price: values(&price),
    })
}
