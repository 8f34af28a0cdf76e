//! The rules for names, labels and metadata that hold for every kind, with
//! Kubernetes' own sentences. Pure.

use serde_json::{Value, json};

use crate::resource::{NameRule, ResourceType};
use crate::status::Cause;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
/// What a qualified name (a label key) is.
pub const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
/// What a label value is.
pub const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
/// Most bytes that the annotations of an object may take.
const ANNOTATION_BYTES: usize = 256 << 10;

fn is_alnum_lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_dns_label_chars(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_alnum_lower(*first)
        && is_alnum_lower(*last)
        && bytes.iter().all(|&c| is_alnum_lower(c) || c == b'-')
}

/// An RFC 1123 label: at most 63 lower-case letters, digits and dashes.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_label_chars(text)
}

/// An RFC 1123 subdomain: at most 253 bytes of labels joined by dots.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label_chars)
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    bytes.len() <= 63
        && first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

/// A label key or finalizer: a name, with a subdomain and a slash before it or not.
pub fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name_part(name),
        None => is_name_part(text),
    }
}

/// A label value: empty or a name.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name_part(text)
}

/// What is wrong with a name, if anything.
pub fn name_problem(rule: NameRule, name: &str) -> Option<String> {
    let too_long = |most: usize| format!("must be no more than {most} bytes");
    match rule {
        NameRule::Subdomain if name.len() > 253 => Some(too_long(253)),
        NameRule::Subdomain => (!is_dns_subdomain(name)).then(|| SUBDOMAIN.to_owned()),
        NameRule::Label if name.len() > 63 => Some(too_long(63)),
        NameRule::Label => (!is_dns_label(name)).then(|| LABEL.to_owned()),
        NameRule::Label1035 if name.len() > 63 => Some(too_long(63)),
        NameRule::Label1035 => {
            let good = is_dns_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase());
            (!good).then(|| LABEL_1035.to_owned())
        }
        NameRule::Address => match name.parse::<std::net::IpAddr>() {
            Ok(address) if address.to_string() == name => None,
            Ok(address) => Some(format!("must be in canonical form (\"{address}\")")),
            Err(_) => {
                Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned())
            }
        },
        NameRule::PathSegment => match name {
            "." | ".." => Some(format!("may not be '{name}'")),
            _ if name.contains('/') => Some("may not contain '/'".to_owned()),
            _ if name.contains('%') => Some("may not contain '%'".to_owned()),
            _ if name.len() > 253 => Some(too_long(253)),
            _ => None,
        },
    }
}

/// Checks `metadata` of an object about to be stored; `old` is what is there.
pub fn metadata(resource: &ResourceType, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if old.is_none()
        && let Some(problem) = name_problem(resource.name_rule, name)
    {
        causes.push(Cause::invalid("metadata.name", &json!(name), problem));
    }
    labels(metadata.get("labels"), "metadata.labels", &mut causes);
    annotations(metadata.get("annotations"), &mut causes);
    owners(metadata.get("ownerReferences"), &mut causes);
    finalizers(metadata, old, &mut causes);
    if let Some(old) = old {
        for field in ["uid", "creationTimestamp"] {
            if metadata[field] != old["metadata"][field] {
                causes.push(Cause::invalid(
                    format!("metadata.{field}"),
                    &metadata[field],
                    "field is immutable",
                ));
            }
        }
    }
    causes
}

fn labels(value: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    for (key, value) in value.and_then(Value::as_object).into_iter().flatten() {
        if !is_qualified_name(key) {
            causes.push(Cause::invalid(path, &json!(key), QUALIFIED_NAME));
        }
        match value.as_str() {
            Some(text) if is_label_value(text) => {}
            Some(text) if text.len() > 63 => {
                causes.push(Cause::invalid(path, value, "must be no more than 63 bytes"))
            }
            _ => causes.push(Cause::invalid(path, value, LABEL_VALUE)),
        }
    }
}

fn annotations(value: Option<&Value>, causes: &mut Vec<Cause>) {
    let mut bytes = 0;
    for (key, value) in value.and_then(Value::as_object).into_iter().flatten() {
        if !is_qualified_name(&key.to_lowercase()) {
            causes.push(Cause::invalid(
                "metadata.annotations",
                &json!(key),
                QUALIFIED_NAME,
            ));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATION_BYTES {
        causes.push(Cause::new(
            "FieldValueTooLong",
            format!("Too long: may not be more than {ANNOTATION_BYTES} bytes"),
            "metadata.annotations",
        ));
    }
}

fn owners(value: Option<&Value>, causes: &mut Vec<Cause>) {
    let mut controllers = 0;
    for (n, owner) in value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                let article = match field {
                    "apiVersion" => "version must not be empty",
                    "kind" => "kind must not be empty",
                    "name" => "name must not be empty",
                    _ => "uid must not be empty",
                };
                causes.push(Cause::invalid(
                    format!("metadata.ownerReferences[{n}].{field}"),
                    &json!(""),
                    article,
                ));
            }
        }
        if owner["controller"] == json!(true) {
            controllers += 1;
        }
    }
    if controllers > 1 {
        causes.push(Cause::invalid(
            "metadata.ownerReferences",
            value.unwrap_or(&Value::Null),
            "Only one reference can have Controller set to true",
        ));
    }
}

fn finalizers(metadata: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let list = |value: &Value| -> Vec<String> {
        value["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let now = list(metadata);
    for finalizer in &now {
        if !is_qualified_name(finalizer) {
            causes.push(Cause::invalid(
                "metadata.finalizers",
                &json!(finalizer),
                QUALIFIED_NAME,
            ));
        }
    }
    if let Some(old) = old
        && !old["metadata"]["deletionTimestamp"].is_null()
    {
        let before = list(&old["metadata"]);
        let new: Vec<_> = now.iter().filter(|f| !before.contains(f)).collect();
        if !new.is_empty() {
            causes.push(Cause::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers {new:?}"
                ),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "a-b.c", "1", &"a".repeat(253)] {
            assert_eq!(name_problem(NameRule::Subdomain, good), None, "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", "a_b", "a/b", &"a".repeat(254)] {
            assert!(name_problem(NameRule::Subdomain, bad).is_some(), "{bad}");
        }
        assert!(name_problem(NameRule::Label, "a.b").is_some());
        assert!(name_problem(NameRule::Label1035, "1a").is_some());
        assert_eq!(name_problem(NameRule::Address, "fe80::1"), None);
        assert!(name_problem(NameRule::Address, "fe80:0::1").is_some());
        assert!(name_problem(NameRule::Address, "10.0.0").is_some());
        assert_eq!(name_problem(NameRule::PathSegment, "system:node"), None);
        assert!(name_problem(NameRule::PathSegment, "..").is_some());
    }
}
