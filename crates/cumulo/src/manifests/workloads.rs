//! What runs: a Deployment for each role, with its Service, its volume and its
//! disruption budget, and the ConfigMap that tells clients where they are.

use serde_json::{Map, Value, json};

use super::access::{USER, WORKLOAD};
use super::labels;
use super::settings::Settings;
use crate::place::CONFIGURATION;

/// The port that every role listens on.
const PORT: u16 = 8080;
/// The port of the Services.
const SERVICE_PORT: u16 = 80;
/// Where the state of tracking lies, in its pod.
const STATE: &str = "/var/lib/cumulo";
/// The user in the image.
const ID: u32 = 65532;
/// The name by which pods ask for Cumulo's scheduler.
const SCHEDULER: &str = "cumulo";

/// A role that runs as a Deployment.
struct Role {
    name: &'static str,
    replicas: u32,
    arguments: Vec<String>,
    environment: Vec<Value>,
    /// Secrets whose keys become variables.
    secrets: Vec<String>,
    /// Folders: name, where it is mounted, and what it is.
    volumes: Vec<(&'static str, String, Value)>,
    /// The old pod has to go before the new one comes.
    recreate: bool,
    serves: bool,
    /// Requests for CPU and memory, and the limit of memory.
    resources: [&'static str; 3],
}

/// ConfigMap, volumes, Services, Deployments, disruption budgets.
pub fn objects(settings: &Settings) -> Vec<Value> {
    let mut all = vec![configuration(settings)];
    if keeps_state(settings) {
        all.push(claim(settings));
    }
    let roles = roles(settings);
    all.extend(
        roles
            .iter()
            .filter(|role| role.serves)
            .map(|role| service(settings, role)),
    );
    all.extend(roles.iter().map(|role| deployment(settings, role)));
    all.extend(roles.iter().map(|role| budget(settings, role)));
    all
}

/// The folder of each node that artifacts lie in, if they do.
pub fn host_folder(settings: &Settings) -> Option<String> {
    let url = url::Url::parse(settings.artifacts.as_deref()?).ok()?;
    (url.scheme() == "file").then(|| url.path().to_owned())
}

/// Whether the pod of tracking has something to lose.
fn keeps_state(settings: &Settings) -> bool {
    settings.database_secret.is_none()
}

fn url(settings: &Settings, service: &str) -> String {
    format!("http://{service}.{}.svc", settings.namespace)
}

/// The arguments that every role has, and more.
fn with(more: &[(&str, &str)]) -> Vec<String> {
    let more = more
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]);
    ["--listen".to_owned(), format!("0.0.0.0:{PORT}")]
        .into_iter()
        .chain(more)
        .collect()
}

fn roles(settings: &Settings) -> Vec<Role> {
    let artifacts = settings.artifacts.clone().unwrap_or_default();
    let tracking = url(settings, "cumulo-tracking");
    let inside = url(settings, "cumulo-gateway");
    let gateway = settings.gateway_url.as_deref().unwrap_or(&inside);
    let image = settings
        .workload_image
        .as_deref()
        .unwrap_or(&settings.image);
    let namespace = settings.namespace.as_str();
    let gateways = format!("service/{namespace}/cumulo-gateway");
    let account = format!("{namespace}/{WORKLOAD}");
    let mut operator = vec![
        ("--namespace", namespace),
        ("--workload-account", account.as_str()),
        ("--gateways", gateways.as_str()),
        ("--tracking-uri", tracking.as_str()),
        ("--gateway-url", gateway),
        ("--artifacts", artifacts.as_str()),
        ("--image", image),
    ];
    if settings.scheduler {
        operator.push(("--scheduler-name", SCHEDULER));
    }
    let folder = host_folder(settings).map(|path| {
        let source = json!({"hostPath": {"path": path, "type": "Directory"}});
        ("artifacts", path, source)
    });
    let store: Vec<String> = settings.artifacts_secret.iter().cloned().collect();
    let mut all = vec![
        Role {
            name: "operator",
            replicas: settings.operators,
            arguments: with(&operator),
            environment: Vec::new(),
            secrets: store.clone(),
            volumes: Vec::new(),
            recreate: false,
            serves: false,
            resources: ["100m", "128Mi", "1Gi"],
        },
        Role {
            name: "gateway",
            replicas: settings.gateways,
            arguments: with(&[("--tracking-uri", tracking.as_str())]),
            environment: Vec::new(),
            secrets: Vec::new(),
            volumes: Vec::new(),
            recreate: false,
            serves: true,
            resources: ["250m", "128Mi", "1Gi"],
        },
        tracking_role(settings, &artifacts, store, folder),
    ];
    if settings.scheduler {
        all.push(Role {
            name: "scheduler",
            replicas: settings.schedulers,
            arguments: with(&[("--lease-namespace", namespace)]),
            environment: Vec::new(),
            secrets: Vec::new(),
            volumes: Vec::new(),
            recreate: false,
            serves: false,
            resources: ["250m", "256Mi", "2Gi"],
        });
    }
    all
}

fn tracking_role(
    settings: &Settings,
    artifacts: &str,
    secrets: Vec<String>,
    folder: Option<(&'static str, String, Value)>,
) -> Role {
    let file = format!("sqlite://{STATE}/tracking.db");
    let mut volumes: Vec<_> = folder.into_iter().collect();
    let (arguments, environment) = match &settings.database_secret {
        // The URL holds a password: a variable, because everybody reads command lines.
        Some(secret) => {
            let reference = json!({"secretKeyRef": {"name": secret, "key": settings.database_key}});
            let variable = json!({"name": "CUMULO_DATABASE", "valueFrom": reference});
            (with(&[("--artifacts", artifacts)]), vec![variable])
        }
        None => {
            let source = json!({"persistentVolumeClaim": {"claimName": "cumulo-tracking"}});
            volumes.push(("state", STATE.to_owned(), source));
            (
                with(&[("--database", &file), ("--artifacts", artifacts)]),
                Vec::new(),
            )
        }
    };
    Role {
        name: "tracking",
        replicas: settings.trackings,
        arguments,
        environment,
        secrets,
        volumes,
        recreate: keeps_state(settings),
        serves: true,
        resources: ["250m", "256Mi", "2Gi"],
    }
}

fn metadata(settings: &Settings, name: &str, component: &str) -> Value {
    json!({"name": name, "namespace": settings.namespace, "labels": labels(component)})
}

/// Labels that find the pods of a role; they never change.
fn selector(role: &str) -> Value {
    json!({"app.kubernetes.io/name": "cumulo", "app.kubernetes.io/component": role})
}

/// What `cumulo --context` reads: see `place`.
fn configuration(settings: &Settings) -> Value {
    let mut data = Map::new();
    data.insert("serviceAccount".to_owned(), json!(USER));
    data.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    for (key, url) in [
        ("gatewayUrl", &settings.gateway_url),
        ("trackingUrl", &settings.tracking_url),
    ] {
        if let Some(url) = url {
            data.insert(key.to_owned(), json!(url));
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(settings, CONFIGURATION, "user"),
        "data": data,
    })
}

fn claim(settings: &Settings) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": settings.storage_size}},
    });
    if let Some(class) = &settings.storage_class {
        spec["storageClassName"] = json!(class);
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(settings, "cumulo-tracking", "tracking"),
        "spec": spec,
    })
}

fn service(settings: &Settings, role: &Role) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(settings, &format!("cumulo-{}", role.name), role.name),
        "spec": {
            "selector": selector(role.name),
            "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}],
        },
    })
}

/// One pod at a time may be taken away by an administrator.
fn budget(settings: &Settings, role: &Role) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(settings, &format!("cumulo-{}", role.name), role.name),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(role.name)}},
    })
}

fn deployment(settings: &Settings, role: &Role) -> Value {
    let strategy = if role.recreate {
        json!({"type": "Recreate"})
    } else {
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
    };
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(settings, &format!("cumulo-{}", role.name), role.name),
        "spec": {
            "replicas": role.replicas,
            "revisionHistoryLimit": 3,
            "strategy": strategy,
            "selector": {"matchLabels": selector(role.name)},
            "template": {
                "metadata": {"labels": labels(role.name)},
                "spec": pod(settings, role),
            },
        },
    })
}

fn pod(settings: &Settings, role: &Role) -> Value {
    let mut volumes = vec![json!({"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}})];
    volumes.extend(role.volumes.iter().map(|(name, _, source)| {
        let mut volume = source.clone();
        volume["name"] = json!(name);
        volume
    }));
    let mut spec = json!({
        "serviceAccountName": format!("cumulo-{}", role.name),
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": ID,
            "runAsGroup": ID,
            "fsGroup": ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(role.name)},
        }],
        "containers": [container(settings, role)],
        "volumes": volumes,
    });
    if let Some(secret) = &settings.pull_secret {
        spec["imagePullSecrets"] = json!([{"name": secret}]);
    }
    spec
}

fn container(settings: &Settings, role: &Role) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut environment = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IP", "status.podIP"),
        json!({"name": "CUMULO_HOME", "value": STATE}),
        json!({"name": "HOME", "value": "/tmp"}),
    ];
    environment.extend(role.environment.iter().cloned());
    let mut mounts = vec![json!({"name": "scratch", "mountPath": "/tmp"})];
    mounts.extend(
        role.volumes
            .iter()
            .map(|(name, path, _)| json!({"name": name, "mountPath": path})),
    );
    let probe = |path: &str, period: u32, failures: u32| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures});
    let [cpu, memory, limit] = role.resources;
    let arguments: Vec<String> = std::iter::once(role.name.to_owned())
        .chain(role.arguments.iter().cloned())
        .collect();
    let mut container = json!({
        "name": role.name,
        "image": settings.image,
        "command": ["cumulo"],
        "args": arguments,
        "env": environment,
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": probe("/healthz", 2, 60),
        "readinessProbe": probe("/readyz", 5, 2),
        "livenessProbe": probe("/healthz", 10, 6),
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    });
    if !role.secrets.is_empty() {
        let sources: Vec<Value> = role
            .secrets
            .iter()
            .map(|name| json!({"secretRef": {"name": name}}))
            .collect();
        container["envFrom"] = json!(sources);
    }
    container
}
