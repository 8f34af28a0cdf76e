//! Metrics: logging them, alone or in a batch, and their histories.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{paging, runs};
use crate::database::{Bind, Connection, MAX_BINDS, Row, Sql};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::validate;
use crate::wire::{GetMetricHistoryBulkInterval, LogBatch, Metric, Page};

/// Points of one page of a history at most (MLflow's limit).
const MAX_HISTORY: i64 = 25_000;
/// Runs of one bulk request at most.
const MAX_BULK_RUNS: usize = 100;
/// Points per run of one bulk request at most.
const MAX_BULK_POINTS: i64 = 2500;

/// SQL cannot hold NaN: it is 0 and a mark.
fn stored(value: f64) -> (f64, i64) {
    if value.is_nan() { (0.0, 1) } else { (value, 0) }
}

/// What [`stored`] wrote.
pub(super) fn read(value: f64, is_nan: i64) -> f64 {
    if is_nan == 0 { value } else { f64::NAN }
}

/// Which of two points of a metric is the later one: by step, time, value.
fn later(a: &Metric, b: &Metric) -> Ordering {
    (a.step, a.timestamp)
        .cmp(&(b.step, b.timestamp))
        .then_with(|| stored(a.value).0.total_cmp(&stored(b.value).0))
}

/// Adds points; those that are there already stay as they are.
pub(super) async fn put(
    connection: &mut Connection,
    run_id: &str,
    metrics: &[Metric],
) -> Result<()> {
    if metrics.is_empty() {
        return Ok(());
    }
    // Rows are always touched in one order, so that two writes cannot wait for each other.
    let mut sorted: Vec<&Metric> = metrics.iter().collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| later(a, b)));
    for chunk in sorted.chunks(MAX_BINDS / 6) {
        let rows = chunk.iter().map(|metric| -> [Bind; 6] {
            let (value, is_nan) = stored(metric.value);
            [
                run_id.into(),
                metric.key.as_str().into(),
                metric.timestamp.into(),
                metric.step.into(),
                value.into(),
                is_nan.into(),
            ]
        });
        let mut sql = Sql::new("INSERT INTO metrics (run_id, key, timestamp, step, value, is_nan)");
        sql.bind_rows(rows);
        sql.push(" ON CONFLICT (run_id, key, timestamp, step, value, is_nan) DO NOTHING");
        sql.execute(connection).await?;
    }
    // One row per key: a statement must not touch a row twice.
    let mut latest: HashMap<&str, &Metric> = HashMap::with_capacity(metrics.len());
    for metric in metrics {
        latest
            .entry(&metric.key)
            .and_modify(|known| {
                if later(metric, known) == Ordering::Greater {
                    *known = metric;
                }
            })
            .or_insert(metric);
    }
    let mut latest: Vec<&Metric> = latest.into_values().collect();
    latest.sort_by(|a, b| a.key.cmp(&b.key));
    let rows = latest.into_iter().map(|metric| -> [Bind; 6] {
        let (value, is_nan) = stored(metric.value);
        [
            run_id.into(),
            metric.key.as_str().into(),
            value.into(),
            metric.timestamp.into(),
            metric.step.into(),
            is_nan.into(),
        ]
    });
    let mut sql =
        Sql::new("INSERT INTO latest_metrics (run_id, key, value, timestamp, step, is_nan)");
    sql.bind_rows(rows);
    sql.push(
        " ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value, \
         timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan \
         WHERE (excluded.step, excluded.timestamp, excluded.value) \
         > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)",
    );
    sql.execute(connection).await?;
    put_of_models(connection, run_id, metrics).await
}

/// Points that belong to a logged model are kept with it too.
async fn put_of_models(
    connection: &mut Connection,
    run_id: &str,
    metrics: &[Metric],
) -> Result<()> {
    let mut rows = Vec::new();
    for metric in metrics {
        let Some(model_id) = metric.model_id.as_deref().filter(|id| !id.is_empty()) else {
            continue;
        };
        let (value, is_nan) = stored(metric.value);
        rows.push([
            model_id.into(),
            metric.key.as_str().into(),
            metric.timestamp.into(),
            metric.step.into(),
            run_id.into(),
            value.into(),
            is_nan.into(),
            metric.dataset_name.clone().into(),
            metric.dataset_digest.clone().into(),
        ]);
    }
    for chunk in rows.chunks(MAX_BINDS / 9) {
        let mut sql = Sql::new(
            "INSERT INTO logged_model_metrics (model_id, key, timestamp, step, run_id, value, \
             is_nan, dataset_name, dataset_digest)",
        );
        sql.bind_rows(chunk.iter().cloned());
        sql.push(" ON CONFLICT (model_id, key, timestamp, step, run_id) DO NOTHING");
        sql.execute(connection).await?;
    }
    Ok(())
}

impl Handle {
    /// Logs one point of a metric; the same point twice is one point.
    ///
    /// # Errors
    /// When the run is missing or deleted, or the metric is not valid.
    pub async fn log_metric(&self, run_id: String, metric: Metric) -> Result<()> {
        validate::metric(&metric, "")?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    runs::active(connection, &run_id).await?;
                    put(connection, &run_id, &[metric]).await
                })
            })
            .await
    }

    /// Logs metrics, parameters and tags, all or nothing.
    ///
    /// # Errors
    /// When the run is missing or deleted, something is not valid or too much
    /// (1000 metrics, 100 parameters, 100 tags, 1000 together), or a parameter has
    /// another value already.
    pub async fn log_batch(&self, batch: LogBatch) -> Result<()> {
        validate::batch(&batch)?;
        let run_id = validate::required(batch.run_id, "run_id")?;
        validate::run_id(&run_id)?;
        let (metrics, params, tags) = (batch.metrics, batch.params, batch.tags);
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    runs::active(connection, &run_id).await?;
                    runs::put_params(connection, &run_id, &params).await?;
                    put(connection, &run_id, &metrics).await?;
                    runs::put_tags(connection, &run_id, &tags).await
                })
            })
            .await
    }

    /// All points of a metric of a run, oldest first, in pages.
    ///
    /// # Errors
    /// When the run is missing, or size or token are not valid.
    pub async fn metric_history(
        &self,
        run_id: &str,
        key: &str,
        max_results: Option<i64>,
        page_token: Option<&str>,
    ) -> Result<Page<Metric>> {
        let size = validate::page_size(max_results, MAX_HISTORY, MAX_HISTORY)?;
        let offset = paging::offset(page_token)?;
        self.check_runs_exist(&[run_id.to_owned()]).await?;
        let mut sql =
            Sql::new("SELECT key, value, timestamp, step, is_nan FROM metrics WHERE run_id = ");
        sql.bind(run_id).push(" AND key = ").bind(key);
        sql.push(" ORDER BY timestamp, step, value LIMIT ")
            .bind(size.saturating_add(1));
        sql.push(" OFFSET ").bind(offset);
        let rows = sql.fetch(self.database().readers()).await?;
        let metrics = rows.iter().map(point).collect::<Result<Vec<_>>>()?;
        Ok(paging::page(metrics, offset, size))
    }

    /// Points of a metric of several runs, evenly thinned to at most `max_results`
    /// each, the first and last always among them; every point carries its `run_id`.
    pub(crate) async fn metric_history_bulk(
        &self,
        request: GetMetricHistoryBulkInterval,
    ) -> Result<Vec<Metric>> {
        let key = validate::required(request.metric_key, "metric_key")?;
        if request.run_ids.is_empty() {
            return Err(Error::missing("run_ids"));
        }
        if request.run_ids.len() > MAX_BULK_RUNS {
            return Err(Error::invalid(format!(
                "GetMetricHistoryBulkInterval request must specify at most {MAX_BULK_RUNS} \
                 run_ids. Received {} run_ids.",
                request.run_ids.len()
            )));
        }
        if request.start_step.is_some() != request.end_step.is_some() {
            return Err(Error::invalid(
                "If either start step or end step are specified, both must be specified.",
            ));
        }
        let (start, end) = (
            request.start_step.unwrap_or(i64::MIN),
            request.end_step.unwrap_or(i64::MAX),
        );
        if start > end {
            return Err(Error::invalid(format!(
                "end_step must be greater than start_step. Found start_step={start} and \
                 end_step={end}."
            )));
        }
        let size = validate::page_size(request.max_results, 320, MAX_BULK_POINTS)?;
        self.check_runs_exist(&request.run_ids).await?;
        let mut all = Vec::new();
        for run_id in &request.run_ids {
            let mut sql = Sql::new(
                "SELECT key, value, timestamp, step, is_nan FROM (SELECT m.*, \
                 ROW_NUMBER() OVER (ORDER BY step, timestamp, value) - 1 AS n, \
                 COUNT(*) OVER () AS total FROM metrics m WHERE run_id = ",
            );
            sql.bind(run_id.as_str())
                .push(" AND key = ")
                .bind(key.as_str());
            sql.push(" AND step BETWEEN ")
                .bind(start)
                .push(" AND ")
                .bind(end);
            // A point stays when it is the last, or begins a new one of the `size - 1` buckets.
            let buckets = (size - 1).max(1);
            sql.push(") numbered WHERE n = total - 1 OR (")
                .bind(size)
                .push(" > 1 AND (n = 0 OR ");
            sql.push("n * ")
                .bind(buckets)
                .push(" / total > (n - 1) * ")
                .bind(buckets);
            sql.push(" / total)) ORDER BY n");
            for row in sql.fetch(self.database().readers()).await? {
                let mut metric = point(&row)?;
                metric.run_id = Some(run_id.clone());
                all.push(metric);
            }
        }
        Ok(all)
    }

    pub(super) async fn check_runs_exist(&self, ids: &[String]) -> Result<()> {
        let mut sql = Sql::new("SELECT run_id FROM runs WHERE run_id IN ");
        sql.bind_list(ids.iter().map(String::as_str));
        let rows = sql.fetch(self.database().readers()).await?;
        let known = rows
            .iter()
            .map(|row| Ok(row.try_get::<String>(0)?))
            .collect::<Result<Vec<_>>>()?;
        match ids.iter().find(|id| !known.contains(id)) {
            None => Ok(()),
            Some(id) => Err(Error::not_found(format!("Run with id={id} not found"))),
        }
    }
}

fn point(row: &Row) -> Result<Metric> {
    let key: String = row.try_get(0)?;
    let value = read(row.try_get(1)?, row.try_get(4)?);
    Ok(Metric::new(key, value, row.try_get(2)?, row.try_get(3)?))
}
