//! What is asked of GPUs: `gpu: 0.3`, `gpu: 2`, `gpu: {memory: 10Gi, model: [A100]}`.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// GPUs as a user writes them: a number, or an object. [`Gpu::ask`] says what it means.
///
/// A schema cannot say "a number or an object" in Kubernetes' terms, so any
/// value is kept as it is written, and whoever reads it answers a mistake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gpu(pub Value);

/// What is asked of GPUs, understood.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GpuAsk {
    /// How many, each on a GPU or partition of its own.
    pub count: u32,
    /// What of each.
    pub amount: GpuAmount,
    /// Models that will do, such as `A100`; none listed: all.
    pub models: Vec<String>,
}

/// How much of each GPU is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GpuAmount {
    /// All of it, alone.
    Whole,
    /// A share of its compute and memory, in thousandths.
    Share(u32),
    /// Bytes of its memory, with the compute that goes with them.
    Memory(u64),
    /// A MIG partition of this profile.
    Profile(String),
}

/// Why a wish for GPUs is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// A number that is no amount of GPUs.
    #[error(
        "gpu: {0} is neither a share of one GPU nor whole GPUs: write a number below 1, such as 0.3, or 1, 2, …"
    )]
    Number(String),
    /// Text that means nothing.
    #[error(
        "gpu: {0:?} is not understood: write a share (0.3), a count (2), memory (10Gi), a profile (1g.10gb), or {{count: 2, model: [A100, H100]}}"
    )]
    Text(String),
    /// Another type of value.
    #[error("gpu: {0} is neither a number nor an object")]
    Type(String),
    /// A field that is not there.
    #[error("gpu: there is no field {0:?}; it has count, share, memory, profile and model")]
    Field(String),
    /// Two fields that each say how much.
    #[error("gpu: {0} and {1} exclude each other: each says how much of a GPU")]
    Both(&'static str, &'static str),
    /// A field with a value that it cannot have.
    #[error("gpu.{field}: {value} is not {wanted}")]
    Value {
        /// The field.
        field: &'static str,
        /// What was given.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
}

/// Most GPUs that one pod can ask for.
const MOST: u64 = 1024;
const COUNT: &str = "a whole number from 1 to 1024";
const SHARE: &str = "a number above 0 and below 1, such as 0.3";
const MEMORY: &str = "an amount of memory, such as 10Gi";
const PROFILE: &str = "a MIG profile, such as 1g.10gb";
const MODEL: &str = "a model, such as A100, or a list of them";

impl Gpu {
    /// What is asked.
    ///
    /// # Errors
    /// When it is not understood, with what to write instead.
    pub fn ask(&self) -> Result<GpuAsk, GpuError> {
        match &self.0 {
            Value::Number(number) => from_number(number.as_f64(), &number.to_string()),
            Value::String(text) => from_text(text),
            Value::Object(fields) => from_fields(fields),
            other => Err(GpuError::Type(other.to_string())),
        }
    }

    /// The value in one line, for annotations; [`Gpu::from_str`] reads it again.
    pub fn text(&self) -> String {
        match &self.0 {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

impl FromStr for Gpu {
    type Err = GpuError;

    /// Reads what a command line or an annotation holds: `0.3`, `2`, `10Gi`,
    /// `1g.10gb`, `{memory: 10Gi}`, `count=2,model=[A100,H100]`, or JSON.
    fn from_str(text: &str) -> Result<Self, GpuError> {
        let text = text.trim();
        let gpu = match serde_json::from_str(text) {
            Ok(value) => Self(value),
            Err(_) if text.contains([':', '=']) => Self(Value::Object(fields_of(text)?)),
            Err(_) => Self(Value::String(text.to_owned())),
        };
        gpu.ask()?;
        Ok(gpu)
    }
}

impl JsonSchema for Gpu {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Gpu".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-preserve-unknown-fields": true})
    }
}

fn from_number(number: Option<f64>, written: &str) -> Result<GpuAsk, GpuError> {
    let wrong = || GpuError::Number(written.to_owned());
    let number = number
        .filter(|number| number.is_finite())
        .ok_or_else(wrong)?;
    if number > 0.0 && number < 1.0 {
        return Ok(GpuAsk {
            count: 1,
            amount: share(number).ok_or_else(wrong)?,
            models: Vec::new(),
        });
    }
    if number >= 1.0 && number <= MOST as f64 && number.fract() == 0.0 {
        return Ok(GpuAsk {
            count: number as u32,
            amount: GpuAmount::Whole,
            models: Vec::new(),
        });
    }
    Err(wrong())
}

/// A share in thousandths; one that rounds to nothing or to all is none.
fn share(number: f64) -> Option<GpuAmount> {
    let milli = (number * 1000.0).round();
    (1.0..1000.0)
        .contains(&milli)
        .then_some(GpuAmount::Share(milli as u32))
}

fn from_text(text: &str) -> Result<GpuAsk, GpuError> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return from_number(Some(number), text);
    }
    let amount = profile(text)
        .or_else(|| memory(text).map(GpuAmount::Memory))
        .ok_or_else(|| GpuError::Text(text.to_owned()))?;
    Ok(GpuAsk {
        count: 1,
        amount,
        models: Vec::new(),
    })
}

fn from_fields(fields: &Map<String, Value>) -> Result<GpuAsk, GpuError> {
    let mut ask = GpuAsk {
        count: 1,
        amount: GpuAmount::Whole,
        models: Vec::new(),
    };
    let mut said: Option<&'static str> = None;
    for (name, value) in fields {
        let written = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let wrong = |field, wanted| GpuError::Value {
            field,
            value: written.clone(),
            wanted,
        };
        let number: Option<f64> = written.trim().parse().ok();
        let (field, amount) = match name.as_str() {
            "count" => {
                let count = written.trim().parse::<u64>().ok();
                let count = count.filter(|count| (1..=MOST).contains(count));
                let count = count.and_then(|count| u32::try_from(count).ok());
                ask.count = count.ok_or_else(|| wrong("count", COUNT))?;
                continue;
            }
            "model" => {
                ask.models = models(value).ok_or_else(|| wrong("model", MODEL))?;
                continue;
            }
            "share" => (
                "share",
                number
                    .and_then(share)
                    .ok_or_else(|| wrong("share", SHARE))?,
            ),
            "memory" => {
                let bytes = memory(&written).ok_or_else(|| wrong("memory", MEMORY))?;
                ("memory", GpuAmount::Memory(bytes))
            }
            "profile" => (
                "profile",
                profile(&written).ok_or_else(|| wrong("profile", PROFILE))?,
            ),
            _ => return Err(GpuError::Field(name.clone())),
        };
        if let Some(before) = said.replace(field) {
            return Err(GpuError::Both(before, field));
        }
        ask.amount = amount;
    }
    Ok(ask)
}

fn models(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| {
        let name = value.as_str()?.trim();
        (!name.is_empty()).then(|| name.to_owned())
    };
    match value {
        Value::Array(list) if !list.is_empty() => list.iter().map(one).collect(),
        other => Some(vec![one(other)?]),
    }
}

/// `1g.10gb`, `1g.10gb+me`.
fn profile(text: &str) -> Option<GpuAmount> {
    let text = text.trim();
    let (slices, rest) = text.split_once("g.")?;
    let (memory, attributes) = rest.split_once("gb")?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let well = digits(slices)
        && digits(memory)
        && (attributes.is_empty() || attributes.starts_with(['+', '-']));
    well.then(|| GpuAmount::Profile(text.to_owned()))
}

/// Bytes of an amount of memory with a unit, above 0.
fn memory(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let unit: u64 = match unit {
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    // Far above any GPU, far below where a u64 ends.
    ((1.0..=1e18).contains(&bytes)).then_some(bytes.round() as u64)
}

/// `{memory: 10Gi, model: [A100, H100]}` without YAML's ceremony: braces may be
/// left out, `=` is `:`.
fn fields_of(text: &str) -> Result<Map<String, Value>, GpuError> {
    let wrong = || GpuError::Text(text.to_owned());
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(wrong)?,
        None => text,
    };
    let plain = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
    let mut fields = Map::new();
    let mut rest = inner.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once([':', '=']).ok_or_else(wrong)?;
        let after = after.trim_start();
        let (value, left) = if let Some(list) = after.strip_prefix('[') {
            let (list, left) = list.split_once(']').ok_or_else(wrong)?;
            (json!(list.split(',').map(plain).collect::<Vec<_>>()), left)
        } else {
            let end = after.find(',').unwrap_or(after.len());
            (json!(plain(&after[..end])), &after[end..])
        };
        fields.insert(plain(name), value);
        let left = left.trim_start();
        rest = match left.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if left.is_empty() => left,
            None => return Err(wrong()),
        };
    }
    Ok(fields)
}

impl GpuAsk {
    /// Whether one of the models asked for is this one; no model is asked for: none is.
    pub fn takes(&self, model: &str) -> bool {
        self.models.iter().any(|name| is_model(model, name))
    }
}

/// What product names begin with.
pub const GPU_MAKERS: &[&str] = &[
    "NVIDIA ",
    "AMD Instinct ",
    "AMD Radeon ",
    "AMD ",
    "Intel Data Center GPU ",
    "Intel Arc ",
    "Intel ",
];

/// Whether a model is what a person calls `name`: the whole name, or its first
/// words (`A100` is `A100-SXM4-80GB` and not `A1000`).
pub fn is_model(model: &str, name: &str) -> bool {
    let plain = |text: &str| {
        let text = text.trim().to_ascii_lowercase();
        let makers = GPU_MAKERS.iter().map(|maker| maker.to_ascii_lowercase());
        let known = makers.into_iter().find(|maker| text.starts_with(maker));
        text[known.map_or(0, |maker| maker.len())..].to_owned()
    };
    let (model, name) = (plain(model), plain(name));
    !name.is_empty()
        && model
            .strip_prefix(name.as_str())
            .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
}

/// As a sentence says it: `0.3 of a GPU`, `2 GPUs (A100 or H100)`.
impl fmt::Display for GpuAsk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = match &self.amount {
            GpuAmount::Whole if self.count == 1 => "a GPU".to_owned(),
            GpuAmount::Whole => format!("{} GPUs", self.count),
            GpuAmount::Share(milli) => format!("{} of a GPU", f64::from(*milli) / 1000.0),
            GpuAmount::Memory(bytes) => format!("{} of a GPU's memory", show_bytes(*bytes)),
            GpuAmount::Profile(name) => format!("a {name} partition of a GPU"),
        };
        if self.count > 1 && self.amount != GpuAmount::Whole {
            write!(out, "{} times ", self.count)?;
        }
        out.write_str(&one)?;
        if !self.models.is_empty() {
            write!(out, " ({})", self.models.join(" or "))?;
        }
        Ok(())
    }
}

/// Bytes in the largest binary unit that holds one, with at most one decimal.
fn show_bytes(bytes: u64) -> String {
    for (unit, shift) in [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)] {
        let tenths = (u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift;
        if tenths >= 10 {
            return match tenths % 10 {
                0 => format!("{}{unit}", tenths / 10),
                rest => format!("{}.{rest}{unit}", tenths / 10),
            };
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match text.parse::<Gpu>().and_then(|gpu| gpu.ask()) {
            Ok(ask) => ask.to_string(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn what_a_user_writes_is_understood_or_answered() {
        let lines: Vec<String> = [
            "0.3",
            "1",
            "2",
            "10Gi",
            "1g.10gb",
            "{memory: 10Gi}",
            r#"{"memory":"10Gi","count":2}"#,
            "{profile: 1g.10gb}",
            "{count: 2}",
            "{model: [A100, H100]}",
            "share=0.5,model=A100",
            "{count: 2, model: [A100, H100], memory: 1.5Gi}",
            "0",
            "-1",
            "1.5",
            "0.0001",
            "2000",
            "many",
            "null",
            "{memory: lots}",
            "{memory: 10}",
            "{profile: big}",
            "{count: 0}",
            "{memroy: 10Gi}",
            "{memory: 10Gi, profile: 1g.10gb}",
            "{share: 2}",
            "{model: []}",
            "{model: [A100}",
        ]
        .map(|text| format!("{text} → {}", read(text)))
        .into();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn what_is_in_an_annotation_is_read_again() {
        for text in ["0.3", "2", r#"{"memory":"10Gi"}"#, "1g.10gb"] {
            let gpu: Gpu = text.parse().unwrap();
            assert_eq!(gpu.text(), text);
            assert_eq!(gpu.text().parse::<Gpu>().unwrap().ask(), gpu.ask());
        }
    }
}
