//! The table of messages, read on first use from `schemas/protobuf.json.zst`
//! (see `cargo xtask protobuf`).

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;

static DATA: &[u8] = include_bytes!("../../schemas/protobuf.json.zst");

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    Table::load().unwrap_or_else(|message| {
        tracing::error!(%message, "the table of protobuf messages cannot be read");
        Table::default()
    })
});

/// A message's place in the table.
pub(super) type MessageId = usize;

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool,
    Bytes,
    Double,
    Int32,
    Int64,
    Message(MessageId),
}

/// How often it holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Label {
    #[default]
    One,
    List,
    Map,
}

/// When JSON written by Go shows a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Shown {
    /// When it is set, be it to zero: a pointer in Go.
    #[default]
    Set,
    /// When it is not zero.
    Nonzero,
    /// Always, as zero when it is not set.
    Always,
}

/// How a message looks in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Form {
    /// An object with the fields.
    #[default]
    Struct,
    /// A list: the only field's items.
    List,
    /// `"500m"`.
    Quantity,
    /// `80` or `"http"`.
    IntOrString,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Any value: the bytes of the only field are JSON.
    Json,
    /// `JSONSchemaPropsOrArray`.
    SchemaOrSchemas,
    /// `JSONSchemaPropsOrBool`.
    SchemaOrBool,
    /// `JSONSchemaPropsOrStringArray`.
    SchemaOrStrings,
}

/// A field.
#[derive(Debug)]
pub(super) struct Field {
    pub number: u32,
    /// Empty for a message whose fields are in JSON those of the outer message.
    pub json: Box<str>,
    pub kind: Kind,
    pub label: Label,
    pub shown: Shown,
}

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    pub form: Form,
    /// By number.
    pub fields: Vec<Field>,
}

/// All messages, and which of them the kinds are.
#[derive(Debug, Default)]
pub(super) struct Table {
    kinds: HashMap<String, MessageId>,
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct FileField {
    number: u32,
    json: Box<str>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    label: Label,
    #[serde(default)]
    shown: Shown,
}

#[derive(Deserialize)]
struct FileMessage {
    #[serde(default)]
    form: Form,
    fields: Vec<FileField>,
}

#[derive(Deserialize)]
struct File {
    kinds: BTreeMap<String, String>,
    messages: BTreeMap<String, FileMessage>,
}

impl Table {
    /// The table.
    pub fn get() -> &'static Self {
        &TABLE
    }

    /// The message of a kind; `api_version` is `v1` or `apps/v1`.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<MessageId> {
        // The options of a deletion are registered in every version of every group.
        let api_version = if kind == "DeleteOptions" {
            "v1"
        } else {
            api_version
        };
        self.kinds.get(&format!("{api_version}/{kind}")).copied()
    }

    /// A message.
    pub fn message(&self, id: MessageId) -> &Message {
        &self.messages[id]
    }

    /// All kinds, as `apps/v1/Deployment`.
    #[cfg(test)]
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.kinds.keys().map(String::as_str)
    }

    fn load() -> Result<Self, String> {
        let json = zstd::decode_all(DATA).map_err(|e| e.to_string())?;
        let file: File = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
        let ids: HashMap<&str, MessageId> = file
            .messages
            .keys()
            .enumerate()
            .map(|(id, name)| (name.as_str(), id))
            .collect();
        let find = |name: &str| {
            ids.get(name)
                .copied()
                .ok_or_else(|| format!("there is no message {name}"))
        };
        let kinds = file
            .kinds
            .iter()
            .map(|(kind, message)| Ok((kind.clone(), find(message)?)))
            .collect::<Result<_, String>>()?;
        let mut messages = Vec::with_capacity(file.messages.len());
        for message in file.messages.values() {
            let mut fields = Vec::with_capacity(message.fields.len());
            for field in &message.fields {
                fields.push(Field {
                    number: field.number,
                    json: field.json.clone(),
                    kind: match field.kind.as_str() {
                        "string" => Kind::Text,
                        "bool" => Kind::Bool,
                        "bytes" => Kind::Bytes,
                        "double" => Kind::Double,
                        "int32" => Kind::Int32,
                        "int64" => Kind::Int64,
                        name => Kind::Message(find(name)?),
                    },
                    label: field.label,
                    shown: field.shown,
                });
            }
            messages.push(Message {
                form: message.form,
                fields,
            });
        }
        Ok(Self { kinds, messages })
    }
}
