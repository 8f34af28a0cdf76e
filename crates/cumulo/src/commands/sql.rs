//! `cumulo sql`: SQL over the current snapshots of the Datasets.

use anyhow::{Context, Result, bail};
use cumulo_api::Dataset;
use cumulo_data::{
    Options, SqlLimits, SqlTable, query_tables, snapshot_files, to_csv, to_json, to_table,
};
use kube::api::{Api, ListParams};

use crate::cli::{Format, SqlArgs};
use crate::place::{Place, Snapshots};
use crate::project::apply::api_error;

/// Runs `cumulo sql`.
pub async fn run(place: &Place, arguments: SqlArgs) -> Result<()> {
    let client = place.client().await?;
    let namespace = place.namespace(&arguments.namespace);
    let datasets: Api<Dataset> = Api::namespaced(client, &namespace);
    let list = datasets
        .list(&ListParams::default())
        .await
        .map_err(|error| api_error(&error))?;
    let mut snapshots = Snapshots::of(place)?;
    let mut tables = Vec::new();
    for dataset in list.items {
        let name = dataset.metadata.name.unwrap_or_default();
        let Some(uri) = dataset.status.and_then(|status| status.uri) else {
            // A dataset without a version is no table yet; the query's error will say so.
            continue;
        };
        let folder = snapshots
            .folder(&uri)
            .await
            .with_context(|| format!("dataset {name}"))?;
        tables.push(SqlTable {
            files: snapshot_files(&folder).with_context(|| format!("dataset {name}"))?,
            name,
        });
    }
    if tables.is_empty() {
        bail!(
            "no Dataset in namespace {namespace} has a version yet: `cumulo get datasets` shows why"
        );
    }
    let limits = SqlLimits {
        max_rows: arguments.limit,
    };
    let result = query_tables(&tables, &arguments.query, limits, &Options::default()).await?;
    match arguments.output.output {
        Format::Csv => print!("{}", to_csv(&result.schema, &result.batches)?),
        Format::Json => println!("{}", to_json(&result.batches)?),
        Format::Yaml => {
            let rows: serde_json::Value = serde_json::from_str(&to_json(&result.batches)?)?;
            print!("{}", serde_saphyr::to_string(&rows)?);
        }
        Format::Table | Format::Wide | Format::Name => {
            print!(
                "{}",
                to_table(
                    &result.schema,
                    &result.batches,
                    arguments.limit,
                    result.truncated
                )?
            );
        }
    }
    if result.truncated
        && !matches!(
            arguments.output.output,
            Format::Table | Format::Wide | Format::Name
        )
    {
        eprintln!(
            "only the first {} rows: --limit gives more",
            arguments.limit
        );
    }
    Ok(())
}
