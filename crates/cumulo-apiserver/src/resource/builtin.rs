//! The built-in types: a table, a row each.

use std::sync::Arc;

use super::{
    Conversion, NameRule, ResourceType, ScalePaths, SelectableField, Subresource, api_version,
};

/// Verbs of a type that is stored.
pub(super) const STORED_VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
pub(super) const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// Name, group and version, kind, verbs.
pub(super) type SubresourceRow = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

#[derive(Clone, Copy)]
pub(super) struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    verbs: &'static [&'static str],
    status: bool,
    scale: bool,
    generation: bool,
    subresources: &'static [SubresourceRow],
    fields: &'static [(&'static str, &'static str)],
    name: NameRule,
    create_on_update: bool,
    unconditional: bool,
    storage: Option<&'static str>,
}

pub(super) const fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Row {
    Row {
        group,
        version,
        kind,
        plural,
        short: &[],
        categories: &[],
        namespaced: true,
        verbs: &STORED_VERBS,
        status: false,
        scale: false,
        generation: false,
        subresources: &[],
        fields: &[],
        name: NameRule::Subdomain,
        create_on_update: false,
        unconditional: true,
        storage: None,
    }
}

impl Row {
    pub(super) const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short = names;
        self
    }
    pub(super) const fn all(mut self) -> Self {
        self.categories = &["all"];
        self
    }
    pub(super) const fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }
    pub(super) const fn status(mut self) -> Self {
        self.status = true;
        self
    }
    pub(super) const fn scale(mut self) -> Self {
        self.scale = true;
        self
    }
    pub(super) const fn generation(mut self) -> Self {
        self.generation = true;
        self
    }
    pub(super) const fn sub(mut self, list: &'static [SubresourceRow]) -> Self {
        self.subresources = list;
        self
    }
    pub(super) const fn fields(mut self, fields: &'static [(&'static str, &'static str)]) -> Self {
        self.fields = fields;
        self
    }
    pub(super) const fn name(mut self, rule: NameRule) -> Self {
        self.name = rule;
        self
    }
    pub(super) const fn create_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }
    pub(super) const fn conditional(mut self) -> Self {
        self.unconditional = false;
        self
    }
    pub(super) const fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }
    pub(super) const fn stored_as(mut self, storage: &'static str) -> Self {
        self.storage = Some(storage);
        self
    }
}

impl Row {
    fn build(&self) -> ResourceType {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let mut subresources: Vec<Subresource> = self
            .subresources
            .iter()
            .map(|(name, of, kind, verbs)| {
                let (group, version) = super::split_api_version(of);
                subresource(name, group, version, kind, verbs)
            })
            .collect();
        if self.scale {
            subresources.push(subresource(
                "scale",
                "autoscaling",
                "v1",
                "Scale",
                STATUS_VERBS,
            ));
        }
        if self.status {
            subresources.push(subresource(
                "status",
                self.group,
                self.version,
                self.kind,
                STATUS_VERBS,
            ));
        }
        subresources.sort_by(|a, b| a.name.cmp(&b.name));
        let fields: Vec<SelectableField> = self
            .fields
            .iter()
            .map(|(label, default)| SelectableField {
                label: (*label).to_owned(),
                pointer: pointer(label),
                default: (*default).to_owned(),
            })
            .collect();
        let stored_api_version = match self.storage {
            Some("/events") => "v1".to_owned(),
            Some("autoscaling/horizontalpodautoscalers") => "autoscaling/v2".to_owned(),
            _ => api_version(self.group, self.version),
        };
        ResourceType {
            group: self.group.into(),
            version: self.version.into(),
            kind: self.kind.into(),
            list_kind: format!("{}List", self.kind),
            plural: self.plural.into(),
            singular: self.kind.to_lowercase(),
            short_names: own(self.short),
            categories: own(self.categories),
            namespaced: self.namespaced,
            verbs: own(self.verbs),
            subresources,
            scale: self.scale.then(|| ScalePaths {
                spec_replicas: "/spec/replicas".into(),
                status_replicas: "/status/replicas".into(),
                selector: Some("/spec/selector".into()),
            }),
            field_pointers: fields.iter().map(|f| f.pointer.clone()).collect(),
            fields,
            name_rule: self.name,
            generation: self.generation,
            create_on_update: self.create_on_update,
            unconditional_update: self.unconditional,
            storage: match self.storage {
                Some(name) => name.into(),
                None => format!("{}/{}", self.group, self.plural).into(),
            },
            conversion: match (self.group, self.version) {
                ("events.k8s.io", _) => Conversion::Events,
                ("autoscaling", "v1") => Conversion::Autoscalers,
                _ => Conversion::ApiVersion,
            },
            stored_api_version,
            custom: None,
        }
    }
}

/// Where the field of a label is; several places are tried in turn.
fn pointer(label: &str) -> String {
    match label {
        // The event's source is an object; its component is what is meant.
        "source" => "/source/component|/reportingComponent".to_owned(),
        "reportingController" => "/reportingComponent".to_owned(),
        "status.successful" => "/status/succeeded".to_owned(),
        label => match label.strip_prefix("regarding.") {
            Some(part) => super::dotted_to_pointer(&format!("involvedObject.{part}")),
            None => super::dotted_to_pointer(label),
        },
    }
}

fn subresource(name: &str, group: &str, version: &str, kind: &str, verbs: &[&str]) -> Subresource {
    Subresource {
        name: name.into(),
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        verbs: verbs.iter().map(|s| (*s).to_owned()).collect(),
    }
}

/// Every built-in type.
pub fn builtin_types() -> Vec<Arc<ResourceType>> {
    super::rows::ROWS
        .iter()
        .map(|row| Arc::new(row.build()))
        .collect()
}
