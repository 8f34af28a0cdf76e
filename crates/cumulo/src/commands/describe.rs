//! `cumulo describe`: one object in full, with its conditions and events.

use anyhow::{Context, Result};
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::Value;

use super::get::split_target;
use super::print;
use crate::cli::DescribeArgs;
use crate::cluster::Cluster;
use crate::place::Place;
use crate::project::apply::api_error;

/// Runs `cumulo describe`.
pub async fn run(place: &Place, arguments: DescribeArgs) -> Result<()> {
    let cluster = Cluster::connect(place).await?;
    let (resource, name) = split_target(&arguments.resource, arguments.name.as_deref())?;
    let name = name.context("name the object: cumulo describe TYPE NAME")?;
    let types = cluster.find(&resource)?;
    let resource = types.first().context("no such type")?;
    let namespace = place.namespace(&arguments.namespace);
    let namespace = namespace.as_str();
    let api: Api<DynamicObject> = if resource.namespaced {
        Api::namespaced_with(cluster.client.clone(), namespace, &resource.resource)
    } else {
        Api::all_with(cluster.client.clone(), &resource.resource)
    };
    let object = api.get(&name).await.map_err(|error| api_error(&error))?;
    let events: Api<k8s_openapi::api::core::v1::Event> =
        Api::namespaced(cluster.client.clone(), namespace);
    let selector = format!(
        "involvedObject.name={name},involvedObject.kind={}",
        resource.resource.kind
    );
    let events = events
        .list(&ListParams::default().fields(&selector))
        .await
        .map_err(|error| api_error(&error))?;
    let mut rows: Vec<_> = events
        .items
        .iter()
        .map(|event| {
            let when = event
                .last_timestamp
                .as_ref()
                .or(event.first_timestamp.as_ref())
                .map(|time| time.0.to_string())
                .unwrap_or_default();
            vec![
                when,
                event.type_.clone().unwrap_or_default(),
                event.reason.clone().unwrap_or_default(),
                event.count.unwrap_or(1).to_string(),
                event.message.clone().unwrap_or_default(),
            ]
        })
        .collect();
    rows.sort();
    print!("{}", text(&object, &resource.resource.kind)?);
    println!("Events:");
    if rows.is_empty() {
        println!("  none");
    } else {
        let table = print::columns(
            &print::header(&["LAST SEEN", "TYPE", "REASON", "COUNT", "MESSAGE"]),
            &rows,
        );
        for line in table.lines() {
            println!("  {line}");
        }
    }
    Ok(())
}

/// The object as a person reads it.
fn text(object: &DynamicObject, kind: &str) -> Result<String> {
    use std::fmt::Write as _;
    let mut text = String::new();
    let metadata = &object.metadata;
    let _ = writeln!(
        text,
        "Name:       {}",
        metadata.name.as_deref().unwrap_or_default()
    );
    if let Some(namespace) = &metadata.namespace {
        let _ = writeln!(text, "Namespace:  {namespace}");
    }
    let _ = writeln!(text, "Kind:       {kind}");
    if let Some(created) = &metadata.creation_timestamp {
        let _ = writeln!(text, "Created:    {}", created.0);
    }
    for (title, map) in [
        ("Labels:", &metadata.labels),
        ("Annotations:", &metadata.annotations),
    ] {
        for (name, value) in map.iter().flatten() {
            let _ = writeln!(text, "{title:11} {name}={value}");
        }
    }
    if let Some(owners) = &metadata.owner_references {
        for owner in owners {
            let _ = writeln!(text, "Made by:    {}/{}", owner.kind, owner.name);
        }
    }
    let mut status = Value::Null;
    if let Value::Object(fields) = &object.data {
        for (name, value) in fields {
            if name == "status" {
                status = value.clone();
                continue;
            }
            if kind == "Secret" && (name == "data" || name == "stringData") {
                let _ = writeln!(text, "Data:");
                for key in value.as_object().into_iter().flatten().map(|(key, _)| key) {
                    let _ = writeln!(text, "  {key}: (hidden)");
                }
                continue;
            }
            section(&mut text, name, value)?;
        }
    }
    let conditions = status
        .as_object_mut()
        .and_then(|fields| fields.remove("conditions"));
    if status.as_object().is_some_and(|fields| !fields.is_empty()) {
        section(&mut text, "status", &status)?;
    }
    if let Some(conditions) = conditions.as_ref().and_then(Value::as_array) {
        let rows: Vec<_> = conditions
            .iter()
            .map(|condition| {
                ["type", "status", "lastTransitionTime", "reason", "message"]
                    .iter()
                    .map(|field| condition[*field].as_str().unwrap_or_default().to_owned())
                    .collect()
            })
            .collect();
        text.push_str("Conditions:\n");
        let table = print::columns(
            &print::header(&["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]),
            &rows,
        );
        for line in table.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    Ok(text)
}

fn section(text: &mut String, name: &str, value: &Value) -> Result<()> {
    use std::fmt::Write as _;
    let mut title = name.to_owned();
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let yaml = serde_saphyr::to_string(value)?;
    let _ = writeln!(text, "{title}:");
    for line in yaml.lines() {
        let _ = writeln!(text, "  {line}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let object: DynamicObject = serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
            "type": "Opaque", "data": {"token": "c2VjcmV0"}}))
        .unwrap();
        insta::assert_snapshot!(text(&object, "Secret").unwrap(), @r"
        Name:       s
        Namespace:  default
        Kind:       Secret
        Type:
          Opaque
        Data:
          token: (hidden)
        ");
    }
}
