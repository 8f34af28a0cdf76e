//! Kubernetes' dialect of JSONPath, brought into the standard one (RFC 9535).
//!
//! Differences: the leading `$` may be missing, the whole may stand in braces,
//! and dotted names may hold any character, dots escaped by a backslash
//! (`.metadata.annotations.example\.com/key`).

use serde_json_path::JsonPath;

/// Longest path that is read.
const MAX_LENGTH: usize = 4096;

/// Compiles a path.
pub(super) fn compile(path: &str) -> Result<JsonPath, String> {
    if path.len() > MAX_LENGTH {
        return Err(format!("is longer than {MAX_LENGTH} bytes"));
    }
    let path = path.trim();
    let path = path
        .strip_prefix('{')
        .and_then(|p| p.strip_suffix('}'))
        .unwrap_or(path);
    let path = path.strip_prefix('$').unwrap_or(path);
    if !path.starts_with(['.', '[']) {
        return Err("must be a simple json path starting with .".into());
    }
    let standard = format!("${}", Translator { rest: path }.path(false)?);
    JsonPath::parse(&standard).map_err(|e| e.to_string())
}

struct Translator<'a> {
    rest: &'a str,
}

impl Translator<'_> {
    /// Translates steps up to the end, or up to where a filter's path ends.
    fn path(&mut self, in_filter: bool) -> Result<String, String> {
        let mut out = String::new();
        while let Some(first) = self.rest.chars().next() {
            match first {
                '.' => {
                    self.rest = &self.rest[1..];
                    if let Some(rest) = self.rest.strip_prefix('.') {
                        self.rest = rest;
                        out.push_str("..");
                    }
                    if self.rest.starts_with('[') {
                        continue;
                    }
                    let name = self.name(in_filter);
                    match name.as_str() {
                        "" if self.rest.is_empty() && out.is_empty() => {}
                        "" => return Err("a name is missing after a dot".into()),
                        "*" => out.push_str("[*]"),
                        _ => {
                            out.push('[');
                            out.push_str(&serde_json::Value::from(name).to_string());
                            out.push(']');
                        }
                    }
                }
                '[' => out.push_str(&self.bracket()?),
                _ if in_filter => break,
                other => return Err(format!("unexpected {other:?}")),
            }
        }
        Ok(out)
    }

    fn name(&mut self, in_filter: bool) -> String {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => {
                    if let Some((_, escaped)) = chars.next() {
                        name.push(escaped);
                    }
                }
                '.' | '[' => {
                    end = at;
                    break;
                }
                ' ' | '=' | '!' | '<' | '>' | ')' | '&' | '|' if in_filter => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        name
    }

    /// `[0]`, `[*]`, `['name']`, `[1:3]` stay; in filters paths are translated.
    fn bracket(&mut self) -> Result<String, String> {
        let mut out = String::new();
        let mut depth = 0usize;
        let mut quote: Option<char> = None;
        while let Some(c) = self.rest.chars().next() {
            let width = c.len_utf8();
            if let Some(open) = quote {
                if c == '\\' {
                    let escaped = self.rest[width..].chars().next().map_or(0, char::len_utf8);
                    out.push_str(&self.rest[..width + escaped]);
                    self.rest = &self.rest[width + escaped..];
                    continue;
                }
                if c == open {
                    quote = None;
                }
            } else {
                match c {
                    '\'' | '"' => quote = Some(c),
                    '[' => depth += 1,
                    ']' => depth -= 1,
                    '@' => {
                        self.rest = &self.rest[width..];
                        out.push('@');
                        out.push_str(&self.path(true)?);
                        continue;
                    }
                    _ => {}
                }
            }
            out.push(c);
            self.rest = &self.rest[width..];
            if depth == 0 && quote.is_none() {
                return Ok(out);
            }
        }
        Err("a bracket is not closed".into())
    }
}
