//! LightGBM's parameters and names.

use crate::features::FeaturePlan;
use crate::metrics::{Kind, Metric};
use crate::search::Settings;

use super::TrainRequest;

/// The metric that LightGBM follows in place of one that it does not know.
pub(super) fn watched(metric: Metric) -> Metric {
    match metric {
        Metric::F1 | Metric::Precision | Metric::Recall => Metric::Auc,
        Metric::Brier => Metric::LogLoss,
        Metric::R2 => Metric::Rmse,
        Metric::Mape => Metric::Mae,
        other => other,
    }
}

pub(super) fn common_parameters(
    request: &TrainRequest,
    plan: &FeaturePlan,
    kind: Kind,
    watched: Metric,
) -> String {
    let threads = request
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let objective = match (kind, watched) {
        (Kind::Binary { .. }, _) => "binary".to_owned(),
        (Kind::Multiclass { classes }, _) => format!("multiclass num_class={classes}"),
        (Kind::Regression, Metric::Mae) => "regression_l1".to_owned(),
        (Kind::Regression, _) => "regression".to_owned(),
    };
    let metric = match (kind, watched) {
        (Kind::Binary { .. }, Metric::LogLoss) => "binary_logloss",
        (Kind::Binary { .. }, Metric::Accuracy) => "binary_error",
        (Kind::Binary { .. }, _) => "auc",
        (Kind::Multiclass { .. }, Metric::Accuracy) => "multi_error",
        (Kind::Multiclass { .. }, Metric::Auc) => "auc_mu",
        (Kind::Multiclass { .. }, _) => "multi_logloss",
        (Kind::Regression, Metric::Mae) => "l1",
        (Kind::Regression, _) => "rmse",
    };
    let categories: Vec<String> = plan.categories().iter().map(ToString::to_string).collect();
    let mut parameters = format!(
        "objective={objective} metric={metric} num_threads={threads} seed={} deterministic=true \
         force_row_wise=true verbosity=-1 feature_pre_filter=false max_bin=255",
        request.seed % (i32::MAX as u64)
    );
    if !categories.is_empty() {
        parameters.push_str(" categorical_feature=");
        parameters.push_str(&categories.join(","));
    }
    parameters
}

pub(super) fn trial_parameters(
    common: &str,
    settings: &Settings,
    drifting: &[usize],
    width: usize,
) -> String {
    let mut parameters = format!("{common} {}", settings.parameters());
    if settings.leave_out_drifting && !drifting.is_empty() {
        let kept: Vec<String> = (0..width)
            .filter(|feature| !drifting.contains(feature))
            .map(|feature| feature.to_string())
            .collect();
        // One group of features that may meet: the others are never split on.
        parameters.push_str(&format!(" interaction_constraints=[{}]", kept.join(",")));
    }
    parameters
}

/// Names in the model's text; LightGBM allows neither spaces nor JSON's signs,
/// and reads the text line by line. The plan keeps the real names.
pub(super) fn plain_name(position: usize, name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' || c == '.' {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    if plain == name {
        plain
    } else {
        format!("{plain}_{position}")
    }
}
