//! The data files of a snapshot in a local folder.

use std::path::{Path, PathBuf};

/// All `part-N.parquet` of a folder, by N.
pub fn part_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut numbered = Vec::new();
    let mut single = None;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if name == "data.parquet" {
            single = Some(path);
        } else if let Some(number) = name
            .strip_prefix("part-")
            .and_then(|rest| rest.strip_suffix(".parquet"))
            .and_then(|number| number.parse::<u64>().ok())
        {
            numbered.push((number, path));
        }
    }
    numbered.sort();
    let mut files: Vec<PathBuf> = single.into_iter().collect();
    files.extend(numbered.into_iter().map(|(_, path)| path));
    Ok(files)
}
