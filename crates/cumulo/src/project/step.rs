//! What an object's state means for somebody who follows a project: a pure
//! reading of spec and status.

use kube::api::DynamicObject;
use serde_json::Value;

use super::load::title;

/// Where an object stands on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not there yet; the text says what is going on.
    Underway(String),
    /// It is what its spec wants.
    Done(String),
    /// It will not get there by itself; the text says why.
    Failed(String),
}

impl Step {
    /// The text to show.
    pub fn text(&self) -> &str {
        match self {
            Self::Underway(text) | Self::Done(text) | Self::Failed(text) => text,
        }
    }
}

/// Reads where an object stands. Kinds without a status of Cumulo's are done once applied.
pub fn read(object: &DynamicObject) -> Step {
    let kind = object
        .types
        .as_ref()
        .map_or("", |types| types.kind.as_str());
    let status = &object.data["status"];
    match kind {
        "Dataset" | "Model" | "InferenceService" => {
            let generation = object.metadata.generation;
            let ready = condition(status, "Ready");
            if ready.is_none() || status["observedGeneration"].as_i64() != generation {
                return Step::Underway("waits to be taken up".to_owned());
            }
            let message = ready.map_or("", |ready| ready["message"].as_str().unwrap_or_default());
            if ready.is_some_and(|ready| ready["status"] == "True") {
                return Step::Done(done_text(kind, object, message));
            }
            if condition(status, "Degraded").is_some_and(|degraded| degraded["status"] == "True") {
                return Step::Failed(message.to_owned());
            }
            Step::Underway(message.to_owned())
        }
        "TrainJob" => {
            let message = status["message"].as_str().unwrap_or_default().to_owned();
            match status["phase"].as_str() {
                Some("Succeeded") => Step::Done(match status["modelVersion"].as_str() {
                    Some(version) => format!(
                        "done: {} version {version}",
                        object.data["spec"]["output"]["model"]
                            .as_str()
                            .unwrap_or("model")
                    ),
                    None => "done".to_owned(),
                }),
                Some("Failed") => Step::Failed(message),
                Some(_) => {
                    let mut text = match message.as_str() {
                        "" => "running".to_owned(),
                        _ => message,
                    };
                    for (metric, value) in status["metrics"].as_object().into_iter().flatten() {
                        text.push_str(&format!(" · {metric} {value}"));
                    }
                    Step::Underway(text)
                }
                None => Step::Underway("waits to be taken up".to_owned()),
            }
        }
        _ => Step::Done("applied".to_owned()),
    }
}

/// What is ready by itself but does not answer the newest of what it builds on
/// yet: a Model whose Dataset has a newer version, a service whose champion changed.
pub fn behind(objects: &[&DynamicObject]) -> Option<String> {
    let find = |kind: &str, name: &str| {
        objects.iter().find(|object| {
            object
                .types
                .as_ref()
                .is_some_and(|types| types.kind == kind)
                && object.metadata.name.as_deref() == Some(name)
        })
    };
    objects.iter().find_map(|object| {
        let (spec, status) = (&object.data["spec"], &object.data["status"]);
        match object.types.as_ref()?.kind.as_str() {
            "Model" if spec["retrain"]["onData"] != false => {
                let dataset = find("Dataset", spec["dataset"].as_str()?)?;
                let version = dataset.data["status"]["version"].as_str()?;
                let trained = status["versions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|trained| trained["datasetVersion"] == version);
                (!trained)
                    .then(|| format!("{} is to be trained on version {version}", title(object)))
            }
            "InferenceService" => {
                let name = spec["model"]
                    .as_str()?
                    .strip_prefix("models:/")?
                    .strip_suffix("@champion")?;
                let champion = find("Model", name)?.data["status"]["champion"].as_str()?;
                (status["modelVersion"] != champion)
                    .then(|| format!("{} is to serve version {champion}", title(object)))
            }
            _ => None,
        }
    })
}

fn done_text(kind: &str, object: &DynamicObject, message: &str) -> String {
    let status = &object.data["status"];
    match kind {
        "Dataset" => format!(
            "snapshot {} · {} rows · {}",
            status["version"].as_str().unwrap_or("?"),
            thousands(status["rows"].as_i64().unwrap_or_default()),
            bytes(status["bytes"].as_i64().unwrap_or_default())
        ),
        "InferenceService" => format!(
            "ready · version {} · {}",
            status["modelVersion"].as_str().unwrap_or("?"),
            status["url"].as_str().unwrap_or("?")
        ),
        _ => message.to_owned(),
    }
}

fn condition<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == name)
}

/// `327346` as `327,346`.
pub fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// A size as a person reads it, in powers of 1024.
pub fn bytes(size: i64) -> String {
    let mut size = size as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" {
                format!("{size} {unit}")
            } else {
                format!("{size:.1} {unit}")
            };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(object: Value) -> Step {
        read(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn an_old_status_is_not_taken_for_the_new_spec() {
        let step = check(
            json!({"apiVersion": "cumulo.dev/v1alpha1", "kind": "Dataset",
            "metadata": {"name": "d", "generation": 2},
            "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True", "message": "old"}]}}),
        );
        assert_eq!(step, Step::Underway("waits to be taken up".to_owned()));
    }

    #[test]
    fn a_snapshot_is_told_with_its_size() {
        let step = check(
            json!({"apiVersion": "cumulo.dev/v1alpha1", "kind": "Dataset",
            "metadata": {"name": "d", "generation": 1},
            "status": {"observedGeneration": 1, "version": "abc", "rows": 327346, "bytes": 5242880,
                "conditions": [{"type": "Ready", "status": "True", "message": ""}]}}),
        );
        insta::assert_snapshot!(step.text(), @"snapshot abc · 327,346 rows · 5.0 MiB");
    }

    #[test]
    fn a_model_of_older_data_is_behind() {
        let object = |value: Value| -> DynamicObject { serde_json::from_value(value).unwrap() };
        let dataset = object(
            json!({"apiVersion": "cumulo.dev/v1alpha1", "kind": "Dataset",
            "metadata": {"name": "d"}, "status": {"version": "new"}}),
        );
        let model = |trained: &str| {
            object(
                json!({"apiVersion": "cumulo.dev/v1alpha1", "kind": "Model", "metadata": {"name": "m"},
                "spec": {"dataset": "d"}, "status": {"champion": "2", "versions": [{"datasetVersion": trained}]}}),
            )
        };
        let service = |version: &str| {
            object(
                json!({"apiVersion": "cumulo.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "s"},
                "spec": {"model": "models:/m@champion"}, "status": {"modelVersion": version}}),
            )
        };
        let check =
            |trained: &str, served: &str| behind(&[&dataset, &model(trained), &service(served)]);
        assert_eq!(
            check("old", "2").as_deref(),
            Some("Model/m is to be trained on version new")
        );
        assert_eq!(
            check("new", "1").as_deref(),
            Some("InferenceService/s is to serve version 2")
        );
        assert_eq!(check("new", "2"), None);
    }

    #[test]
    fn numbers() {
        assert_eq!(thousands(-1_234_567), "-1,234,567");
        assert_eq!(thousands(12), "12");
        assert_eq!(bytes(10), "10 B");
    }
}
