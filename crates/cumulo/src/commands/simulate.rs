//! `cumulo simulate`: replay a trace of a cluster under packing policies.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cumulo_schedule::packing::{Moving, Policy};
use cumulo_schedule::replay::trace::{File, Trace};
use cumulo_schedule::replay::{MotionOptions, Options, Progress, Report, run as replay};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::SimulateArgs;

/// Runs `cumulo simulate`.
pub fn run(arguments: &SimulateArgs) -> Result<()> {
    let (nodes, workloads) = find(&arguments.trace)?;
    let options = options(arguments)?;
    let node_text = read(&nodes)?;
    // All traces are read before the first is replayed: a mistake in the last
    // is told now, not in ten minutes.
    let mut traces = Vec::new();
    for workload in &workloads {
        let text = read(workload)?;
        let trace = Trace::parse(file(&nodes, &node_text), file(workload, &text))?;
        traces.push((stem(workload), trace));
    }
    let single = traces.len() == 1;
    for (name, trace) in &traces {
        let report = measure(trace, &options).with_context(|| name.clone())?;
        println!("{name}: {}", report.table());
        if let Some(out) = &arguments.out {
            let folder = if single { out.clone() } else { out.join(name) };
            write(&folder, &report)?;
        }
    }
    Ok(())
}

fn options(arguments: &SimulateArgs) -> Result<Options> {
    if arguments.inflate.is_nan() || !(0.0..=100.0).contains(&arguments.inflate) {
        bail!(
            "--inflate is {}; expected 0 to 100 times the cluster's GPUs",
            arguments.inflate
        );
    }
    let policies = if arguments.policy.is_empty() {
        Policy::ALL.to_vec()
    } else {
        let named = |policy: &&Policy| arguments.policy.iter().any(|name| name == policy.name());
        Policy::ALL.iter().filter(named).copied().collect()
    };
    Ok(Options {
        policies,
        seeds: arguments.seeds.0.clone(),
        inflation: arguments.inflate,
        moving: (arguments.moved > 0.0).then(|| Moving {
            share: arguments.moved / 100.0,
            ..Moving::default()
        }),
        motion: arguments.motion.then(|| MotionOptions {
            load: arguments.load / 100.0,
            hours: arguments.hours,
            lifetime: arguments.lifetime,
        }),
        bound: !arguments.no_bound,
        ..Options::default()
    })
}

/// The nodes' file and the pods' files: named, or found in a folder.
fn find(paths: &[PathBuf]) -> Result<(PathBuf, Vec<PathBuf>)> {
    let (nodes, pods) = match paths {
        [folder] if folder.is_dir() => {
            let mut nodes = Vec::new();
            let mut pods = Vec::new();
            let entries = std::fs::read_dir(folder);
            for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
                let path = entry?.path();
                if path.extension().is_none_or(|extension| extension != "csv") {
                    continue;
                }
                match stem(&path) {
                    name if name.contains("node") => nodes.push(path),
                    name if name.contains("pod") => pods.push(path),
                    _ => {}
                }
            }
            pods.sort();
            let [nodes] = nodes.as_slice() else {
                bail!(
                    "{} has {} files *node*.csv; expected one, or name both files: --trace NODES.csv PODS.csv",
                    folder.display(),
                    nodes.len()
                );
            };
            if pods.is_empty() {
                bail!("{} has no file *pod*.csv", folder.display());
            }
            (nodes.clone(), pods)
        }
        [path] => bail!(
            "{} is {}; expected a folder, or two files: --trace NODES.csv PODS.csv",
            path.display(),
            if path.exists() {
                "one file"
            } else {
                "not there"
            }
        ),
        [nodes, pods @ ..] => (nodes.clone(), pods.to_vec()),
        [] => bail!("no trace was named"),
    };
    Ok((nodes, pods))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn file<'a>(path: &'a Path, text: &'a str) -> File<'a> {
    File {
        name: path.to_str().unwrap_or("the trace"),
        text,
    }
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// What the watcher of one run keeps.
struct Watch {
    bar: ProgressBar,
    started: Instant,
    took: Vec<(String, f64)>,
}

fn measure(trace: &Trace, options: &Options) -> Result<Report> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(0)
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) =
        ProgressStyle::with_template("{bar:24.cyan} {pos:>3}/{len} {elapsed:>4} {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    let watch = Mutex::new(Watch {
        bar,
        started: Instant::now(),
        took: Vec::new(),
    });
    let outcome = replay(trace, options, &|progress| {
        // A panic in another thread is reported by it; the bar goes on.
        let mut watch = watch
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match progress {
            Progress::Steps(steps) => watch.bar.set_length(steps),
            Progress::Started(stage) => {
                watch.started = Instant::now();
                watch.bar.set_message(stage);
            }
            Progress::Step => watch.bar.inc(1),
            Progress::Finished(stage, _) => {
                let seconds = watch.started.elapsed().as_secs_f64();
                watch.took.push((stage, seconds));
            }
        }
    });
    let watch = watch
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    watch.bar.finish_and_clear();
    let mut report = outcome?;
    for (stage, seconds) in watch.took {
        report.took(&stage, seconds);
    }
    Ok(report)
}

fn write(folder: &Path, report: &Report) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let files = [
        ("table.txt", report.table()),
        ("curves.csv", report.csv()),
        ("allocation.svg", report.plot()),
        ("allocation-end.svg", report.plot_end()),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!(
        "written to {}: table.txt, curves.csv, allocation.svg, allocation-end.svg\n",
        folder.display()
    );
    Ok(())
}
