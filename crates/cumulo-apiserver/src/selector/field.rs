//! Field selectors: `field=value`, `field==value`, `field!=value`, joined by
//! commas; `\` escapes comma, equals sign and itself.

use super::SelectorError;
use crate::resource::ResourceType;
use crate::storage::{Object, field_text};

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    /// Field, for example `spec.nodeName`.
    pub field: String,
    /// Value compared with.
    pub value: String,
    /// True for `!=`.
    pub negated: bool,
}

/// All comparisons must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The comparisons.
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Parses the text of a `fieldSelector` parameter.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let (field, operator, value) = split_term(&part).ok_or_else(|| {
                SelectorError(format!(
                    "invalid selector: '{part}'; can't understand '{part}'"
                ))
            })?;
            terms.push(FieldTerm {
                field,
                value: unescape(&value)?,
                negated: operator == "!=",
            });
        }
        Ok(Self { terms })
    }

    /// True when nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The name that an object must have, when the selector fixes it.
    pub fn name(&self) -> Option<&str> {
        self.exact("metadata.name")
    }

    /// The value that a field must have, when the selector fixes it.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.field == field && !t.negated)
            .map(|t| t.value.as_str())
    }

    /// Refuses fields that the resource does not select by.
    pub fn check(&self, resource: &ResourceType) -> Result<(), SelectorError> {
        for term in &self.terms {
            let known = term.field == "metadata.name"
                || (term.field == "metadata.namespace" && resource.namespaced)
                || resource.fields.iter().any(|f| f.label == term.field);
            if !known {
                return Err(SelectorError(format!(
                    "field label not supported: {}",
                    term.field
                )));
            }
        }
        Ok(())
    }

    /// Whether an object satisfies every comparison. Call [`Self::check`] first.
    pub fn matches(&self, resource: &ResourceType, object: &Object) -> bool {
        self.terms.iter().all(|term| {
            let equal = match term.field.as_str() {
                "metadata.name" => *object.id.name == *term.value,
                "metadata.namespace" => *object.id.namespace == *term.value,
                field => self.field_is(resource, object, field, &term.value),
            };
            equal != term.negated
        })
    }

    fn field_is(&self, resource: &ResourceType, object: &Object, field: &str, want: &str) -> bool {
        let Some(at) = resource.fields.iter().position(|f| f.label == field) else {
            return false;
        };
        let found = &resource.fields[at];
        // What a custom resource selects by can change while its objects stay.
        let text = if resource.custom.is_some() {
            field_text(&object.value(), &found.pointer)
        } else {
            object
                .fields(&resource.field_pointers)
                .get(at)
                .cloned()
                .unwrap_or_default()
        };
        if text.is_empty() {
            found.default == want
        } else {
            text == want
        }
    }
}

fn split_terms(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

fn split_term(part: &str) -> Option<(String, &'static str, String)> {
    for (at, _) in part.char_indices() {
        for operator in ["!=", "==", "="] {
            if let Some(value) = part[at..].strip_prefix(operator) {
                let field = part[..at].trim();
                return (!field.is_empty()).then(|| (field.to_owned(), operator, value.to_owned()));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                _ => {
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence in '{value}'"
                    )));
                }
            },
            '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped '=' in '{value}'"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_and_escapes() {
        let selector = FieldSelector::parse(r"a=b,c!=d\,e,f==\=").expect("valid");
        let shown: Vec<_> = selector
            .terms
            .iter()
            .map(|t| (t.field.as_str(), t.negated, t.value.as_str()))
            .collect();
        assert_eq!(
            shown,
            [("a", false, "b"), ("c", true, "d,e"), ("f", false, "=")]
        );
        assert!(FieldSelector::parse("novalue").is_err());
        assert!(FieldSelector::parse(r"a=\x").is_err());
    }
}
