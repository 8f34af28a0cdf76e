//! Problems that make no sense are refused with what and where.

use std::collections::BTreeSet;

use super::problem::{Problem, Sharing, WHOLE};
use super::work::{Ask, Job, Part, Placed};

/// What is wrong with a problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProblemError {
    /// Two of a kind have one name.
    #[error("two {what} are named {name}")]
    Duplicate {
        /// What they are.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A job names a queue that is not there.
    #[error("{job} is in queue {queue}, which does not exist")]
    UnknownQueue {
        /// The job.
        job: String,
        /// The queue.
        queue: String,
    },
    /// A queue lies under one that is not there, or under itself.
    #[error("queue {queue} lies under {parent}, which does not exist or lies under it")]
    BrokenTree {
        /// The queue.
        queue: String,
        /// Its parent.
        parent: String,
    },
    /// A job names a topology level that is not there.
    #[error("{job} asks for topology level {level}, which does not exist")]
    UnknownLevel {
        /// The job.
        job: String,
        /// The level.
        level: String,
    },
    /// A device names a geometry that is not there, or instances that it does not allow.
    #[error("device {device} of node {node}: {what}")]
    BadDevice {
        /// The node.
        node: String,
        /// The device.
        device: String,
        /// What is wrong.
        what: String,
    },
    /// A job that could never be understood.
    #[error("{job}: {what}")]
    BadJob {
        /// The job.
        job: String,
        /// What is wrong.
        what: String,
    },
    /// A running pod's place is not one.
    #[error("pod {pod} of running {job}: {what}")]
    BadPlacement {
        /// The job.
        job: String,
        /// Position of the pod.
        pod: usize,
        /// What is wrong.
        what: String,
    },
}

/// Refuses a problem that makes no sense.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn validate(problem: &Problem) -> Result<(), ProblemError> {
    unique("nodes", problem.nodes.iter().map(|node| &node.name))?;
    unique("queues", problem.queues.iter().map(|queue| &queue.name))?;
    unique("topology levels", problem.levels.iter())?;
    let jobs = || {
        problem
            .running
            .iter()
            .map(|running| &running.job)
            .chain(&problem.waiting)
    };
    unique("jobs", jobs().map(|job| &job.name))?;
    tree(problem)?;
    devices(problem)?;
    for job in jobs() {
        check_job(problem, job)?;
    }
    for running in &problem.running {
        for (at, pod) in running.pods.iter().enumerate() {
            placement(problem, &running.job, pod).map_err(|what| ProblemError::BadPlacement {
                job: running.job.name.clone(),
                pod: at,
                what,
            })?;
        }
    }
    Ok(())
}

fn unique<'a>(
    what: &'static str,
    names: impl Iterator<Item = &'a String>,
) -> Result<(), ProblemError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(ProblemError::Duplicate {
                what,
                name: name.clone(),
            });
        }
    }
    Ok(())
}

fn tree(problem: &Problem) -> Result<(), ProblemError> {
    for queue in &problem.queues {
        let mut at = queue;
        let mut steps = 0;
        while let Some(parent) = &at.parent {
            let found = problem.queues.iter().find(|known| known.name == *parent);
            steps += 1;
            match found {
                Some(found) if steps <= problem.queues.len() => at = found,
                _ => {
                    let parent = parent.clone();
                    return Err(ProblemError::BrokenTree {
                        queue: queue.name.clone(),
                        parent,
                    });
                }
            }
        }
    }
    Ok(())
}

fn devices(problem: &Problem) -> Result<(), ProblemError> {
    for node in &problem.nodes {
        unique(
            "devices of one node",
            node.devices.iter().map(|device| &device.name),
        )?;
        for device in &node.devices {
            let bad = |what: String| ProblemError::BadDevice {
                node: node.name.clone(),
                device: device.name.clone(),
                what,
            };
            match &device.sharing {
                Sharing::Partitioned {
                    geometry,
                    instances,
                } => {
                    let found = problem.geometries.get(geometry);
                    let found =
                        found.ok_or_else(|| bad(format!("geometry {geometry} does not exist")))?;
                    let mut used = vec![0; found.counters.len()];
                    for instance in instances {
                        let place = super::state::locate(found, instance).ok_or_else(|| {
                            bad(format!(
                                "{} cannot lie at {}",
                                instance.profile, instance.start
                            ))
                        })?;
                        let slot = &found.profiles[place.0].slots[place.1];
                        if !found.fits(slot, &used) {
                            let place = format!("{} at {}", instance.profile, instance.start);
                            return Err(bad(format!("{place} overlaps other instances")));
                        }
                        super::geometry::add(&mut used, &slot.uses);
                    }
                }
                Sharing::TimeSliced { slots: 0 } => {
                    return Err(bad("it has no time slots".to_owned()));
                }
                Sharing::TimeSliced { .. } | Sharing::Mps { .. } | Sharing::Exclusive => {}
            }
        }
    }
    Ok(())
}

fn check_job(problem: &Problem, job: &Job) -> Result<(), ProblemError> {
    let name = || job.name.clone();
    let bad = |what: &str| ProblemError::BadJob {
        job: job.name.clone(),
        what: what.to_owned(),
    };
    if !job.queue.is_empty() && !problem.queues.iter().any(|queue| queue.name == job.queue) {
        return Err(ProblemError::UnknownQueue {
            job: name(),
            queue: job.queue.clone(),
        });
    }
    if job
        .members
        .iter()
        .map(|members| u64::from(members.min))
        .sum::<u64>()
        == 0
    {
        return Err(bad("it needs no pod"));
    }
    if job.members.iter().any(|members| members.max < members.min) {
        return Err(bad("a group of its pods has a maximum below its minimum"));
    }
    for request in job.members.iter().flat_map(|members| &members.pod.devices) {
        match &request.ask {
            _ if request.count == 0 => return Err(bad("a device request asks for none")),
            Ask::Share { milli, .. } if *milli == 0 || *milli > WHOLE => {
                return Err(bad("a device share must be between 1 and 1000 thousandths"));
            }
            Ask::Memory(0) => return Err(bad("a device request asks for no memory")),
            _ => {}
        }
    }
    let topology = job.topology.required.iter().chain(&job.topology.preferred);
    let affinity = job.affinity.iter().map(|rule| &rule.level);
    let spread = job.spread.iter().map(|rule| &rule.level);
    for level in topology.chain(affinity).chain(spread) {
        if level != "node" && !problem.levels.contains(level) {
            return Err(ProblemError::UnknownLevel {
                job: name(),
                level: level.clone(),
            });
        }
    }
    Ok(())
}

fn placement(problem: &Problem, job: &Job, pod: &Placed) -> Result<(), String> {
    if pod.member >= job.members.len() {
        return Err(format!("the job has no member group {}", pod.member));
    }
    let node = problem.nodes.get(pod.placement.node);
    let node = node.ok_or_else(|| format!("there is no node {}", pod.placement.node))?;
    for part in &pod.placement.devices {
        let device = node.devices.get(part.device);
        let device =
            device.ok_or_else(|| format!("{} has no device {}", node.name, part.device))?;
        let fitting = match (&part.part, &device.sharing) {
            (Part::Whole, Sharing::Partitioned { .. }) => false,
            (Part::Whole, _) | (Part::Share { .. }, Sharing::Mps { .. }) => true,
            (Part::Slots { .. }, Sharing::TimeSliced { .. }) => true,
            (Part::Partition { profile, start }, Sharing::Partitioned { geometry, .. }) => {
                let instance = super::problem::Instance {
                    profile: profile.clone(),
                    start: *start,
                };
                problem
                    .geometries
                    .get(geometry)
                    .is_some_and(|found| super::state::locate(found, &instance).is_some())
            }
            _ => false,
        };
        if !fitting {
            return Err(format!(
                "{} cannot give such a part of {}",
                device.name, node.name
            ));
        }
    }
    Ok(())
}
