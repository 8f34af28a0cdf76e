//! Reading request bodies: JSON that notices keys given twice (which
//! `fieldValidation` is about), and YAML.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A body as a value, with what is to be said of keys that were given more than
/// once.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The value; of a key given twice the last one counts.
    pub value: Value,
    /// A message per repeated key, for example `duplicate field "spec.replicas"`.
    pub duplicates: Vec<String>,
}

/// Most repeated keys that are reported.
const DUPLICATES: usize = 32;

/// Parses JSON.
pub fn json(body: &[u8]) -> Result<Decoded, serde_json::Error> {
    let mut duplicates = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Node {
        path: &Path::Root,
        duplicates: &mut duplicates,
    }
    .deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Decoded { value, duplicates })
}

/// Parses one YAML document.
pub fn yaml(body: &[u8]) -> Result<Decoded, String> {
    let text = std::str::from_utf8(body).map_err(|e| e.to_string())?;
    // `y`, `on` and the like are strings, as in YAML 1.2: a name may be one.
    let strict = serde_saphyr::options! { strict_booleans: true };
    let error = match serde_saphyr::from_str_with_options(text, strict) {
        Ok(value) => {
            return Ok(Decoded {
                value,
                duplicates: Vec::new(),
            });
        }
        Err(error) => error,
    };
    let lenient = serde_saphyr::options! {
        strict_booleans: true,
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
    };
    match (
        repeated(&error),
        serde_saphyr::from_str_with_options(text, lenient),
    ) {
        (Some(repeated), Ok(value)) => Ok(Decoded {
            value,
            duplicates: vec![repeated],
        }),
        _ => Err(error.to_string()),
    }
}

/// The key that an error finds given twice, with its line: no path is known.
fn repeated(error: &serde_saphyr::Error) -> Option<String> {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, location } => Some(format!(
            "line {}: key \"{}\" already set in map",
            location.line(),
            key.as_deref().unwrap_or_default()
        )),
        _ => None,
    }
}

/// Where in a value something is, without a list being built on the way there.
pub(crate) enum Path<'a> {
    /// The value itself.
    Root,
    /// A key's value.
    Key(&'a Path<'a>, &'a str),
    /// An item of a list.
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
            Path::Index(parent, n) => write!(f, "{parent}[{n}]"),
        }
    }
}

struct Node<'a> {
    path: &'a Path<'a>,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path::Index(self.path, items.len());
            let seed = Node {
                path: &path,
                duplicates: &mut *self.duplicates,
            };
            match seq.next_element_seed(seed)? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path::Key(self.path, &key);
            if object.contains_key(&key) && self.duplicates.len() < DUPLICATES {
                self.duplicates.push(format!("duplicate field \"{path}\""));
            }
            let value = map.next_value_seed(Node {
                path: &path,
                duplicates: &mut *self.duplicates,
            })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_are_named_and_the_last_counts() {
        let decoded = json(br#"{"a":1,"b":[{"c":1,"c":2}],"a":{"d":1,"d":2}}"#).expect("json");
        assert_eq!(
            decoded.duplicates,
            [
                r#"duplicate field "b[0].c""#,
                r#"duplicate field "a""#,
                r#"duplicate field "a.d""#
            ]
        );
        assert_eq!(
            decoded.value,
            serde_json::json!({"a": {"d": 2}, "b": [{"c": 2}]})
        );
    }

    #[test]
    fn keys_given_twice_in_yaml_have_a_line() {
        let decoded = yaml(b"a: 1\nb:\n  c: 1\n  c: 2\n").expect("yaml");
        assert_eq!(decoded.value, serde_json::json!({"a": 1, "b": {"c": 2}}));
        assert_eq!(
            decoded.duplicates,
            [r#"line 4: key "c" already set in map"#]
        );
        assert!(yaml(b"a: [").is_err());
    }

    #[test]
    fn the_same_value_as_serde_json_reads() {
        let text = br#"{"i":-5,"u":18446744073709551615,"f":1.5,"e":1e300,"s":"\u00e9","n":null,"l":[],"b":true}"#;
        let plain: Value = serde_json::from_slice(text).expect("json");
        assert_eq!(json(text).expect("json").value, plain);
        assert!(json(b"{} x").is_err());
    }
}
