//! `cumulo gpus`: each device as a bar, and whether a wish would fit.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use cumulo_api::{Gpu as Wish, GpuAsk, labels, parse_duration};
use cumulo_node::devices::mig::{Given, MigInstances, largest, plan};
use cumulo_node::devices::{
    Condition, Cpu, Energy, Gpu, Health, Held, Holder, Inventory, Vendor, counted,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;

use super::devices;
use super::print::{columns, header};
use crate::cli::{Format, GpusArgs, GpusCommand};
use crate::place::{ContextPlace, Place};

/// Cells of a bar.
const BAR: u64 = 20;
/// Thousandths of a device.
const WHOLE: u32 = 1000;

/// Runs `cumulo gpus`. The exit code is 1 when the answer of `fits` is no.
pub async fn run(place: &Place, arguments: GpusArgs) -> Result<i32> {
    let client = place.client().await?;
    if let Place::Context(_) = place
        && !ContextPlace::is_embedded(&client).await?
    {
        if arguments.command.is_some() {
            place.home(
                "`cumulo gpus fits`",
                "a cluster's scheduler answers there, with the events of the pod",
            )?;
        }
        devices::run(&client, arguments.output).await?;
        return Ok(0);
    }
    let request = http::Request::get("/gpus").body(Vec::new())?;
    let inventory: Inventory = client.request(request).await?;
    if let Some(GpusCommand::Fits { ask }) = arguments.command {
        let (fits, sentence) = answer(&inventory, &ask);
        let when = match ask.ask() {
            Ok(ask) if !fits => {
                let ends = ends(&client, &inventory.holders).await?;
                when(&inventory, &ask, &ends, Timestamp::now())
            }
            _ => None,
        };
        match when {
            Some(when) => println!("{sentence}; {when}"),
            None => println!("{sentence}"),
        }
        return Ok(i32::from(!fits));
    }
    match arguments.output.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report(&inventory))?),
        Format::Yaml => print!("{}", serde_saphyr::to_string(&report(&inventory))?),
        _ => print!("{}", table(&inventory)),
    }
    Ok(0)
}

/// What is known of a node's devices, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    node: &'a str,
    driver: Option<&'a str>,
    /// Whether MIG instances are made for pods.
    mig_instances: MigInstances,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<&'a Cpu>,
    gpus: Vec<Row<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    health: Health,
    /// Thousandths that nobody has; of a GPU in MIG mode those of idle instances.
    free_milli: u32,
    /// What would fit now.
    fits: String,
    holders: Vec<Share<'a>>,
    /// MIG instances that the node agent made; the others its administrator made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    made: Vec<&'a str>,
    #[serde(flatten)]
    gpu: &'a Gpu,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Share<'a> {
    namespace: &'a str,
    pod: &'a str,
    /// The energy that the pod used, on all GPUs that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    energy: Option<Energy>,
    #[serde(flatten)]
    held: &'a Held,
}

fn report(inventory: &Inventory) -> Report<'_> {
    let snapshot = &inventory.snapshot;
    let rows = snapshot.gpus.iter().zip(snapshot.health());
    Report {
        node: &inventory.node,
        driver: snapshot.driver.as_deref(),
        mig_instances: inventory.managed.instances,
        cpu: snapshot.cpu.as_ref(),
        gpus: rows
            .map(|(gpu, health)| {
                let holders = holders_of(gpu, &inventory.holders);
                let (free_milli, mut fits) = room(gpu, &health, &holders);
                if health.condition != Condition::Broken
                    && let Some(profile) = could_be_made(gpu, inventory)
                {
                    fits = match free_milli {
                        0 => format!("a {profile} would be made"),
                        _ => format!("{fits}; or a {profile} would be made"),
                    };
                }
                let instances = gpu.instances().unwrap_or_default().iter();
                let made = instances.filter(|one| inventory.managed.made(gpu, one.id));
                Row {
                    health,
                    free_milli,
                    fits,
                    holders,
                    made: made.map(|one| one.uuid.as_str()).collect(),
                    gpu,
                }
            })
            .collect(),
    }
}

fn could_be_made(gpu: &Gpu, inventory: &Inventory) -> Option<String> {
    let holders: Vec<&Holder> = inventory.holders.iter().collect();
    largest(gpu, &holders, &inventory.managed)
}

fn holders_of<'a>(gpu: &Gpu, holders: &'a [Holder]) -> Vec<Share<'a>> {
    let identity = gpu.identity();
    let shares = holders.iter().flat_map(|holder| {
        holder.held.iter().map(|held| Share {
            namespace: &holder.namespace,
            pod: &holder.pod,
            energy: holder.energy,
            held,
        })
    });
    shares.filter(|share| share.held.gpu == identity).collect()
}

/// What is left of a device, in thousandths and in words.
fn room(gpu: &Gpu, health: &Health, holders: &[Share<'_>]) -> (u32, String) {
    let nothing = (0, "nothing".to_owned());
    if health.condition == Condition::Broken {
        return nothing;
    }
    if let Some(instances) = gpu.instances() {
        let idle: Vec<_> = instances
            .iter()
            .filter(|instance| !is_held(&instance.uuid, holders))
            .collect();
        let memory: u64 = idle.iter().map(|instance| instance.memory.total).sum();
        let milli = thousandths(memory, gpu.memory.total);
        let words = counted(idle.iter().map(|instance| instance.profile.as_str()));
        return if words.is_empty() {
            nothing
        } else {
            (milli, words)
        };
    }
    let shares = || parts(holders).into_iter().map(|part| part[0].held);
    let held: u32 = shares().map(|held| held.milli).sum();
    let free = WHOLE.saturating_sub(held);
    if free == 0 {
        return nothing;
    }
    let taken: u64 = shares().map(|held| held.memory).sum();
    let usable = gpu.memory.total.saturating_sub(gpu.memory.reserved);
    let memory = usable.saturating_sub(taken);
    if gpu.vendor != Vendor::Nvidia {
        return (free, "1, whole".to_owned());
    }
    let share = f64::from(free) / f64::from(WHOLE);
    (free, format!("{share} with {}", gibibytes(memory)))
}

/// The parts of a device that pods have, each with those who have it: more than one where
/// they share a claim.
fn parts<'r, 'a>(holders: &'r [Share<'a>]) -> Vec<Vec<&'r Share<'a>>> {
    let mut parts: Vec<Vec<&Share<'a>>> = Vec::new();
    for share in holders {
        let pod = (share.namespace, share.pod);
        // A pod may have several parts by one claim, and so has who shares it.
        let shared = parts.iter_mut().find(|part| {
            share.held.claim.is_some()
                && part[0].held == share.held
                && part.iter().all(|known| (known.namespace, known.pod) != pod)
        });
        match shared {
            Some(part) => part.push(share),
            None => parts.push(vec![share]),
        }
    }
    parts
}

fn is_held(instance: &str, holders: &[Share<'_>]) -> bool {
    holders
        .iter()
        .any(|share| share.held.is_taken() && share.held.instance.as_deref() == Some(instance))
}

fn thousandths(part: u64, whole: u64) -> u32 {
    let part = u128::from(part) * u128::from(WHOLE) / u128::from(whole.max(1));
    u32::try_from(part).unwrap_or(WHOLE).min(WHOLE)
}

fn gibibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 30;
    format!("{}.{}Gi", tenths / 10, tenths % 10)
}

/// The table that people read.
fn table(inventory: &Inventory) -> String {
    let report = report(inventory);
    let mut out = String::new();
    if report.gpus.is_empty() {
        let _ = match report.driver {
            Some(driver) => writeln!(out, "{} has driver {driver} and no GPU", report.node),
            None => writeln!(
                out,
                "{} has no GPU (no driver of NVIDIA's, AMD's or Intel's was found)",
                report.node
            ),
        };
        return out;
    }
    let names = header(&[
        "GPU", "MODEL", "HELD", "", "MEMORY", "BUSY", "POWER", "TEMP", "HEALTH", "FITS NOW",
        "HELD BY",
    ]);
    let shown = |value: Option<u32>, unit: &str| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value}{unit}"))
    };
    let rows: Vec<Vec<String>> = report
        .gpus
        .iter()
        .map(|row| {
            let gpu = row.gpu;
            let (bar, held) = bar(gpu, &row.holders);
            let condition = match row.health.condition {
                Condition::Healthy => "healthy",
                Condition::Degraded => "degraded",
                Condition::Broken => "broken",
            };
            let memory = format!(
                "{} of {}",
                gibibytes(gpu.memory.used),
                gibibytes(gpu.memory.total)
            );
            let holders: Vec<String> = parts(&row.holders)
                .into_iter()
                .map(|part| {
                    let percent = (part[0].held.milli + 5) / 10;
                    let pods = part.iter();
                    let mut pods: Vec<String> = pods
                        .map(|share| format!("{}/{}", share.namespace, share.pod))
                        .collect();
                    pods.sort_unstable();
                    format!("{} {percent}%", pods.join(" + "))
                })
                .collect();
            vec![
                gpu.index.to_string(),
                gpu.model().to_owned(),
                bar,
                format!("{held:>3}%"),
                memory,
                shown(gpu.utilization, "%"),
                shown(gpu.power_milliwatts.map(|power| (power + 500) / 1000), " W"),
                shown(gpu.temperature, " °C"),
                condition.to_owned(),
                row.fits.clone(),
                holders.join(", "),
            ]
        })
        .collect();
    if let Some(driver) = report.driver {
        let _ = writeln!(out, "{}, driver {driver}\n", report.node);
    }
    out.push_str(&columns(&names, &rows));
    let reasons = report
        .gpus
        .iter()
        .filter(|row| !row.health.reason.is_empty());
    for (number, row) in reasons.enumerate() {
        let gap = if number == 0 { "\n" } else { "" };
        let _ = writeln!(out, "{gap}GPU {}: {}", row.gpu.index, row.health.reason);
    }
    let origins = report.gpus.iter().filter_map(origin);
    for (number, line) in origins.enumerate() {
        let gap = if number == 0 { "\n" } else { "" };
        let _ = writeln!(out, "{gap}{line}");
    }
    if let Some(cpu) = report.cpu.filter(|cpu| cpu.numa.len() > 1) {
        out.push('\n');
        for node in &cpu.numa {
            let near = report.gpus.iter();
            let near: Vec<String> = near
                .filter(|row| row.gpu.pci.numa == Some(node.id))
                .map(|row| row.gpu.index.to_string())
                .collect();
            let gpus = match near.is_empty() {
                true => String::new(),
                false => format!(", near GPU {}", near.join(", ")),
            };
            let memory = gibibytes(node.memory);
            let _ = writeln!(
                out,
                "NUMA node {}: CPUs {}, {memory}{gpus}",
                node.id, node.cpus
            );
        }
    }
    out
}

/// Who made a GPU's MIG instances, where some were made for pods.
fn origin(row: &Row<'_>) -> Option<String> {
    let instances = row.gpu.instances()?;
    if row.made.is_empty() {
        return None;
    }
    let mut words = Vec::new();
    for (own, maker) in [(true, "Cumulo"), (false, "the administrator")] {
        let of_maker = instances
            .iter()
            .filter(|one| row.made.contains(&one.uuid.as_str()) == own)
            .map(|one| one.profile.as_str());
        let profiles = counted(of_maker);
        if !profiles.is_empty() {
            words.push(format!("{profiles} made by {maker}"));
        }
    }
    Some(format!("GPU {}: {}", row.gpu.index, words.join("; ")))
}

/// `█` is held, `░` is free; in MIG mode `▒` is an idle instance and `·` belongs
/// to none. And the percentage that is held.
fn bar(gpu: &Gpu, holders: &[Share<'_>]) -> (String, u32) {
    let cells = |milli: u32| (u64::from(milli) * BAR + 500) / 1000;
    let held: u32 = parts(holders).iter().map(|part| part[0].held.milli).sum();
    let percent = (held.min(WHOLE) + 5) / 10;
    let mut bar = String::new();
    let mut fill = |letter: char, count: u64| {
        let room = BAR.saturating_sub(bar.chars().count() as u64);
        bar.extend(std::iter::repeat_n(letter, count.min(room) as usize));
    };
    match gpu.instances() {
        Some(instances) => {
            for instance in instances {
                let letter = if is_held(&instance.uuid, holders) {
                    '█'
                } else {
                    '▒'
                };
                let milli = thousandths(instance.memory.total, gpu.memory.total);
                // However small, an instance is seen.
                fill(letter, cells(milli).max(1));
            }
            fill('·', BAR);
        }
        None => {
            fill('█', cells(held));
            fill('░', BAR);
        }
    }
    (bar, percent)
}

/// Whether a wish would be fulfilled now, and where or why not.
fn answer(inventory: &Inventory, wish: &Wish) -> (bool, String) {
    let ask = match wish.ask() {
        Ok(ask) => ask,
        Err(error) => return (false, format!("no: {error}")),
    };
    let holders: Vec<&Holder> = inventory.holders.iter().collect();
    let plan = plan(&inventory.snapshot, &holders, &ask, &inventory.managed);
    match plan {
        Ok(plan) => {
            let places: Vec<String> = plan
                .given
                .iter()
                .map(|given| {
                    let identity = match given {
                        Given::Held(held) => &held.gpu,
                        Given::New { place, .. } => &place.gpu,
                    };
                    let mut gpus = inventory.snapshot.gpus.iter();
                    let gpu = gpus.find(|gpu| gpu.identity() == *identity);
                    let (index, model) = gpu.map_or((0, ""), |gpu| (gpu.index, gpu.model()));
                    match given {
                        Given::New { place, .. } => format!(
                            "GPU {index} ({model}), a {} that would be made",
                            place.profile
                        ),
                        Given::Held(held) => match &held.instance {
                            Some(instance) => format!("GPU {index} ({model}), {instance}"),
                            None => format!(
                                "GPU {index} ({model}), {} of it with {}",
                                f64::from(held.milli) / f64::from(WHOLE),
                                gibibytes(held.memory)
                            ),
                        },
                    }
                })
                .collect();
            (true, format!("yes, {ask}: {}", places.join("; ")))
        }
        Err(refusal) => (false, format!("no, {refusal}")),
    }
}

/// When each of the holders is expected to end, as far as its pod says so.
async fn ends(client: &Client, holders: &[Holder]) -> Result<Vec<Option<Timestamp>>> {
    let mut ends = Vec::with_capacity(holders.len());
    for holder in holders {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &holder.namespace);
        ends.push(pods.get_opt(&holder.pod).await?.as_ref().and_then(end));
    }
    Ok(ends)
}

/// When a pod is expected to end: by its estimate, or else by its deadline.
fn end(pod: &Pod) -> Option<Timestamp> {
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    let estimate = pod.annotations().get(labels::ESTIMATED_DURATION);
    let estimate = estimate.and_then(|text| parse_duration(text).ok());
    let deadline = pod.spec.as_ref()?.active_deadline_seconds;
    let deadline = deadline.and_then(|seconds| u64::try_from(seconds).ok());
    let lasts = estimate.or(deadline.map(Duration::from_secs))?;
    started
        .checked_add(SignedDuration::try_from(lasts).ok()?)
        .ok()
}

/// When a wish that does not fit now is expected to; `ends` are those of the
/// holders, in their order. `None` when it never fits here.
fn when(
    inventory: &Inventory,
    ask: &GpuAsk,
    ends: &[Option<Timestamp>],
    now: Timestamp,
) -> Option<String> {
    let fits = |left: &[&Holder]| plan(&inventory.snapshot, left, ask, &inventory.managed).is_ok();
    if !fits(&[]) {
        return None;
    }
    let mut order: Vec<(usize, Timestamp)> = ends
        .iter()
        .enumerate()
        .filter_map(|(at, end)| Some((at, (*end)?)))
        .collect();
    order.sort_by_key(|(at, end)| (*end, *at));
    let holders = &inventory.holders;
    let mut gone: Vec<usize> = Vec::new();
    for (at, end) in order {
        gone.push(at);
        let left = holders.iter().enumerate();
        let left: Vec<&Holder> = left
            .filter(|(at, _)| !gone.contains(at))
            .map(|(_, holder)| holder)
            .collect();
        if fits(&left) {
            let name = format!("{}/{}", holders[at].namespace, holders[at].pod);
            let minutes = now.duration_until(end).as_secs().div_euclid(60) + 1;
            return Some(match minutes {
                ..=0 => format!("expected at any moment: {name} has run longer than it said"),
                1..60 => format!("expected within {minutes} min, when {name} ends"),
                _ => format!(
                    "expected within {} h {} min, when {name} ends",
                    minutes / 60,
                    minutes % 60
                ),
            });
        }
    }
    let silent = ends.iter().zip(holders).filter(|(end, _)| end.is_none());
    let mut silent: Vec<String> = silent
        .map(|(_, holder)| format!("{}/{}", holder.namespace, holder.pod))
        .collect();
    silent.sort();
    let (say, they, run) = match silent.len() {
        1 => ("says", "it", "runs"),
        _ => ("say", "they", "run"),
    };
    Some(format!(
        "when is not known: {} {say} neither how long {they} {run} ({}) nor by when {they} must end",
        silent.join(", "),
        labels::ESTIMATED_DURATION
    ))
}

#[cfg(test)]
mod tests {
    use cumulo_node::devices::decide;
    use cumulo_node::devices::mig::{Made, Managed, Place as InstancePlace};

    use super::*;

    fn recorded(name: &str) -> Inventory {
        let file = format!(
            "{}/../cumulo-node/recordings/{name}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        Inventory {
            node: "node-1".to_owned(),
            snapshot: serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap(),
            holders: Vec::new(),
            managed: Managed::default(),
        }
    }

    fn give(inventory: &mut Inventory, pod: &str, wish: &str) {
        let ask = wish.parse::<Wish>().unwrap().ask().unwrap();
        let holders: Vec<&Holder> = inventory.holders.iter().collect();
        let held = decide(&inventory.snapshot, &holders, &ask).unwrap();
        inventory.holders.push(Holder {
            namespace: "team".to_owned(),
            pod: pod.to_owned(),
            held,
            energy: None,
        });
    }

    #[test]
    fn every_recording_as_a_table() {
        for name in [
            "a100-8",
            "h100-8",
            "h200-1",
            "mixed-mig",
            "mi300x-8",
            "intel-3",
            "broken",
            "none",
        ] {
            let mut inventory = recorded(name);
            if name == "a100-8" {
                give(&mut inventory, "train", "0.3");
                give(&mut inventory, "notebook", "0.25");
                give(&mut inventory, "large", "2");
            }
            if name == "mixed-mig" {
                give(&mut inventory, "serve", "1g.10gb");
            }
            insta::assert_snapshot!(name, table(&inventory));
        }
    }

    /// The GPUs in MIG mode, where one instance of the last was made for a pod.
    #[test]
    fn who_made_an_instance_is_said_and_what_could_be_made() {
        let mut inventory = recorded("mixed-mig");
        inventory.managed.instances = MigInstances::Manage;
        let gpu = &mut inventory.snapshot.gpus[1];
        let one = &gpu.instances().unwrap()[2];
        inventory.managed.made.push(Made {
            id: one.id,
            place: InstancePlace {
                gpu: gpu.uuid.clone(),
                profile: one.profile.clone(),
                start: one.start.unwrap(),
            },
            uuid: Some(one.uuid.clone()),
        });
        gpu.processes.clear();
        insta::assert_snapshot!("managed-mig", table(&inventory));
        let mut lines = Vec::new();
        for wish in [
            "4g.40gb",
            "{profile: 4g.40gb, count: 2}",
            "2g.20gb",
            "0.5",
            "4",
        ] {
            let (_, sentence) = answer(&inventory, &wish.parse().unwrap());
            lines.push(format!("{wish} → {sentence}"));
        }
        insta::assert_snapshot!("managed-mig-wishes", lines.join("\n"));
    }

    #[test]
    fn wishes_are_answered_with_where_or_why() {
        let mut lines = Vec::new();
        for name in ["a100-8", "h100-8", "h200-1", "mixed-mig", "broken", "none"] {
            let mut inventory = recorded(name);
            if name == "a100-8" {
                give(&mut inventory, "train", "0.3");
                give(&mut inventory, "most", "6");
            }
            for wish in [
                "0.3",
                "2",
                "9",
                "{memory: 10Gi}",
                "{memory: 100Gi}",
                "{profile: 1g.10gb}",
                "{profile: 4g.40gb}",
                "{model: [A100, H100]}",
                "{model: H200, share: 0.5}",
            ] {
                let (_, sentence) = answer(&inventory, &wish.parse().unwrap());
                lines.push(format!("{name}  {wish} → {sentence}"));
            }
        }
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn who_only_looks_leaves_everything_free() {
        let mut inventory = recorded("mixed-mig");
        let fits = |inventory: &Inventory| {
            let report = report(inventory);
            let fits = report.gpus.iter().map(|row| row.fits.clone());
            fits.collect::<Vec<_>>()
        };
        let before = fits(&inventory);
        give(&mut inventory, "administrator", "{profile: 3g.40gb}");
        assert_ne!(fits(&inventory), before);
        let held = &mut inventory.holders[0].held;
        *held = held.drain(..).map(Held::for_administration).collect();
        assert_eq!(fits(&inventory), before);
    }

    #[test]
    fn what_does_not_fit_is_told_when_it_will() {
        let mut inventory = recorded("h200-1");
        for (pod, share) in [("short", "0.5"), ("long", "0.3"), ("silent", "0.2")] {
            let held = decide(
                &inventory.snapshot,
                &inventory.holders.iter().collect::<Vec<_>>(),
                &share.parse::<Wish>().unwrap().ask().unwrap(),
            );
            inventory.holders.push(Holder {
                namespace: "default".to_owned(),
                pod: pod.to_owned(),
                held: held.unwrap(),
                energy: None,
            });
        }
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let after = |minutes: i64| Timestamp::from_second(1_800_000_000 + 60 * minutes).ok();
        let told = |wish: &str, ends: &[Option<Timestamp>]| {
            let ask = wish.parse::<Wish>().unwrap().ask().unwrap();
            when(&inventory, &ask, ends, now).unwrap_or_default()
        };
        let ends = [after(20), after(90), None];
        insta::assert_snapshot!(told("0.4", &ends), @"expected within 21 min, when default/short ends");
        insta::assert_snapshot!(told("0.7", &ends), @"expected within 1 h 31 min, when default/long ends");
        insta::assert_snapshot!(told("1", &ends), @"when is not known: default/silent says neither how long it runs (cumulo.dev/estimated-duration) nor by when it must end");
        insta::assert_snapshot!(told("2", &ends), @"");
        insta::assert_snapshot!(told("0.4", &[after(-5), None, None]), @"expected at any moment: default/short has run longer than it said");
    }
}
