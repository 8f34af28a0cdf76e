//! `cumulo doctor`: what this machine, or a cluster, has and lacks.
//!
//! Each check looks at one thing and says in a line what it found; what is not
//! as it should be comes with one thing to do about it.

mod cluster;
mod machine;

use anyhow::Result;
use serde::Serialize;

use crate::cli::{DoctorArgs, DoctorCommand, Format, PlaceArgs};
use crate::commands::print::{columns, header};
use crate::home::Home;
use crate::manifests::settings;
use crate::place::{ContextPlace, Place, system_namespace};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Something will not work, or not as well.
    Warn,
    /// Nothing will work, or not what was asked for.
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One check's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Finding {
    fn new(
        check: &str,
        verdict: Verdict,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            check: check.to_owned(),
            verdict,
            found: found.into(),
            fix: fix.into(),
        }
    }

    fn ok(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, found, "")
    }

    fn warn(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warn, found, fix)
    }

    fn fail(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(check, Verdict::Fail, found, fix)
    }
}

/// Runs `cumulo doctor`. The exit code is 1 when something that is needed is missing.
pub async fn run(place: &PlaceArgs, arguments: DoctorArgs) -> Result<i32> {
    let mut format = arguments.output.output;
    let (title, findings) = match &arguments.command {
        None => {
            if !place.is_empty() {
                anyhow::bail!(
                    "`cumulo doctor` looks at this machine: `cumulo doctor cluster` looks at a context"
                );
            }
            (
                "this machine".to_owned(),
                machine::check(&Home::find()?).await,
            )
        }
        Some(DoctorCommand::Cluster(wanted)) => {
            // Without a flag it is the kubeconfig's current context: a cluster is asked for.
            format = wanted.output.output;
            let context = ContextPlace::find(place).await?;
            let namespace = wanted.namespace.clone().unwrap_or_else(system_namespace);
            let settings = settings::read_partly(&namespace, None, &wanted.set)?;
            let title = format!("context {} at {}", context.name(), context.server());
            let client = Place::Context(Box::new(context)).client().await?;
            (title, cluster::check(&client, &settings).await)
        }
    };
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
        Format::Yaml => print!("{}", serde_saphyr::to_string(&findings)?),
        _ => print!("{title}\n\n{}", table(&findings)),
    }
    Ok(i32::from(worst(&findings) == Verdict::Fail))
}

fn worst(findings: &[Finding]) -> Verdict {
    findings
        .iter()
        .map(|finding| finding.verdict)
        .max()
        .unwrap_or(Verdict::Ok)
}

/// The table, then what to do, worst first.
fn table(findings: &[Finding]) -> String {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            vec![
                finding.verdict.word().to_owned(),
                finding.check.clone(),
                finding.found.clone(),
            ]
        })
        .collect();
    let mut text = columns(&header(&["", "CHECK", "FOUND"]), &rows);
    let mut wrong: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.verdict != Verdict::Ok)
        .collect();
    wrong.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    if wrong.is_empty() {
        text.push_str("\nnothing is missing\n");
    } else {
        text.push_str("\nwhat to do:\n");
        for finding in wrong {
            text.push_str(&format!(
                "  {} {}: {}\n",
                finding.verdict.word(),
                finding.check,
                finding.fix
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_most_is_said_first() {
        let findings = [
            Finding::ok("uv", "0.9 at /usr/bin/uv"),
            Finding::warn("metrics", "not served", "install metrics-server"),
            Finding::fail("nodes", "0 of 2 are ready", "see `kubectl describe nodes`"),
        ];
        insta::assert_snapshot!(table(&findings), @r"
               CHECK     FOUND
        ok     uv        0.9 at /usr/bin/uv
        warn   metrics   not served
        fail   nodes     0 of 2 are ready

        what to do:
          fail nodes: see `kubectl describe nodes`
          warn metrics: install metrics-server
        ");
        assert_eq!(worst(&findings), Verdict::Fail);
        assert_eq!(worst(&findings[..2]), Verdict::Warn);
        assert_eq!(
            table(&findings[..1]).lines().last(),
            Some("nothing is missing")
        );
    }
}
