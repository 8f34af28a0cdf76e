//! Checks the parts of the node agent that meet a GPU, one at a time and without a
//! platform. The programs that compute are in `tests/peers/gpu`.
//!
//! ```text
//! gpu_check read                                     the devices, as a recording
//! gpu_check xid                                      whether the driver tells of errors
//! gpu_check share FOLDER SHARE… -- COMMAND…          MPS for these shares while a command runs;
//!                                                    it finds their variables in GPU_CHECK_SHARES
//! gpu_check end-client FOLDER PID                    ends a client's work
//! gpu_check watch SECONDS SHARE:PID… [--response R]  memory and energy of processes' families
//! gpu_check energy SECONDS                           energy and power over a time
//! gpu_check confine [--without PATH]… [--with PATH]… -- COMMAND…
//!                                                    a command in a pod's sandbox
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use cumulo_api::Gpu as Wish;
use cumulo_node::devices::sharing::limits::{environment, wanted};
use cumulo_node::devices::sharing::{Daemons, Means, find_program, worth};
use cumulo_node::devices::watch::{Response, Watchdog, excesses, uses};
use cumulo_node::devices::{Holder, Meter, NvmlReader, Reader, Snapshot, decide};
use cumulo_node::process::{ProcessTable, start_ticks};
use cumulo_node::sandbox::{self, Place};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gpu_check: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let (words, command) = match arguments.iter().position(|word| word == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, &[][..]),
    };
    let (name, rest) = words.split_first().ok_or("name what to check")?;
    match name.as_str() {
        "read" => read(),
        "xid" => xid(),
        "share" => runtime()?.block_on(share(rest, command)),
        "end-client" => runtime()?.block_on(end_client(rest)),
        "watch" => watch(rest),
        "energy" => energy(rest),
        "confine" => confine(rest, command),
        other => Err(format!("{other:?} is not a check").into()),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn snapshot() -> Result<Snapshot> {
    Ok(NvmlReader::default().read()?)
}

fn read() -> Result<ExitCode> {
    let snapshot = snapshot()?;
    println!("{}", serde_json::to_string_pretty(&snapshot)?);
    for (gpu, health) in snapshot.gpus.iter().zip(snapshot.health()) {
        eprintln!(
            "{} {} {:?} {}",
            gpu.index,
            gpu.model(),
            health.condition,
            health.reason
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Registers as the reader does, and waits for what a faulty program causes.
fn xid() -> Result<ExitCode> {
    let nvml = Nvml::init()?;
    let device = nvml.device_by_index(0)?;
    println!("event types: {:?}", device.supported_event_types());
    let registered =
        device.register_events(EventTypes::CRITICAL_XID_ERROR, nvml.create_event_set()?);
    println!("registered: {:?}", registered.as_ref().map(|_| ()));
    if let Ok(events) = registered {
        println!("ready");
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(15) {
            match events.wait(1000) {
                Ok(event) => {
                    println!("event: {:?} on {:?}", event.event_data, event.device.uuid());
                    return Ok(ExitCode::SUCCESS);
                }
                Err(error) => println!("no event: {error}"),
            }
        }
    }
    Ok(ExitCode::FAILURE)
}

/// What shares get, one after the other, of the machine as it is.
fn hand_out(snapshot: &Snapshot, shares: &[&str]) -> Result<Vec<Holder>> {
    let mut holders: Vec<Holder> = Vec::new();
    for share in shares {
        let ask = share.parse::<Wish>()?.ask()?;
        let known: Vec<&Holder> = holders.iter().collect();
        let held = decide(snapshot, &known, &ask)?;
        holders.push(Holder {
            namespace: "check".to_owned(),
            pod: format!("share-{share}"),
            held,
            energy: None,
        });
    }
    Ok(holders)
}

async fn share(words: &[String], command: &[String]) -> Result<ExitCode> {
    let (folder, shares) = words.split_first().ok_or("name a folder")?;
    let snapshot = snapshot()?;
    let shares: Vec<&str> = shares.iter().map(String::as_str).collect();
    let holders = hand_out(&snapshot, &shares)?;
    let mut daemons = Daemons::new(find_program(), folder.into());
    let began = Instant::now();
    daemons.settle(&wanted(&snapshot, &holders), true).await;
    eprintln!("program {:?}", find_program());
    let mut told = Vec::new();
    for holder in &holders {
        let one = &holder.held[0];
        let state = daemons.state(&one.gpu);
        eprintln!("{} {one:?}: {state:?}", holder.pod);
        let means = match state {
            Ok(limits) => Means::Mps(limits),
            Err(error) => Means::Turns(error.to_string()),
        };
        let gpu = snapshot.gpus.iter().find(|gpu| gpu.uuid == one.gpu);
        eprintln!("  {:?}", worth(&holder.held, gpu, &means));
        let pipes = daemons.pipes(&one.gpu).display().to_string();
        told.push(json!({
            "gpu": one.gpu,
            "memory": one.memory,
            "environment": environment(one, &pipes).into_iter().collect::<BTreeMap<_, _>>(),
        }));
    }
    eprintln!("daemon ready after {:?}", began.elapsed());
    // One process is enough: a daemon outlives whoever started it.
    let again = Instant::now();
    let mut found = Daemons::new(find_program(), folder.into());
    found.settle(&wanted(&snapshot, &holders), true).await;
    eprintln!("found again after {:?}", again.elapsed());
    let (program, arguments) = command.split_first().ok_or("name a command")?;
    let status = tokio::process::Command::new(program)
        .args(arguments)
        .env("GPU_CHECK_SHARES", serde_json::to_string(&told)?)
        .status()
        .await?;
    let ending = Instant::now();
    found.settle(&BTreeMap::new(), true).await;
    let left = std::fs::read_dir(folder).map_or(0, Iterator::count);
    eprintln!(
        "command {status}; daemons stopped after {:?}, folders left {left}",
        ending.elapsed()
    );
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn end_client(words: &[String]) -> Result<ExitCode> {
    let [folder, pid] = words else {
        return Err("name a folder and a process".into());
    };
    let daemons = Daemons::new(find_program(), folder.into());
    let uuid = &snapshot()?
        .gpus
        .first()
        .ok_or("there is no GPU")?
        .uuid
        .clone();
    println!("{:?}", daemons.end_client(uuid, pid.parse()?).await);
    Ok(ExitCode::SUCCESS)
}

/// Families of processes as pods with shares.
fn watch(words: &[String]) -> Result<ExitCode> {
    let (seconds, rest) = words.split_first().ok_or("name a time")?;
    let seconds: u64 = seconds.parse()?;
    let mut response = Response::End;
    let mut families: Vec<(&str, i32)> = Vec::new();
    for word in rest {
        match word.split_once(':') {
            Some((share, pid)) => families.push((share, pid.parse()?)),
            None => {
                response = serde_json::from_value(json!(word.trim_start_matches("--response=")))?
            }
        }
    }
    let reader = NvmlReader::default();
    let snapshot = reader.read()?;
    let shares: Vec<&str> = families.iter().map(|(share, _)| *share).collect();
    let holders: BTreeMap<String, Holder> = hand_out(&snapshot, &shares)?
        .into_iter()
        .map(|holder| (holder.pod.clone(), holder))
        .collect();
    let (mut watchdog, mut meter) = (Watchdog::default(), Meter::default());
    let mut last = Instant::now();
    for _ in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        let snapshot = reader.read()?;
        let table = ProcessTable::read();
        let members: BTreeMap<String, BTreeSet<i32>> = families
            .iter()
            .map(|(share, pid)| {
                let mut pids = table.descendants(*pid);
                pids.insert(*pid);
                (format!("share-{share}"), pids)
            })
            .collect();
        let uses = uses(&snapshot, &members, |pid| start_ticks(pid).is_some());
        let found = excesses(&holders, &uses);
        meter.add(&snapshot, last.elapsed(), &holders, &uses);
        last = Instant::now();
        for gpu in &snapshot.gpus {
            println!(
                "gpu used {} MiB, {:?} mW, {:?} %",
                gpu.memory.used >> 20,
                gpu.power_milliwatts,
                gpu.utilization
            );
            for process in &gpu.processes {
                println!("  {process:?}");
            }
        }
        println!("others {:?} blind {:?}", uses.others, uses.blind);
        for (uid, verdict) in watchdog.look(found, response) {
            println!("  {uid}: {verdict:?}");
        }
        for uid in holders.keys() {
            println!("  {uid} energy {:?}", meter.of(uid));
        }
        println!("  look took {:?}", began.elapsed());
    }
    Ok(ExitCode::SUCCESS)
}

fn energy(words: &[String]) -> Result<ExitCode> {
    let seconds: u64 = words.first().ok_or("name a time")?.parse()?;
    let reader = NvmlReader::default();
    let begin = reader.read()?;
    let began = Instant::now();
    let mut integrated = 0.0;
    let mut last = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(200));
        let power = reader
            .read()?
            .gpus
            .first()
            .and_then(|gpu| gpu.power_milliwatts);
        integrated += f64::from(power.unwrap_or(0)) / 1000.0 * last.elapsed().as_secs_f64();
        last = Instant::now();
    }
    let end = reader.read()?;
    let elapsed = began.elapsed().as_secs_f64();
    for (before, after) in begin.gpus.iter().zip(&end.gpus) {
        let counted = before
            .energy_millijoules
            .zip(after.energy_millijoules)
            .map(|(before, after)| (after - before) as f64 / 1000.0);
        println!(
            "{elapsed:.2} s: counter {counted:?} J ({:?} W), power integrated {integrated:.1} J ({:.1} W)",
            counted.map(|joules| joules / elapsed),
            integrated / elapsed
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The devices of a machine with one GPU, as the node agent opens them to a pod.
fn device_files(snapshot: &Snapshot) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps"]
        .map(|name| PathBuf::from("/dev").join(name))
        .into();
    for gpu in &snapshot.gpus {
        files.extend(gpu.minor.map(|minor| format!("/dev/nvidia{minor}").into()));
        files.push(PathBuf::from("/sys/bus/pci/devices").join(&gpu.pci.bus_id));
    }
    files
}

fn confine(words: &[String], command: &[String]) -> Result<ExitCode> {
    let mut devices = device_files(&snapshot()?);
    let mut sockets = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let path = PathBuf::from(words.next().ok_or("name a path")?);
        match word.as_str() {
            "--without" => devices.retain(|known| *known != path),
            "--with" => sockets.push(path),
            other => return Err(format!("{other:?} is not understood").into()),
        }
    }
    let options = cumulo_node::Options::new("/nonexistent", "/nonexistent");
    let work = std::env::temp_dir().join(format!("confined-{}", std::process::id()));
    std::fs::create_dir_all(&work)?;
    let place = Place {
        work: work.clone(),
        temporary: work.clone(),
        devices,
        sockets,
        software: options.sandbox.software,
        ..Place::default()
    };
    let prepared = sandbox::prepare(&place.policy())?;
    eprintln!("sandbox: {:?}", prepared.status());
    let (program, arguments) = command.split_first().ok_or("name a command")?;
    let mut child = Command::new(program);
    child
        .args(arguments)
        .env("HOME", &work)
        .env("TMPDIR", &work);
    prepared.confine(&mut child);
    let status = child.status()?;
    std::fs::remove_dir_all(&work)?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
