//! The files of a layer, in memory and in order.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, bail};
use tar::{EntryType, Header};

/// The time of every file: a fixed one, and late enough for ZIP files to know it.
const TIME: u64 = 1_577_836_800;
/// Where Debian's merged folders lead.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// What lies at a path.
enum Entry {
    File { content: Vec<u8>, mode: u32 },
    Link { target: String },
    Folder { mode: u32, owner: u32 },
}

/// Files, links and folders by path, without a slash at its beginning.
#[derive(Default)]
pub struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// A file that everybody reads.
    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) -> Result<()> {
        self.add(
            path,
            Entry::File {
                content: content.into(),
                mode: 0o644,
            },
        )
    }

    /// A file that everybody runs.
    pub fn program(&mut self, path: &str, content: Vec<u8>) -> Result<()> {
        self.add(
            path,
            Entry::File {
                content,
                mode: 0o755,
            },
        )
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(
            path,
            Entry::Link {
                target: target.to_owned(),
            },
        )
    }

    /// A folder.
    pub fn folder(&mut self, path: &str, mode: u32, owner: u32) -> Result<()> {
        self.add(path, Entry::Folder { mode, owner })
    }

    fn add(&mut self, path: &str, entry: Entry) -> Result<()> {
        let path = normal(path)?;
        let mut above = path.as_str();
        while let Some((parent, _)) = above.rsplit_once('/') {
            let folder = Entry::Folder {
                mode: 0o755,
                owner: 0,
            };
            if let Entry::File { .. } = self.0.entry(parent.to_owned()).or_insert(folder) {
                bail!("{parent} is a file and cannot hold {path}");
            }
            above = parent;
        }
        self.0.insert(path, entry);
        Ok(())
    }

    /// Adds what a tar stream holds. Owners, times and the bits that lend rights are left behind.
    pub fn unpack(&mut self, stream: impl Read, keep: fn(&str) -> bool) -> Result<()> {
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = String::from_utf8(entry.path_bytes().into_owned())
                .context("a file's name is not UTF-8")?;
            let path = normal(&path)?;
            if path.is_empty() || !keep(&path) {
                continue;
            }
            let mode = entry.header().mode()? & 0o1777;
            let target = entry
                .link_name_bytes()
                .map(|name| String::from_utf8_lossy(&name).into_owned());
            match (entry.header().entry_type(), target) {
                (EntryType::Directory, _) => {
                    // Whichever package comes first says how a shared folder is.
                    if !self.0.contains_key(&path) {
                        self.folder(&path, mode, 0)?;
                    }
                }
                (EntryType::Symlink, Some(target)) => self.symlink(&path, &target)?,
                (EntryType::Link, Some(target)) => {
                    let target = normal(&target)?;
                    let Some(Entry::File { content, mode }) = self.0.get(&target) else {
                        bail!("{path} is a link to {target}, which is not there");
                    };
                    let copy = Entry::File {
                        content: content.clone(),
                        mode: *mode,
                    };
                    self.add(&path, copy)?;
                }
                (EntryType::Regular | EntryType::Continuous, _) => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    self.add(&path, Entry::File { content, mode })?;
                }
                (other, _) => bail!("{path} is of a kind that no image has: {other:?}"),
            }
        }
        Ok(())
    }

    /// All files below a path with this ending, one after another.
    pub fn concatenate(&self, below: &str, ending: &str) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        for (path, entry) in &self.0 {
            if let (true, true, Entry::File { content, .. }) =
                (path.starts_with(below), path.ends_with(ending), entry)
            {
                all.extend_from_slice(content);
                if !content.ends_with(b"\n") {
                    all.push(b'\n');
                }
            }
        }
        if all.is_empty() {
            bail!("no file below {below} ends with {ending}");
        }
        Ok(all)
    }

    /// The tree as a tar file.
    pub fn tar(&self) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_mtime(TIME);
            header.set_uid(0);
            header.set_gid(0);
            match entry {
                Entry::File { content, mode } => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    builder.append_link(&mut header, path, target)?;
                }
                Entry::Folder { mode, owner } => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_uid(u64::from(*owner));
                    header.set_gid(u64::from(*owner));
                    header.set_size(0);
                    builder.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
            }
        }
        Ok(builder.into_inner()?)
    }
}

/// A path from the root, below `/usr` where Debian merged it; nothing leads upwards.
fn normal(path: &str) -> Result<String> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") {
        bail!("{path} leads out of the image");
    }
    let merged = parts.len() > 1 && parts.first().is_some_and(|first| MERGED.contains(first));
    Ok(if merged {
        format!("usr/{}", parts.join("/"))
    } else {
        parts.join("/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_make_the_same_bytes_in_whatever_order() {
        let mut one = Tree::default();
        one.file("/etc/b", "b").unwrap();
        one.program("/bin/a", b"a".to_vec()).unwrap();
        let mut other = Tree::default();
        other.program("/usr/bin/a", b"a".to_vec()).unwrap();
        other.file("etc/b", "b").unwrap();
        let bytes = one.tar().unwrap();
        assert_eq!(bytes, other.tar().unwrap());
        let mut read = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> = read
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["etc/", "etc/b", "usr/", "usr/bin/", "usr/bin/a"]);
    }

    #[test]
    fn rights_that_are_lent_stay_behind() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_mode(0o4755);
        header.set_size(1);
        header.set_uid(1000);
        builder
            .append_data(&mut header, "bin/su", &b"x"[..])
            .unwrap();
        let mut tree = Tree::default();
        tree.unpack(builder.into_inner().unwrap().as_slice(), |_| true)
            .unwrap();
        let bytes = tree.tar().unwrap();
        let mut read = tar::Archive::new(bytes.as_slice());
        let last = read.entries().unwrap().last().unwrap().unwrap();
        assert_eq!(last.header().mode().unwrap(), 0o755);
        assert_eq!(last.header().uid().unwrap(), 0);
    }

    #[test]
    fn nothing_leads_out() {
        assert!(normal("../etc/passwd").is_err());
        assert_eq!(normal("./lib/x").unwrap(), "usr/lib/x");
        assert_eq!(normal("/lib").unwrap(), "lib");
    }
}
