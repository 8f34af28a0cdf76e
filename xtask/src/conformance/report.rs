//! What ginkgo reports, as a table and a line per failure.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Longest reason that is shown.
const LONGEST: usize = 220;

/// What became of one spec.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    pub name: String,
    /// `passed`, `failed`, `timedout`, `skipped`, or `not run`.
    pub state: String,
    pub seconds: f64,
    /// Why it did not pass, on one line.
    pub reason: String,
}

impl Outcome {
    pub(super) fn passed(&self) -> bool {
        self.state == "passed"
    }

    /// `[sig-…] Subject`: what stands before the sentence.
    fn group(&self) -> &str {
        self.name
            .split(']')
            .next()
            .map_or("", |sig| sig.trim_start_matches('['))
    }
}

/// The outcomes of the last run, as [`json`] wrote them.
pub(super) fn known(file: &Path) -> Result<Vec<Outcome>> {
    let text = std::fs::read(file)
        .with_context(|| format!("{} is not there: run all specs first", file.display()))?;
    let list: Vec<Value> = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no summary", file.display()))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(list
        .iter()
        .map(|o| Outcome {
            name: text(&o["name"]),
            state: text(&o["state"]),
            seconds: o["seconds"].as_f64().unwrap_or_default(),
            reason: text(&o["reason"]),
        })
        .collect())
}

/// Reads a report: an outcome per spec, in the order of the specs.
pub(super) fn read(file: &Path, specs: &[String]) -> Result<Vec<Outcome>> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let report: Value = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no report", file.display()))?;
    Ok(outcomes(&report, specs))
}

fn outcomes(report: &Value, specs: &[String]) -> Vec<Outcome> {
    let mut found: BTreeMap<String, Outcome> = BTreeMap::new();
    let mut broken = String::new();
    for spec in report
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten())
    {
        let reason = reason(spec["Failure"]["Message"].as_str().unwrap_or_default());
        if spec["LeafNodeType"] != "It" {
            if spec["State"] != "passed" && !reason.is_empty() {
                broken = reason;
            }
            continue;
        }
        let mut parts: Vec<&str> = spec["ContainerHierarchyTexts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        parts.extend(spec["LeafNodeText"].as_str());
        let name = parts.join(" ");
        found.insert(
            name.clone(),
            Outcome {
                name,
                state: spec["State"].as_str().unwrap_or_default().to_owned(),
                seconds: spec["RunTime"].as_f64().unwrap_or_default() / 1e9,
                reason,
            },
        );
    }
    specs
        .iter()
        .map(|name| match found.get(name) {
            Some(outcome) if outcome.state != "skipped" || !outcome.reason.is_empty() => {
                outcome.clone()
            }
            _ => Outcome {
                name: name.clone(),
                state: "not run".into(),
                seconds: 0.0,
                reason: broken.clone(),
            },
        })
        .collect()
}

/// The line of a failure that says most.
fn reason(message: &str) -> String {
    let lines: Vec<&str> = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('<') && !line.starts_with('{'))
        .collect();
    let plain: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| !line.starts_with("Unexpected error") && !line.starts_with("occurred"))
        .take(4)
        .collect();
    let mut text = plain.join(" ");
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The table: groups with counts, then what did not pass.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for outcome in outcomes {
        let (passed, all) = groups.entry(outcome.group()).or_default();
        *passed += usize::from(outcome.passed());
        *all += 1;
    }
    let mut out = String::from("| group | passed | of |\n| --- | --- | --- |\n");
    for (group, (passed, all)) in &groups {
        out.push_str(&format!("| {group} | {passed} | {all} |\n"));
    }
    let total = |machinery: bool| -> (usize, usize) {
        groups
            .iter()
            .filter(|(group, _)| (**group == "sig-api-machinery") == machinery)
            .fold((0, 0), |(p, a), (_, (passed, all))| (p + passed, a + all))
    };
    let ((machinery, all), (others, rest)) = (total(true), total(false));
    out.push_str(&format!(
        "\nAPI machinery {machinery} of {all}, others {others} of {rest}, {:.0} s of specs\n",
        outcomes.iter().map(|o| o.seconds).sum::<f64>()
    ));
    for outcome in outcomes.iter().filter(|o| !o.passed()) {
        out.push_str(&format!(
            "\n{:>8} {:>4.0} s  {}\n                 {}",
            outcome.state, outcome.seconds, outcome.name, outcome.reason
        ));
    }
    out
}

/// The outcomes as JSON.
pub(super) fn json(outcomes: &[Outcome]) -> Value {
    outcomes
        .iter()
        .map(
            |o| json!({"name": o.name, "state": o.state, "seconds": o.seconds, "reason": o.reason}),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_outcomes() {
        let report = json!([{"SpecReports": [
            {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-a] X"], "LeafNodeText": "works", "State": "passed", "RunTime": 2e9},
            {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-a] X"], "LeafNodeText": "breaks", "State": "failed", "RunTime": 1e9,
             "Failure": {"Message": "Unexpected error:\n    <*errors.StatusError | 0xc0>: \n    the server could not find it\n    {\n        x"}},
            {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-b] Y"], "LeafNodeText": "other", "State": "skipped"},
        ]}]);
        let specs: Vec<String> = ["[sig-a] X works", "[sig-a] X breaks", "[sig-b] Y other"]
            .map(str::to_owned)
            .to_vec();
        let outcomes = outcomes(&report, &specs);
        let states: Vec<&str> = outcomes.iter().map(|o| o.state.as_str()).collect();
        assert_eq!(states, ["passed", "failed", "not run"]);
        assert_eq!(outcomes[1].reason, "the server could not find it x");
        let table = table(&outcomes);
        assert!(table.contains("| sig-a | 1 | 2 |"), "{table}");
        assert!(table.contains("others 1 of 3"), "{table}");
    }
}
