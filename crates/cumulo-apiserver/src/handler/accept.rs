//! Content negotiation: which of the forms that a client accepts is answered.

use http::{HeaderMap, StatusCode, header};

use crate::protobuf;
use crate::status::ApiError;

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Form {
    /// The objects themselves.
    #[default]
    Plain,
    /// `Table`.
    Table,
    /// `PartialObjectMetadata` or a list of it.
    Partial,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Format {
    /// JSON, whenever it is acceptable.
    #[default]
    Json,
    /// YAML.
    Yaml,
    /// Protobuf, for who accepts nothing else.
    Protobuf,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Accept {
    /// The shape.
    pub form: Form,
    /// The format.
    pub format: Format,
}

/// Parameters of one media range.
struct Range<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Range<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    }
}

fn ranges(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
        .collect()
}

fn parse(range: &str) -> Range<'_> {
    let mut parts = range.split(';').map(str::trim);
    Range {
        media: parts.next().unwrap_or_default(),
        parameters: parts.filter_map(|p| p.split_once('=')).collect(),
    }
}

/// Chooses the first form that both sides know; protobuf comes last, since JSON
/// is what there is. `allow_forms` is false where the answer is no object of
/// the resource.
pub(super) fn negotiate(headers: &HeaderMap, allow_forms: bool) -> Result<Accept, ApiError> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return Ok(Accept::default());
    }
    let mut last = None;
    for text in &ranges {
        let range = parse(text);
        let format = match range.media {
            "application/json" | "application/*" | "*/*" => Format::Json,
            "application/yaml" => Format::Yaml,
            protobuf::MEDIA => Format::Protobuf,
            _ => continue,
        };
        let form = match range.get("as") {
            None => Form::Plain,
            Some(_) if !allow_forms => continue,
            Some(_) if !matches!(range.get("g"), Some("meta.k8s.io")) => continue,
            Some(_) if !matches!(range.get("v"), Some("v1" | "v1beta1")) => continue,
            // There is no message for tables.
            Some("Table") if format == Format::Protobuf => continue,
            Some("Table") => Form::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Form::Partial,
            Some(_) => continue,
        };
        let accept = Accept { form, format };
        if format != Format::Protobuf {
            return Ok(accept);
        }
        last.get_or_insert(accept);
    }
    last.ok_or_else(not_acceptable)
}

/// Whether an error has to be told in protobuf.
pub(super) fn only_protobuf(headers: &HeaderMap) -> bool {
    let named = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains("protobuf")));
    named && negotiate(headers, false).is_ok_and(|accept| accept.format == Format::Protobuf)
}

/// Whether aggregated discovery is accepted, and in which version.
pub(super) fn aggregated_discovery(headers: &HeaderMap) -> Option<&'static str> {
    for text in &ranges(headers) {
        let range = parse(text);
        if range.media != "application/json" {
            continue;
        }
        match (range.get("g"), range.get("as"), range.get("v")) {
            (Some("apidiscovery.k8s.io"), Some("APIGroupDiscoveryList"), Some("v2")) => {
                return Some("v2");
            }
            (Some("apidiscovery.k8s.io"), Some("APIGroupDiscoveryList"), Some("v2beta1")) => {
                return Some("v2beta1");
            }
            (None, None, _) => return None,
            _ => {}
        }
    }
    None
}

/// 406.
pub(super) fn not_acceptable() -> ApiError {
    ApiError::new(
        StatusCode::NOT_ACCEPTABLE,
        "NotAcceptable",
        format!(
            "only the following media types are accepted: application/json, application/yaml, {}",
            protobuf::MEDIA
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().expect("a header"));
        match negotiate(&headers, true) {
            Ok(accept) => format!("{accept:?}"),
            Err(error) => error.reason.to_owned(),
        }
    }

    #[test]
    fn the_first_known_form_wins() {
        let all: Vec<String> = [
            "*/*",
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            "application/vnd.kubernetes.protobuf,application/json",
            "application/vnd.kubernetes.protobuf",
            "application/vnd.kubernetes.protobuf, */*",
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1",
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
            "application/json;as=Table;v=v9;g=meta.k8s.io",
            "application/yaml",
            "text/html",
        ]
        .iter()
        .map(|a| format!("{a} → {}", check(a)))
        .collect();
        insta::assert_snapshot!(all.join("\n"), @r#"
        */* → Accept { form: Plain, format: Json }
        application/json;as=Table;v=v1;g=meta.k8s.io,application/json → Accept { form: Table, format: Json }
        application/vnd.kubernetes.protobuf,application/json → Accept { form: Plain, format: Json }
        application/vnd.kubernetes.protobuf → Accept { form: Plain, format: Protobuf }
        application/vnd.kubernetes.protobuf, */* → Accept { form: Plain, format: Json }
        application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1 → Accept { form: Partial, format: Protobuf }
        application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1 → NotAcceptable
        application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json → Accept { form: Partial, format: Json }
        application/json;as=Table;v=v9;g=meta.k8s.io,application/json → Accept { form: Plain, format: Json }
        application/json;as=Table;v=v9;g=meta.k8s.io → NotAcceptable
        application/yaml → Accept { form: Plain, format: Yaml }
        text/html → NotAcceptable
        "#);
    }
}
