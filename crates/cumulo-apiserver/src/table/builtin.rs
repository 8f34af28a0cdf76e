//! Columns of the built-in kinds, as data.

use super::show::Show::{self, Count, Fraction, Number, Or, Selector, Since, Text, With};
use super::{Cell, Column, Printer, cells, event, pod};

/// A column: name, type, priority (1: only with `-o wide`), cell.
type Row = (&'static str, &'static str, i64, Show);

const NAME: Row = ("Name", "string", 0, Show::Name);
const AGE: Row = ("Age", "string", 0, Show::Age);
const CREATED: Row = ("Created At", "date", 0, Show::Created);
const CONTAINERS: Row = (
    "Containers",
    "string",
    1,
    Show::Each("/spec/template/spec/containers", "name"),
);
const IMAGES: Row = (
    "Images",
    "string",
    1,
    Show::Each("/spec/template/spec/containers", "image"),
);
const SELECTOR: Row = ("Selector", "string", 1, Show::Selector("/spec/selector"));

/// Group, kind, and the columns between the name and nothing.
const TABLE: &[(&str, &str, &[Row])] = &[
    (
        "",
        "Pod",
        &[
            NAME,
            ("Ready", "string", 0, With(pod::ready)),
            ("Status", "string", 0, With(pod::status)),
            ("Restarts", "string", 0, With(pod::restarts)),
            AGE,
            ("IP", "string", 1, Text("/status/podIP")),
            ("Node", "string", 1, Text("/spec/nodeName")),
            (
                "Nominated Node",
                "string",
                1,
                Text("/status/nominatedNodeName"),
            ),
            ("Readiness Gates", "string", 1, With(pod::gates)),
        ],
    ),
    (
        "metrics.k8s.io",
        "PodMetrics",
        &[
            NAME,
            ("CPU", "string", 0, With(cells::pod_cpu)),
            ("Memory", "string", 0, With(cells::pod_memory)),
            ("Window", "string", 0, Text("/window")),
        ],
    ),
    (
        "metrics.k8s.io",
        "NodeMetrics",
        &[
            NAME,
            ("CPU", "string", 0, Text("/usage/cpu")),
            ("Memory", "string", 0, Text("/usage/memory")),
            ("Window", "string", 0, Text("/window")),
        ],
    ),
    (
        "",
        "Namespace",
        &[NAME, ("Status", "string", 0, Text("/status/phase")), AGE],
    ),
    (
        "",
        "ConfigMap",
        &[NAME, ("Data", "string", 0, With(cells::data)), AGE],
    ),
    (
        "",
        "Secret",
        &[
            NAME,
            ("Type", "string", 0, Text("/type")),
            ("Data", "string", 0, Count("/data")),
            AGE,
        ],
    ),
    (
        "",
        "ServiceAccount",
        &[NAME, ("Secrets", "string", 0, Count("/secrets")), AGE],
    ),
    (
        "",
        "Node",
        &[
            NAME,
            ("Status", "string", 0, With(cells::node_status)),
            ("Roles", "string", 0, With(cells::node_roles)),
            AGE,
            (
                "Version",
                "string",
                0,
                Text("/status/nodeInfo/kubeletVersion"),
            ),
            ("Internal-IP", "string", 1, With(cells::internal_ip)),
            ("External-IP", "string", 1, With(cells::external_ip)),
            (
                "OS-Image",
                "string",
                1,
                Or("/status/nodeInfo/osImage", "<unknown>"),
            ),
            (
                "Kernel-Version",
                "string",
                1,
                Or("/status/nodeInfo/kernelVersion", "<unknown>"),
            ),
            (
                "Container-Runtime",
                "string",
                1,
                Or("/status/nodeInfo/containerRuntimeVersion", "<unknown>"),
            ),
        ],
    ),
    (
        "",
        "Service",
        &[
            NAME,
            ("Type", "string", 0, Text("/spec/type")),
            ("Cluster-IP", "string", 0, Text("/spec/clusterIP")),
            ("External-IP", "string", 0, With(cells::service_external)),
            ("Port(s)", "string", 0, With(cells::service_ports)),
            AGE,
            SELECTOR,
        ],
    ),
    (
        "",
        "Endpoints",
        &[
            NAME,
            ("Endpoints", "string", 0, With(cells::endpoints)),
            AGE,
        ],
    ),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        &[
            NAME,
            ("AddressType", "string", 0, Text("/addressType")),
            ("Ports", "string", 0, With(cells::slice_ports)),
            ("Endpoints", "string", 0, With(cells::slice_endpoints)),
            AGE,
        ],
    ),
    ("", "Event", EVENT),
    ("events.k8s.io", "Event", EVENT),
    (
        "",
        "PersistentVolume",
        &[
            NAME,
            ("Capacity", "string", 0, Text("/spec/capacity/storage")),
            ("Access Modes", "string", 0, With(cells::access_modes)),
            (
                "Reclaim Policy",
                "string",
                0,
                Text("/spec/persistentVolumeReclaimPolicy"),
            ),
            ("Status", "string", 0, Text("/status/phase")),
            ("Claim", "string", 0, With(cells::claim)),
            (
                "StorageClass",
                "string",
                0,
                Or("/spec/storageClassName", ""),
            ),
            ("Reason", "string", 0, Or("/status/reason", "")),
            AGE,
            ("VolumeMode", "string", 1, Or("/spec/volumeMode", "<unset>")),
        ],
    ),
    (
        "",
        "PersistentVolumeClaim",
        &[
            NAME,
            ("Status", "string", 0, Text("/status/phase")),
            ("Volume", "string", 0, Or("/spec/volumeName", "")),
            ("Capacity", "string", 0, Or("/status/capacity/storage", "")),
            ("Access Modes", "string", 0, With(cells::access_modes)),
            (
                "StorageClass",
                "string",
                0,
                Or("/spec/storageClassName", ""),
            ),
            AGE,
            ("VolumeMode", "string", 1, Or("/spec/volumeMode", "<unset>")),
        ],
    ),
    (
        "",
        "ReplicationController",
        &[
            NAME,
            ("Desired", "integer", 0, Number("/spec/replicas")),
            ("Current", "integer", 0, Number("/status/replicas")),
            ("Ready", "integer", 0, Number("/status/readyReplicas")),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        "",
        "ResourceQuota",
        &[
            NAME,
            AGE,
            ("Request", "string", 0, With(cells::quota_requests)),
            ("Limit", "string", 0, With(cells::quota_limits)),
        ],
    ),
    ("", "LimitRange", &[NAME, CREATED]),
    (
        "apps",
        "Deployment",
        &[
            NAME,
            (
                "Ready",
                "string",
                0,
                Fraction("/status/readyReplicas", "/spec/replicas"),
            ),
            (
                "Up-to-date",
                "integer",
                0,
                Number("/status/updatedReplicas"),
            ),
            (
                "Available",
                "integer",
                0,
                Number("/status/availableReplicas"),
            ),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        "apps",
        "ReplicaSet",
        &[
            NAME,
            ("Desired", "integer", 0, Number("/spec/replicas")),
            ("Current", "integer", 0, Number("/status/replicas")),
            ("Ready", "integer", 0, Number("/status/readyReplicas")),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        "apps",
        "StatefulSet",
        &[
            NAME,
            (
                "Ready",
                "string",
                0,
                Fraction("/status/readyReplicas", "/spec/replicas"),
            ),
            AGE,
            CONTAINERS,
            IMAGES,
        ],
    ),
    (
        "apps",
        "DaemonSet",
        &[
            NAME,
            (
                "Desired",
                "integer",
                0,
                Number("/status/desiredNumberScheduled"),
            ),
            (
                "Current",
                "integer",
                0,
                Number("/status/currentNumberScheduled"),
            ),
            ("Ready", "integer", 0, Number("/status/numberReady")),
            (
                "Up-to-date",
                "integer",
                0,
                Number("/status/updatedNumberScheduled"),
            ),
            ("Available", "integer", 0, Number("/status/numberAvailable")),
            (
                "Node Selector",
                "string",
                0,
                Selector("/spec/template/spec/nodeSelector"),
            ),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        "apps",
        "ControllerRevision",
        &[
            NAME,
            ("Controller", "string", 0, With(cells::controller)),
            ("Revision", "string", 0, Text("/revision")),
            AGE,
        ],
    ),
    (
        "batch",
        "Job",
        &[
            NAME,
            ("Status", "string", 0, With(cells::job_status)),
            ("Completions", "string", 0, With(cells::job_completions)),
            ("Duration", "string", 0, With(cells::job_duration)),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        "batch",
        "CronJob",
        &[
            NAME,
            ("Schedule", "string", 0, Text("/spec/schedule")),
            ("Timezone", "string", 0, Text("/spec/timeZone")),
            ("Suspend", "boolean", 0, With(cells::suspended)),
            ("Active", "integer", 0, Count("/status/active")),
            (
                "Last Schedule",
                "string",
                0,
                Since("/status/lastScheduleTime"),
            ),
            AGE,
        ],
    ),
    (
        "coordination.k8s.io",
        "Lease",
        &[
            NAME,
            ("Holder", "string", 0, Or("/spec/holderIdentity", "")),
            AGE,
        ],
    ),
    (
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        &[NAME, CREATED],
    ),
    ("rbac.authorization.k8s.io", "Role", &[NAME, CREATED]),
    ("rbac.authorization.k8s.io", "ClusterRole", &[NAME, CREATED]),
    ("rbac.authorization.k8s.io", "RoleBinding", BINDING),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", BINDING),
    (
        "policy",
        "PodDisruptionBudget",
        &[
            NAME,
            (
                "Min Available",
                "string",
                0,
                Or("/spec/minAvailable", "N/A"),
            ),
            (
                "Max Unavailable",
                "string",
                0,
                Or("/spec/maxUnavailable", "N/A"),
            ),
            (
                "Allowed Disruptions",
                "integer",
                0,
                Number("/status/disruptionsAllowed"),
            ),
            AGE,
        ],
    ),
    (
        "scheduling.k8s.io",
        "PriorityClass",
        &[
            NAME,
            ("Value", "integer", 0, Number("/value")),
            ("Global-Default", "boolean", 0, With(cells::global_default)),
            AGE,
            ("PreemptionPolicy", "string", 0, Text("/preemptionPolicy")),
        ],
    ),
    (
        "storage.k8s.io",
        "StorageClass",
        &[
            NAME,
            ("Provisioner", "string", 0, Text("/provisioner")),
            ("ReclaimPolicy", "string", 0, Text("/reclaimPolicy")),
            ("VolumeBindingMode", "string", 0, Text("/volumeBindingMode")),
            ("AllowVolumeExpansion", "boolean", 0, With(cells::expansion)),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "NetworkPolicy",
        &[
            NAME,
            ("Pod-Selector", "string", 0, Selector("/spec/podSelector")),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "Ingress",
        &[
            NAME,
            ("Class", "string", 0, Text("/spec/ingressClassName")),
            ("Hosts", "string", 0, With(cells::ingress_hosts)),
            ("Address", "string", 0, With(cells::ingress_address)),
            ("Ports", "string", 0, With(cells::ingress_ports)),
            AGE,
        ],
    ),
    (
        "resource.k8s.io",
        "ResourceClaim",
        &[NAME, ("State", "string", 0, With(cells::claim_state)), AGE],
    ),
    (
        "resource.k8s.io",
        "ResourceSlice",
        &[
            NAME,
            ("Node", "string", 0, Or("/spec/nodeName", "")),
            ("Driver", "string", 0, Text("/spec/driver")),
            ("Pool", "string", 0, Text("/spec/pool/name")),
            AGE,
        ],
    ),
];

const EVENT: &[Row] = &[
    ("Last Seen", "string", 0, With(event::last_seen)),
    ("Type", "string", 0, Text("/type")),
    ("Reason", "string", 0, Text("/reason")),
    ("Object", "string", 0, With(event::object)),
    ("Subobject", "string", 1, With(event::part)),
    ("Source", "string", 1, With(event::source)),
    ("Message", "string", 0, With(event::message)),
    ("First Seen", "string", 1, With(event::first_seen)),
    ("Count", "string", 1, With(event::count)),
    ("Name", "string", 1, Show::Name),
];

const BINDING: &[Row] = &[
    NAME,
    ("Role", "string", 0, With(cells::role)),
    AGE,
    ("Users", "string", 1, With(cells::users)),
    ("Groups", "string", 1, With(cells::groups)),
    (
        "ServiceAccounts",
        "string",
        1,
        With(cells::service_accounts),
    ),
];

pub(super) fn printer(group: &str, kind: &str) -> Printer {
    let rows = TABLE
        .iter()
        .find(|(table_group, table_kind, _)| *table_group == group && *table_kind == kind)
        .map_or(&[NAME, AGE][..], |(_, _, rows)| rows);
    Printer {
        columns: rows.iter().copied().map(column).collect(),
    }
}

fn column((name, kind, priority, show): Row) -> Column {
    let (format, description) = match name {
        "Name" => ("name", "Name must be unique within a namespace."),
        "Age" => ("", "Time since the object was created."),
        _ => ("", ""),
    };
    Column {
        name: name.into(),
        kind: kind.into(),
        format: format.into(),
        description: description.into(),
        priority,
        cell: Cell::Builtin(show),
    }
}

pub(super) fn name_column() -> Column {
    column(NAME)
}

pub(super) fn age_column() -> Column {
    column(("Age", "date", 0, Show::Age))
}
