//! The size of folders where a limit is set.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::quantity;

/// Measuring takes at most this part of the time.
const SHARE: u32 = 20;

/// A folder and how large it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Whose it is, for people.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
    /// The folder.
    pub folder: PathBuf,
    /// Bytes.
    pub limit: u64,
}

/// Waits until one of the folders is larger than it may be; says which.
pub async fn exceeded(quotas: Vec<Quota>, interval: Duration) -> String {
    loop {
        let begun = Instant::now();
        let now = quotas.clone();
        let found = tokio::task::spawn_blocking(move || {
            now.iter().find_map(|quota| {
                let used = size(&quota.folder);
                (used > quota.limit).then(|| {
                    format!(
                        "{} used {} of disk, the limit is {}; {}",
                        quota.what,
                        quantity::show_bytes(used),
                        quantity::show_bytes(quota.limit),
                        quota.advice
                    )
                })
            })
        });
        if let Ok(Some(message)) = found.await {
            return message;
        }
        tokio::time::sleep(interval.max(begun.elapsed() * SHARE)).await;
    }
}

/// Bytes on disk of a folder; what vanishes meanwhile counts nothing.
fn size(folder: &Path) -> u64 {
    const BLOCK: u64 = 512;
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        // Of links, not of what they lead to.
        for (entry, metadata) in entries
            .flatten()
            .filter_map(|entry| entry.metadata().ok().map(|metadata| (entry, metadata)))
        {
            bytes += metadata.blocks() * BLOCK;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        std::os::unix::fs::symlink("/usr", folder.path().join("link")).unwrap();
        fs::write(folder.path().join("inner/file"), vec![1; 3 << 20]).unwrap();
        let told = exceeded(
            vec![Quota {
                what: "volume cache".to_owned(),
                advice: "write less",
                folder: folder.path().to_owned(),
                limit: 1 << 20,
            }],
            Duration::from_millis(1),
        )
        .await;
        assert!(
            told.starts_with("volume cache used 3")
                && told.ends_with("the limit is 1Mi; write less"),
            "{told}"
        );
    }
}
