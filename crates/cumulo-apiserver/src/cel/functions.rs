//! The functions that expressions may call: the language's own, its string
//! extension, and of Kubernetes' library lists, regular expressions and
//! quantities.

use std::cmp::Ordering;
use std::sync::Arc;

use ::cel::common::types::{CelBool, CelInt, DYN_TYPE, LIST_TYPE, STRING_TYPE};
use ::cel::common::value::CowVal;
use ::cel::extractors::This;
use ::cel::objects::Opaque;
use ::cel::{Context, DeclarationError, Env, ExecutionError, Value, extensions};

use crate::quantity::Quantity;

/// Everything an expression may call, operators apart.
const KNOWN: &[&str] = &[
    // the language
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "type",
    "dyn",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "optional.of",
    "optional.none",
    "optional.ofNonZeroValue",
    "hasValue",
    "value",
    "or",
    "orValue",
    // its string extension
    "charAt",
    "indexOf",
    "lastIndexOf",
    "join",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "format",
    "strings.quote",
    "reverse",
    // Kubernetes' library
    "sum",
    "min",
    "max",
    "isSorted",
    "find",
    "findAll",
    "quantity",
    "isQuantity",
    "sign",
    "isInteger",
    "asInteger",
    "asApproximateFloat",
    "add",
    "sub",
    "compareTo",
    "isGreaterThan",
    "isLessThan",
];

/// Names that stand for types.
const TYPES: &[&str] = &[
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
];

/// Whether a function is known; what is no word is an operator.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name) || !name.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Whether a name is a type's.
pub(super) fn is_type(name: &str) -> bool {
    TYPES.contains(&name) || name == "google"
}

/// Whether a name stands before the dot of a function's.
pub(super) fn is_namespace(name: &str) -> bool {
    matches!(name, "optional" | "strings")
}

/// The environment that all expressions share.
pub(super) fn environment() -> Env {
    let mut env = Env::stdlib();
    if let Err(error) = extend(&mut env) {
        // A test holds that it does not happen.
        tracing::error!(%error, "functions of expressions could not be declared");
    }
    env
}

fn extend(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_extension(extensions::strings)?;
    env.add_member_overload(
        "indexOf",
        "list_index_of",
        LIST_TYPE,
        vec![DYN_TYPE],
        |args| Ok(CowVal::owned(CelInt::from(place(&args, false)?))),
    )?;
    env.add_member_overload(
        "lastIndexOf",
        "list_last_index_of",
        LIST_TYPE,
        vec![DYN_TYPE],
        |args| Ok(CowVal::owned(CelInt::from(place(&args, true)?))),
    )?;
    env.add_overload("isQuantity", "is_quantity", vec![STRING_TYPE], |args| {
        let text = Value::try_from(args[0].as_ref())?;
        let good = matches!(&text, Value::String(text) if Quantity::parse(text).is_some());
        Ok(CowVal::owned(CelBool::from(good)))
    })
}

/// Where in a list a value is; -1 where it is not.
fn place(args: &[CowVal<'_, '_>], last: bool) -> Result<i64, ExecutionError> {
    let (Value::List(list), wanted) = (
        Value::try_from(args[0].as_ref())?,
        Value::try_from(args[1].as_ref())?,
    ) else {
        return Err(ExecutionError::function_error(
            "indexOf",
            "a list is needed",
        ));
    };
    let found = if last {
        list.iter().rposition(|item| *item == wanted)
    } else {
        list.iter().position(|item| *item == wanted)
    };
    Ok(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1))
}

/// A quantity of resources in an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Amount(Quantity);

impl Opaque for Amount {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Quantity"
    }
}

fn amount(value: &Value) -> Result<&Quantity, ExecutionError> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<Amount>().map(|amount| &amount.0),
        _ => None,
    }
    .ok_or_else(|| ExecutionError::function_error("quantity", "a quantity is needed"))
}

fn shown(quantity: Quantity) -> Value {
    Value::Opaque(Arc::new(Amount(quantity)))
}

/// Adds the functions that work on any type.
pub(super) fn add(context: &mut Context<'_, '_>) {
    let added = [
        context.add_function("sum", sum),
        context.add_function("min", |This(list): This<Arc<Vec<Value>>>| {
            extreme(&list, Ordering::Less)
        }),
        context.add_function("max", |This(list): This<Arc<Vec<Value>>>| {
            extreme(&list, Ordering::Greater)
        }),
        context.add_function("isSorted", |This(list): This<Arc<Vec<Value>>>| {
            list.windows(2).all(|pair| pair[0] <= pair[1])
        }),
        context.add_function("find", |This(text): This<Arc<String>>, pattern: Arc<String>| {
            let found = regex(&pattern)?.find(&text).map(|found| found.as_str());
            Ok::<_, ExecutionError>(Value::from(found.unwrap_or_default()))
        }),
        context.add_function(
            "findAll",
            |This(text): This<Arc<String>>, pattern: Arc<String>| {
                let found: Vec<Value> = regex(&pattern)?
                    .find_iter(&text)
                    .map(|found| Value::from(found.as_str()))
                    .collect();
                Ok::<_, ExecutionError>(Value::List(Arc::new(found)))
            },
        ),
        context.add_function("quantity", |text: Arc<String>| {
            Quantity::parse(&text).map(shown).ok_or_else(|| {
                ExecutionError::function_error(
                    "quantity",
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                )
            })
        }),
        context.add_function("sign", |This(value): This<Value>| {
            Ok::<_, ExecutionError>(amount(&value)?.sign())
        }),
        context.add_function("isInteger", |This(value): This<Value>| {
            Ok::<_, ExecutionError>(amount(&value)?.integer().is_some())
        }),
        context.add_function("asInteger", |This(value): This<Value>| {
            amount(&value)?.integer().ok_or_else(|| {
                ExecutionError::function_error("asInteger", "cannot convert value to integer")
            })
        }),
        context.add_function("asApproximateFloat", |This(value): This<Value>| {
            Ok::<_, ExecutionError>(amount(&value)?.float())
        }),
        context.add_function("add", |This(value): This<Value>, other: Value| {
            let other = operand(&other)?;
            Ok::<_, ExecutionError>(shown(amount(&value)?.plus(&other)))
        }),
        context.add_function("sub", |This(value): This<Value>, other: Value| {
            let other = operand(&other)?;
            Ok::<_, ExecutionError>(shown(amount(&value)?.minus(&other)))
        }),
        context.add_function("compareTo", |This(value): This<Value>, other: Value| {
            Ok::<_, ExecutionError>(amount(&value)?.cmp(amount(&other)?) as i64)
        }),
        context.add_function("isGreaterThan", |This(value): This<Value>, other: Value| {
            Ok::<_, ExecutionError>(amount(&value)? > amount(&other)?)
        }),
        context.add_function("isLessThan", |This(value): This<Value>, other: Value| {
            Ok::<_, ExecutionError>(amount(&value)? < amount(&other)?)
        }),
    ];
    for error in added.into_iter().filter_map(Result::err) {
        tracing::error!(%error, "a function of expressions could not be added");
    }
}

/// The other side of a sum: a quantity, or a whole number.
fn operand(value: &Value) -> Result<Quantity, ExecutionError> {
    match value {
        Value::Int(number) => Ok(Quantity::from(*number)),
        value => amount(value).cloned(),
    }
}

fn sum(This(list): This<Arc<Vec<Value>>>) -> Result<Value, ExecutionError> {
    let mut items = list.iter().cloned();
    let first = items.next().unwrap_or(Value::Int(0));
    items.try_fold(first, |total, item| total + item)
}

fn extreme(list: &[Value], wanted: Ordering) -> Result<Value, ExecutionError> {
    let name = if wanted == Ordering::Less {
        "min"
    } else {
        "max"
    };
    let (first, rest) = list
        .split_first()
        .ok_or_else(|| ExecutionError::function_error(name, "called on empty list"))?;
    Ok(rest
        .iter()
        .fold(first, |best, item| {
            if item.partial_cmp(best) == Some(wanted) {
                item
            } else {
                best
            }
        })
        .clone())
}

/// A pattern of an expression; the size of what it compiles to is bounded.
fn regex(pattern: &str) -> Result<regex::Regex, ExecutionError> {
    regex::RegexBuilder::new(pattern)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| ExecutionError::function_error("find", error.to_string()))
}

/// A duration as Go writes it: `1h30m`, `-1.5s`.
pub(super) fn duration(text: &str) -> Option<chrono::Duration> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(chrono::Duration::zero());
    }
    let mut nanos = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        nanos += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (nanos < 9.2e18).then(|| chrono::Duration::nanoseconds((sign * nanos) as i64))
}
