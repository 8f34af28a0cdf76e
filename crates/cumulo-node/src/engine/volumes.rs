//! Volumes and where containers find them.
//!
//! Without root there are no mounts. A container's folder `work` stands for
//! its file system: `mountPath: /etc/settings` appears as the link
//! `work/etc/settings`, and the container starts in `work` (or in
//! `work/<workingDir>`). A program that uses paths relative to its working
//! directory, with `workingDir: /`, finds the same on a laptop and on a
//! cluster. `CUMULO_MOUNT_<NAME>` holds the absolute path of each mount.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, PodSpec, Volume};

use super::container_environment::{ConfigError, Downward, fetch};
use super::source::{ConfigSource, Data};
use crate::variables;

/// Provides all volumes of a pod below `folder`; returns the path of each.
/// Called again after a restart it brings ConfigMaps and Secrets up to date
/// and leaves `emptyDir` content alone.
pub async fn provide(
    spec: &PodSpec,
    downward: &Downward<'_>,
    source: &dyn ConfigSource,
    folder: &Path,
    host_path_roots: &[PathBuf],
) -> Result<Vec<(String, PathBuf)>, ConfigError> {
    let mut provided = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        let path = folder.join(safe_relative(&volume.name)?);
        let path = one(volume, downward, source, path, host_path_roots).await?;
        provided.push((volume.name.clone(), path));
    }
    Ok(provided)
}

async fn one(
    volume: &Volume,
    downward: &Downward<'_>,
    source: &dyn ConfigSource,
    path: PathBuf,
    host_path_roots: &[PathBuf],
) -> Result<PathBuf, ConfigError> {
    if let Some(host) = &volume.host_path {
        return host_path(volume, &host.path, host.type_.as_deref(), host_path_roots);
    }
    make_folder(&path)?;
    let namespace = downward
        .pod
        .metadata
        .namespace
        .as_deref()
        .unwrap_or("default");
    if volume.empty_dir.is_some() {
        return Ok(path);
    }
    if let Some(from) = &volume.config_map {
        let optional = from.optional.unwrap_or(false);
        let data = fetch(source, "ConfigMap", namespace, &from.name, optional).await?;
        let mode = from.default_mode;
        write_items(
            &path,
            data,
            from.items.as_deref(),
            mode,
            optional,
            ("ConfigMap", &from.name),
        )?;
    } else if let Some(from) = &volume.secret {
        let optional = from.optional.unwrap_or(false);
        let name = from.secret_name.clone().unwrap_or_default();
        let data = fetch(source, "Secret", namespace, &name, optional).await?;
        let mode = from.default_mode;
        write_items(
            &path,
            data,
            from.items.as_deref(),
            mode,
            optional,
            ("Secret", &name),
        )?;
    } else if let Some(from) = &volume.downward_api {
        write_downward(&path, from.items.as_deref(), from.default_mode, downward)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode;
        for part in projected.sources.iter().flatten() {
            if let Some(from) = &part.config_map {
                let optional = from.optional.unwrap_or(false);
                let data = fetch(source, "ConfigMap", namespace, &from.name, optional).await?;
                let items = from.items.as_deref();
                write_items(
                    &path,
                    data,
                    items,
                    mode,
                    optional,
                    ("ConfigMap", &from.name),
                )?;
            } else if let Some(from) = &part.secret {
                let optional = from.optional.unwrap_or(false);
                let data = fetch(source, "Secret", namespace, &from.name, optional).await?;
                let items = from.items.as_deref();
                write_items(&path, data, items, mode, optional, ("Secret", &from.name))?;
            } else if let Some(from) = &part.downward_api {
                write_downward(&path, from.items.as_deref(), mode, downward)?;
            } else if part.service_account_token.is_none() {
                // Tokens are not needed on this node, so a manifest that an
                // API server added one to still runs.
                return Err(unsupported(volume));
            }
        }
    } else {
        return Err(unsupported(volume));
    }
    Ok(path)
}

fn unsupported(volume: &Volume) -> ConfigError {
    ConfigError::Volume {
        name: volume.name.clone(),
        problem: "this kind of volume needs a container engine; use emptyDir, configMap, secret, downwardAPI, projected or hostPath".to_owned(),
    }
}

fn host_path(
    volume: &Volume,
    path: &str,
    kind: Option<&str>,
    roots: &[PathBuf],
) -> Result<PathBuf, ConfigError> {
    let refuse = |problem: String| ConfigError::Volume {
        name: volume.name.clone(),
        problem,
    };
    if kind == Some("DirectoryOrCreate") {
        // Only once it is clear where it would be made.
        let parent = Path::new(path)
            .parent()
            .and_then(|parent| parent.canonicalize().ok());
        if parent.is_some_and(|parent| is_below(&parent, roots)) {
            make_folder(Path::new(path))?;
        }
    }
    let real = Path::new(path)
        .canonicalize()
        .map_err(|error| refuse(format!("hostPath {path}: {error}")))?;
    if is_below(&real, roots) {
        Ok(real)
    } else {
        Err(refuse(format!(
            "hostPath {path} is not below a folder that this node allows; allow it in the node agent's settings"
        )))
    }
}

fn is_below(path: &Path, roots: &[PathBuf]) -> bool {
    roots
        .iter()
        .filter_map(|root| root.canonicalize().ok())
        .any(|root| path.starts_with(root))
}

fn write_items(
    folder: &Path,
    data: Option<Data>,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
    optional: bool,
    (kind, name): (&'static str, &str),
) -> Result<(), ConfigError> {
    let data = data.unwrap_or_default();
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, value) in &data {
            write_file(folder, key, value, mode)?;
        }
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(value) => write_file(folder, &item.path, value, item.mode.or(mode))?,
            None if optional => {}
            None => {
                return Err(ConfigError::MissingKey {
                    kind,
                    name: name.to_owned(),
                    key: item.key.clone(),
                });
            }
        }
    }
    Ok(())
}

fn write_downward(
    folder: &Path,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
    downward: &Downward<'_>,
) -> Result<(), ConfigError> {
    for item in items.into_iter().flatten() {
        let value = if let Some(field) = &item.field_ref {
            downward.field(&field.field_path)?
        } else if let Some(selector) = &item.resource_field_ref {
            downward.resource(selector, None)?
        } else {
            continue;
        };
        write_file(folder, &item.path, value.as_bytes(), item.mode.or(mode))?;
    }
    Ok(())
}

fn write_file(
    folder: &Path,
    relative: &str,
    content: &[u8],
    mode: Option<i32>,
) -> Result<(), ConfigError> {
    let path = folder.join(safe_relative(relative)?);
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    let mode = u32::try_from(mode.unwrap_or(0o644)).unwrap_or(0o644) & 0o777;
    crate::record::write_atomic(&path, content)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
        .map_err(|error| io_error("cannot write a volume's file", error))
}

/// What a container finds of its pod's volumes.
#[derive(Debug, Default)]
pub struct Mounted {
    /// The folder that it starts in.
    pub start: PathBuf,
    /// Variables that tell where the mounts are.
    pub variables: Vec<(String, String)>,
    /// What is mounted, and whether the container may write it.
    pub targets: Vec<(PathBuf, bool)>,
}

/// Makes the container's folder and the links for its mounts.
pub fn mount(
    container: &Container,
    spec: &PodSpec,
    volumes: &[(String, PathBuf)],
    work: &Path,
    environment: &[(String, String)],
) -> Result<Mounted, ConfigError> {
    make_folder(work)?;
    let mut told = Vec::new();
    let mut targets = Vec::new();
    let mut allowed = vec![work.to_owned()];
    let mut mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
    mounts.sort_by_key(|mount| mount.mount_path.len());
    for mount in mounts {
        let Some((_, volume)) = volumes.iter().find(|(name, _)| *name == mount.name) else {
            return Err(ConfigError::Volume {
                name: mount.name.clone(),
                problem: format!(
                    "mounted at {} but not declared in spec.volumes",
                    mount.mount_path
                ),
            });
        };
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) => path.clone(),
            (None, Some(expression)) => {
                variables::expand(expression, |name| variables::lookup(environment, name))
            }
            (None, None) => String::new(),
        };
        let mut target = volume.clone();
        if !sub_path.is_empty() {
            let relative = safe_relative(&sub_path)?;
            target = volume.join(&relative);
            if !target.exists() {
                make_folder_inside(volume, &relative, std::slice::from_ref(volume))?;
            }
            let outside = match (target.canonicalize(), volume.canonicalize()) {
                (Ok(target), Ok(volume)) => !target.starts_with(volume),
                _ => true,
            };
            if outside {
                return Err(ConfigError::Volume {
                    name: mount.name.clone(),
                    problem: format!("subPath {sub_path:?} leaves the volume"),
                });
            }
        }
        let relative = safe_relative(&mount.mount_path)?;
        let link = work.join(&relative);
        if link != *work {
            link_inside(work, &relative, &target, &allowed)?;
        }
        let writable = mount.read_only != Some(true) && is_writable(spec, &mount.name);
        allowed.push(target.clone());
        targets.push((target, writable));
        let name: String = mount
            .name
            .chars()
            .map(|character| match character {
                'a'..='z' => character.to_ascii_uppercase(),
                'A'..='Z' | '0'..='9' => character,
                _ => '_',
            })
            .collect();
        told.push((format!("CUMULO_MOUNT_{name}"), link.display().to_string()));
    }
    let start = safe_relative(container.working_dir.as_deref().unwrap_or_default())?;
    make_folder_inside(work, &start, &allowed)?;
    Ok(Mounted {
        start: work.join(start),
        variables: told,
        targets,
    })
}

/// Whether containers may write a volume: not what the API's objects say.
fn is_writable(spec: &PodSpec, name: &str) -> bool {
    spec.volumes
        .iter()
        .flatten()
        .find(|volume| volume.name == name)
        .is_some_and(|volume| volume.empty_dir.is_some() || volume.host_path.is_some())
}

/// Makes a link at a path below a container's folder; see [`make_folder_inside`].
pub fn link_inside(
    work: &Path,
    relative: &Path,
    target: &Path,
    allowed: &[PathBuf],
) -> Result<(), ConfigError> {
    if let Some(parent) = relative.parent() {
        make_folder_inside(work, parent, allowed)?;
    }
    link_to(target, &work.join(relative))
}

/// Makes folders below one that containers write to. What they have put there
/// must not lead the node agent, which no sandbox holds, out of `allowed`.
fn make_folder_inside(
    folder: &Path,
    relative: &Path,
    allowed: &[PathBuf],
) -> Result<(), ConfigError> {
    let mut path = folder.to_owned();
    for component in relative.components() {
        path.push(component);
        make_folder(&path)?;
        let inside = path
            .canonicalize()
            .is_ok_and(|real| is_below(&real, allowed));
        if !inside {
            return Err(ConfigError::Escape(path.display().to_string()));
        }
    }
    Ok(())
}

/// Makes or renews a link; what is there otherwise is left alone and refused.
fn link_to(target: &Path, link: &Path) -> Result<(), ConfigError> {
    match fs::symlink_metadata(link) {
        Ok(metadata) if metadata.file_type().is_symlink() => {
            if fs::read_link(link).is_ok_and(|existing| existing == target) {
                return Ok(());
            }
            fs::remove_file(link).map_err(|error| io_error("cannot renew a mount", error))?;
        }
        Ok(metadata)
            if metadata.is_dir()
                && fs::read_dir(link).is_ok_and(|mut entries| entries.next().is_none()) =>
        {
            fs::remove_dir(link).map_err(|error| io_error("cannot renew a mount", error))?;
        }
        _ => {}
    }
    std::os::unix::fs::symlink(target, link)
        .map_err(|error| io_error(&format!("cannot mount at {}", link.display()), error))
}

/// A path below a folder: leading slashes are dropped, `..` is refused.
pub fn safe_relative(path: &str) -> Result<PathBuf, ConfigError> {
    let mut relative = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => relative.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ConfigError::Path(path.to_owned()));
            }
        }
    }
    Ok(relative)
}

fn make_folder(path: &Path) -> Result<(), ConfigError> {
    fs::create_dir_all(path)
        .map_err(|error| io_error(&format!("cannot make the folder {}", path.display()), error))
}

fn io_error(what: &str, error: io::Error) -> ConfigError {
    ConfigError::Io {
        what: what.to_owned(),
        error,
    }
}
