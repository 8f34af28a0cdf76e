//! Runs, whole: the rows of many tables put together for many runs at once.

use std::collections::HashMap;

use super::{metrics, runs};
use crate::database::{MAX_BINDS, Sql};
use crate::error::Result;
use crate::handle::Handle;
use crate::wire::{
    DatasetInfo, DatasetInput, KeyValue, Metric, ModelInput, ModelOutput, Run, RunData, RunInputs,
    RunOutputs,
};

impl Handle {
    /// Runs the statement, which must select [`runs::RUN_COLUMNS`] first, and loads
    /// everything else of its runs, in its order.
    pub(super) async fn load_runs(&self, sql: Sql) -> Result<Vec<Run>> {
        let readers = self.database().readers();
        let rows = sql.fetch(readers).await?;
        let mut runs = rows
            .iter()
            .map(|row| {
                Ok(Run {
                    info: runs::info_from_row(row)?,
                    data: RunData::default(),
                    inputs: RunInputs::default(),
                    outputs: RunOutputs::default(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        drop(rows);
        let index: HashMap<String, usize> = runs
            .iter()
            .enumerate()
            .map(|(position, run)| (run.info.run_id.clone(), position))
            .collect();
        let ids: Vec<String> = runs.iter().map(|run| run.info.run_id.clone()).collect();
        for chunk in ids.chunks(MAX_BINDS) {
            let about = |text: &'static str, rest: &'static str| {
                let mut sql = Sql::new(text);
                sql.bind_list(chunk.iter().map(String::as_str)).push(rest);
                sql.fetch(readers)
            };
            let (latest, params, tags, datasets, models_in, models_out) = tokio::try_join!(
                about(
                    "SELECT run_id, key, value, timestamp, step, is_nan FROM latest_metrics \
                     WHERE run_id IN ",
                    ""
                ),
                about("SELECT run_id, key, value FROM params WHERE run_id IN ", ""),
                about("SELECT run_id, key, value FROM tags WHERE run_id IN ", ""),
                about(
                    "SELECT i.run_id, i.dataset_id, d.name, d.digest, d.source_type, d.source, \
                     d.schema, d.profile, t.key, t.value FROM dataset_inputs i \
                     JOIN datasets d ON d.dataset_id = i.dataset_id \
                     LEFT JOIN dataset_input_tags t \
                     ON t.run_id = i.run_id AND t.dataset_id = i.dataset_id \
                     WHERE i.run_id IN ",
                    " ORDER BY i.run_id, i.dataset_id, t.key"
                ),
                about(
                    "SELECT run_id, model_id FROM model_inputs WHERE run_id IN ",
                    ""
                ),
                about(
                    "SELECT run_id, model_id, step FROM model_outputs WHERE run_id IN ",
                    " ORDER BY run_id, step, model_id"
                ),
            )?;
            for row in &latest {
                if let Some(run) = at(&mut runs, &index, row.try_get(0)?) {
                    let key: String = row.try_get(1)?;
                    let value = metrics::read(row.try_get(2)?, row.try_get(5)?);
                    let metric = Metric::new(key, value, row.try_get(3)?, row.try_get(4)?);
                    run.data.metrics.push(metric);
                }
            }
            for row in &params {
                if let Some(run) = at(&mut runs, &index, row.try_get(0)?) {
                    let (key, value): (String, String) = (row.try_get(1)?, row.try_get(2)?);
                    run.data.params.push(KeyValue { key, value });
                }
            }
            for row in &tags {
                if let Some(run) = at(&mut runs, &index, row.try_get(0)?) {
                    let (key, value): (String, String) = (row.try_get(1)?, row.try_get(2)?);
                    run.data.tags.push(KeyValue { key, value });
                }
            }
            let mut last: (String, String) = Default::default();
            for row in &datasets {
                let (run_id, dataset_id): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                let Some(run) = at(&mut runs, &index, &run_id) else {
                    continue;
                };
                let this = (run_id, dataset_id);
                if this != last {
                    last = this;
                    run.inputs.dataset_inputs.push(DatasetInput {
                        tags: Vec::new(),
                        dataset: Some(DatasetInfo {
                            name: row.try_get(2)?,
                            digest: row.try_get(3)?,
                            source_type: row.try_get(4)?,
                            source: row.try_get(5)?,
                            schema: row.try_get(6)?,
                            profile: row.try_get(7)?,
                        }),
                    });
                }
                let tag: (Option<String>, Option<String>) = (row.try_get(8)?, row.try_get(9)?);
                if let (Some(input), (Some(key), Some(value))) =
                    (run.inputs.dataset_inputs.last_mut(), tag)
                {
                    input.tags.push(KeyValue { key, value });
                }
            }
            for row in &models_in {
                if let Some(run) = at(&mut runs, &index, row.try_get(0)?) {
                    let model_id = row.try_get(1)?;
                    run.inputs.model_inputs.push(ModelInput { model_id });
                }
            }
            for row in &models_out {
                if let Some(run) = at(&mut runs, &index, row.try_get(0)?) {
                    let (model_id, step) = (row.try_get(1)?, row.try_get(2)?);
                    run.outputs
                        .model_outputs
                        .push(ModelOutput { model_id, step });
                }
            }
        }
        Ok(runs)
    }
}

fn at<'r>(
    runs: &'r mut [Run],
    index: &HashMap<String, usize>,
    run_id: &str,
) -> Option<&'r mut Run> {
    index
        .get(run_id)
        .and_then(|position| runs.get_mut(*position))
}
