//! Mistakes in a query, told so that they can be corrected.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use super::excerpt::Excerpt;

/// What is wrong with a query. The first line of a message is a sentence of its
/// own; an excerpt of the query may follow.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QueryError {
    /// No statement at all.
    #[error("the query is empty: give one SELECT")]
    Empty,
    /// A query beyond the limit.
    #[error("the query has {bytes} bytes, more than the {limit} that are taken")]
    TooLong {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More than one statement.
    #[error("the query has {0} statements: give one SELECT (WITH … AS joins several steps)")]
    SeveralStatements(usize),
    /// A statement that does more than read.
    #[error("the query is a {0} statement: only SELECT is allowed")]
    NotSelect(String),
    /// Text that is not SQL.
    #[error(
        "the query has a syntax error{}: {problem}{}",
        at(excerpt),
        shown(excerpt)
    )]
    Syntax {
        /// What was expected and found.
        problem: String,
        /// Where.
        excerpt: Option<Excerpt>,
    },
    /// A table that is no source.
    #[error(
        "the query names the table {name:?}{}, which is not a source{}{}",
        at(excerpt),
        advice(suggestion.as_deref(), "the sources are", known),
        shown(excerpt)
    )]
    UnknownTable {
        /// The name.
        name: String,
        /// The nearest known name.
        suggestion: Option<String>,
        /// All known names.
        known: Vec<String>,
        /// Where.
        excerpt: Option<Excerpt>,
    },
    /// A column that no table has.
    #[error(
        "the query names the column {name:?}{}, which is not there{}{}",
        at(excerpt),
        advice(suggestion.as_deref(), "the columns here are", known),
        shown(excerpt)
    )]
    UnknownColumn {
        /// The name.
        name: String,
        /// The nearest known name.
        suggestion: Option<String>,
        /// The columns that could be meant.
        known: Vec<String>,
        /// Where.
        excerpt: Option<Excerpt>,
    },
    /// A column that several tables have.
    #[error(
        "the query names the column {name:?}{}, which more than one table has: put the table's name before it, as in TABLE.{name}{}",
        at(excerpt),
        shown(excerpt)
    )]
    AmbiguousColumn {
        /// The name.
        name: String,
        /// Where.
        excerpt: Option<Excerpt>,
    },
    /// Two columns of the result have one name.
    #[error(
        "the query gives two columns the name {0:?}: rename one with AS, or list the columns instead of *"
    )]
    DuplicateColumn(String),
    /// A function that gives something else each time.
    #[error(
        "the query calls {function}(){}, which gives something else each time: a snapshot must give the same rows for the same sources{}",
        at(excerpt),
        shown(excerpt)
    )]
    NotReproducible {
        /// The function.
        function: String,
        /// Where.
        excerpt: Option<Excerpt>,
    },
    /// A query that cannot be planned for another reason.
    #[error("the query is not valid{}: {problem}{}", at(excerpt), shown(excerpt))]
    Invalid {
        /// What is wrong.
        problem: String,
        /// Where, if known.
        excerpt: Option<Excerpt>,
    },
    /// A query that fails while it runs.
    #[error("the query failed while running: {0}")]
    Failed(String),
    /// A query that needs more memory than it may have.
    #[error(
        "the query needs more memory than it may use ({0}): give the dataset more memory, or read fewer rows at once"
    )]
    OutOfMemory(String),
}

fn at(excerpt: &Option<Excerpt>) -> String {
    excerpt
        .as_ref()
        .map(|excerpt| format!(" at {}", excerpt.place()))
        .unwrap_or_default()
}

fn shown(excerpt: &Option<Excerpt>) -> String {
    excerpt
        .as_ref()
        .map(|excerpt| format!("\n{excerpt}"))
        .unwrap_or_default()
}

fn advice(suggestion: Option<&str>, introduction: &str, known: &[String]) -> String {
    if let Some(suggestion) = suggestion {
        let capitals = suggestion.chars().any(char::is_uppercase);
        return format!(
            ": did you mean {suggestion:?}?{}",
            if capitals {
                " (names with capital letters are written in double quotes)"
            } else {
                ""
            }
        );
    }
    if known.is_empty() {
        return String::new();
    }
    let mut names = known
        .iter()
        .take(20)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if known.len() > 20 {
        names.push_str(&format!(" and {} more", known.len() - 20));
    }
    format!(": {introduction} {names}")
}

/// The known name that is nearest to a mistyped one, if any is near.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let wanted = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            let score = strsim::jaro_winkler(&wanted, &candidate.to_lowercase());
            (score, candidate)
        })
        .filter(|(score, _)| *score > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0).then(right.1.cmp(left.1)))
        .map(|(_, candidate)| candidate.to_owned())
}

/// A parser's error, with its place.
pub(super) fn syntax_error(query: &str, error: &DataFusionError) -> QueryError {
    let message = match error.find_root() {
        DataFusionError::SQL(parser, _) => parser.to_string(),
        other => other.to_string(),
    };
    let message = message
        .trim_start_matches("sql parser error: ")
        .trim_start_matches("ParserError(\"")
        .to_owned();
    let (problem, place) = split_place(&message);
    let excerpt = match place {
        Some((line, column)) if line > 0 => Excerpt::at(query, line, column),
        _ if problem.contains("EOF") || problem.contains("Unterminated") => Excerpt::end(query),
        _ => None,
    };
    let problem = problem
        .trim()
        .trim_end_matches(" at")
        .replace("found: EOF", "found the end of the query")
        .replace("Expected: ", "expected ")
        .replace("found: ", "found ");
    QueryError::Syntax { problem, excerpt }
}

/// Cuts " at Line: 3, Column: 8" off a parser's message.
fn split_place(message: &str) -> (String, Option<(u64, u64)>) {
    let Some(start) = message.rfind("Line: ") else {
        return (message.to_owned(), None);
    };
    let numbers: Vec<u64> = message[start..]
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect();
    let problem = message[..start]
        .trim_end()
        .trim_end_matches("at")
        .trim_end()
        .to_owned();
    match numbers[..] {
        [line, column, ..] => (problem, Some((line, column))),
        _ => (problem, None),
    }
}

/// Takes off what DataFusion wraps around an error.
fn unwrap(error: DataFusionError) -> DataFusionError {
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => {
            unwrap(*inner)
        }
        DataFusionError::Collection(mut errors) if !errors.is_empty() => unwrap(errors.remove(0)),
        other => other,
    }
}

/// A planner's error, with the nearest name or the place where that helps.
pub(super) fn plan_error(query: &str, error: DataFusionError) -> QueryError {
    match unwrap(error) {
        DataFusionError::SchemaError(problem, _) => match *problem {
            SchemaError::FieldNotFound {
                field,
                valid_fields,
            } => {
                let qualified = valid_fields.iter().any(|valid| {
                    valid_fields
                        .iter()
                        .filter(|other| other.name == valid.name)
                        .count()
                        > 1
                });
                let mut known: Vec<String> = valid_fields
                    .iter()
                    .map(|valid| {
                        if qualified || field.relation.is_some() {
                            valid.flat_name()
                        } else {
                            valid.name.clone()
                        }
                    })
                    .collect();
                known.dedup();
                let bare: Vec<&str> = valid_fields
                    .iter()
                    .filter(|valid| field.relation.is_none() || valid.relation == field.relation)
                    .map(|valid| valid.name.as_str())
                    .collect();
                let suggestion = nearest(&field.name, bare).map(|name| match &field.relation {
                    Some(relation) => format!("{relation}.{name}"),
                    None => name,
                });
                let name = field.flat_name();
                QueryError::UnknownColumn {
                    excerpt: Excerpt::find(query, &name),
                    suggestion,
                    known,
                    name,
                }
            }
            SchemaError::AmbiguousReference { field } => QueryError::AmbiguousColumn {
                excerpt: Excerpt::find(query, &field.name),
                name: field.name,
            },
            SchemaError::DuplicateQualifiedField { name, .. }
            | SchemaError::DuplicateUnqualifiedField { name } => QueryError::DuplicateColumn(name),
        },
        DataFusionError::Plan(message) => {
            let excerpt = quoted(&message).and_then(|name| Excerpt::find(query, name));
            QueryError::Invalid {
                problem: tidy(&message),
                excerpt,
            }
        }
        other => QueryError::Invalid {
            problem: tidy(&other.strip_backtrace()),
            excerpt: None,
        },
    }
}

/// The first word in quotes, which is mostly the name that a message is about.
fn quoted(message: &str) -> Option<&str> {
    let start = message.find('\'')? + 1;
    let length = message[start..].find('\'')?;
    Some(&message[start..start + length])
}

/// One line without DataFusion's prefixes.
fn tidy(message: &str) -> String {
    let mut text = message.trim();
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "Arrow error: ",
        "External error: ",
        "type_coercion",
        "This feature is not implemented: ",
        "caused by",
    ] {
        text = text.strip_prefix(prefix).unwrap_or(text).trim_start();
    }
    let mut line = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if line.chars().count() > 600 {
        line = line.chars().take(600).collect::<String>() + "…";
    }
    line
}

/// An error of a running query.
pub(super) fn run_error(query: &str, error: DataFusionError) -> QueryError {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(message) => {
            QueryError::OutOfMemory(tidy(message.lines().next().unwrap_or(message)))
        }
        DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => plan_error(query, error),
        other => QueryError::Failed(tidy(&other.strip_backtrace())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let known = ["dep_delay", "arr_delay", "carrier", "Origin"];
        assert_eq!(nearest("arr_dely", known), Some("arr_delay".to_owned()));
        assert_eq!(nearest("orgin", known), Some("Origin".to_owned()));
        assert_eq!(nearest("temperature", known), None);
    }
}
