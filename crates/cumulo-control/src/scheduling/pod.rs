//! A pod as far as scheduling looks at it.
//!
//! Read straight from what the server sends, without what containers run: lean,
//! and every field of `spec` that nobody here knows is noticed (see [`super::known`]).

mod affinity;
mod resources;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use cumulo_schedule::solver::Resources;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::NamespaceResourceScope;

pub(crate) use affinity::{PodTerm, Spread, Taint, Toleration};

use super::selector::{Labels, NodeTerm};
use crate::key::ObjectKey;

/// A pod.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: Arc<Spec>,
    /// The node that it is bound to.
    pub(crate) node: Option<String>,
    pub(crate) status: Status,
}

/// What of a pod's `spec` matters. It hardly ever changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spec {
    pub(crate) scheduler: String,
    pub(crate) priority: Option<i32>,
    pub(crate) priority_class: Option<String>,
    /// Whether it may displace others (`preemptionPolicy`).
    pub(crate) preempts: bool,
    /// With `pods: 1` among them.
    pub(crate) requests: Resources,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) place: Arc<Place>,
    /// Nodes that it would rather have, each with a weight.
    pub(crate) preferred_nodes: Vec<(u32, NodeTerm)>,
    pub(crate) near: Vec<PodTerm>,
    pub(crate) apart: Vec<PodTerm>,
    /// Rather near (positive) or apart (negative).
    pub(crate) preferred_pods: Vec<(i32, PodTerm)>,
    pub(crate) spread: Vec<Spread>,
    /// Its claims: the name in the pod, and of the object where it names one.
    pub(crate) claims: Vec<(String, Option<String>)>,
    /// Claims that are made for it: the name in the pod, and of the template.
    pub(crate) templates: Vec<(String, String)>,
    /// PersistentVolumeClaims that it mounts.
    pub(crate) volumes: Vec<String>,
    /// Names of ephemeral volumes, whose claim is named after pod and volume.
    pub(crate) ephemeral: Vec<String>,
    pub(crate) gated: bool,
    /// What of it is not understood.
    pub(crate) unknown: Vec<String>,
}

/// What a pod demands of its node that does not change with what runs there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) required: Option<Vec<NodeTerm>>,
    pub(crate) tolerations: Vec<Toleration>,
}

/// A port of the node that a pod takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub(crate) protocol: String,
    /// `None`: all addresses of the node.
    pub(crate) address: Option<String>,
    pub(crate) port: i32,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address.is_none() || other.address.is_none() || self.address == other.address)
    }
}

/// What is observed of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) phase: String,
    pub(crate) nominated: Option<String>,
    /// The message of the condition `PodScheduled` while it is false.
    pub(crate) refusal: Option<String>,
    /// Names of generated claims by their names in the pod; none: not needed.
    pub(crate) claims: BTreeMap<String, Option<String>>,
    /// When it started.
    pub(crate) started: Option<Timestamp>,
}

impl Pod {
    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey::of(self)
    }

    pub(crate) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn labels(&self) -> &Labels {
        static NONE: Labels = Labels::new();
        self.metadata.labels.as_ref().unwrap_or(&NONE)
    }

    /// A label, or the annotation of that name.
    pub(crate) fn mark(&self, name: &str) -> Option<&str> {
        let annotations = self.metadata.annotations.as_ref();
        self.labels()
            .get(name)
            .or_else(|| annotations.and_then(|all| all.get(name)))
            .map(String::as_str)
    }

    pub(crate) fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it takes room on its node.
    pub(crate) fn runs(&self) -> bool {
        self.node.is_some() && !self.finished()
    }

    pub(crate) fn created(&self) -> Option<Timestamp> {
        self.metadata.creation_timestamp.as_ref().map(|time| time.0)
    }
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
