//! `cumulo get`: the server's own table columns, or the objects.

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt, StreamExt};
use http::Request;
use serde_json::Value;

use super::print;
use crate::cli::{Format, GetArgs};
use crate::cluster::{Cluster, ResourceType};
use crate::place::Place;
use crate::project::apply::api_error;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Runs `cumulo get`.
pub async fn run(place: &Place, mut arguments: GetArgs) -> Result<()> {
    arguments.namespace.namespace = Some(place.namespace(&arguments.namespace));
    let cluster = Cluster::connect(place).await?;
    let (resource, name) = split_target(&arguments.resource, arguments.name.as_deref())?;
    let types = cluster.find(&resource)?;
    if name.is_some() && types.len() > 1 {
        bail!("{resource:?} is a category: name a type to get one object of it");
    }
    if arguments.watch {
        let [one] = types[..] else {
            bail!("--watch follows one type: {resource:?} is a category");
        };
        return watch(&cluster, one, name.as_deref(), &arguments).await;
    }
    match arguments.output.output {
        Format::Json | Format::Yaml | Format::Name => {
            objects(&cluster, &types, name.as_deref(), &arguments).await
        }
        Format::Table | Format::Wide => tables(&cluster, &types, name.as_deref(), &arguments).await,
        Format::Csv => bail!("get prints table, wide, json, yaml or name"),
    }
}

/// `TYPE/NAME`, or type and name apart.
pub fn split_target(resource: &str, name: Option<&str>) -> Result<(String, Option<String>)> {
    match (resource.split_once('/'), name) {
        (Some(_), Some(_)) => bail!("give TYPE/NAME or TYPE NAME, not both"),
        (Some((resource, name)), None) => Ok((resource.to_owned(), Some(name.to_owned()))),
        (None, name) => Ok((resource.to_owned(), name.map(str::to_owned))),
    }
}

fn path(resource: &ResourceType, name: Option<&str>, arguments: &GetArgs, watch: bool) -> String {
    let namespace = arguments.namespace.namespace.as_deref();
    let namespace = namespace.filter(|_| !arguments.all_namespaces);
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let path = if watch {
        if let Some(name) = name {
            query.append_pair("fieldSelector", &format!("metadata.name={name}"));
        }
        query.append_pair("watch", "true");
        resource.path(namespace, None)
    } else {
        resource.path(namespace, name)
    };
    if let Some(selector) = &arguments.selector {
        query.append_pair("labelSelector", selector);
    }
    format!("{path}?{}", query.finish())
}

async fn request(cluster: &Cluster, path: &str, accept: &str) -> Result<Value> {
    let request = Request::get(path)
        .header(http::header::ACCEPT, accept)
        .body(Vec::new())?;
    cluster
        .client
        .request(request)
        .await
        .map_err(|error| api_error(&error))
}

async fn objects(
    cluster: &Cluster,
    types: &[&ResourceType],
    name: Option<&str>,
    arguments: &GetArgs,
) -> Result<()> {
    let mut items = Vec::new();
    for resource in types {
        let mut answer = request(
            cluster,
            &path(resource, name, arguments, false),
            "application/json",
        )
        .await?;
        if name.is_some() {
            items.push(answer);
            continue;
        }
        for item in answer["items"].as_array_mut().into_iter().flatten() {
            let mut item = item.take();
            if let Some(fields) = item.as_object_mut() {
                fields
                    .entry("apiVersion")
                    .or_insert_with(|| resource.resource.api_version.clone().into());
                fields
                    .entry("kind")
                    .or_insert_with(|| resource.resource.kind.clone().into());
            }
            items.push(item);
        }
    }
    for item in &mut items {
        if let Some(metadata) = item["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    }
    if arguments.output.output == Format::Name {
        for item in &items {
            let kind = item["kind"].as_str().unwrap_or("?").to_lowercase();
            println!(
                "{kind}/{}",
                item["metadata"]["name"].as_str().unwrap_or("?")
            );
        }
        return Ok(());
    }
    let value = match (name, items.len()) {
        (Some(_), 1) => items.remove(0),
        _ => serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}),
    };
    match arguments.output.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&value)?),
        _ => print!("{}", serde_saphyr::to_string(&value)?),
    }
    Ok(())
}

async fn tables(
    cluster: &Cluster,
    types: &[&ResourceType],
    name: Option<&str>,
    arguments: &GetArgs,
) -> Result<()> {
    let wide = arguments.output.output == Format::Wide;
    let mut shown = 0;
    for resource in types {
        let table = request(cluster, &path(resource, name, arguments, false), TABLE).await?;
        let prefix = (types.len() > 1).then(|| format!("{}/", resource.full_name()));
        let (header, rows) = cells(
            &table,
            wide,
            arguments.all_namespaces && resource.namespaced,
            prefix.as_deref(),
        );
        if rows.is_empty() {
            continue;
        }
        if shown > 0 {
            println!();
        }
        shown += rows.len();
        print!("{}", print::columns(&header, &rows));
    }
    if shown == 0 {
        if arguments.all_namespaces {
            eprintln!("nothing found");
        } else {
            eprintln!(
                "nothing found in namespace {}",
                arguments.namespace.namespace.as_deref().unwrap_or_default()
            );
        }
    }
    Ok(())
}

/// The header and the rows of a server-side table.
fn cells(
    table: &Value,
    wide: bool,
    namespaces: bool,
    prefix: Option<&str>,
) -> (Vec<String>, Vec<Vec<String>>) {
    let definitions = table["columnDefinitions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let shown: Vec<usize> = definitions
        .iter()
        .enumerate()
        .filter(|(_, column)| wide || column["priority"].as_i64().unwrap_or(0) == 0)
        .map(|(index, _)| index)
        .collect();
    let mut header: Vec<String> = shown
        .iter()
        .map(|index| {
            definitions[*index]["name"]
                .as_str()
                .unwrap_or_default()
                .to_uppercase()
        })
        .collect();
    if namespaces {
        header.insert(0, "NAMESPACE".to_owned());
    }
    let rows = table["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let mut cells: Vec<String> = shown
                .iter()
                .map(|index| text(&row["cells"][*index]))
                .collect();
            if let (Some(prefix), Some(first)) = (prefix, cells.first_mut()) {
                first.insert_str(0, prefix);
            }
            if namespaces {
                cells.insert(
                    0,
                    row["object"]["metadata"]["namespace"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                );
            }
            cells
        })
        .collect();
    (header, rows)
}

fn text(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

async fn watch(
    cluster: &Cluster,
    resource: &ResourceType,
    name: Option<&str>,
    arguments: &GetArgs,
) -> Result<()> {
    let wide = arguments.output.output == Format::Wide;
    let namespaces = arguments.all_namespaces && resource.namespaced;
    let request = Request::get(path(resource, name, arguments, true))
        .header(http::header::ACCEPT, TABLE)
        .body(Vec::new())?;
    let stream = cluster
        .client
        .request_stream(request)
        .await
        .map_err(|error| api_error(&error))?;
    let mut lines = stream.lines();
    // The server describes the columns in the first event only.
    let mut definitions = Value::Null;
    let mut printed_header = false;
    while let Some(line) = lines.next().await {
        let line = line.context("the watch broke off")?;
        let mut event: Value =
            serde_json::from_str(&line).context("the watch sent something else than JSON")?;
        match event["type"].as_str() {
            Some("BOOKMARK") => continue,
            Some("ERROR") => bail!(
                "{}",
                event["object"]["message"]
                    .as_str()
                    .unwrap_or("the watch failed")
            ),
            _ => {}
        }
        let table = &mut event["object"];
        if table["columnDefinitions"]
            .as_array()
            .is_some_and(|columns| !columns.is_empty())
        {
            definitions = table["columnDefinitions"].clone();
        } else {
            table["columnDefinitions"] = definitions.clone();
        }
        let (header, rows) = cells(table, wide, namespaces, None);
        let text = print::columns(&header, &rows);
        let skip = usize::from(printed_header);
        for line in text.lines().skip(skip) {
            println!("{line}");
        }
        printed_header = true;
    }
    Ok(())
}
