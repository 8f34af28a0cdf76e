//! Globs over local files: `*` and `?` within a name, `[abc]`, `[a-z]`,
//! `[!a]`, and `**` for any number of folders. Hidden files are matched only by
//! a pattern that starts with a dot.

use std::path::{Path, PathBuf};

/// Whether a path has glob characters.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// All files that match an absolute pattern, sorted by path. Stops after
/// `limit` + 1 files.
pub(super) fn expand(pattern: &Path, limit: usize) -> std::io::Result<Vec<PathBuf>> {
    let mut base = PathBuf::new();
    let mut rest: Vec<String> = Vec::new();
    for component in pattern.components() {
        let text = component.as_os_str().to_string_lossy();
        if rest.is_empty() && !is_pattern(&text) {
            base.push(component);
        } else {
            rest.push(text.into_owned());
        }
    }
    let mut files = Vec::new();
    if base.is_dir() {
        walk(&base, &rest, limit, 0, &mut files)?;
    }
    files.sort();
    files.dedup();
    Ok(files)
}

fn walk(
    folder: &Path,
    rest: &[String],
    limit: usize,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> std::io::Result<()> {
    let Some((first, tail)) = rest.split_first() else {
        return Ok(());
    };
    // Bounds what a link that points to its own parent can cost.
    if depth > 64 {
        return Ok(());
    }
    if first == "**" {
        walk(folder, tail, limit, depth + 1, files)?;
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let hidden = name.starts_with('.') && !first.starts_with('.');
        if hidden || files.len() > limit {
            continue;
        }
        if first == "**" {
            if path.is_dir() && !path.is_symlink() {
                walk(&path, rest, limit, depth + 1, files)?;
            }
        } else if matches(first, name) {
            if tail.is_empty() {
                if path.is_file() {
                    files.push(path);
                }
            } else if path.is_dir() {
                walk(&path, tail, limit, depth + 1, files)?;
            }
        }
    }
    Ok(())
}

/// Whether a name matches a pattern of one path component.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last `*` does not fit here.
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                back = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => class(&pattern, p, name[n]),
            Some(c) if *c == name[n] => Some(p + 1),
            _ => None,
        };
        match (step, back) {
            (Some(next), _) => {
                p = next;
                n += 1;
            }
            (None, Some((star, from))) => {
                back = Some((star, from + 1));
                p = star + 1;
                n = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Matches a character class that starts at `p`; the position after it if it fits.
fn class(pattern: &[char], p: usize, c: char) -> Option<usize> {
    let Some(length) = pattern[p + 1..].iter().skip(1).position(|c| *c == ']') else {
        // No end: the bracket is meant as it is.
        return (c == '[').then_some(p + 1);
    };
    let inside = &pattern[p + 1..p + 2 + length];
    let (negated, inside) = match inside.split_first() {
        Some(('!' | '^', tail)) if !tail.is_empty() => (true, tail),
        _ => (false, inside),
    };
    let mut hit = false;
    let mut i = 0;
    while i < inside.len() {
        if i + 2 < inside.len() && inside[i + 1] == '-' {
            hit |= (inside[i]..=inside[i + 2]).contains(&c);
            i += 3;
        } else {
            hit |= inside[i] == c;
            i += 1;
        }
    }
    (hit != negated).then_some(p + 3 + length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "a.csv.gz", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[ab]x", "bx", true),
            ("[!ab]x", "bx", false),
            ("[a-c]x", "bx", true),
            ("part-[0-9]*.parquet", "part-12.parquet", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("[", "[", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn two_stars_mean_any_depth() {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["a.csv", "x/b.csv", "x/y/c.csv", "x/y/d.txt", ".h/e.csv"] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, "x").expect("a file");
        }
        let found = expand(&folder.path().join("**/*.csv"), 100).expect("files");
        let names: Vec<_> = found
            .iter()
            .filter_map(|path| path.strip_prefix(folder.path()).ok()?.to_str())
            .collect();
        assert_eq!(names, ["a.csv", "x/b.csv", "x/y/c.csv"]);
    }

    proptest! {
        #[test]
        fn any_pattern_ends_and_a_star_takes_all(pattern in "[a-c*?\\[\\]!-]{0,12}", name in "[a-c\\[\\]-]{0,12}") {
            matches(&pattern, &name);
            prop_assert!(matches("*", &name));
        }
    }
}
