//! Startup, readiness and liveness probes, and lifecycle hooks.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::time::Instant;

use super::exec::{self, ExecTarget};

/// The first interval of a probe that has not succeeded yet. It grows to the
/// probe's period, so a fast start is seen at once and a slow one costs
/// little.
const FIRST_INTERVAL: Duration = Duration::from_millis(20);

/// What is probed.
#[derive(Debug, Clone)]
pub struct Target {
    /// For exec probes.
    pub exec: ExecTarget,
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// For HTTP probes.
    pub http: reqwest::Client,
    /// Named ports.
    pub ports: Vec<(String, u16)>,
}

impl Target {
    /// What to probe in a container.
    pub fn new(
        container: &Container,
        exec: ExecTarget,
        ip: Ipv4Addr,
        http: reqwest::Client,
    ) -> Self {
        let ports = container
            .ports
            .iter()
            .flatten()
            .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)))
            .collect();
        Self {
            exec,
            ip,
            http,
            ports,
        }
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        match port {
            IntOrString::Int(port) => {
                u16::try_from(*port).map_err(|_| format!("{port} is no port"))
            }
            IntOrString::String(name) => self
                .ports
                .iter()
                .find(|(other, _)| other == name)
                .map(|(_, port)| *port)
                .or_else(|| name.parse().ok())
                .ok_or_else(|| format!("the container declares no port named {name:?}")),
        }
    }
}

/// A client for probes: a fresh connection each time, no proxy, no redirects,
/// and no certificate checks, as with the kubelet.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .danger_accept_invalid_certs(true)
        .user_agent(concat!("cumulo-probe/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Runs a probe once.
pub async fn check(probe: &Probe, target: &Target) -> Result<(), String> {
    let limit = seconds(probe.timeout_seconds, 1);
    if let Some(action) = &probe.exec {
        let command = action.command.as_deref().unwrap_or_default();
        return match exec::run(&target.exec, command, limit).await {
            Ok((0, _)) => Ok(()),
            Ok((code, output)) => Err(format!("the command exited with {code}: {output}")),
            Err(error) => Err(error.to_string()),
        };
    }
    let work = async {
        if let Some(action) = &probe.http_get {
            http_get(action, target).await
        } else if let Some(action) = &probe.tcp_socket {
            let port = target.port(&action.port)?;
            let host = action.host.clone().unwrap_or_else(|| target.ip.to_string());
            tokio::net::TcpStream::connect((host.as_str(), port))
                .await
                .map(drop)
                .map_err(|error| format!("cannot connect to {host}:{port}: {error}"))
        } else {
            Ok(())
        }
    };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
}

/// Sends a probe's or a hook's request; any status from 200 to 399 is a success.
pub async fn http_get(action: &HTTPGetAction, target: &Target) -> Result<(), String> {
    let port = target.port(&action.port)?;
    let host = action.host.clone().unwrap_or_else(|| target.ip.to_string());
    let scheme = match action.scheme.as_deref() {
        Some("HTTPS") => "https",
        _ => "http",
    };
    let path = action.path.as_deref().unwrap_or("/");
    let separator = if path.starts_with('/') { "" } else { "/" };
    let url = format!("{scheme}://{host}:{port}{separator}{path}");
    let mut request = target.http.get(&url);
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    match request.send().await {
        Ok(response) if (200..400).contains(&response.status().as_u16()) => Ok(()),
        Ok(response) => Err(format!("{url} answered {}", response.status())),
        Err(error) => {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            Err(format!("{url}: {cause}"))
        }
    }
}

/// Seconds of a manifest as a duration, at least one second.
pub fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value.and_then(|value| u64::try_from(value).ok());
    Duration::from_secs(value.filter(|value| *value > 0).unwrap_or(default))
}

/// Counts results in a row against a probe's thresholds: pure.
#[derive(Debug, Clone)]
pub struct Thresholds {
    success: u32,
    failure: u32,
    in_a_row: u32,
    last: Option<bool>,
}

impl Thresholds {
    /// Thresholds of a probe.
    pub fn new(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        Self {
            success: at_least_one(probe.success_threshold, 1),
            failure: at_least_one(probe.failure_threshold, 3),
            in_a_row: 0,
            last: None,
        }
    }

    /// Adds a result; says when a threshold is reached (again).
    pub fn add(&mut self, success: bool) -> Option<bool> {
        if self.last == Some(success) {
            self.in_a_row = self.in_a_row.saturating_add(1);
        } else {
            self.last = Some(success);
            self.in_a_row = 1;
        }
        let needed = if success { self.success } else { self.failure };
        (self.in_a_row >= needed).then_some(success)
    }
}

/// When to probe next. Before the first success intervals grow from
/// [`FIRST_INTERVAL`] to the period; only one failure per period counts.
#[derive(Debug)]
pub struct Schedule {
    period: Duration,
    interval: Duration,
    succeeded: bool,
    counted: Option<Instant>,
}

impl Schedule {
    /// The schedule of a probe; eager ones look often before the first success.
    pub fn new(probe: &Probe, eager: bool) -> Self {
        let period = seconds(probe.period_seconds, 10);
        Self {
            period,
            interval: if eager {
                FIRST_INTERVAL.min(period)
            } else {
                period
            },
            succeeded: !eager,
            counted: None,
        }
    }

    /// Notes a result at a time; says whether it counts, and after how long
    /// to probe again.
    pub fn next(&mut self, success: bool, now: Instant) -> (bool, Duration) {
        if success {
            self.succeeded = true;
        }
        if self.succeeded {
            return (true, self.period);
        }
        let wait = self.interval;
        self.interval = (self.interval * 3 / 2).min(self.period);
        let counts = self
            .counted
            .is_none_or(|before| now.duration_since(before) >= self.period);
        if counts {
            self.counted = Some(now);
        }
        (counts, wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_in_a_row() {
        let mut thresholds = Thresholds::new(&Probe {
            failure_threshold: Some(2),
            success_threshold: Some(2),
            ..Probe::default()
        });
        let results = [true, false, true, true, false, false, false];
        let reached: Vec<_> = results.map(|result| thresholds.add(result)).to_vec();
        assert_eq!(
            reached,
            [None, None, None, Some(true), None, Some(false), Some(false)]
        );
    }

    #[test]
    fn an_eager_probe_looks_often_but_counts_once_per_period() {
        let probe = Probe {
            period_seconds: Some(1),
            ..Probe::default()
        };
        let mut schedule = Schedule::new(&probe, true);
        let mut now = Instant::now();
        let mut counted = 0;
        let mut looks = 0;
        let begin = now;
        while now.duration_since(begin) < Duration::from_secs(3) {
            let (counts, wait) = schedule.next(false, now);
            counted += u32::from(counts);
            looks += 1;
            now += wait;
        }
        assert!(counted <= 4 && looks > 10, "{counted} of {looks}");
        assert_eq!(schedule.next(true, now), (true, Duration::from_secs(1)));
    }
}
