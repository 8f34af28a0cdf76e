//! `cargo xtask conformance`: Kubernetes' own end-to-end suite as a measure.
//!
//! The suite is built from its Go module and asked the specs of
//! `tests/peers/conformance/specs.txt`, against `cumulo up` in a folder of its
//! own, or against the real control plane. What is printed is a table of what
//! passes and a line for each spec that does not; the same as JSON stays under
//! `.build/peers/conformance`.

mod report;
mod servers;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::servers::Server;
pub use self::workloads::run as workloads;

/// What the command line says.
#[derive(Debug)]
struct Options {
    real: bool,
    controller_manager: bool,
    focus: Option<String>,
    failed: bool,
    processes: u32,
    minutes: u32,
}

const USAGE: &str = "usage: cargo xtask conformance [--real] [--controller-manager] [--focus TEXT] [--failed] [--procs N] [--minutes N]\n\
    --real                 the real control plane instead of `cumulo up`\n\
    --controller-manager   with the stock kube-controller-manager (always with --real)\n\
    --focus TEXT           only the specs whose names contain the text\n\
    --failed               only the specs that did not pass the last time, the others' results kept\n\
    --procs N              processes that run specs (4)\n\
    --minutes N            time for all of them (30)";

impl Options {
    fn parse(arguments: Vec<String>) -> Result<Self> {
        let mut options = Self {
            real: false,
            controller_manager: false,
            focus: None,
            failed: false,
            processes: 4,
            minutes: 30,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .with_context(|| format!("{argument} needs a value\n{USAGE}"))
            };
            match argument.as_str() {
                "--real" => options.real = true,
                "--controller-manager" => options.controller_manager = true,
                "--failed" => options.failed = true,
                "--focus" => options.focus = Some(value()?),
                "--procs" => {
                    options.processes = value()?.parse().context("--procs needs a number")?
                }
                "--minutes" => {
                    options.minutes = value()?.parse().context("--minutes needs a number")?
                }
                other => bail!("unknown argument {other:?}\n{USAGE}"),
            }
        }
        Ok(options)
    }

    fn name(&self) -> &'static str {
        match (self.real, self.controller_manager) {
            (true, _) => "real",
            (false, true) => "cumulo-controller-manager",
            (false, false) => "cumulo",
        }
    }
}

/// Runs the command.
///
/// # Errors
///
/// When something cannot be built or started, or the suite leaves no report.
/// Specs that fail are the result, not an error.
pub fn run(arguments: Vec<String>) -> Result<()> {
    let options = Options::parse(arguments)?;
    let root = super::root();
    let suite = root.join(".build/peers/conformance");
    let programs = root.join(".build/peers/kubernetes");
    let peers = root.join("tests/peers");
    let list = peers.join("conformance/specs.txt");
    let all = specs(&list, None)?;
    let mut specs = specs(&list, options.focus.as_deref())?;
    let output = suite.join("reports").join(options.name());
    let summary = output.with_extension("summary.json");
    let mut known = Vec::new();
    if options.failed {
        known = report::known(&summary)?;
        specs.retain(|spec| known.iter().any(|o| o.name == *spec && !o.passed()));
        if specs.is_empty() {
            bail!("nothing failed the last time: run without --failed");
        }
    }
    built(&peers.join("conformance/build.sh"), &suite, &[])?;
    if options.real || options.controller_manager {
        built(
            &peers.join("kubernetes/build.sh"),
            &programs,
            &["kube-controller-manager"],
        )?;
    }
    let kubectl = kubectl(&root)?;
    let home = std::env::temp_dir().join(format!("cumulo-conformance-{}", std::process::id()));
    std::fs::create_dir_all(&home)?;
    let server = if options.real {
        Server::real(&programs, &home, &kubectl)?
    } else {
        let manager = options.controller_manager.then_some(programs.as_path());
        Server::cumulo(&super::binary(), &home, &kubectl, manager, true)?
    };
    let result = ask(&suite, &server, &kubectl, &specs, &options, &output);
    drop(server);
    let _ = std::fs::remove_dir_all(&home);
    let found = result?;
    let mut read = report::read(&found, &specs)?;
    read.extend(known.into_iter().filter(|o| !specs.contains(&o.name)));
    read.sort_by_key(|o| all.iter().position(|spec| *spec == o.name));
    println!("{}", report::table(&read));
    std::fs::write(&summary, report::json(&read).to_string())?;
    println!("\nthe same as JSON: {}", summary.display());
    Ok(())
}

/// The names of the specs to ask.
fn specs(file: &Path, focus: Option<&str>) -> Result<Vec<String>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let all: Vec<String> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| focus.is_none_or(|focus| line.contains(focus)))
        .map(str::to_owned)
        .collect();
    if all.is_empty() {
        bail!(
            "no spec of {} contains {:?}",
            file.display(),
            focus.unwrap_or_default()
        );
    }
    Ok(all)
}

/// Runs a script that builds programs into a folder.
fn built(script: &Path, folder: &Path, programs: &[&str]) -> Result<()> {
    let status = Command::new("bash")
        .arg(script)
        .arg(folder)
        .args(programs)
        .status()
        .with_context(|| format!("cannot run {}", script.display()))?;
    if !status.success() {
        bail!(
            "{} failed: it needs Go and its module proxy",
            script.display()
        );
    }
    Ok(())
}

/// A current kubectl, fetched once.
fn kubectl(root: &Path) -> Result<PathBuf> {
    let output = Command::new("python3")
        .arg(root.join("tests/peers/kubectl.py"))
        .arg(root.join(".build/peers/kubectl-1.35"))
        .output()
        .context("cannot run python3")?;
    if !output.status.success() {
        bail!(
            "kubectl was not fetched: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// Runs the suite; the path of its report.
fn ask(
    suite: &Path,
    server: &Server,
    kubectl: &Path,
    specs: &[String],
    options: &Options,
    output: &Path,
) -> Result<PathBuf> {
    let _ = std::fs::remove_dir_all(output);
    std::fs::create_dir_all(output)?;
    // The suite's own name stands before a spec's: only the end is fixed.
    let focus: Vec<String> = specs.iter().map(|spec| escaped(spec)).collect();
    let log = std::fs::File::create(output.join("log"))?;
    println!(
        "{} specs against {}, {} processes; the log is {}",
        specs.len(),
        server.name(),
        options.processes,
        output.join("log").display()
    );
    let status = Command::new(suite.join("ginkgo"))
        .arg(format!("--procs={}", options.processes))
        .arg(format!("--timeout={}m", options.minutes))
        .arg(format!("--focus=({})$", focus.join("|")))
        .args([
            "--keep-going",
            "--no-color",
            "--silence-skips",
            "--json-report=report.json",
        ])
        .arg(format!("--output-dir={}", output.display()))
        .arg(suite.join("e2e.test"))
        .arg("--")
        .arg(format!("--kubeconfig={}", server.kubeconfig().display()))
        .arg(format!("--kubectl-path={}", kubectl.display()))
        .args([
            "--provider=skeleton",
            "--allowed-not-ready-nodes=-1",
            "--disable-log-dump",
            "--kube-api-content-type=application/json",
        ])
        .env("KUBECONFIG", server.kubeconfig())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .context("cannot run the suite")?;
    let report = output.join("report.json");
    if !report.exists() {
        bail!(
            "the suite left no report ({status}): see {}",
            output.join("log").display()
        );
    }
    Ok(report)
}

/// A text as a regular expression that matches it.
fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let special =
                !c.is_alphanumeric() && !matches!(c, ' ' | '-' | '/' | ',' | '\'' | ':' | '=');
            special.then_some('\\').into_iter().chain([c])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_patterns() {
        assert_eq!(escaped("[sig-cli] a/b (c)."), r"\[sig-cli\] a/b \(c\)\.");
    }

    #[test]
    fn the_list_has_its_specs() {
        let file = super::super::root().join("tests/peers/conformance/specs.txt");
        assert_eq!(specs(&file, None).expect("specs").len(), 111);
        assert_eq!(
            specs(&file, Some("[sig-api-machinery]"))
                .expect("specs")
                .len(),
            66
        );
        assert!(specs(&file, Some("no such spec")).is_err());
    }
}
