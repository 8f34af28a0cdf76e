//! The people who may use the platform besides its owner: names and the hashes
//! of their tokens. What they may do stands in role bindings, not here.
//!
//! `cumulo user` writes the file; the running platform reads it again when it
//! has changed.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use anyhow::{Context, Result, bail};
use cumulo_apiserver::auth::UserInfo;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::home::{Home, random_token, write_private};

/// The group of everybody in the file.
const GROUP: &str = "cumulo:users";
/// Letters of a name at most: what a label's value takes.
const LONGEST: usize = 63;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The name that bindings use.
    pub name: String,
    /// SHA-256 of the token, as hexadecimal digits. The token itself is nowhere.
    pub token_sha256: String,
    /// When the user was added.
    pub created: String,
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// In the order in which they were added.
    pub users: Vec<User>,
}

/// Where the file lies.
pub fn path(home: &Home) -> PathBuf {
    home.path("users.json")
}

/// Refuses names that a binding or a label cannot hold, or that mean somebody else.
pub fn check_name(name: &str) -> Result<()> {
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let bytes = name.as_bytes();
    let good = name.len() <= LONGEST
        && ends(bytes.first().copied())
        && ends(bytes.last().copied())
        && bytes
            .iter()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c));
    if !good {
        bail!(
            "{name:?} cannot be a user's name: at most {LONGEST} letters, digits, '-', '_' and '.', with a letter or digit at both ends"
        );
    }
    if name == "admin" {
        bail!("admin is the owner of the platform: choose another name");
    }
    Ok(())
}

impl Users {
    /// Reads the file; none is nobody.
    pub fn load(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} is damaged: remove it and add the users again",
                    path.display()
                )
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Changes the file while nobody else does.
    pub fn change<T>(home: &Home, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let lock = home.path("users.lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .with_context(|| format!("cannot open {}", lock.display()))?;
        let _lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("cannot lock {}", lock.display()))?;
        let path = path(home);
        let mut users = Self::load(&path)?;
        let before = users.clone();
        let result = change(&mut users)?;
        if users != before {
            write_private(&path, &serde_json::to_vec_pretty(&users)?)?;
        }
        Ok(result)
    }

    /// Adds a user; the token is returned and kept nowhere.
    pub fn add(&mut self, name: &str, created: String) -> Result<String> {
        check_name(name)?;
        if self.users.iter().any(|user| user.name == name) {
            bail!("there is a user {name} already: `cumulo user remove {name}` removes it");
        }
        let token = random_token();
        self.users.push(User {
            name: name.to_owned(),
            token_sha256: hex::encode(Sha256::digest(token.as_bytes())),
            created,
        });
        Ok(token)
    }

    /// Removes a user; false when there was none.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.users.len();
        self.users.retain(|user| user.name != name);
        self.users.len() < before
    }
}

/// What tells one content of the file from another.
type Stamp = (u64, u64, i64, i64);

#[derive(Debug, Default)]
struct Loaded {
    stamp: Option<Stamp>,
    by_hash: HashMap<String, UserInfo>,
}

/// The tokens in the file, as the running platform knows them.
#[derive(Debug)]
pub struct UserTokens {
    path: PathBuf,
    loaded: RwLock<Loaded>,
}

impl UserTokens {
    /// The tokens of a folder's users.
    pub fn new(home: &Home) -> Self {
        Self {
            path: path(home),
            loaded: RwLock::default(),
        }
    }

    /// The user of a token. The file is looked at each time (not read: its
    /// metadata is in the system's memory), so that a removed user is gone at once.
    pub fn user(&self, token: &str) -> Option<UserInfo> {
        let hash = hex::encode(Sha256::digest(token.as_bytes()));
        let stamp = self.stamp();
        {
            let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
            if loaded.stamp == stamp {
                return loaded.by_hash.get(&hash).cloned();
            }
        }
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        *loaded = self.read(stamp);
        loaded.by_hash.get(&hash).cloned()
    }

    fn stamp(&self) -> Option<Stamp> {
        let metadata = fs::metadata(&self.path).ok()?;
        // Every change is another file, moved into place.
        Some((
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ))
    }

    fn read(&self, stamp: Option<Stamp>) -> Loaded {
        let users = Users::load(&self.path).unwrap_or_else(|error| {
            tracing::error!(%error, "nobody but the owner can use the platform");
            Users::default()
        });
        Loaded {
            stamp,
            by_hash: users
                .users
                .into_iter()
                .map(|user| (user.token_sha256, UserInfo::new(&user.name, &[GROUP])))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["ada", "a", "ada.l-1_x", "0"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "system:x", "é", "admin", "a/b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name(&"a".repeat(64)).is_err());
    }

    #[test]
    fn tokens_are_known_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let tokens = UserTokens::new(&home);
        assert_eq!(tokens.user("x"), None);
        let token = Users::change(&home, |users| users.add("ada", String::new())).unwrap();
        let known = tokens.user(&token).unwrap();
        assert_eq!(known.name, "ada");
        assert_eq!(known.groups, ["cumulo:users", "system:authenticated"]);
        assert_eq!(tokens.user("x"), None);
        let text = fs::read_to_string(path(&home)).unwrap();
        assert!(!text.contains(&token));
        assert!(Users::change(&home, |users| users.add("ada", String::new())).is_err());
        let removed = Users::change(&home, |users| Ok(users.remove("ada"))).unwrap();
        assert!(removed);
        assert_eq!(tokens.user(&token), None);
        // A damaged file lets nobody in.
        fs::write(path(&home), "{").unwrap();
        assert_eq!(tokens.user(&token), None);
    }
}
