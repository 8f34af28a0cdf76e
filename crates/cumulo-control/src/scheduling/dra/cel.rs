//! CEL selectors of devices, as Kubernetes evaluates them: `device.driver`,
//! `device.attributes["domain"].name`, `device.capacity["domain"].name`,
//! `device.allowMultipleAllocations`, and the libraries for versions and quantities.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use cel::extractors::This;
use cel::objects::{Key, Map, Opaque, Value};
use cel::{Context, Env, ExecutionError, Program};

use super::inventory::{Attribute, Device};
use crate::scheduling::quantity::{UNIT, nano};

/// Longest expression (Kubernetes' own bound).
const LONGEST: usize = 10 * 1024;
/// Longest expression that goes through lists, and how often it may: what bounds
/// the time of an evaluation.
const LONGEST_WITH_LOOPS: usize = 1024;
const MOST_LOOPS: usize = 2;
/// Most expressions that are kept compiled.
const MOST_KEPT: usize = 4096;

/// Expressions, compiled once.
pub(crate) struct Expressions {
    env: Arc<Env>,
    compiled: HashMap<String, Result<Arc<Compiled>, String>>,
}

/// An expression that is understood.
pub(crate) struct Compiled {
    program: Program,
    /// Domains that it looks into; an empty one is no error.
    domains: Vec<String>,
    text: String,
}

impl Expressions {
    pub(crate) fn new() -> Self {
        let mut env = Env::stdlib();
        for extension in [cel::extensions::strings, cel::extensions::lists] {
            let added = env.add_extension(extension);
            debug_assert!(added.is_ok(), "{added:?}");
        }
        Self {
            env: Arc::new(env),
            compiled: HashMap::new(),
        }
    }

    /// An expression, compiled; `Err` says why it is not understood.
    pub(crate) fn compile(&mut self, text: &str) -> Result<Arc<Compiled>, String> {
        if let Some(known) = self.compiled.get(text) {
            return known.clone();
        }
        if self.compiled.len() >= MOST_KEPT {
            self.compiled.clear();
        }
        let compiled = self.read(text).map(Arc::new);
        self.compiled.insert(text.to_owned(), compiled.clone());
        compiled
    }

    fn read(&self, text: &str) -> Result<Compiled, String> {
        let loops: usize = [".all(", ".exists(", ".exists_one(", ".map(", ".filter("]
            .iter()
            .map(|name| text.matches(name).count())
            .sum();
        if text.len() > LONGEST || (loops > 0 && text.len() > LONGEST_WITH_LOOPS) {
            return Err(format!("the selector of {} bytes is too long", text.len()));
        }
        if loops > MOST_LOOPS {
            return Err(format!(
                "the selector {text:?} has more than {MOST_LOOPS} loops"
            ));
        }
        let program = self.env.compile(text).map_err(|error| {
            let error = error.to_string();
            let first = error.lines().next().unwrap_or_default().to_owned();
            format!("the selector {text:?} is not understood: {first}")
        })?;
        Ok(Compiled {
            program,
            domains: domains(text),
            text: text.to_owned(),
        })
    }

    /// What evaluates expressions on devices.
    pub(crate) fn evaluator(&self) -> Evaluator {
        let mut context = Context::with_env(Arc::clone(&self.env));
        for outcome in [
            context.add_function("quantity", quantity),
            context.add_function("isQuantity", |text: Arc<String>| nano(&text).is_some()),
            context.add_function("semver", semver),
            context.add_function("isSemver", |text: Arc<String>| {
                Version::read(&text).is_some()
            }),
            context.add_function("compareTo", |This(this): This<Value>, other: Value| {
                compare(&this, &other).map(|order| order as i64)
            }),
            context.add_function("isGreaterThan", |This(this): This<Value>, other: Value| {
                compare(&this, &other).map(Ordering::is_gt)
            }),
            context.add_function("isLessThan", |This(this): This<Value>, other: Value| {
                compare(&this, &other).map(Ordering::is_lt)
            }),
            context.add_function("sign", |This(this): This<Value>| {
                amount(&this).map(|nano| nano.signum() as i64)
            }),
            context.add_function("asInteger", |This(this): This<Value>| {
                let nano = amount(&this)?;
                i64::try_from(nano / UNIT)
                    .ok()
                    .filter(|_| nano % UNIT == 0)
                    .ok_or_else(|| failed("asInteger", "not a whole number"))
            }),
            context.add_function("add", |This(this): This<Value>, other: Value| {
                sum(&this, &other, 1)
            }),
            context.add_function("sub", |This(this): This<Value>, other: Value| {
                sum(&this, &other, -1)
            }),
            context.add_function("major", |This(this): This<Value>| {
                version(&this).map(|version| version.numbers[0] as i64)
            }),
            context.add_function("minor", |This(this): This<Value>| {
                version(&this).map(|version| version.numbers[1] as i64)
            }),
            context.add_function("patch", |This(this): This<Value>| {
                version(&this).map(|version| version.numbers[2] as i64)
            }),
        ] {
            // None of these names is the standard library's.
            debug_assert!(outcome.is_ok(), "{outcome:?}");
        }
        Evaluator { context }
    }
}

/// Evaluates expressions.
pub(crate) struct Evaluator {
    context: Context<'static, 'static>,
}

impl Evaluator {
    /// Whether a device is selected; `Err` says why that cannot be told.
    pub(crate) fn selects(&self, compiled: &Compiled, device: &Device) -> Result<bool, String> {
        let mut scope = self.context.new_inner_scope();
        scope.add_variable_from_value("device", describe(device, &compiled.domains));
        match compiled.program.execute(&scope) {
            Ok(Value::Bool(selected)) => Ok(selected),
            Ok(_) => Err(format!(
                "the selector {:?} gives no truth value",
                compiled.text
            )),
            Err(error) => Err(format!(
                "the selector {:?} fails on device {}: {error}",
                compiled.text, device.id
            )),
        }
    }
}

/// The domains that an expression names: `["…"]` after `attributes` or `capacity`.
fn domains(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for field in ["attributes", "capacity"] {
        for (at, _) in text.match_indices(field) {
            let rest = text[at + field.len()..].trim_start();
            let Some(rest) = rest.strip_prefix('[').map(str::trim_start) else {
                continue;
            };
            let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
                continue;
            };
            if let Some((domain, _)) = rest[1..].split_once(quote) {
                found.push(domain.to_owned());
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn describe(device: &Device, domains: &[String]) -> Value {
    let empty = || {
        domains
            .iter()
            .map(|domain| (domain.clone(), HashMap::new()))
    };
    let mut attributes: HashMap<String, HashMap<Key, Value>> = empty().collect();
    for (name, attribute) in &device.attributes {
        let value = match attribute {
            Attribute::Bool(value) => Value::Bool(*value),
            Attribute::Int(value) => Value::Int(*value),
            Attribute::Text(value) => Value::String(Arc::new(value.clone())),
            Attribute::Version(text) => match Version::read(text) {
                Some(version) => Value::Opaque(Arc::new(version)),
                None => continue,
            },
        };
        insert(&mut attributes, name, value);
    }
    let mut capacity: HashMap<String, HashMap<Key, Value>> = empty().collect();
    for (name, capacities) in &device.capacity {
        let value = Value::Opaque(Arc::new(Quantity(capacities.value)));
        insert(&mut capacity, name, value);
    }
    let maps = |maps: HashMap<String, HashMap<Key, Value>>| {
        let maps: HashMap<Key, Value> = maps
            .into_iter()
            .map(|(domain, map)| (Key::from(domain), Value::Map(Map { map: Arc::new(map) })))
            .collect();
        Value::Map(Map {
            map: Arc::new(maps),
        })
    };
    let fields: HashMap<Key, Value> = HashMap::from([
        (Key::from("driver"), Value::from(device.id.driver.as_str())),
        (Key::from("attributes"), maps(attributes)),
        (Key::from("capacity"), maps(capacity)),
        (
            Key::from("allowMultipleAllocations"),
            Value::Bool(device.shared),
        ),
    ]);
    Value::Map(Map {
        map: Arc::new(fields),
    })
}

/// Puts a value under `domain/name`.
fn insert(maps: &mut HashMap<String, HashMap<Key, Value>>, name: &str, value: Value) {
    if let Some((domain, name)) = name.split_once('/') {
        let map = maps.entry(domain.to_owned()).or_default();
        map.insert(Key::from(name.to_owned()), value);
    }
}

/// A quantity, in billionths.
#[derive(Debug, PartialEq, Eq)]
struct Quantity(i128);

impl Opaque for Quantity {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Quantity"
    }
}

/// A version as semver.org has it.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    pre: Vec<String>,
}

impl Opaque for Version {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Semver"
    }
}

impl Version {
    fn read(text: &str) -> Option<Self> {
        let text = text.split_once('+').map_or(text, |(version, _)| version);
        let (numbers, pre) = match text.split_once('-') {
            Some((numbers, pre)) => (numbers, pre.split('.').map(str::to_owned).collect()),
            None => (text, Vec::new()),
        };
        let parts: Vec<u64> = numbers
            .split('.')
            .map(|part| part.parse().ok())
            .collect::<Option<_>>()?;
        Some(Self {
            numbers: parts.try_into().ok()?,
            pre,
        })
    }

    fn order(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => return Ordering::Equal,
                // Before its release.
                (true, false) => return Ordering::Greater,
                (false, true) => return Ordering::Less,
                (false, false) => {}
            }
            for (one, two) in self.pre.iter().zip(&other.pre) {
                let order = match (one.parse::<u64>(), two.parse::<u64>()) {
                    (Ok(one), Ok(two)) => one.cmp(&two),
                    (Ok(_), Err(_)) => Ordering::Less,
                    (Err(_), Ok(_)) => Ordering::Greater,
                    (Err(_), Err(_)) => one.cmp(two),
                };
                if order != Ordering::Equal {
                    return order;
                }
            }
            self.pre.len().cmp(&other.pre.len())
        })
    }
}

fn failed(function: &str, what: &str) -> ExecutionError {
    ExecutionError::function_error(function, what)
}

fn quantity(text: Arc<String>) -> Result<Value, ExecutionError> {
    let nano = nano(&text).ok_or_else(|| failed("quantity", "not a quantity"))?;
    Ok(Value::Opaque(Arc::new(Quantity(nano))))
}

fn semver(text: Arc<String>) -> Result<Value, ExecutionError> {
    let version = Version::read(&text).ok_or_else(|| failed("semver", "not a version"))?;
    Ok(Value::Opaque(Arc::new(version)))
}

fn amount(value: &Value) -> Result<i128, ExecutionError> {
    opaque::<Quantity>(value)
        .map(|quantity| quantity.0)
        .ok_or_else(|| failed("quantity", "the value is not a quantity"))
}

fn version(value: &Value) -> Result<&Version, ExecutionError> {
    opaque::<Version>(value).ok_or_else(|| failed("semver", "the value is not a version"))
}

fn opaque<T: 'static>(value: &Value) -> Option<&T> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<T>(),
        _ => None,
    }
}

fn compare(one: &Value, two: &Value) -> Result<Ordering, ExecutionError> {
    match (opaque::<Version>(one), opaque::<Version>(two)) {
        (Some(one), Some(two)) => Ok(one.order(two)),
        _ => Ok(amount(one)?.cmp(&amount(two)?)),
    }
}

fn sum(one: &Value, two: &Value, sign: i128) -> Result<Value, ExecutionError> {
    let two = match two {
        Value::Int(number) => i128::from(*number) * UNIT,
        other => amount(other)?,
    };
    let sum = amount(one)?
        .checked_add(sign * two)
        .ok_or_else(|| failed("quantity", "too large"))?;
    Ok(Value::Opaque(Arc::new(Quantity(sum))))
}
