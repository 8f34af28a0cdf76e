//! A container's limits, from its manifest: pure but for the question which
//! processors there are.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::disk::Quota;
use crate::quantity;
use crate::sandbox::Limits;

/// What the kernel keeps by itself: the size of files, open files, and for a
/// limit of processors so many whole ones, as their time cannot be divided
/// without control groups.
pub fn kernel_limits(container: &Container, open_files: Option<u64>, pod: &str) -> Limits {
    Limits {
        file_bytes: disk_limit(container),
        open_files,
        processors: limit(container, "cpu")
            .map(|milli| processors(milli, &available(), pod))
            .unwrap_or_default(),
    }
}

/// So many processors out of the available that `milli` thousandths fit; none
/// when that is no limit. Pods begin at different ones.
fn processors(milli: i128, available: &[usize], pod: &str) -> Vec<usize> {
    let wanted = usize::try_from(milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0))
        .unwrap_or(usize::MAX)
        .max(1);
    if wanted >= available.len() {
        return Vec::new();
    }
    let begin: usize = pod.bytes().map(usize::from).sum();
    let mut chosen: Vec<usize> = (0..wanted)
        .map(|index| available[(begin + index) % available.len()])
        .collect();
    chosen.sort_unstable();
    chosen
}

/// The processors that this process may use.
fn available() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|processor| set.is_set(*processor).unwrap_or(false))
        .collect()
}

/// A limit in thousandths.
fn limit(container: &Container, resource: &str) -> Option<i128> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    quantity::milli(limits.get(resource)?).filter(|limit| *limit > 0)
}

/// The limit of `ephemeral-storage` in bytes.
fn disk_limit(container: &Container) -> Option<u64> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    quantity::whole(limits.get("ephemeral-storage")?).filter(|limit| *limit > 0)
}

/// What a container may fill of the disk: its own folder with its logs, its
/// pod's folder when all of the pod's containers have a limit, and volumes
/// with a size.
pub fn quotas(spec: &PodSpec, container: &Container, pod: &Path) -> Vec<Quota> {
    let mut quotas = Vec::new();
    if let Some(limit) = disk_limit(container) {
        quotas.push(Quota {
            what: format!("container {}", container.name),
            advice: "raise resources.limits.ephemeral-storage or write less",
            folder: pod.join("containers").join(&container.name),
            limit,
        });
    }
    let limits: Option<Vec<u64>> = spec.containers.iter().map(disk_limit).collect();
    if let Some(limits) = limits.filter(|limits| !limits.is_empty()) {
        quotas.push(Quota {
            what: "the pod with its volumes".to_owned(),
            advice: "raise resources.limits.ephemeral-storage or write less",
            folder: pod.to_owned(),
            limit: limits
                .iter()
                .fold(0, |sum, limit| sum.saturating_add(*limit)),
        });
    }
    let mounted = |name: &str| {
        let mut mounts = container.volume_mounts.iter().flatten();
        mounts.any(|mount| mount.name == name)
    };
    for volume in spec.volumes.iter().flatten() {
        let size = volume
            .empty_dir
            .as_ref()
            .and_then(|folder| folder.size_limit.as_ref())
            .and_then(quantity::whole);
        if let Some(limit) = size.filter(|limit| *limit > 0)
            && mounted(&volume.name)
        {
            quotas.push(Quota {
                what: format!("volume {}", volume.name),
                advice: "raise its sizeLimit or write less",
                folder: PathBuf::from(pod).join("volumes").join(&volume.name),
                limit,
            });
        }
    }
    quotas
}

/// What a signal says of a limit that the kernel keeps.
pub fn told_by_signal(container: &Container, signal: Option<i32>) -> Option<String> {
    if signal != Some(Signal::SIGXFSZ as i32) {
        return None;
    }
    let limit = disk_limit(container)?;
    Some(format!(
        "container {} wrote a file larger than its limit of {}; raise resources.limits.ephemeral-storage or write less",
        container.name,
        quantity::show_bytes(limit)
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fractions_of_processors_are_rounded_up() {
        let all = [0, 1, 2, 3];
        assert_eq!(processors(500, &all, "a").len(), 1);
        assert_eq!(processors(1500, &all, "a").len(), 2);
        assert!(processors(4000, &all, "a").is_empty());
        assert!(processors(1000, &[], "a").is_empty());
        assert_ne!(processors(1000, &all, "a"), processors(1000, &all, "b"));
    }

    #[test]
    fn what_fills_the_disk_is_measured_where_a_limit_is() {
        let spec: PodSpec = serde_json::from_value(json!({
            "volumes": [
                {"name": "cache", "emptyDir": {"sizeLimit": "1Mi"}},
                {"name": "other", "emptyDir": {"sizeLimit": "1Mi"}},
                {"name": "free", "emptyDir": {}},
            ],
            "containers": [
                {"name": "a", "resources": {"limits": {"ephemeral-storage": "2Mi"}},
                 "volumeMounts": [{"name": "cache", "mountPath": "/c"}, {"name": "free", "mountPath": "/f"}]},
                {"name": "b"},
            ],
        }))
        .unwrap();
        let told = |spec: &PodSpec| -> String {
            quotas(spec, &spec.containers[0], Path::new("/pod"))
                .iter()
                .map(|quota| {
                    format!(
                        "{} {} {}\n",
                        quota.what,
                        quota.folder.display(),
                        quota.limit
                    )
                })
                .collect()
        };
        insta::assert_snapshot!(told(&spec), @r"
        container a /pod/containers/a 2097152
        volume cache /pod/volumes/cache 1048576
        ");
        let mut alone = spec;
        alone.containers.truncate(1);
        insta::assert_snapshot!(told(&alone), @r"
        container a /pod/containers/a 2097152
        the pod with its volumes /pod 2097152
        volume cache /pod/volumes/cache 1048576
        ");
    }
}
