//! MLflow's limits on names, keys and values.

use crate::error::{Error, Result};
use crate::wire::{KeyValue, LogBatch, Metric};

const MAX_KEY: usize = 250;
const MAX_PARAM_VALUE: usize = 6000;
const MAX_TAG_VALUE: usize = 8000;
const MAX_EXPERIMENT_NAME: usize = 500;
const MAX_EXPERIMENT_TAG_VALUE: usize = 20_000;
const MAX_REGISTRY_TAG_VALUE: usize = 100_000;
const MAX_ALIAS: usize = 255;
/// Metrics of one batch.
pub(crate) const MAX_METRICS: usize = 1000;
const MAX_PARAMS: usize = 100;
const MAX_TAGS: usize = 100;
const MAX_ENTITIES: usize = 1000;

/// The value, or the error that it is missing (absent or empty).
pub(crate) fn required(value: Option<String>, parameter: &str) -> Result<String> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Error::missing(parameter))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn limit(what: &str, value: &str, maximum: usize) -> Result<()> {
    // Bytes bound characters, so most values need no counting.
    if value.len() <= maximum || value.chars().count() <= maximum {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "'{what}' exceeds the maximum length of {maximum} characters"
    )))
}

/// A key of a metric, parameter or tag: characters, and no way to mean another path.
fn key(what: &str, path: &str, key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::missing(path));
    }
    let allowed = |c: char| c.is_alphanumeric() || "_/.-: ".contains(c);
    if !key.chars().all(allowed) {
        return Err(Error::invalid(format!(
            "Invalid value {} for parameter '{path}' supplied: Names may only contain \
             alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and \
             slashes (/).",
            quoted(key)
        )));
    }
    let plain = key.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !plain || key.starts_with("..") {
        return Err(Error::invalid(format!(
            "Invalid value {} for parameter '{path}' supplied: Names may be treated as files in \
             certain cases, and must not resolve to other names when treated as such.",
            quoted(key)
        )));
    }
    limit(what, key, MAX_KEY)
}

/// A metric; `path` says which one of a request.
pub(crate) fn metric(metric: &Metric, path: &str) -> Result<()> {
    key("Metric name", &join(path, "name"), &metric.key)?;
    if metric.timestamp < 0 {
        return Err(Error::invalid(format!(
            "Invalid value {} for parameter '{}' supplied: metric '{}' (value={}). Timestamp must \
             be a nonnegative long (64-bit integer).",
            metric.timestamp,
            join(path, "timestamp"),
            metric.key,
            metric.value
        )));
    }
    Ok(())
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// A parameter of a run.
pub(crate) fn param(param: &KeyValue, path: &str) -> Result<()> {
    key("Param key", &join(path, "key"), &param.key)?;
    limit("Param value", &param.value, MAX_PARAM_VALUE)
}

/// A tag of a run.
pub(crate) fn tag(tag: &KeyValue, path: &str) -> Result<()> {
    key(&join(path, "key"), &join(path, "key"), &tag.key)?;
    limit(&join(path, "value"), &tag.value, MAX_TAG_VALUE)
}

/// A tag of an experiment.
pub(crate) fn experiment_tag(tag: &KeyValue) -> Result<()> {
    key("key", "key", &tag.key)?;
    limit("value", &tag.value, MAX_EXPERIMENT_TAG_VALUE)
}

/// A tag of a registered model, a version or a logged model.
pub(crate) fn registry_tag(tag: &KeyValue) -> Result<()> {
    key("key", "key", &tag.key)?;
    limit("value", &tag.value, MAX_REGISTRY_TAG_VALUE)
}

fn batch_limit(what: &str, maximum: usize, length: usize) -> Result<()> {
    if length <= maximum {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "A batch logging request can contain at most {maximum} {what}. Got {length} {what}. \
         Please split up {what} across multiple requests and try again."
    )))
}

/// How many tags something may be created with.
pub(crate) fn tag_count(tags: &[KeyValue]) -> Result<()> {
    if tags.len() <= MAX_ENTITIES {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "At most {MAX_ENTITIES} tags can be given at creation. Got {} tags. Please set the others \
         afterwards.",
        tags.len()
    )))
}

/// A whole batch.
pub(crate) fn batch(batch: &LogBatch) -> Result<()> {
    batch_limit("metrics", MAX_METRICS, batch.metrics.len())?;
    batch_limit("params", MAX_PARAMS, batch.params.len())?;
    batch_limit("tags", MAX_TAGS, batch.tags.len())?;
    let total = batch.metrics.len() + batch.params.len() + batch.tags.len();
    batch_limit("metrics, params, and tags", MAX_ENTITIES, total)?;
    for (index, one) in batch.metrics.iter().enumerate() {
        metric(one, &format!("metrics[{index}]"))?;
    }
    for (index, one) in batch.params.iter().enumerate() {
        param(one, &format!("params[{index}]"))?;
        if batch
            .params
            .iter()
            .take(index)
            .any(|other| other.key == one.key)
        {
            return Err(Error::invalid(format!(
                "Duplicate parameter keys have been submitted: ['{}']. Please ensure the request \
                 contains only one param value per param key.",
                one.key
            )));
        }
    }
    for (index, one) in batch.tags.iter().enumerate() {
        tag(one, &format!("tags[{index}]"))?;
    }
    Ok(())
}

/// The identifier of a run: starts with a letter or digit, then also `_` and `-`.
pub(crate) fn run_id(id: &str) -> Result<()> {
    let fine = id.len() <= 256
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id
            .chars()
            .all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if fine {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "Invalid value {} for parameter 'run_id' supplied.",
            quoted(id)
        )))
    }
}

/// The identifier of an experiment, as the number that it is.
pub(crate) fn experiment_id(id: &str) -> Result<i64> {
    id.parse().map_err(|_| {
        Error::invalid(format!(
            "Invalid experiment ID '{id}'. Experiment ID must be a valid integer."
        ))
    })
}

/// The name of an experiment.
pub(crate) fn experiment_name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(Error::invalid(format!("Invalid experiment name: '{name}'")));
    }
    limit("name", name, MAX_EXPERIMENT_NAME)
}

/// The name of a registered model.
pub(crate) fn model_name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(Error::missing("name"));
    }
    if name.contains(['/', ':']) {
        return Err(Error::invalid(format!(
            "Invalid model name '{name}'. Names cannot contain '/' or ':'."
        )));
    }
    if matches!(name, "." | "..") || name.starts_with("..") || name.contains('\0') {
        return Err(Error::invalid(format!(
            "Invalid value {} for parameter 'name' supplied: Names may be treated as files in \
             certain cases, and must not resolve to other names when treated as such.",
            quoted(name)
        )));
    }
    limit("name", name, 256)
}

/// The name of a logged model.
pub(crate) fn logged_model_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains(['/', ':', '.', '%', '"', '\'']) {
        return Err(Error::invalid(format!(
            "Invalid model name ({}) provided. Model name must be a non-empty string and cannot \
             contain the following characters: ('/', ':', '.', '%', '\"', \"'\")",
            quoted(name)
        )));
    }
    limit("name", name, 500)
}

/// A version number.
pub(crate) fn version(version: &str) -> Result<i64> {
    version.parse().map_err(|_| {
        Error::invalid(format!(
            "Parameter 'version' must be an integer, got '{version}'."
        ))
    })
}

/// The name of an alias; `for_setting` refuses reserved ones too.
pub(crate) fn alias(alias: &str, for_setting: bool) -> Result<()> {
    if alias.is_empty() {
        return Err(Error::invalid(
            "Registered model alias name cannot be empty.",
        ));
    }
    if !alias
        .chars()
        .all(|c| c.is_alphanumeric() || c == '_' || c == '-')
    {
        return Err(Error::invalid(format!(
            "Invalid alias name: '{alias}'. Names may only contain alphanumerics, underscores (_), \
             and dashes (-)."
        )));
    }
    limit("Registered model alias name", alias, MAX_ALIAS)?;
    if for_setting {
        if alias.eq_ignore_ascii_case("latest") {
            return Err(Error::invalid(
                "'latest' alias name (case insensitive) is reserved.",
            ));
        }
        let digits = alias.strip_prefix(['v', 'V']);
        if digits.is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_ascii_digit())) {
            return Err(Error::invalid(format!(
                "Version alias name '{alias}' is reserved."
            )));
        }
    }
    Ok(())
}

/// `max_results`: what is asked for, within `1..=maximum`.
pub(crate) fn page_size(asked: Option<i64>, default: i64, maximum: i64) -> Result<i64> {
    let size = asked.filter(|size| *size != 0).unwrap_or(default);
    if (1..=maximum).contains(&size) {
        return Ok(size);
    }
    Err(Error::invalid(format!(
        "Invalid value {size} for parameter 'max_results' supplied: It must be a positive integer \
         of at most {maximum}."
    )))
}
