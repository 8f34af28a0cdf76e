//! How well a device is, with a reason that a person can read. Pure.

use serde::{Deserialize, Serialize};

use super::snapshot::{Gpu, Snapshot, Vendor};

/// How well a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Nothing is known against it.
    Healthy,
    /// It computes, but slower or nearer to its end than it should.
    Degraded,
    /// Nothing new may use it.
    Broken,
}

/// How well a device is, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub condition: Condition,
    /// Why; empty where it is healthy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// XID errors that a program causes by its own mistakes: they say nothing about
/// the device (NVIDIA's XID catalogue; the same list as NVIDIA's device plugin skips).
const OF_PROGRAMS: &[u64] = &[13, 31, 43, 45, 68, 109];

/// XID errors after which the device is of no use until it is reset or replaced.
fn fatal(xid: u64) -> Option<&'static str> {
    Some(match xid {
        48 => "a memory error that could not be corrected",
        62 => "its microcontroller halted",
        64 => "a memory row that could not be remapped",
        79 => "it has fallen off the bus",
        95 => "an uncontained memory error",
        119 | 120 => "its system processor does not answer",
        140 => "a memory error that could not be recovered from",
        _ => return None,
    })
}

impl Snapshot {
    /// How well each GPU is, in their order.
    pub fn health(&self) -> Vec<Health> {
        self.gpus.iter().map(|gpu| self.health_of(gpu)).collect()
    }

    fn health_of(&self, gpu: &Gpu) -> Health {
        let broken = |reason: String| Health {
            condition: Condition::Broken,
            reason,
        };
        // The most telling first: an error that names what happened says more
        // than that the driver no longer answers.
        if let Some((xid, what)) = gpu
            .xids
            .iter()
            .find_map(|xid| fatal(*xid).map(|what| (xid, what)))
        {
            return broken(format!(
                "{what} (XID {xid}): drain the node and reset the GPU or reboot; if it comes back, have it replaced"
            ));
        }
        if let Some(fault) = &gpu.fault {
            return broken(format!(
                "the driver cannot reach it: {fault}; reset the GPU or reboot the node"
            ));
        }
        if let Some(ecc) = gpu.ecc.filter(|ecc| ecc.uncorrected > 0) {
            return broken(format!(
                "{} memory {} could not be corrected since the driver was loaded: reset the GPU; if they come back, have it replaced",
                ecc.uncorrected,
                if ecc.uncorrected == 1 {
                    "error"
                } else {
                    "errors"
                },
            ));
        }
        let mut reasons = Vec::new();
        let xids: Vec<String> = gpu
            .xids
            .iter()
            .filter(|xid| !OF_PROGRAMS.contains(xid))
            .map(ToString::to_string)
            .collect();
        if !xids.is_empty() {
            reasons.push(format!("the driver reported XID {}", xids.join(", ")));
        }
        if let (Some(now), Some(limit)) = (gpu.temperature, gpu.slowdown_temperature)
            && now >= limit
        {
            reasons.push(format!("at {now} °C it slows itself down"));
        }
        let up = |gpu: &Gpu| gpu.links.iter().map(|link| link.up).sum::<u32>();
        // One of equals with fewer links than the others has lost some.
        let most = self
            .gpus
            .iter()
            .filter(|other| other.name == gpu.name)
            .map(up)
            .max()
            .unwrap_or(0);
        if up(gpu) < most {
            let links = match gpu.vendor {
                Vendor::Nvidia => "NVLinks",
                Vendor::Amd | Vendor::Intel => "links to other GPUs",
            };
            reasons.push(format!("{} of {most} {links} are up", up(gpu)));
        }
        if reasons.is_empty() {
            Health {
                condition: Condition::Healthy,
                reason: String::new(),
            }
        } else {
            Health {
                condition: Condition::Degraded,
                reason: reasons.join("; "),
            }
        }
    }
}
