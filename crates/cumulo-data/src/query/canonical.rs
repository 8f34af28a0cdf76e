//! The text of a query without what does not matter: white space and comments.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// The query's tokens with one space between them, literals as they are
/// written. Two queries of the same canonical text give the same rows.
pub fn canonical(query: &str) -> String {
    // Without unescaping a literal's token prints as it was written.
    let tokens = Tokenizer::new(&GenericDialect {}, query)
        .with_unescape(false)
        .tokenize();
    let Ok(tokens) = tokens else {
        // Such a query never gets as far as a snapshot.
        return query.to_owned();
    };
    let mut parts: Vec<String> = tokens
        .iter()
        .filter(|token| !matches!(token, Token::Whitespace(_) | Token::EOF))
        .map(ToString::to_string)
        .collect();
    while parts.last().is_some_and(|part| part == ";") {
        parts.pop();
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn white_space_and_comments_do_not_matter_and_literals_do() {
        let base = canonical("SELECT a, 'x  y' FROM t WHERE b = 1");
        for same in [
            "SELECT a,\n  'x  y'\nFROM t -- why\nWHERE b=1;",
            "/* who */ SELECT a , 'x  y' FROM t WHERE b\t= 1 ; ",
        ] {
            assert_eq!(canonical(same), base);
        }
        for other in [
            "SELECT a, 'x y' FROM t WHERE b = 1",
            "SELECT a, 'x  y' FROM t WHERE b = 2",
            "SELECT a, 'x  y -- z' FROM t WHERE b = 1",
        ] {
            assert_ne!(canonical(other), base);
        }
        assert_ne!(canonical("SELECT 'a''b'"), canonical("SELECT 'a' 'b'"));
        assert_ne!(canonical("SELECT \"a b\""), canonical("SELECT a b"));
    }

    proptest! {
        #[test]
        fn canonical_text_is_its_own_canonical_text(words in proptest::collection::vec("[a-z]{1,5}|'[a-z ]{0,4}'|[0-9]{1,3}|[,+*()=<]", 1..20), gaps in proptest::collection::vec("[ \n\t]{1,3}", 20)) {
            let text: String = words.iter().zip(&gaps).flat_map(|(word, gap)| [word.as_str(), gap.as_str()]).collect();
            let once = canonical(&text);
            prop_assert_eq!(canonical(&once), once.clone());
            prop_assert_eq!(canonical(&words.join(" ")), once);
        }
    }
}
