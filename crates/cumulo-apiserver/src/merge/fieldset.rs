//! Sets of field paths, as `fieldsV1` in `managedFields` writes them.
//!
//! A set is a trie: each step is a [`PathElement`], and a node may itself be a
//! member (`"."` in JSON) besides having members below it.
//! Format: `FieldsV1` in structured-merge-diff, `fieldpath/serialize.go`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// One step of a path, in its canonical text: `f:name` a field, `k:{…}` the
/// element of a list with these keys, `v:…` the element of a set with this
/// value, `i:0` the element at an index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PathElement(Box<str>);

impl PathElement {
    pub(super) fn field(name: &str) -> Self {
        Self(format!("f:{name}").into())
    }

    /// The element of a list that has these values under its keys.
    pub(super) fn key<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Self {
        let sorted: BTreeMap<&str, &Value> = pairs.into_iter().collect();
        let object: Map<String, Value> = sorted
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect();
        Self(format!("k:{}", Value::Object(object)).into())
    }

    pub(super) fn value(value: &Value) -> Self {
        Self(format!("v:{value}").into())
    }

    /// Reads the text form; keys are brought into canonical order.
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self(text.into())),
            "k" => {
                let object: Map<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Self::key(
                    object.iter().map(|(name, value)| (name.as_str(), value)),
                ))
            }
            "v" => Some(Self::value(&serde_json::from_str(rest).ok()?)),
            "i" => rest.parse::<u32>().ok().map(|_| Self(text.into())),
            _ => None,
        }
    }

    /// The name, when the step is a field.
    pub(super) fn field_name(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    /// As a part of a path for people: `.name`, `[key="x"]`, `[="x"]`, `[0]`.
    fn describe(&self, out: &mut String) {
        let (kind, rest) = self.0.split_once(':').unwrap_or(("f", &self.0));
        // Writing to a string cannot fail.
        let _ = match kind {
            "k" => {
                let object: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                let pairs: Vec<String> = object
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                write!(out, "[{}]", pairs.join(","))
            }
            "v" => write!(out, "[={rest}]"),
            "i" => write!(out, "[{rest}]"),
            _ => write!(out, ".{rest}"),
        };
    }
}

/// A set of paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FieldSet {
    entries: BTreeMap<PathElement, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    member: bool,
    below: FieldSet,
}

impl Entry {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let entry = self.entries.entry(first.clone()).or_default();
        if rest.is_empty() {
            entry.member = true;
        } else {
            entry.below.insert(rest);
        }
    }

    /// Whether the path of this one step is a member.
    pub(super) fn has(&self, element: &PathElement) -> bool {
        self.entries.get(element).is_some_and(|entry| entry.member)
    }

    /// The members below a step, without that step.
    pub(super) fn below(&self, element: &PathElement) -> Option<&FieldSet> {
        self.entries
            .get(element)
            .map(|entry| &entry.below)
            .filter(|below| !below.is_empty())
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut result = self.clone();
        for (element, theirs) in &other.entries {
            let ours = result.entries.entry(element.clone()).or_default();
            ours.member |= theirs.member;
            ours.below = ours.below.union(&theirs.below);
        }
        result
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combine(|element, ours| {
            let Some(theirs) = other.entries.get(element) else {
                return Entry::default();
            };
            Entry {
                member: ours.member && theirs.member,
                below: ours.below.intersection(&theirs.below),
            }
        })
    }

    pub(super) fn difference(&self, other: &Self) -> Self {
        self.combine(|element, ours| match other.entries.get(element) {
            None => ours.clone(),
            Some(theirs) => Entry {
                member: ours.member && !theirs.member,
                below: ours.below.difference(&theirs.below),
            },
        })
    }

    /// Without the members of `other` and everything below them.
    pub(super) fn recursive_difference(&self, other: &Self) -> Self {
        self.combine(|element, ours| match other.entries.get(element) {
            None => ours.clone(),
            Some(theirs) if theirs.member => Entry::default(),
            Some(theirs) => Entry {
                member: ours.member,
                below: ours.below.recursive_difference(&theirs.below),
            },
        })
    }

    fn combine(&self, change: impl Fn(&PathElement, &Entry) -> Entry) -> Self {
        let entries = self
            .entries
            .iter()
            .map(|(element, entry)| (element.clone(), change(element, entry)))
            .filter(|(_, entry)| !entry.is_empty())
            .collect();
        Self { entries }
    }

    /// Makes members of those steps with members below for which `is_named`
    /// holds; the closure also says how to go on below a step.
    pub(super) fn with_members<C: Copy>(
        &self,
        context: C,
        is_named: &impl Fn(C, &PathElement) -> (bool, C),
    ) -> Self {
        let entries = self
            .entries
            .iter()
            .map(|(element, entry)| {
                let (named, below) = is_named(context, element);
                let entry = Entry {
                    member: entry.member || (named && !entry.below.is_empty()),
                    below: entry.below.with_members(below, is_named),
                };
                (element.clone(), entry)
            })
            .collect();
        Self { entries }
    }

    /// All members, as people read them: `.spec.containers[name="x"].image`.
    pub(super) fn describe(&self) -> Vec<String> {
        fn walk(set: &FieldSet, prefix: &str, found: &mut Vec<String>) {
            for (element, entry) in &set.entries {
                let mut path = prefix.to_owned();
                element.describe(&mut path);
                if entry.member {
                    found.push(path.clone());
                }
                walk(&entry.below, &path, found);
            }
        }
        let mut found = Vec::new();
        walk(self, "", &mut found);
        found
    }

    pub(super) fn to_json(&self) -> Value {
        let entries = self.entries.iter().map(|(element, entry)| {
            let mut below = match entry.below.to_json() {
                Value::Object(map) => map,
                _ => Map::new(),
            };
            if entry.member && !below.is_empty() {
                below.shift_insert(0, ".".into(), Value::Object(Map::new()));
            }
            (element.0.to_string(), Value::Object(below))
        });
        Value::Object(entries.collect())
    }

    /// Reads `fieldsV1`; `None` when it is not that.
    pub(super) fn from_json(json: &Value) -> Option<Self> {
        Self::read(json, 0)
    }

    fn read(json: &Value, depth: usize) -> Option<Self> {
        // Deeper than any object that the server takes.
        if depth > 512 {
            return None;
        }
        let mut set = Self::default();
        for (text, below) in json.as_object()? {
            if text == "." {
                continue;
            }
            let element = PathElement::parse(text)?;
            let object = below.as_object()?;
            let below = Self::read(below, depth + 1)?;
            let member = object.is_empty() || object.contains_key(".");
            let entry = set.entries.entry(element).or_default();
            entry.member |= member;
            entry.below = entry.below.union(&below);
        }
        Some(set)
    }
}
