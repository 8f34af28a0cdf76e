//! Page tokens: base64 of `{"offset": n}`, as MLflow's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::wire::Page;

#[derive(Serialize, Deserialize)]
struct Token {
    offset: i64,
}

/// Where the page of a token starts.
pub(crate) fn offset(token: Option<&str>) -> Result<i64> {
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return Ok(0);
    };
    let invalid = |why: &str| {
        Error::invalid(format!(
            "Invalid page token '{token}': {why}. Send the next_page_token of the page before."
        ))
    };
    let decoded = STANDARD
        .decode(token)
        .map_err(|_| invalid("could not base64-decode"))?;
    let token: Token =
        serde_json::from_slice(&decoded).map_err(|_| invalid("it holds no offset"))?;
    if token.offset < 0 {
        return Err(invalid("its offset is negative"));
    }
    Ok(token.offset)
}

/// Makes a page of `size` from rows that were asked for with one row more.
pub(crate) fn page<T>(mut items: Vec<T>, offset: i64, size: i64) -> Page<T> {
    let size_here = usize::try_from(size).unwrap_or(usize::MAX);
    let more = items.len() > size_here;
    items.truncate(size_here);
    let next_page_token =
        more.then(|| STANDARD.encode(format!("{{\"offset\": {}}}", offset.saturating_add(size))));
    Page {
        items,
        next_page_token,
    }
}

#[cfg(test)]
mod tests {
    use super::{offset, page};

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let all: Vec<i64> = (0..7).collect();
        let (mut seen, mut token) = (Vec::new(), None::<String>);
        loop {
            let start = offset(token.as_deref()).unwrap();
            let rows = all
                .iter()
                .copied()
                .skip(usize::try_from(start).unwrap())
                .take(4)
                .collect();
            let page = page(rows, start, 3);
            seen.extend(page.items);
            token = page.next_page_token;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for token in ["???", "e30=", "eyJvZmZzZXQiOiAtMX0="] {
            assert!(offset(Some(token)).is_err(), "{token}");
        }
    }
}
