//! `cumulo predict`: rows in, predictions out, over the Open Inference Protocol.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::print;
use crate::cli::{Format, PredictArgs};
use crate::place::Place;

/// Rows of one request.
const BATCH: usize = 5_000;
/// Columns of the file that a table shows beside the predictions.
const SHOWN: usize = 6;
/// Rows that a table shows.
const TABLE_ROWS: usize = 1_000;

/// A file of rows, by column.
#[derive(Debug, Default)]
struct Rows {
    names: Vec<String>,
    /// Texts or JSON values as the file has them; null where a value is missing.
    columns: Vec<Vec<Value>>,
}

impl Rows {
    fn len(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }
}

/// Runs `cumulo predict`.
pub async fn run(place: &Place, arguments: PredictArgs) -> Result<()> {
    let rows = read(&arguments.data)?;
    if rows.len() == 0 {
        bail!("{} holds no rows", arguments.data.display());
    }
    let gateway = place.gateway().await?;
    let (http, token) = (&gateway.http, &gateway.token);
    let prefix = match place.namespace(&arguments.namespace).as_str() {
        "default" => String::new(),
        namespace => format!("/namespaces/{namespace}"),
    };
    let base = format!("{}{prefix}/v2/models/{}", gateway.base, arguments.service);
    let metadata = answer(http.get(&base).bearer_auth(token)).await?;
    let wanted = inputs(&metadata);
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|input| input.required && !rows.names.contains(&input.name))
        .map(|input| input.name.as_str())
        .collect();
    if !missing.is_empty() {
        bail!(
            "{} lacks columns that the model needs: {}",
            arguments.data.display(),
            missing.join(", ")
        );
    }
    let mut outputs: Vec<(String, Vec<Value>)> = Vec::new();
    for start in (0..rows.len()).step_by(BATCH) {
        let end = (start + BATCH).min(rows.len());
        let tensors = wanted
            .iter()
            .filter_map(|input| {
                let index = rows.names.iter().position(|name| *name == input.name)?;
                Some(tensor(input, &rows.columns[index][start..end], start))
            })
            .collect::<Result<Vec<_>>>()?;
        let request = json!({"inputs": tensors});
        if arguments.print_request {
            println!("{request}");
            continue;
        }
        let request = http
            .post(format!("{base}/infer"))
            .bearer_auth(token)
            .json(&request);
        let reply = answer(request).await?;
        for (index, output) in reply["outputs"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let name = output["name"].as_str().unwrap_or("output").to_owned();
            let data = output["data"].as_array().cloned().unwrap_or_default();
            let data = by_row(data, end - start);
            match outputs.get_mut(index) {
                Some((_, values)) => values.extend(data),
                None => outputs.push((name, data)),
            }
        }
    }
    if arguments.print_request {
        return Ok(());
    }
    show(&rows, &outputs, arguments.output.output)
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Value> {
    let answer = request
        .send()
        .await
        .context("the platform does not answer: see `cumulo status`")?;
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    if status.is_success() {
        return Ok(body);
    }
    match body["error"].as_str() {
        Some(message) => bail!("{message}"),
        None => bail!("the service answered {status}"),
    }
}

/// What the model's metadata says of one input.
struct Input {
    name: String,
    datatype: String,
    required: bool,
}

fn inputs(metadata: &Value) -> Vec<Input> {
    metadata["inputs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|input| Input {
            name: input["name"].as_str().unwrap_or_default().to_owned(),
            datatype: input["datatype"].as_str().unwrap_or("FP64").to_owned(),
            required: input["parameters"]["required"].as_bool().unwrap_or(true),
        })
        .collect()
}

/// One column as a tensor of the model's type.
fn tensor(input: &Input, values: &[Value], first: usize) -> Result<Value> {
    let mut data = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let converted = convert(value, &input.datatype).with_context(|| {
            format!(
                "row {}: column {} must be {}, not {value}",
                first + index + 1,
                input.name,
                match input.datatype.as_str() {
                    "BOOL" => "true or false",
                    kind if kind.starts_with("FP") => "a number",
                    _ => "a whole number",
                }
            )
        })?;
        data.push(converted);
    }
    Ok(
        json!({"name": input.name, "datatype": input.datatype, "shape": [values.len()], "data": data}),
    )
}

fn convert(value: &Value, datatype: &str) -> Option<Value> {
    if value.is_null() {
        return Some(Value::Null);
    }
    match (datatype, value) {
        ("BYTES", Value::String(_)) => Some(value.clone()),
        ("BYTES", other) => Some(Value::String(other.to_string())),
        ("BOOL", Value::Bool(_)) => Some(value.clone()),
        ("BOOL", Value::String(text)) => match text.to_lowercase().as_str() {
            "true" | "1" | "t" => Some(Value::Bool(true)),
            "false" | "0" | "f" => Some(Value::Bool(false)),
            _ => None,
        },
        (kind, Value::String(text)) if kind.starts_with("FP") => {
            text.trim().parse::<f64>().ok().map(|number| json!(number))
        }
        (_, Value::String(text)) => {
            let text = text.trim();
            match text.parse::<i64>() {
                Ok(number) => Some(json!(number)),
                // Tools that know no missing integers write 5 as 5.0.
                Err(_) => text
                    .parse::<f64>()
                    .ok()
                    .filter(|number| number.fract() == 0.0 && number.abs() < 9e15)
                    .map(|number| json!(number as i64)),
            }
        }
        (_, Value::Number(_)) => Some(value.clone()),
        _ => None,
    }
}

/// A flat tensor as one value a row.
fn by_row(data: Vec<Value>, rows: usize) -> Vec<Value> {
    if rows == 0 || data.len() == rows || !data.len().is_multiple_of(rows) {
        return data;
    }
    data.chunks(data.len() / rows)
        .map(|chunk| Value::Array(chunk.to_vec()))
        .collect()
}

/// Reads CSV, or JSON lines (`.jsonl`, `.ndjson`, `.json`).
fn read(path: &Path) -> Result<Rows> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    match extension {
        "json" | "jsonl" | "ndjson" => read_json(&text),
        _ => read_csv(&text),
    }
    .with_context(|| path.display().to_string())
}

fn read_csv(text: &[u8]) -> Result<Rows> {
    let mut reader = csv::Reader::from_reader(text);
    let names: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    let mut columns = vec![Vec::new(); names.len()];
    for record in reader.records() {
        for (column, cell) in columns.iter_mut().zip(record?.iter()) {
            column.push(match cell {
                "" | "NA" => Value::Null,
                text => Value::String(text.to_owned()),
            });
        }
    }
    Ok(Rows { names, columns })
}

fn read_json(text: &[u8]) -> Result<Rows> {
    let mut rows = Rows::default();
    let mut count = 0;
    for (line, record) in serde_json::Deserializer::from_slice(text)
        .into_iter::<Value>()
        .enumerate()
    {
        let record = record.with_context(|| format!("record {} is not JSON", line + 1))?;
        let records = match record {
            Value::Array(records) => records,
            one => vec![one],
        };
        for record in records {
            let Value::Object(fields) = record else {
                bail!("record {} is not an object", count + 1);
            };
            for (name, value) in fields {
                let index = match rows.names.iter().position(|known| *known == name) {
                    Some(index) => index,
                    None => {
                        rows.names.push(name);
                        rows.columns.push(vec![Value::Null; count]);
                        rows.columns.len() - 1
                    }
                };
                rows.columns[index].push(value);
            }
            count += 1;
            for column in &mut rows.columns {
                column.resize(count, Value::Null);
            }
        }
    }
    Ok(rows)
}

fn show(rows: &Rows, outputs: &[(String, Vec<Value>)], format: Format) -> Result<()> {
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{float:.4}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    };
    match format {
        Format::Json | Format::Yaml => {
            let records: Vec<Value> = (0..rows.len())
                .map(|row| {
                    let mut record = Map::new();
                    for (name, values) in outputs {
                        record.insert(name.clone(), values.get(row).cloned().unwrap_or_default());
                    }
                    Value::Object(record)
                })
                .collect();
            if format == Format::Json {
                println!("{}", serde_json::to_string_pretty(&records)?);
            } else {
                print!("{}", serde_saphyr::to_string(&records)?);
            }
        }
        Format::Csv => {
            let mut writer = csv::Writer::from_writer(std::io::stdout());
            writer.write_record(
                rows.names
                    .iter()
                    .chain(outputs.iter().map(|(name, _)| name)),
            )?;
            for row in 0..rows.len() {
                let inputs = rows.columns.iter().map(|column| match &column[row] {
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                let predicted = outputs.iter().map(|(_, values)| match values.get(row) {
                    None | Some(Value::Null) => String::new(),
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                });
                writer.write_record(inputs.chain(predicted))?;
            }
            writer.flush()?;
        }
        Format::Table | Format::Wide | Format::Name => {
            let shown = if format == Format::Wide {
                rows.names.len()
            } else {
                rows.names.len().min(SHOWN)
            };
            let header: Vec<String> = rows.names[..shown]
                .iter()
                .chain(outputs.iter().map(|(name, _)| name))
                .map(|name| name.to_uppercase())
                .collect();
            let lines: Vec<Vec<String>> = (0..rows.len().min(TABLE_ROWS))
                .map(|row| {
                    let inputs = rows.columns[..shown]
                        .iter()
                        .map(|column| cell(&column[row]));
                    let predicted = outputs
                        .iter()
                        .map(|(_, values)| values.get(row).map(cell).unwrap_or_default());
                    inputs.chain(predicted).collect()
                })
                .collect();
            print!("{}", print::columns(&header, &lines));
            if rows.len() > TABLE_ROWS {
                println!(
                    "… and {} more rows: -o csv prints all",
                    rows.len() - TABLE_ROWS
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_records_may_have_different_fields() {
        let rows = read_json(b"{\"a\": 1}\n{\"b\": \"x\"}").unwrap();
        assert_eq!(rows.names, ["a", "b"]);
        assert_eq!(rows.columns[0], [json!(1), Value::Null]);
        assert_eq!(rows.columns[1], [Value::Null, json!("x")]);
    }

    #[test]
    fn csv_texts_become_the_models_types() {
        let rows = read_csv(b"n,s\n5.0,AA\nNA,\n").unwrap();
        assert_eq!(convert(&rows.columns[0][0], "INT64"), Some(json!(5)));
        assert_eq!(convert(&rows.columns[0][1], "INT64"), Some(Value::Null));
        assert_eq!(convert(&rows.columns[1][0], "BYTES"), Some(json!("AA")));
        assert_eq!(convert(&rows.columns[1][0], "FP64"), None);
    }

    #[test]
    fn matrices_are_cut_into_rows() {
        assert_eq!(
            by_row(vec![json!(1), json!(2), json!(3), json!(4)], 2),
            [json!([1, 2]), json!([3, 4])]
        );
    }
}
