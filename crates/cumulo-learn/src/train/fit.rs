//! Runs the trials of a search on LightGBM and trains the winner.

use crate::booster::{Booster, Dataset, Matrix, Round};
use crate::features::FeaturePlan;
use crate::metrics::{Kind, Metric, Outcomes};
use crate::model::{gather, kind};
use crate::search::{Search, Settings, Trial};

use super::budget::{Budget, Cost, Stop};
use super::parameters::{common_parameters, plain_name, trial_parameters, watched};
use super::{Progress, TrainError, TrainRequest, Winner};

/// The most boosting rounds of a trial.
const MAX_ROUNDS: usize = 3_000;
/// The metric is looked at every so many rounds.
const EVALUATE_EVERY: usize = 5;
/// Fewer rows than these are never sampled.
const SAMPLED_ROWS: usize = 200;
/// A new trial may take this share of the time that is left.
const TRIAL_SHARE: f64 = 0.2;
/// A final training that the budget ends is kept with this share of its rounds.
const ENOUGH_ROUNDS: f64 = 0.8;
/// Trials that are made when nothing else ends the search.
const MAX_TRIALS: usize = 200;

/// All rows of the snapshot, encoded.
pub(super) struct Rows<'a> {
    pub(super) matrix: &'a [f64],
    pub(super) width: usize,
    pub(super) labels: &'a [f64],
}

impl Rows<'_> {
    fn dataset(
        &self,
        rows: &[u32],
        parameters: &str,
        reference: Option<&Dataset>,
    ) -> Result<Dataset, TrainError> {
        let values = gather(self.matrix, self.width, rows);
        let labels: Vec<f32> = rows
            .iter()
            .map(|row| self.labels[*row as usize] as f32)
            .collect();
        let matrix = Matrix {
            values: &values,
            columns: self.width,
        };
        Ok(Dataset::new(matrix, &labels, parameters, reference)?)
    }
}

/// The winner.
pub(super) struct Fitted {
    pub(super) trees: String,
    pub(super) trials: Vec<Trial>,
    pub(super) winner: Winner,
    /// The constant prediction of the baseline.
    pub(super) constant: Vec<f64>,
}

/// A trial's model, which can be trained on.
struct Running<'data> {
    trial: usize,
    settings: Settings,
    booster: Booster<'data>,
    rounds: usize,
    seconds: f64,
    /// Rounds at the best metric, and the metric.
    best: Option<(usize, f64)>,
    stopped: Option<Stop>,
}

impl Running<'_> {
    /// What the final training with these settings costs.
    fn cost(&self) -> Cost {
        Cost {
            seconds_per_round: self.seconds / self.rounds.max(1) as f64,
            rounds: self.best.map_or(self.rounds, |(rounds, _)| rounds),
        }
    }

    fn metric(&self) -> Option<f64> {
        self.best.map(|(_, metric)| metric)
    }
}

/// What is left of the winner once its data are gone.
struct Winning {
    trial: usize,
    settings: Settings,
    cost: Cost,
    trees: String,
}

#[expect(
    clippy::too_many_arguments,
    reason = "called once, with the stages' results"
)]
pub(super) fn fit(
    request: &TrainRequest,
    plan: &FeaturePlan,
    metric: Metric,
    by_time: bool,
    rows: &Rows<'_>,
    training: &[u32],
    fit_rows: &[u32],
    validation: &[u32],
    progress: &mut dyn Progress,
) -> Result<Fitted, TrainError> {
    let kind = kind(plan);
    let constant = constant(rows, fit_rows, kind, metric);
    let labels: Vec<f64> = validation
        .iter()
        .map(|row| rows.labels[*row as usize])
        .collect();
    let flat = constant.repeat(validation.len());
    let outcomes = Outcomes {
        labels: &labels,
        predictions: &flat,
        kind,
    };
    // What LightGBM can follow while it trains, and what is defined on these rows.
    let mut watched = watched(metric);
    if outcomes.metric(watched).is_none() {
        watched = if kind == Kind::Regression {
            Metric::Rmse
        } else {
            Metric::LogLoss
        };
    }
    let common = common_parameters(request, plan, kind, watched);
    let names: Vec<String> = plan
        .features
        .iter()
        .enumerate()
        .map(|(position, feature)| plain_name(position, &feature.name))
        .collect();

    let baseline = outcomes.metric(watched);
    let mut trials = Vec::new();
    if let Some(metric) = baseline {
        report(
            Trial {
                trial: 0,
                settings: None,
                rounds: 0,
                metric,
                best: metric,
                elapsed: progress.elapsed(),
                cut_short: false,
            },
            &mut trials,
            progress,
        );
    }
    let mut budget = Budget {
        total: request.budget_seconds,
        growth: training.len() as f64 / fit_rows.len().max(1) as f64,
        binning: 0.0,
        after: 0.0,
    };
    if let Some(baseline) = baseline {
        let began = progress.elapsed();
        let mut fit_data = rows.dataset(fit_rows, &common, None)?;
        fit_data.name_features(&names)?;
        let validation_data = rows.dataset(validation, &common, Some(&fit_data))?;
        budget.binning = progress.elapsed() - began;
        budget.after = budget.binning;
        let drifting = if by_time {
            drifting_features(rows, plan, fit_rows, validation)
        } else {
            Vec::new()
        };
        let usable = drifting.len() < plan.features.len();
        let mut search = Search::new(
            request.seed,
            watched,
            fit_rows.len(),
            usable && !drifting.is_empty(),
        );
        let most = request.max_trials.unwrap_or(MAX_TRIALS).min(MAX_TRIALS);
        let winning = {
            let mut best: Option<Running<'_>> = None;
            let mut tried = 0;
            loop {
                let ahead = best.as_ref().map(Running::cost);
                if !budget.another(progress.elapsed(), ahead) {
                    break;
                }
                // After the first settings the best is trained to its end before others are tried.
                let first_are_done = tried >= search.fixed().min(most);
                let resumed =
                    best.take_if(|best| first_are_done && best.stopped == Some(Stop::Share));
                let share = if resumed.is_some() { 1.0 } else { TRIAL_SHARE };
                let was_best = resumed.is_some();
                let mut running = match resumed {
                    Some(running) => running,
                    None if tried < most => {
                        tried += 1;
                        let mut settings = search.propose(tried);
                        if fit_rows.len() < SAMPLED_ROWS {
                            // A sample of so few rows may be empty, which LightGBM refuses.
                            settings.bagging_fraction = 1.0;
                        }
                        let parameters =
                            trial_parameters(&common, &settings, &drifting, rows.width);
                        let mut booster = Booster::new(&fit_data, &parameters)?;
                        booster.add_validation(&validation_data)?;
                        Running {
                            trial: tried,
                            settings,
                            booster,
                            rounds: 0,
                            seconds: 0.0,
                            best: None,
                            stopped: None,
                        }
                    }
                    None => break,
                };
                advance(&mut running, watched, &budget, ahead, share, progress)?;
                let Some((rounds, reached)) = running.best else {
                    break;
                };
                search.observe(running.settings.clone(), reached);
                let bar = best.as_ref().and_then(Running::metric).unwrap_or(baseline);
                let (trial, settings) = (running.trial, running.settings.clone());
                let cut_short = running.stopped.is_some();
                if was_best || watched.better(reached, bar) {
                    best = Some(running);
                }
                report(
                    Trial {
                        trial,
                        settings: Some(settings),
                        rounds,
                        metric: reached,
                        best: best.as_ref().and_then(Running::metric).unwrap_or(baseline),
                        elapsed: progress.elapsed(),
                        cut_short,
                    },
                    &mut trials,
                    progress,
                );
            }
            match best {
                Some(running) => Some(Winning {
                    trees: running.booster.save(Some(running.cost().rounds))?,
                    cost: running.cost(),
                    trial: running.trial,
                    settings: running.settings,
                }),
                None => None,
            }
        };
        drop(validation_data);
        drop(fit_data);
        if let Some(winning) = winning {
            let parameters = trial_parameters(&common, &winning.settings, &drifting, rows.width);
            let refit = refit(
                rows,
                training,
                &common,
                &parameters,
                &names,
                winning.cost,
                &budget,
                progress,
            )?;
            return Ok(Fitted {
                winner: Winner::Trial {
                    trial: winning.trial,
                    refit: refit.is_some(),
                },
                trees: refit.unwrap_or(winning.trees),
                trials,
                constant,
            });
        }
    }
    Ok(Fitted {
        trees: constant_trees(rows, training, &common, &names)?,
        trials,
        winner: Winner::Baseline,
        constant,
    })
}

/// Trains on until the metric improves no more, the share is used up, or the budget is.
fn advance(
    running: &mut Running<'_>,
    watched: Metric,
    budget: &Budget,
    ahead: Option<Cost>,
    share: f64,
    progress: &mut dyn Progress,
) -> Result<(), TrainError> {
    let began = progress.elapsed();
    let before = running.seconds;
    // A slow learner improves in small steps and is given more of them.
    let patience = (4.0 / running.settings.learning_rate).clamp(20.0, 100.0) as usize;
    running.stopped = None;
    while running.rounds < MAX_ROUNDS {
        let round = running.booster.update()?;
        running.rounds += 1;
        if progress.cancelled() {
            return Err(TrainError::Cancelled);
        }
        let now = progress.elapsed();
        running.seconds = before + now - began;
        running.stopped = budget.stop(now, now - began, share, ahead, running.cost());
        let last = running.stopped.is_some() || round == Round::Finished;
        if last || running.rounds.is_multiple_of(EVALUATE_EVERY) {
            let metric = higher(running.booster.validation_metric()?, watched);
            let ahead = running.metric();
            if metric.is_finite() && ahead.is_none_or(|ahead| watched.better(metric, ahead)) {
                running.best = Some((running.rounds, metric));
            }
        }
        if round == Round::Finished {
            running.stopped = None;
            break;
        }
        let stale = running
            .best
            .is_some_and(|(best, _)| running.rounds - best >= patience);
        if stale {
            running.stopped = None;
        }
        if last || stale {
            break;
        }
    }
    Ok(())
}

/// LightGBM reports the error rate where we speak of accuracy.
fn higher(value: f64, watched: Metric) -> f64 {
    if watched == Metric::Accuracy {
        1.0 - value
    } else {
        value
    }
}

/// Trains the winner on all training rows; none when the budget does not allow it.
#[expect(
    clippy::too_many_arguments,
    reason = "called once, with the search's results"
)]
fn refit(
    rows: &Rows<'_>,
    training: &[u32],
    common: &str,
    parameters: &str,
    names: &[String],
    cost: Cost,
    budget: &Budget,
    progress: &mut dyn Progress,
) -> Result<Option<String>, TrainError> {
    if !budget.affords_refit(progress.elapsed(), cost) {
        tracing::info!("no budget left to train the winner on all rows");
        return Ok(None);
    }
    let mut data = rows.dataset(training, common, None)?;
    data.name_features(names)?;
    let mut booster = Booster::new(&data, parameters)?;
    for round in 0..cost.rounds {
        if progress.cancelled() {
            return Err(TrainError::Cancelled);
        }
        if progress.elapsed() > budget.total {
            tracing::info!(
                round,
                of = cost.rounds,
                "the budget ended while the winner was trained on all rows"
            );
            // More rows outweigh the last rounds, which add little, but not most of them.
            if (round as f64) < ENOUGH_ROUNDS * cost.rounds as f64 {
                return Ok(None);
            }
            break;
        }
        if booster.update()? == Round::Finished {
            break;
        }
    }
    Ok(Some(booster.save(None)?))
}

/// A model that predicts the mean or the shares of the classes.
fn constant_trees(
    rows: &Rows<'_>,
    training: &[u32],
    common: &str,
    names: &[String],
) -> Result<String, TrainError> {
    let mut data = rows.dataset(training, common, None)?;
    data.name_features(names)?;
    let never = format!("{common} num_leaves=2 min_data_in_leaf={}", i32::MAX);
    let mut booster = Booster::new(&data, &never)?;
    booster.update()?;
    Ok(booster.save(None)?)
}

/// The best constant prediction: the share of each class, the mean, or the
/// median where absolute errors count.
fn constant(rows: &Rows<'_>, fit_rows: &[u32], kind: Kind, metric: Metric) -> Vec<f64> {
    let labels = fit_rows.iter().map(|row| rows.labels[*row as usize]);
    let count = fit_rows.len().max(1) as f64;
    match kind {
        Kind::Multiclass { classes } => {
            let mut shares = vec![0.0; classes];
            for label in labels {
                shares[label as usize] += 1.0 / count;
            }
            shares
        }
        Kind::Regression if watched(metric) == Metric::Mae => {
            let mut sorted: Vec<f64> = labels.collect();
            sorted.sort_by(f64::total_cmp);
            vec![sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)]
        }
        _ => vec![labels.sum::<f64>() / count],
    }
}

/// Features whose values in the rows to choose by lie nearly all above or below
/// those to fit on: what a tree learns of them says nothing of the future. The
/// measure is the share of pairs in which the later value is the greater one.
fn drifting_features(
    rows: &Rows<'_>,
    plan: &FeaturePlan,
    fit_rows: &[u32],
    validation: &[u32],
) -> Vec<usize> {
    const SAMPLE: usize = 5_000;
    const SHARE: f64 = 0.9;
    let categories = plan.categories();
    let sample = |chosen: &[u32], feature: usize| -> Vec<f64> {
        chosen
            .iter()
            .step_by(chosen.len().div_ceil(SAMPLE).max(1))
            .map(|row| rows.matrix[*row as usize * rows.width + feature])
            .filter(|value| !value.is_nan())
            .collect()
    };
    (0..rows.width)
        .filter(|feature| !categories.contains(feature))
        .filter(|feature| {
            let mut predictions = sample(fit_rows, *feature);
            let mut labels = vec![0.0; predictions.len()];
            let later = sample(validation, *feature);
            labels.resize(labels.len() + later.len(), 1.0);
            predictions.extend(later);
            let share = Outcomes {
                labels: &labels,
                predictions: &predictions,
                kind: Kind::Binary { threshold: 0.5 },
            }
            .metric(Metric::Auc);
            share.is_some_and(|share| !(1.0 - SHARE..=SHARE).contains(&share))
        })
        .collect()
}

fn report(trial: Trial, trials: &mut Vec<Trial>, progress: &mut dyn Progress) {
    tracing::info!(
        trial = trial.trial,
        rounds = trial.rounds,
        metric = trial.metric,
        best = trial.best,
        elapsed = trial.elapsed,
        "trial ended"
    );
    progress.trial(&trial);
    trials.push(trial);
}
