//! Reads `generated.proto` files. They are written by one program in one style,
//! a statement a line, so that lines are what is read; anything unknown is an error.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// How often a field is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    Optional,
    Repeated,
    /// From text to the field's type.
    Map,
}

#[derive(Debug)]
pub(super) struct Field {
    pub number: u32,
    pub name: String,
    pub label: Label,
    /// A scalar's name, or the full name of a message (which has dots).
    pub kind: String,
}

#[derive(Debug, Default)]
pub(super) struct Message {
    /// By number.
    pub fields: Vec<Field>,
}

const SCALARS: &[&str] = &["string", "bool", "bytes", "double", "int32", "int64"];

/// The messages of a file, by their full names.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Message>> {
    let mut package = String::new();
    let mut messages = BTreeMap::new();
    let mut open: Option<(String, Message)> = None;
    let mut comment = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("/*") || comment {
            comment = !line.ends_with("*/");
            continue;
        }
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        if line == "}" {
            let (name, mut message) = open.take().context("a brace that closes nothing")?;
            message.fields.sort_by_key(|field| field.number);
            messages.insert(name, message);
        } else if let Some((_, message)) = &mut open {
            let field = field(line, &package).with_context(|| format!("cannot read {line:?}"))?;
            message.fields.push(field);
        } else if let Some(rest) = line.strip_prefix("message ") {
            let name = rest.strip_suffix(" {").context("a message without brace")?;
            open = Some((format!("{package}.{name}"), Message::default()));
        } else if let Some(rest) = line.strip_prefix("package ") {
            package = rest.trim_end_matches(';').to_owned();
        } else if !["syntax ", "import ", "option "]
            .iter()
            .any(|known| line.starts_with(known))
        {
            bail!("unknown statement {line:?}");
        }
    }
    Ok(messages)
}

fn field(line: &str, package: &str) -> Result<Field> {
    let (declared, number) = line
        .strip_suffix(';')
        .and_then(|line| line.split_once(" = "))
        .context("not a field")?;
    let (kind, name) = declared.rsplit_once(' ').context("no type")?;
    let (label, kind) = match kind.strip_prefix("map<string, ") {
        Some(value) => (Label::Map, value.strip_suffix('>').context("no map")?),
        None => match kind.split_once(' ') {
            Some(("optional", kind)) => (Label::Optional, kind),
            Some(("repeated", kind)) => (Label::Repeated, kind),
            _ => bail!("no label"),
        },
    };
    let kind = if let Some(full) = kind.strip_prefix('.') {
        full.to_owned()
    } else if SCALARS.contains(&kind) {
        kind.to_owned()
    } else if kind.chars().all(|c| c.is_ascii_alphanumeric())
        && kind.starts_with(char::is_uppercase)
    {
        format!("{package}.{kind}")
    } else {
        bail!("unknown type {kind}")
    };
    Ok(Field {
        number: number.parse().context("no number")?,
        name: name.to_owned(),
        label,
        kind,
    })
}
