//! `cumulo sql`: SQL over the current snapshots of the Datasets.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cumulo_api::Dataset;
use cumulo_data::{
    Options, SqlLimits, SqlTable, query_tables, snapshot_files, to_csv, to_json, to_table,
};
use kube::api::{Api, ListParams};

use crate::cli::{Format, SqlArgs};
use crate::cluster;
use crate::home::Home;
use crate::project::apply::api_error;

/// Runs `cumulo sql`.
pub async fn run(home: &Home, arguments: SqlArgs) -> Result<()> {
    let client = cluster::client(home).await?;
    let datasets: Api<Dataset> = Api::namespaced(client, &arguments.namespace.namespace);
    let list = datasets
        .list(&ListParams::default())
        .await
        .map_err(|error| api_error(&error))?;
    let mut tables = Vec::new();
    for dataset in list.items {
        let name = dataset.metadata.name.unwrap_or_default();
        let Some(uri) = dataset.status.and_then(|status| status.uri) else {
            // A dataset without a version is no table yet; the query's error will say so.
            continue;
        };
        let folder = folder(home, &uri).with_context(|| format!("dataset {name}"))?;
        tables.push(SqlTable {
            files: snapshot_files(&folder).with_context(|| format!("dataset {name}"))?,
            name,
        });
    }
    if tables.is_empty() {
        bail!(
            "no Dataset in namespace {} has a version yet: `cumulo get datasets` shows why",
            arguments.namespace.namespace
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

/// The local folder of a snapshot.
fn folder(home: &Home, uri: &str) -> Result<PathBuf> {
    let relative = uri
        .strip_prefix("cumulo:")
        .with_context(|| format!("{uri} is not in this platform's artifact store"))?;
    Ok(home.path("artifacts").join(relative))
}
