//! The rows of the table of built-in types.

use super::NameRule;
use super::builtin::{Row, STATUS_VERBS, SubresourceRow, row};

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
    // The names in events.k8s.io.
    ("reportingController", ""),
    ("regarding.kind", ""),
    ("regarding.namespace", ""),
    ("regarding.name", ""),
    ("regarding.uid", ""),
    ("regarding.apiVersion", ""),
    ("regarding.resourceVersion", ""),
    ("regarding.fieldPath", ""),
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
const ADMISSION: &str = "admissionregistration.k8s.io";
const FLOWS: &str = "flowcontrol.apiserver.k8s.io";
const NETWORK: &str = "networking.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const APPROVAL: &str = "certificates.k8s.io/v1";

pub(super) const ROWS: &[Row] = &[
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
        .fields(EVENT_FIELDS)
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
    row(STORAGE, "v1", "CSIDriver", "csidrivers")
        .cluster()
        .generation(),
    row(STORAGE, "v1", "CSINode", "csinodes").cluster(),
    row(STORAGE, "v1", "CSIStorageCapacity", "csistoragecapacities"),
    row(STORAGE, "v1", "StorageClass", "storageclasses")
        .short(&["sc"])
        .cluster(),
    row(STORAGE, "v1", "VolumeAttachment", "volumeattachments")
        .cluster()
        .status(),
    row(
        STORAGE,
        "v1",
        "VolumeAttributesClass",
        "volumeattributesclasses",
    )
    .short(&["vac"])
    .cluster(),
    row(NETWORK, "v1", "Ingress", "ingresses")
        .short(&["ing"])
        .status()
        .generation(),
    row(NETWORK, "v1", "IngressClass", "ingressclasses")
        .cluster()
        .generation(),
    row(NETWORK, "v1", "IPAddress", "ipaddresses")
        .short(&["ip"])
        .cluster()
        .name(NameRule::Address)
        .generation()
        .fields(&[
            ("spec.parentRef.namespace", ""),
            ("spec.parentRef.name", ""),
        ]),
    row(NETWORK, "v1", "NetworkPolicy", "networkpolicies")
        .short(&["netpol"])
        .generation(),
    row(NETWORK, "v1", "ServiceCIDR", "servicecidrs")
        .cluster()
        .status()
        .generation(),
    row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").cluster(),
    row(
        "certificates.k8s.io",
        "v1",
        "CertificateSigningRequest",
        "certificatesigningrequests",
    )
    .short(&["csr"])
    .cluster()
    .status()
    .fields(&[("spec.signerName", "")])
    .sub(&[(
        "approval",
        APPROVAL,
        "CertificateSigningRequest",
        STATUS_VERBS,
    )]),
    row(FLOWS, "v1", "FlowSchema", "flowschemas")
        .cluster()
        .status()
        .generation(),
    row(
        FLOWS,
        "v1",
        "PriorityLevelConfiguration",
        "prioritylevelconfigurations",
    )
    .cluster()
    .status()
    .generation(),
    row(
        ADMISSION,
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
    )
    .cluster()
    .status()
    .generation(),
    row(
        ADMISSION,
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
    )
    .cluster()
    .generation(),
    row(
        ADMISSION,
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
    )
    .cluster()
    .generation(),
    row(
        ADMISSION,
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
    )
    .cluster()
    .generation(),
    row(
        "autoscaling",
        "v1",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
    )
    .short(&["hpa"])
    .all()
    .status()
    .stored_as("autoscaling/horizontalpodautoscalers"),
    row(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
    )
    .short(&["hpa"])
    .all()
    .status()
    .stored_as("autoscaling/horizontalpodautoscalers"),
    row("apiregistration.k8s.io", "v1", "APIService", "apiservices")
        .cluster()
        .verbs(READ)
        .stored_as(""),
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
