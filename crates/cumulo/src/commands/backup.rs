//! `cumulo backup` and `cumulo restore`: the whole platform, to a file or an object
//! store and back.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use cumulo_data::ArtifactStore;
use futures::TryStreamExt;
use serde_json::Value;

use crate::home::Home;

/// The archive's format; raised when an older program could not read it.
pub const FORMAT: u64 = 1;
/// The first entry: format, version, time.
pub const MANIFEST: &str = "backup.json";
/// The last entry: without it the archive is not whole.
pub const COMPLETE: &str = "complete";
/// What must not be there where a backup is restored to.
const STATE: &[&str] = &["apiserver", "tracking.db", "artifacts", "credentials.json"];

/// Where an archive is.
enum Place {
    File(PathBuf),
    /// A store's URL and the name in it.
    Object(String, String),
}

impl Place {
    fn parse(text: &str) -> Result<Self> {
        if !text.contains("://") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let (store, name) = text.rsplit_once('/').unwrap_or_default();
        if !text.starts_with("s3://") || name.is_empty() || store == "s3:/" {
            bail!("{text} is no place for a backup: give a file, or s3://bucket/path/name.tar");
        }
        Ok(Self::Object(store.to_owned(), name.to_owned()))
    }
}

/// Runs `cumulo backup`.
///
/// # Errors
/// When no platform runs, it cannot make the copy, or the place cannot be written.
pub async fn backup(home: &Home, to: &str) -> Result<()> {
    let running = home.require_running()?;
    let place = Place::parse(to)?;
    let bytes = match &place {
        Place::File(path) => fetch(home, &running.url(), path).await?,
        Place::Object(store, name) => {
            let store = ArtifactStore::from_url(store)?;
            let folder = tempfile::tempdir().context("no temporary folder")?;
            let file = folder.path().join("backup.tar");
            let bytes = fetch(home, &running.url(), &file).await?;
            store.upload(&file, name).await?;
            bytes
        }
    };
    println!(
        "{to}: {} MB; it holds every secret of the platform",
        bytes.div_ceil(1_000_000)
    );
    Ok(())
}

/// Fetches the archive to a file that appears when it is whole.
async fn fetch(home: &Home, url: &str, path: &Path) -> Result<u64> {
    let response = reqwest::Client::builder()
        .no_proxy()
        .build()?
        .get(format!("{url}/backup"))
        .bearer_auth(home.credentials()?.admin)
        .send()
        .await
        .with_context(|| format!("the platform does not answer at {url}: see `cumulo status`"))?;
    if !response.status().is_success() {
        let answer: Value = response.json().await.unwrap_or_default();
        bail!(
            "{}",
            answer["error"].as_str().unwrap_or("the platform refused")
        );
    }
    let cannot = || format!("cannot write {}", path.display());
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::Builder::new()
        .prefix(".backup-")
        .tempfile_in(parent)
        .with_context(cannot)?;
    let mut bytes = 0;
    let mut content = response.bytes_stream();
    while let Some(piece) = content
        .try_next()
        .await
        .context("the copy broke off and nothing was written; the platform's log says why")?
    {
        bytes += piece.len() as u64;
        temporary.write_all(&piece).with_context(cannot)?;
    }
    temporary.as_file().sync_all().with_context(cannot)?;
    temporary.persist(path).with_context(cannot)?;
    Ok(bytes)
}

/// Runs `cumulo restore`.
///
/// # Errors
/// When the folder has state already, or the archive is not whole or not ours.
pub async fn restore(home: &Home, from: &str) -> Result<()> {
    home.create()?;
    for name in STATE {
        if home.path(name).exists() {
            bail!(
                "{} holds a platform already: CUMULO_HOME names another, empty folder to restore to",
                home.root().display()
            );
        }
    }
    let fetched;
    let path = match Place::parse(from)? {
        Place::File(path) => path,
        Place::Object(store, name) => {
            fetched = tempfile::tempdir().context("no temporary folder")?;
            let path = fetched.path().join("backup.tar");
            if !ArtifactStore::from_url(&store)?
                .download(&name, &path)
                .await?
            {
                bail!("there is no {from}");
            }
            path
        }
    };
    let file = fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let staging = tempfile::Builder::new()
        .prefix(".restoring-")
        .tempdir_in(home.root())?;
    let files = unpack(io::BufReader::new(file), staging.path())
        .with_context(|| format!("{from} cannot be restored, and nothing was changed"))?;
    for entry in fs::read_dir(staging.path())? {
        let entry = entry?;
        fs::rename(entry.path(), home.root().join(entry.file_name()))?;
    }
    println!(
        "{files} files restored to {}: start the platform with `cumulo up`",
        home.root().display()
    );
    Ok(())
}

/// Unpacks an archive to a folder; how many files.
fn unpack(archive: impl Read, folder: &Path) -> Result<usize> {
    let mut archive = tar::Archive::new(archive);
    let mut files = 0;
    let mut complete = false;
    for (number, entry) in archive.entries()?.enumerate() {
        let mut entry = entry.context("it is no whole archive")?;
        let path = entry.path()?.into_owned();
        if number == 0 {
            check_manifest(&path, &mut entry)?;
            continue;
        }
        if path == Path::new(COMPLETE) {
            complete = true;
            break;
        }
        let plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain || !entry.header().entry_type().is_file() {
            bail!("it holds {}, which no backup does", path.display());
        }
        let target = folder.join(&path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let cannot = || format!("{} cannot be written", path.display());
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if path.starts_with("artifacts") {
                0o644
            } else {
                0o600
            })
            .open(&target)
            .with_context(cannot)?;
        io::copy(&mut entry, &mut file).with_context(cannot)?;
        file.sync_all().with_context(cannot)?;
        files += 1;
    }
    if !complete {
        bail!("its end is missing: it broke off while it was written or copied");
    }
    Ok(files)
}

fn check_manifest(path: &Path, entry: &mut impl Read) -> Result<()> {
    if path != Path::new(MANIFEST) {
        bail!("it is not a backup of a platform");
    }
    let mut text = String::new();
    entry.take(1 << 16).read_to_string(&mut text)?;
    let manifest: Value = serde_json::from_str(&text)?;
    let format = manifest["format"].as_u64().unwrap_or_default();
    if format != FORMAT {
        bail!(
            "it has format {format} of Cumulo {}, this program reads format {FORMAT}: use the program that wrote it",
            manifest["version"].as_str().unwrap_or("unknown")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of these entries.
    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in entries {
            let mut header = tar::Header::new_gnu();
            // As a hostile program would write it: the library's own way refuses `..`.
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_cksum();
            tar.append(&header, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn refusal(entries: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        format!(
            "{:#}",
            unpack(&*archive(entries), folder.path()).unwrap_err()
        )
    }

    #[test]
    fn what_is_not_a_whole_backup_is_refused() {
        let manifest = (MANIFEST, r#"{"format": 1}"#);
        let shown = [
            refusal(&[("x", "y")]),
            refusal(&[(MANIFEST, r#"{"format": 2, "version": "9.0.0"}"#)]),
            refusal(&[manifest, ("tracking.db", "x")]),
            refusal(&[manifest, ("../x", "y"), (COMPLETE, "")]),
            refusal(&[manifest, ("/etc/x", "y"), (COMPLETE, "")]),
        ];
        insta::assert_snapshot!(shown.join("\n"), @"
        it is not a backup of a platform
        it has format 2 of Cumulo 9.0.0, this program reads format 1: use the program that wrote it
        its end is missing: it broke off while it was written or copied
        it holds ../x, which no backup does
        it holds /etc/x, which no backup does
        ");
    }

    #[test]
    fn a_backup_is_unpacked_with_its_folders() {
        let folder = tempfile::tempdir().unwrap();
        let entries = [
            (MANIFEST, r#"{"format": 1}"#),
            ("artifacts/a/b", "content"),
            (COMPLETE, ""),
        ];
        assert_eq!(unpack(&*archive(&entries), folder.path()).unwrap(), 1);
        let content = fs::read_to_string(folder.path().join("artifacts/a/b")).unwrap();
        assert_eq!(content, "content");
    }

    #[test]
    fn places_are_files_and_buckets() {
        for good in [
            "x.tar",
            "/a/b.tar",
            "s3://bucket/x.tar",
            "s3://bucket/a/x.tar",
        ] {
            assert!(Place::parse(good).is_ok(), "{good}");
        }
        for bad in ["s3://bucket", "s3://bucket/", "https://host/x.tar"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }
}
