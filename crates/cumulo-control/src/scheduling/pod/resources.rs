//! What a pod asks for in all: containers, sidecars, init containers, overhead,
//! and what is said for the pod as a whole (KEP-753, KEP-2837).

use std::collections::BTreeMap;

use cumulo_schedule::solver::Resources;
use serde::Deserialize;
use serde_json::Value;

use crate::scheduling::quantity::asked;

/// Amounts by resource, as written; a quantity may be written as a number.
pub(super) type Quantities = BTreeMap<String, Value>;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    pub(super) name: String,
    resources: Option<Requirements>,
    restart_policy: Option<String>,
    pub(super) ports: Option<Vec<Port>>,
}

impl Container {
    /// Whether an init container goes on running beside the others.
    pub(super) fn sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Requirements {
    requests: Option<Quantities>,
    limits: Option<Quantities>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Port {
    pub(super) container_port: i32,
    pub(super) host_port: Option<i32>,
    #[serde(rename = "hostIP")]
    pub(super) host_ip: Option<String>,
    pub(super) protocol: Option<String>,
}

/// What a running container was given; more than its spec says while it shrinks.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerStatus {
    name: String,
    allocated_resources: Option<Quantities>,
    resources: Option<Requirements>,
}

/// What the sum is made of.
pub(super) struct Given<'a> {
    pub(super) containers: &'a [Container],
    pub(super) init_containers: &'a [Container],
    pub(super) overhead: &'a Quantities,
    pub(super) pod: &'a Requirements,
    pub(super) statuses: &'a [ContainerStatus],
}

type Amounts = BTreeMap<String, u64>;

/// All that a pod asks for, with `pods: 1`.
pub(super) fn requests(given: &Given<'_>, unknown: &mut Vec<String>) -> Resources {
    let mut running = Amounts::new();
    for container in given.containers {
        let mut amounts = of(container.resources.as_ref(), unknown);
        let status = given.statuses.iter().find(|one| one.name == container.name);
        if let Some(status) = status {
            let actual = status
                .resources
                .as_ref()
                .and_then(|all| all.requests.as_ref());
            for granted in status.allocated_resources.iter().chain(actual) {
                highest(&mut amounts, &read(granted, unknown));
            }
        }
        add(&mut running, &amounts);
    }
    let mut sidecars = Amounts::new();
    let mut starting = Amounts::new();
    for container in given.init_containers {
        let mut amounts = of(container.resources.as_ref(), unknown);
        if container.sidecar() {
            add(&mut running, &amounts);
            add(&mut sidecars, &amounts);
            amounts = sidecars.clone();
        } else {
            add(&mut amounts, &sidecars);
        }
        highest(&mut starting, &amounts);
    }
    highest(&mut running, &starting);
    // What is said for the pod as a whole counts instead.
    for (name, amount) in of(Some(given.pod), unknown) {
        running.insert(name, amount);
    }
    add(&mut running, &read(given.overhead, unknown));
    let mut resources = Resources {
        cpu: running.remove("cpu").unwrap_or(0),
        memory: running.remove("memory").unwrap_or(0),
        other: running,
    };
    resources.other.retain(|_, amount| *amount > 0);
    resources.other.insert("pods".to_owned(), 1);
    resources
}

/// Requests; where there is only a limit, that.
fn of(requirements: Option<&Requirements>, unknown: &mut Vec<String>) -> Amounts {
    let Some(requirements) = requirements else {
        return Amounts::new();
    };
    let mut amounts = requirements
        .limits
        .as_ref()
        .map(|limits| read(limits, unknown))
        .unwrap_or_default();
    if let Some(requests) = &requirements.requests {
        amounts.extend(read(requests, unknown));
    }
    amounts
}

fn read(quantities: &Quantities, unknown: &mut Vec<String>) -> Amounts {
    let mut amounts = Amounts::new();
    for (name, quantity) in quantities {
        let text = match quantity {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match asked(name, &text) {
            Some(amount) => {
                amounts.insert(name.clone(), amount);
            }
            None => unknown.push(format!("the quantity {text:?} of {name}")),
        }
    }
    amounts
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = sum.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

fn highest(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let most = most.entry(name.clone()).or_default();
        *most = (*most).max(*amount);
    }
}
