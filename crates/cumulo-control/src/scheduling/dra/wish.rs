//! What a ResourceClaim asks for, understood or refused with a sentence.

use std::collections::BTreeMap;

use cumulo_api::GpuAsk;
use k8s_openapi::api::resource::v1 as api;

use crate::scheduling::known::Known;
use crate::scheduling::pod::Toleration;
use crate::scheduling::quantity::nano;

/// A DeviceClass.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub(crate) selectors: Vec<String>,
    pub(crate) config: Vec<api::DeviceClassConfiguration>,
}

/// What a claim asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Wish {
    pub(crate) requests: Vec<Request>,
    pub(crate) constraints: Vec<Constraint>,
}

/// One request: the first of the alternatives that can be had.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) alternatives: Vec<Alternative>,
}

/// One way to fulfil a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Alternative {
    /// Its name, where there is a list of them.
    pub(crate) name: Option<String>,
    pub(crate) class: String,
    pub(crate) selectors: Vec<String>,
    /// How many devices; none: all that match.
    pub(crate) count: Option<usize>,
    pub(crate) admin: bool,
    pub(crate) tolerations: Vec<Toleration>,
    /// Least of each capacity, in billionths.
    pub(crate) capacity: BTreeMap<String, i128>,
    /// Asked for in one word, of devices that Cumulo's node agents publish; the
    /// class is no object then.
    pub(crate) gpu: Option<GpuAsk>,
}

/// What must hold of the devices of some requests together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Constraint {
    /// Names of requests, or of alternatives as `request/name`; none: all.
    pub(crate) requests: Vec<String>,
    pub(crate) attribute: String,
    /// The attribute is the same on all of them, or else different on each.
    pub(crate) same: bool,
}

impl Constraint {
    /// Whether it speaks of an alternative of a request.
    pub(crate) fn covers(&self, request: &str, alternative: Option<&str>) -> bool {
        self.requests.is_empty()
            || self.requests.iter().any(|name| {
                name == request
                    || alternative.is_some_and(|alternative| {
                        name.split_once('/') == Some((request, alternative))
                    })
            })
    }
}

impl Wish {
    /// Reads a claim; `Err` says what of it is not understood.
    pub(crate) fn of(claim: &Known<api::ResourceClaim>) -> Result<Self, String> {
        if !claim.unknown.is_empty() {
            return Err(format!("{} is not understood", claim.unknown.join(", ")));
        }
        let devices = claim.object.spec.devices.clone().unwrap_or_default();
        let mut requests = Vec::new();
        for one in devices.requests.iter().flatten() {
            let alternatives = match (&one.exactly, &one.first_available) {
                (Some(exactly), None) => vec![exact(exactly)?],
                (None, Some(list)) if !list.is_empty() => {
                    list.iter().map(sub).collect::<Result<_, _>>()?
                }
                _ => {
                    return Err(format!(
                        "request {} has neither exactly nor firstAvailable that is understood",
                        one.name
                    ));
                }
            };
            requests.push(Request {
                name: one.name.clone(),
                alternatives,
            });
        }
        let mut constraints = Vec::new();
        for one in devices.constraints.iter().flatten() {
            let (attribute, same) = match (&one.match_attribute, &one.distinct_attribute) {
                (Some(attribute), None) => (attribute.clone(), true),
                (None, Some(attribute)) => (attribute.clone(), false),
                _ => return Err("a constraint is not understood".to_owned()),
            };
            constraints.push(Constraint {
                requests: one.requests.clone().unwrap_or_default(),
                attribute,
                same,
            });
        }
        Ok(Self {
            requests,
            constraints,
        })
    }

    /// The classes that it names.
    pub(crate) fn classes(&self) -> impl Iterator<Item = &str> {
        let alternatives = self
            .requests
            .iter()
            .flat_map(|request| &request.alternatives);
        let classed = alternatives.filter(|alternative| alternative.gpu.is_none());
        classed.map(|alternative| alternative.class.as_str())
    }
}

fn exact(one: &api::ExactDeviceRequest) -> Result<Alternative, String> {
    alternative(
        None,
        &one.device_class_name,
        one.selectors.as_deref(),
        (one.allocation_mode.as_deref(), one.count),
        one.admin_access == Some(true),
        (one.tolerations.as_deref(), one.capacity.as_ref()),
    )
}

fn sub(one: &api::DeviceSubRequest) -> Result<Alternative, String> {
    alternative(
        Some(one.name.clone()),
        &one.device_class_name,
        one.selectors.as_deref(),
        (one.allocation_mode.as_deref(), one.count),
        false,
        (one.tolerations.as_deref(), one.capacity.as_ref()),
    )
}

fn alternative(
    name: Option<String>,
    class: &str,
    selectors: Option<&[api::DeviceSelector]>,
    (mode, count): (Option<&str>, Option<i64>),
    admin: bool,
    (tolerations, capacity): (
        Option<&[api::DeviceToleration]>,
        Option<&api::CapacityRequirements>,
    ),
) -> Result<Alternative, String> {
    let selectors = selectors.unwrap_or_default().iter().map(|selector| {
        selector
            .cel
            .as_ref()
            .map(|cel| cel.expression.clone())
            .ok_or_else(|| "a selector is not written in CEL".to_owned())
    });
    let count = match mode {
        None | Some("" | "ExactCount") => {
            let count = usize::try_from(count.unwrap_or(1)).ok();
            Some(
                count
                    .filter(|count| *count > 0)
                    .ok_or("a count is not above 0")?,
            )
        }
        Some("All") => None,
        Some(other) => return Err(format!("the allocation mode {other:?} is not understood")),
    };
    let asked = capacity.and_then(|capacity| capacity.requests.as_ref());
    let mut capacity = BTreeMap::new();
    for (name, amount) in asked.into_iter().flatten() {
        let amount = nano(&amount.0).ok_or_else(|| format!("{:?} is no quantity", amount.0))?;
        capacity.insert(name.clone(), amount);
    }
    Ok(Alternative {
        name,
        class: class.to_owned(),
        selectors: selectors.collect::<Result<_, _>>()?,
        count,
        admin,
        tolerations: tolerations
            .unwrap_or_default()
            .iter()
            .map(|one| Toleration {
                key: one.key.clone(),
                operator: one.operator.clone(),
                value: one.value.clone(),
                effect: one.effect.clone(),
            })
            .collect(),
        capacity,
        gpu: None,
    })
}
