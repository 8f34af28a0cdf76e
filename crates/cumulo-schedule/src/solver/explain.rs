//! Why something waits and what would let it run, as sentences.

use super::engine::Engine;
use super::model::{Kind, Model, Request};
use super::problem::WHOLE;
use super::solution::{Cause, JobRef, Reservation, duration};
use super::state::DeviceState;
use super::work::{Ask, Locality};

/// Why a job waits and what would help.
#[derive(Debug, Clone)]
pub(super) struct Sentence {
    pub reason: String,
    pub remedy: String,
}

pub(super) fn explain(
    engine: &Engine<'_>,
    job: usize,
    cause: Cause,
    reservation: Option<&Reservation>,
) -> Sentence {
    let model = engine.model;
    let name = |job: usize| &model.problem.waiting[job].name;
    match cause {
        Cause::Infeasible => Sentence {
            reason: format!(
                "{}; no set of nodes would hold it even if nothing ran",
                lack(engine, job, true)
            ),
            remedy: "asking for less, or nodes, devices or quota that hold it".to_owned(),
        },
        Cause::Capacity => {
            let remedy = match reservation {
                Some(reservation) => format!(
                    "a place is kept for it, free in {} if running work ends as estimated",
                    duration(reservation.at.saturating_sub(model.problem.now))
                ),
                None => "running work that ends, or more nodes".to_owned(),
            };
            Sentence {
                reason: lack(engine, job, false),
                remedy,
            }
        }
        Cause::Quota => quota(engine, job),
        Cause::Reserved(ahead) => {
            let kept = engine.shadows.values().find(|shadow| shadow.job == ahead);
            let until = kept.map_or(String::new(), |shadow| {
                format!(
                    " in {}",
                    duration(shadow.at.saturating_sub(model.problem.now))
                )
            });
            Sentence {
                reason: format!(
                    "what is free is kept for {}, which starts{until}",
                    name(ahead)
                ),
                remedy: format!(
                    "an estimate that ends before that, or {} starting elsewhere",
                    name(ahead)
                ),
            }
        }
        Cause::Behind(ahead) => Sentence {
            reason: format!(
                "{} of the same queue waited past the bound for quota and goes first",
                name(ahead)
            ),
            remedy: format!("{} starting", name(ahead)),
        },
    }
}

/// What a job lacks, now or on nodes where nothing runs.
fn lack(engine: &Engine<'_>, job: usize, empty: bool) -> String {
    let model = engine.model;
    let waiting = JobRef::Waiting(job);
    let asked = model.job(waiting);
    let shapes = model.shapes_of(waiting);
    let pods: u32 = asked.members.iter().map(|members| members.min).sum();
    let shape = shapes
        .iter()
        .copied()
        .max_by_key(|shape| model.shapes[*shape].requests.len())
        .unwrap_or(0);
    let one = pod_lack(engine, shape, empty);
    if pods == 1 {
        return one;
    }
    let near = asked
        .topology
        .required
        .as_ref()
        .map_or(String::new(), |level| format!(" in one {level}"));
    format!("needs {pods} pods at once{near}; each {one}")
}

fn pod_lack(engine: &Engine<'_>, shape: usize, empty: bool) -> String {
    let model = engine.model;
    let asked = &model.shapes[shape];
    let open: Vec<usize> = (0..model.nodes.len())
        .filter(|node| asked.admits[model.nodes[*node].class].is_some())
        .collect();
    if open.is_empty() {
        return "finds no node with its labels, taints and region that takes pods".to_owned();
    }
    let free = |node: usize, resource: usize| {
        let used = if empty {
            0
        } else {
            engine.cluster.state(node).used[resource]
        };
        model.nodes[node].capacity[resource].saturating_sub(used)
    };
    for (resource, amount) in asked.amounts.iter().enumerate() {
        let most = open
            .iter()
            .map(|node| free(*node, resource))
            .max()
            .unwrap_or(0);
        if *amount > most {
            let name = &model.resources[resource];
            let (amount, most) = (quantity(name, *amount), quantity(name, most));
            return format!("needs {amount} of {name} on one node; the most free on one: {most}");
        }
    }
    for request in &asked.requests {
        if let Some(text) = request_lack(engine, request, &open, empty) {
            return text;
        }
    }
    let wants: Vec<String> = asked
        .requests
        .iter()
        .map(|request| wanted(model, request))
        .collect();
    let wants = if wants.is_empty() {
        String::new()
    } else {
        format!(" and {}", wants.join(", "))
    };
    format!(
        "needs {} CPU, {}{wants} together; nodes have each of these free, but none has all",
        quantity("cpu", asked.amounts[0]),
        quantity("memory", asked.amounts[1])
    )
}

/// What of one request no open node can give, if so.
fn request_lack(
    engine: &Engine<'_>,
    request: &Request<'_>,
    open: &[usize],
    empty: bool,
) -> Option<String> {
    let model = engine.model;
    let (mut total, mut most, mut domains) = (0usize, 0usize, 0usize);
    for node in open {
        let spec = &model.nodes[*node];
        let state = engine.cluster.state(*node);
        let mut inside: Vec<(Option<u32>, usize)> = Vec::new();
        for (at, device) in spec.devices.iter().enumerate() {
            let named = request
                .models
                .as_ref()
                .is_none_or(|models| models.contains(&device.model));
            if !named || !device.healthy {
                continue;
            }
            let clear = DeviceState {
                counters: vec![0; state.devices[at].counters.len()].into_boxed_slice(),
                ..DeviceState::default()
            };
            let count = serves(
                model,
                request.ask,
                device,
                if empty { &clear } else { &state.devices[at] },
            );
            let domain = request
                .within
                .map_or(Some(0), |within| device.domain(within));
            total += count;
            match inside
                .iter_mut()
                .find(|(known, _)| *known == domain && domain.is_some())
            {
                Some((_, inside)) => *inside += count,
                None => inside.push((domain, count)),
            }
        }
        domains += inside.iter().filter(|(_, count)| *count > 0).count();
        most = most.max(inside.iter().map(|(_, count)| *count).max().unwrap_or(0));
    }
    if most >= request.count as usize {
        return None;
    }
    let place = match request.within {
        Some(Locality::Link) => "in one NVLink domain",
        Some(Locality::Numa) => "on one NUMA node",
        None => "on one node",
    };
    let spread = if request.within.is_some() {
        format!("{total}, in {domains}")
    } else {
        format!("{total}, at most {most} on one node")
    };
    Some(format!(
        "needs {} {place}; free: {spread}",
        wanted(model, request)
    ))
}

/// How often a device in a state can serve an ask.
fn serves(
    model: &Model<'_>,
    ask: &Ask,
    device: &super::model::DeviceSpec,
    state: &DeviceState,
) -> usize {
    let (milli, memory) = match ask {
        Ask::Whole => (WHOLE, 0),
        Ask::Share { milli, memory } => (*milli, memory.unwrap_or(0)),
        Ask::Memory(memory) => (0, *memory),
        Ask::Profile(_) => (0, 0),
    };
    if let Kind::Partitioned { geometry } = device.kind {
        let geometry = model.geometries[geometry];
        let profile = match ask {
            Ask::Profile(name) => geometry.profile(name),
            _ => geometry.smallest(milli, memory),
        };
        return profile.map_or(0, |profile| {
            geometry.room(profile, &state.counters) as usize
        });
    }
    if matches!(ask, Ask::Profile(_)) || (device.kind == Kind::Exclusive && milli != WHOLE) {
        return 0;
    }
    let free = device.usable.saturating_sub(state.memory);
    usize::from(
        WHOLE.saturating_sub(state.share) >= milli
            && free >= memory
            && (milli < WHOLE || state.untouched()),
    )
}

/// A request in words: `2 A100`, `300/1000 of a GPU with 10 GiB`.
fn wanted(model: &Model<'_>, request: &Request<'_>) -> String {
    let named = request.models.as_ref().map(|models| {
        let names: Vec<&str> = models.iter().map(|at| model.models[*at].as_str()).collect();
        names.join(" or ")
    });
    let device = named
        .filter(|names| !names.is_empty())
        .unwrap_or_else(|| "GPU".to_owned());
    let count = request.count;
    match request.ask {
        Ask::Whole => format!("{count} {device}"),
        Ask::Share {
            milli,
            memory: None,
        } => format!("{count} × {milli}/1000 of a {device}"),
        Ask::Share {
            milli,
            memory: Some(memory),
        } => {
            format!(
                "{count} × {milli}/1000 of a {device} with {}",
                quantity("memory", *memory)
            )
        }
        Ask::Memory(memory) => format!("{count} × {} of a {device}", quantity("memory", *memory)),
        Ask::Profile(profile) => format!("{count} × {profile} of a {device}"),
    }
}

fn quota(engine: &Engine<'_>, job: usize) -> Sentence {
    let model = engine.model;
    let waiting = JobRef::Waiting(job);
    let queue = &model.job(waiting).queue;
    let mut text = String::new();
    if let Some(at) = model.queue(waiting) {
        for flavor in 0..model.flavors.len() {
            let needs = super::preempt::needs(model.job(waiting), model, flavor);
            if let Some((charge, available)) = engine.tree.lacking(at, &needs) {
                let resource = &model.resources[charge.at % model.resources.len()];
                let flavor = &model.flavors[flavor];
                text = format!(
                    ": needs {} {resource} of {flavor}, may still use {}",
                    quantity(resource, charge.amount),
                    quantity(resource, u64::try_from(available).unwrap_or(0)),
                );
            }
        }
    }
    Sentence {
        reason: format!("the quota of queue {queue} does not reach{text}"),
        remedy: format!(
            "work of queue {queue} or of those it borrows from that ends, or more quota"
        ),
    }
}

/// An amount of a resource in words.
fn quantity(resource: &str, amount: u64) -> String {
    match resource {
        "cpu" if amount.is_multiple_of(1000) => format!("{}", amount / 1000),
        "cpu" => format!("{amount}m"),
        super::queue::DEVICE_QUOTA => format!("{}.{:03}", amount / 1000, amount % 1000),
        "memory" if amount >= 1 << 30 => format!(
            "{}.{} GiB",
            amount >> 30,
            ((amount >> 20) % 1024) * 10 / 1024
        ),
        "memory" => format!("{} MiB", amount >> 20),
        _ => format!("{amount}"),
    }
}
