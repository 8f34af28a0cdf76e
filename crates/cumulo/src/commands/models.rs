//! `cumulo models` and `cumulo runs`: the registry and tracking, over the
//! MLflow REST API.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::print;
use crate::cli::{Format, ModelsArgs, OutputArgs, RunsArgs};
use crate::place::{Endpoint, Place};

struct Tracking {
    endpoint: Endpoint,
    base: String,
}

impl Tracking {
    async fn of(place: &Place) -> Result<Self> {
        let endpoint = place.tracking().await?;
        Ok(Self {
            base: format!("{}/api/2.0/mlflow", endpoint.base),
            endpoint,
        })
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let request = self
            .endpoint
            .http
            .get(format!("{}/{path}", self.base))
            .query(query);
        self.answer(request).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self
            .endpoint
            .http
            .post(format!("{}/{path}", self.base))
            .json(body);
        self.answer(request).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Value> {
        let answer = request
            .bearer_auth(&self.endpoint.token)
            .send()
            .await
            .context("the platform does not answer: see `cumulo status`")?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        if !status.is_success() {
            bail!(
                "{}",
                body["message"]
                    .as_str()
                    .unwrap_or("the tracking server refused the request")
            );
        }
        Ok(body)
    }
}

/// Runs `cumulo models`.
pub async fn models(place: &Place, arguments: ModelsArgs) -> Result<()> {
    let tracking = Tracking::of(place).await?;
    match &arguments.name {
        None => {
            let answer = tracking
                .get("registered-models/search", &[("max_results", "1000")])
                .await?;
            let items = answer["registered_models"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let rows = items
                .iter()
                .map(|model| {
                    let aliases: Vec<String> = model["aliases"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(|alias| {
                            format!("@{}={}", text(&alias["alias"]), text(&alias["version"]))
                        })
                        .collect();
                    let newest = model["latest_versions"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|version| text(&version["version"]).parse::<i64>().ok())
                        .max();
                    vec![
                        text(&model["name"]),
                        newest
                            .map(|version| version.to_string())
                            .unwrap_or_default(),
                        aliases.join(" "),
                        when(&model["last_updated_timestamp"]),
                    ]
                })
                .collect();
            show(
                arguments.output,
                &items,
                &["NAME", "NEWEST", "ALIASES", "UPDATED"],
                rows,
            )
        }
        Some(name) => {
            let filter = format!("name = '{}'", name.replace('\'', "\\'"));
            let answer = tracking
                .get(
                    "model-versions/search",
                    &[("filter", filter.as_str()), ("max_results", "1000")],
                )
                .await?;
            let items = answer["model_versions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if items.is_empty() {
                bail!("no model {name:?} has a version: `cumulo models` lists what there is");
            }
            let rows = items
                .iter()
                .map(|version| {
                    let aliases: Vec<String> = version["aliases"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(|alias| format!("@{}", text(alias)))
                        .collect();
                    vec![
                        text(&version["version"]),
                        aliases.join(" "),
                        text(&version["run_id"]),
                        when(&version["creation_timestamp"]),
                    ]
                })
                .collect();
            show(
                arguments.output,
                &items,
                &["VERSION", "ALIASES", "RUN", "CREATED"],
                rows,
            )
        }
    }
}

/// Runs `cumulo runs`.
pub async fn runs(place: &Place, arguments: RunsArgs) -> Result<()> {
    let tracking = Tracking::of(place).await?;
    let experiments = match &arguments.experiment {
        Some(name) => {
            let answer = tracking
                .get("experiments/get-by-name", &[("experiment_name", name)])
                .await?;
            vec![answer["experiment"].clone()]
        }
        None => tracking
            .post("experiments/search", &json!({"max_results": 1000}))
            .await?["experiments"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
    };
    let names: std::collections::BTreeMap<String, String> = experiments
        .iter()
        .map(|experiment| {
            (
                text(&experiment["experiment_id"]),
                text(&experiment["name"]),
            )
        })
        .collect();
    let answer = tracking
        .post(
            "runs/search",
            &json!({
                "experiment_ids": names.keys().collect::<Vec<_>>(),
                "filter": arguments.filter.unwrap_or_default(),
                "max_results": arguments.limit.min(50_000),
                "order_by": ["attributes.start_time DESC"],
            }),
        )
        .await?;
    let items = answer["runs"].as_array().cloned().unwrap_or_default();
    let rows = items
        .iter()
        .map(|run| {
            let mut metrics: Vec<String> = run["data"]["metrics"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|metric| {
                    let value = metric["value"].as_f64().unwrap_or(f64::NAN);
                    format!("{}={value:.4}", text(&metric["key"]))
                })
                .collect();
            metrics.sort();
            metrics.truncate(4);
            vec![
                text(&run["info"]["run_id"]),
                names
                    .get(&text(&run["info"]["experiment_id"]))
                    .cloned()
                    .unwrap_or_default(),
                text(&run["info"]["run_name"]),
                text(&run["info"]["status"]),
                when(&run["info"]["start_time"]),
                metrics.join(" "),
            ]
        })
        .collect();
    show(
        arguments.output,
        &items,
        &["RUN", "EXPERIMENT", "NAME", "STATUS", "STARTED", "METRICS"],
        rows,
    )
}

fn show(
    output: OutputArgs,
    items: &[Value],
    header: &[&str],
    rows: Vec<Vec<String>>,
) -> Result<()> {
    match output.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(items)?),
        Format::Yaml => print!("{}", serde_saphyr::to_string(&items)?),
        Format::Name => {
            for row in rows {
                println!("{}", row.first().map(String::as_str).unwrap_or_default());
            }
        }
        Format::Table | Format::Wide => print!("{}", print::columns(&print::header(header), &rows)),
        Format::Csv => {
            let mut writer = csv::Writer::from_writer(std::io::stdout());
            writer.write_record(header.iter().map(|name| name.to_lowercase()))?;
            for row in rows {
                writer.write_record(row)?;
            }
            writer.flush()?;
        }
    }
    Ok(())
}

/// A JSON text or number as text (int64 values are texts in some answers).
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Milliseconds since 1970 as a date and time.
fn when(value: &Value) -> String {
    text(value)
        .parse::<i64>()
        .ok()
        .and_then(chrono::DateTime::from_timestamp_millis)
        .map(|time| time.format("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default()
}
