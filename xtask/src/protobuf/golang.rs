//! Reads the tags of Go structs:
//!
//! ```go
//! Replicas *int32 `json:"replicas,omitempty" protobuf:"varint,1,opt,name=replicas"`
//! ```

use std::path::Path;

use anyhow::{Context, Result};

/// What a field's tag says.
#[derive(Debug)]
pub(super) struct Tag {
    /// Number in protobuf.
    pub number: u32,
    /// Name in protobuf, empty when it is not given.
    pub name: String,
    /// Name in JSON, empty when the field's fields are the struct's own there.
    pub json: String,
    /// Whether the type is a pointer: a zero is told from nothing then.
    pub pointer: bool,
    /// `omitempty`: left out when it is zero, but for structs.
    pub omit_empty: bool,
    /// `omitzero`: left out when it is zero, structs too.
    pub omit_zero: bool,
}

/// The tags of a struct in a package's folder; none when the package has no
/// struct of that name.
pub(super) fn tags(folder: &Path, name: &str) -> Result<Option<Vec<Tag>>> {
    let begin = format!("type {name} struct");
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let source = path.extension().is_some_and(|e| e == "go")
            && !path.to_string_lossy().ends_with("_test.go");
        if !source {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&begin));
        match lines.next() {
            None => continue,
            Some(line) if line.ends_with("{}") => return Ok(Some(Vec::new())),
            Some(_) => {}
        }
        let tags: Vec<Tag> = lines
            .take_while(|line| !line.starts_with('}'))
            .filter_map(|line| {
                let (declared, tag) = line.split_once('`')?;
                let declared = declared.trim();
                if declared.starts_with("//") {
                    return None;
                }
                // An embedded type has no name before it.
                let kind = declared.split_whitespace().last()?;
                let protobuf: Vec<&str> = key(tag, "protobuf")?.split(',').collect();
                let mut json = key(tag, "json")?.split(',');
                let json_name = json.next()?.to_owned();
                let options: Vec<&str> = json.collect();
                Some(Tag {
                    number: protobuf.get(1)?.parse().ok()?,
                    name: protobuf
                        .iter()
                        .find_map(|part| part.strip_prefix("name="))
                        .unwrap_or_default()
                        .to_owned(),
                    json: json_name,
                    pointer: kind.starts_with('*'),
                    omit_empty: options.contains(&"omitempty"),
                    omit_zero: options.contains(&"omitzero"),
                })
            })
            .collect();
        return Ok(Some(tags));
    }
    Ok(None)
}

/// The value of a key in a tag.
fn key<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!("{name}:\""))?;
    rest.split('"').next()
}
