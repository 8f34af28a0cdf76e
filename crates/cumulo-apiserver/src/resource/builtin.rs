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
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// Name, group and version, kind, verbs.
type SubresourceRow = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

#[derive(Clone, Copy)]
struct Row {
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

const fn row(
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
    const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short = names;
        self
    }
    const fn all(mut self) -> Self {
        self.categories = &["all"];
        self
    }
    const fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }
    const fn status(mut self) -> Self {
        self.status = true;
        self
    }
    const fn scale(mut self) -> Self {
        self.scale = true;
        self
    }
    const fn generation(mut self) -> Self {
        self.generation = true;
        self
    }
    const fn sub(mut self, list: &'static [SubresourceRow]) -> Self {
        self.subresources = list;
        self
    }
    const fn fields(mut self, fields: &'static [(&'static str, &'static str)]) -> Self {
        self.fields = fields;
        self
    }
    const fn name(mut self, rule: NameRule) -> Self {
        self.name = rule;
        self
    }
    const fn create_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }
    const fn conditional(mut self) -> Self {
        self.unconditional = false;
        self
    }
    const fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }
    const fn stored_as(mut self, storage: &'static str) -> Self {
        self.storage = Some(storage);
        self
    }
}

const POD_FIELDS: &[(&str, &str)] = &[
    ("spec.nodeName", ""),
    ("spec.restartPolicy", ""),
    ("spec.schedulerName", ""),
    ("spec.serviceAccountName", ""),
    ("spec.hostNetwork", "false"),
    ("status.phase", ""),
    ("status.podIP", ""),
    ("status.nominatedNodeName", ""),
];
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject.kind", ""),
    ("involvedObject.namespace", ""),
    ("involvedObject.name", ""),
    ("involvedObject.uid", ""),
    ("involvedObject.apiVersion", ""),
    ("involvedObject.resourceVersion", ""),
    ("involvedObject.fieldPath", ""),
    ("reason", ""),
    ("reportingComponent", ""),
    ("source", ""),
    ("type", ""),
];
const POD_SUBRESOURCES: &[SubresourceRow] = &[
    ("attach", "v1", "PodAttachOptions", &["create", "get"]),
    ("binding", "v1", "Binding", &["create"]),
    (
        "ephemeralcontainers",
        "v1",
        "Pod",
        &["get", "patch", "update"],
    ),
    ("eviction", "policy/v1", "Eviction", &["create"]),
    ("exec", "v1", "PodExecOptions", &["create", "get"]),
    ("log", "v1", "Pod", &["get"]),
    (
        "portforward",
        "v1",
        "PodPortForwardOptions",
        &["create", "get"],
    ),
    ("resize", "v1", "Pod", &["get", "patch", "update"]),
];
const NO_COLLECTION: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const CREATE: &[&str] = &["create"];
const READ: &[&str] = &["get", "list"];

const APPS: &str = "apps";
const RBAC: &str = "rbac.authorization.k8s.io";
const DRA: &str = "resource.k8s.io";
const AUTHZ: &str = "authorization.k8s.io";
const AUTHN: &str = "authentication.k8s.io";
const METRICS: &str = "metrics.k8s.io";

const ROWS: &[Row] = &[
    row("", "v1", "Binding", "bindings").verbs(CREATE),
    row("", "v1", "ConfigMap", "configmaps").short(&["cm"]),
    row("", "v1", "Endpoints", "endpoints")
        .short(&["ep"])
        .create_on_update(),
    row("", "v1", "Event", "events")
        .short(&["ev"])
        .fields(EVENT_FIELDS)
        .create_on_update()
        .stored_as("/events"),
    row("", "v1", "LimitRange", "limitranges")
        .short(&["limits"])
        .create_on_update(),
    row("", "v1", "Namespace", "namespaces")
        .short(&["ns"])
        .cluster()
        .status()
        .name(NameRule::Label)
        .fields(&[("status.phase", "")])
        .verbs(NO_COLLECTION)
        .sub(&[("finalize", "v1", "Namespace", &["update"])]),
    row("", "v1", "Node", "nodes")
        .short(&["no"])
        .cluster()
        .status()
        .fields(&[("spec.unschedulable", "false")]),
    row("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
        .short(&["pvc"])
        .status(),
    row("", "v1", "PersistentVolume", "persistentvolumes")
        .short(&["pv"])
        .cluster()
        .status(),
    row("", "v1", "Pod", "pods")
        .short(&["po"])
        .all()
        .status()
        .generation()
        .fields(POD_FIELDS)
        .sub(POD_SUBRESOURCES),
    row("", "v1", "PodTemplate", "podtemplates").generation(),
    row("", "v1", "ReplicationController", "replicationcontrollers")
        .short(&["rc"])
        .all()
        .status()
        .scale()
        .generation()
        .fields(&[("status.replicas", "0")]),
    row("", "v1", "ResourceQuota", "resourcequotas")
        .short(&["quota"])
        .status(),
    row("", "v1", "Secret", "secrets").fields(&[("type", "")]),
    row("", "v1", "ServiceAccount", "serviceaccounts")
        .short(&["sa"])
        .sub(&[("token", "authentication.k8s.io/v1", "TokenRequest", CREATE)]),
    row("", "v1", "Service", "services")
        .short(&["svc"])
        .all()
        .status()
        .name(NameRule::Label1035)
        .fields(&[("spec.clusterIP", ""), ("spec.type", "")]),
    row(APPS, "v1", "ControllerRevision", "controllerrevisions"),
    row(APPS, "v1", "DaemonSet", "daemonsets")
        .short(&["ds"])
        .all()
        .status()
        .generation(),
    row(APPS, "v1", "Deployment", "deployments")
        .short(&["deploy"])
        .all()
        .status()
        .scale()
        .generation(),
    row(APPS, "v1", "ReplicaSet", "replicasets")
        .short(&["rs"])
        .all()
        .status()
        .scale()
        .generation()
        .fields(&[("status.replicas", "0")]),
    row(APPS, "v1", "StatefulSet", "statefulsets")
        .short(&["sts"])
        .all()
        .status()
        .scale()
        .generation(),
    row("batch", "v1", "CronJob", "cronjobs")
        .short(&["cj"])
        .all()
        .status()
        .generation(),
    row("batch", "v1", "Job", "jobs")
        .all()
        .status()
        .generation()
        .fields(&[("status.successful", "0")]),
    row("coordination.k8s.io", "v1", "Lease", "leases")
        .create_on_update()
        .conditional(),
    row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices").generation(),
    row("events.k8s.io", "v1", "Event", "events")
        .short(&["ev"])
        .create_on_update()
        .stored_as("/events"),
    row(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    )
    .short(&["crd", "crds"])
    .cluster()
    .status()
    .generation()
    .conditional(),
    row(RBAC, "v1", "ClusterRole", "clusterroles")
        .cluster()
        .name(NameRule::PathSegment)
        .create_on_update(),
    row(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings")
        .cluster()
        .name(NameRule::PathSegment)
        .create_on_update(),
    row(RBAC, "v1", "Role", "roles")
        .name(NameRule::PathSegment)
        .create_on_update(),
    row(RBAC, "v1", "RoleBinding", "rolebindings")
        .name(NameRule::PathSegment)
        .create_on_update(),
    row(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
    )
    .short(&["pdb"])
    .status()
    .generation(),
    row(
        "scheduling.k8s.io",
        "v1",
        "PriorityClass",
        "priorityclasses",
    )
    .short(&["pc"])
    .cluster()
    .generation(),
    row(DRA, "v1", "DeviceClass", "deviceclasses")
        .cluster()
        .generation(),
    row(DRA, "v1", "ResourceClaim", "resourceclaims").status(),
    row(DRA, "v1", "ResourceClaimTemplate", "resourceclaimtemplates"),
    row(DRA, "v1", "ResourceSlice", "resourceslices")
        .cluster()
        .generation()
        .fields(&[("spec.nodeName", ""), ("spec.driver", "")]),
    row("storage.k8s.io", "v1", "StorageClass", "storageclasses")
        .short(&["sc"])
        .cluster(),
    row("networking.k8s.io", "v1", "Ingress", "ingresses")
        .short(&["ing"])
        .status()
        .generation(),
    row(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
    )
    .short(&["netpol"])
    .generation(),
    row(METRICS, "v1beta1", "NodeMetrics", "nodes")
        .cluster()
        .verbs(READ)
        .stored_as(""),
    row(METRICS, "v1beta1", "PodMetrics", "pods")
        .verbs(READ)
        .stored_as(""),
    row(AUTHN, "v1", "SelfSubjectReview", "selfsubjectreviews")
        .cluster()
        .verbs(CREATE),
    row(AUTHN, "v1", "TokenReview", "tokenreviews")
        .cluster()
        .verbs(CREATE),
    row(
        AUTHZ,
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
    )
    .verbs(CREATE),
    row(
        AUTHZ,
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
    )
    .cluster()
    .verbs(CREATE),
    row(
        AUTHZ,
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
    )
    .cluster()
    .verbs(CREATE),
    row(AUTHZ, "v1", "SubjectAccessReview", "subjectaccessreviews")
        .cluster()
        .verbs(CREATE),
];

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
                pointer: super::dotted_to_pointer(match *label {
                    // The event's source is an object; its component is what is meant.
                    "source" => "source.component",
                    "status.successful" => "status.succeeded",
                    label => label,
                }),
                default: (*default).to_owned(),
            })
            .collect();
        let stored_api_version = match self.storage {
            Some("/events") => "v1".to_owned(),
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
            conversion: if self.group == "events.k8s.io" {
                Conversion::Events
            } else {
                Conversion::ApiVersion
            },
            stored_api_version,
            custom: None,
        }
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
    ROWS.iter().map(|row| Arc::new(row.build())).collect()
}
