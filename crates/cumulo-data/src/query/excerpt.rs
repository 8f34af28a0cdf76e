//! The place in a query that a message speaks of.

use std::fmt;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// A line of a query with a caret under one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The line, counted from one.
    pub line: u64,
    /// The column, in characters, counted from one.
    pub column: u64,
    text: String,
}

impl Excerpt {
    /// The excerpt around a place, if the query has it.
    pub fn at(query: &str, line: u64, column: u64) -> Option<Self> {
        let index = usize::try_from(line.checked_sub(1)?).ok()?;
        let text = query.split('\n').nth(index)?.trim_end();
        Some(Self {
            line,
            column: column.clamp(1, text.chars().count() as u64 + 1),
            text: text.to_owned(),
        })
    }

    /// The excerpt around the end of the query.
    pub fn end(query: &str) -> Option<Self> {
        let query = query.trim_end();
        let line = query.split('\n').count() as u64;
        let column = query.split('\n').next_back()?.chars().count() as u64 + 1;
        Self::at(query, line, column)
    }

    /// The excerpt around the first use of a name (or `table.column`).
    pub fn find(query: &str, name: &str) -> Option<Self> {
        let tokens = Tokenizer::new(&GenericDialect {}, query)
            .tokenize_with_location()
            .ok()?;
        let last = name.rsplit('.').next().unwrap_or(name);
        let parts: Vec<&str> = name.split('.').collect();
        let word = |index: usize, wanted: &str| match tokens.get(index).map(|t| &t.token) {
            Some(Token::Word(word)) => word.value.eq_ignore_ascii_case(wanted),
            _ => false,
        };
        // The qualified name first, then the bare one.
        let qualified = (0..tokens.len()).find(|start| {
            parts.len() > 1
                && parts.iter().enumerate().all(|(i, part)| {
                    word(start + 2 * i, part)
                        && (i == 0
                            || matches!(
                                tokens.get(start + 2 * i - 1).map(|t| &t.token),
                                Some(Token::Period)
                            ))
                })
        });
        let index = qualified.or_else(|| (0..tokens.len()).find(|index| word(*index, last)))?;
        let start = tokens.get(index)?.span.start;
        Self::at(query, start.line, start.column)
    }

    /// "line 3, column 8".
    pub fn place(&self) -> String {
        format!("line {}, column {}", self.line, self.column)
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A very long line is shown around the place alone.
        let column = usize::try_from(self.column).unwrap_or(1);
        let skip = column.saturating_sub(60);
        let shown: String = self
            .text
            .chars()
            .skip(skip)
            .take(100)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let number = self.line.to_string();
        writeln!(formatter, "  {number} | {shown}")?;
        write!(
            formatter,
            "  {} | {}^",
            " ".repeat(number.len()),
            " ".repeat(column - 1 - skip)
        )
    }
}
