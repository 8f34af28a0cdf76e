//! MLflow's filter and order language.
//!
//! ```text
//! filter     = [ comparison { "AND" comparison } ]
//! comparison = identifier ( operator value
//!                         | [ "NOT" ] "IN" "(" text { "," text } ")"
//!                         | "IS" [ "NOT" ] "NULL" )
//! identifier = [ entity "." ] key           key: bare, `in backticks` or "in quotes"
//! operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | "LIKE" | "ILIKE"
//! value      = number | 'text' | "text"      a quote inside is written twice
//! order      = identifier [ "ASC" | "DESC" ]
//! ```
//!
//! Parsing knows nothing of what may be compared; [`compile`] and the stores do.
//! Every error says where it is and what was expected there.

pub(crate) mod compile;
#[cfg(test)]
mod tests;

use winnow::ascii::{Caseless, digit1, multispace0};
use winnow::combinator::{
    alt, cut_err, delimited, eof, opt, preceded, repeat, separated, terminated,
};
use winnow::error::{ContextError, ErrMode, StrContext, StrContextValue};
use winnow::stream::{LocatingSlice, Location};
use winnow::token::{none_of, one_of, take_till, take_while};
use winnow::{ModalResult, Parser};

use crate::error::{Error, Result};

/// Characters of a filter or order at most.
const MAX_LENGTH: usize = 100_000;
/// Comparisons of one filter at most (each becomes a sub-query).
const MAX_COMPARISONS: usize = 100;

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Like,
    Ilike,
    In,
    NotIn,
    IsNull,
    IsNotNull,
}

impl Operator {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Like => "LIKE",
            Self::Ilike => "ILIKE",
            Self::In => "IN",
            Self::NotIn => "NOT IN",
            Self::IsNull => "IS NULL",
            Self::IsNotNull => "IS NOT NULL",
        }
    }
}

/// What is compared with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    /// A number, as it was written.
    Number(String),
    List(Vec<String>),
    /// Of `IS NULL`.
    Nothing,
}

/// `[entity.]key`, and where it stands (in bytes from the start).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identifier {
    pub(crate) entity: Option<String>,
    pub(crate) key: String,
    pub(crate) offset: usize,
}

/// One comparison of a filter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comparison {
    pub(crate) identifier: Identifier,
    pub(crate) operator: Operator,
    pub(crate) value: Value,
}

/// One key of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) identifier: Identifier,
    pub(crate) ascending: bool,
}

/// Parses a filter; the empty one has no comparisons.
pub(crate) fn parse_filter(text: &str) -> Result<Vec<Comparison>> {
    let comparisons = parse("filter", text, filter)?;
    if comparisons.len() > MAX_COMPARISONS {
        return Err(Error::invalid(format!(
            "The filter has {} comparisons; at most {MAX_COMPARISONS} are allowed.",
            comparisons.len()
        )));
    }
    Ok(comparisons)
}

/// Parses one key of an order.
pub(crate) fn parse_order(text: &str) -> Result<Order> {
    parse("order_by clause", text, order)
}

type Input<'i> = LocatingSlice<&'i str>;

fn parse<'i, T>(
    what: &str,
    text: &'i str,
    mut parser: impl FnMut(&mut Input<'i>) -> ModalResult<T>,
) -> Result<T> {
    if text.len() > MAX_LENGTH {
        return Err(Error::invalid(format!(
            "The {what} is {} bytes long; at most {MAX_LENGTH} are allowed.",
            text.len()
        )));
    }
    let mut input = LocatingSlice::new(text);
    match parser(&mut input) {
        Ok(value) => Ok(value),
        Err(ErrMode::Backtrack(error) | ErrMode::Cut(error)) => {
            Err(describe(what, text, input.current_token_start(), &error))
        }
        Err(ErrMode::Incomplete(_)) => Err(Error::invalid(format!("The {what} is not complete."))),
    }
}

fn describe(what: &str, text: &str, offset: usize, error: &ContextError) -> Error {
    let expected = error.context().find_map(|context| match context {
        StrContext::Expected(StrContextValue::Description(description)) => Some(*description),
        _ => None,
    });
    let expected = expected.unwrap_or("something else");
    let rest: String = text
        .get(offset..)
        .unwrap_or_default()
        .chars()
        .take(20)
        .collect();
    let found = if rest.is_empty() {
        "it ends here".to_owned()
    } else {
        format!("found `{rest}`")
    };
    let column = text.get(..offset).unwrap_or_default().chars().count() + 1;
    Error::invalid(format!(
        "Invalid {what} '{text}': at character {column} expected {expected}, but {found}."
    ))
}

fn expected(description: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(description))
}

fn filter(input: &mut Input<'_>) -> ModalResult<Vec<Comparison>> {
    multispace0.parse_next(input)?;
    if input.is_empty() {
        return Ok(Vec::new());
    }
    let mut comparisons = vec![cut_err(comparison).parse_next(input)?];
    while opt(preceded(multispace0, keyword("AND")))
        .parse_next(input)?
        .is_some()
    {
        multispace0.parse_next(input)?;
        comparisons.push(cut_err(comparison).parse_next(input)?);
    }
    multispace0.parse_next(input)?;
    cut_err(eof.context(expected("`AND` or the end")))
        .void()
        .parse_next(input)?;
    Ok(comparisons)
}

fn order(input: &mut Input<'_>) -> ModalResult<Order> {
    multispace0.parse_next(input)?;
    let identifier = identifier(input)?;
    multispace0.parse_next(input)?;
    let descending = opt(alt((
        keyword("ASC").value(false),
        keyword("DESC").value(true),
    )))
    .parse_next(input)?;
    multispace0.parse_next(input)?;
    eof.context(expected("`ASC`, `DESC` or the end"))
        .void()
        .parse_next(input)?;
    Ok(Order {
        identifier,
        ascending: !descending.unwrap_or(false),
    })
}

fn comparison(input: &mut Input<'_>) -> ModalResult<Comparison> {
    let identifier = identifier(input)?;
    multispace0.parse_next(input)?;
    let operator = operator
        .context(expected(
            "an operator (=, !=, <, <=, >, >=, LIKE, ILIKE, IN, NOT IN, IS NULL, IS NOT NULL)",
        ))
        .parse_next(input)?;
    multispace0.parse_next(input)?;
    let value = match operator {
        Operator::IsNull | Operator::IsNotNull => Value::Nothing,
        Operator::In | Operator::NotIn => list
            .context(expected("a list of quoted texts, such as ('a', 'b')"))
            .parse_next(input)?,
        _ => alt((number, text.map(Value::Text)))
            .context(expected("a number or a quoted text"))
            .parse_next(input)?,
    };
    Ok(Comparison {
        identifier,
        operator,
        value,
    })
}

fn identifier(input: &mut Input<'_>) -> ModalResult<Identifier> {
    let offset = input.current_token_start();
    let first = alt((quoted('`'), quoted('"'), bare_part))
        .context(expected(
            "a name, such as metrics.accuracy or tags.`my tag`",
        ))
        .parse_next(input)?;
    // A dot ends the entity; later dots belong to the key.
    if opt('.').parse_next(input)?.is_none() {
        return Ok(Identifier {
            entity: None,
            key: first,
            offset,
        });
    }
    let key = cut_err(alt((quoted('`'), quoted('"'), bare_key)))
        .context(expected(
            "a key; put keys with spaces or signs in backticks",
        ))
        .parse_next(input)?;
    Ok(Identifier {
        entity: Some(first),
        key,
        offset,
    })
}

fn bare_part(input: &mut Input<'_>) -> ModalResult<String> {
    take_while(1.., |c: char| c.is_alphanumeric() || c == '_')
        .map(str::to_owned)
        .parse_next(input)
}

fn bare_key(input: &mut Input<'_>) -> ModalResult<String> {
    take_while(1.., |c: char| c.is_alphanumeric() || "_.-/:".contains(c))
        .map(str::to_owned)
        .parse_next(input)
}

/// Text between two `quote`s; a doubled quote stands for one.
fn quoted<'i>(quote: char) -> impl FnMut(&mut Input<'i>) -> ModalResult<String> {
    move |input: &mut Input<'i>| {
        let piece = alt((
            take_till(1.., quote).map(str::to_owned),
            (quote, quote).value(quote.to_string()),
        ));
        delimited(
            quote,
            repeat(0.., piece).fold(String::new, |mut all, piece: String| {
                all.push_str(&piece);
                all
            }),
            cut_err(quote).context(expected("the closing quote")),
        )
        .parse_next(input)
    }
}

fn text(input: &mut Input<'_>) -> ModalResult<String> {
    alt((quoted('\''), quoted('"'))).parse_next(input)
}

fn list(input: &mut Input<'_>) -> ModalResult<Value> {
    let item = delimited(multispace0, text, multispace0);
    let items = separated(1..=1000, item, ',').map(|items: Vec<String>| items);
    delimited('(', terminated(items, (opt(','), multispace0)), ')')
        .map(Value::List)
        .parse_next(input)
}

fn number(input: &mut Input<'_>) -> ModalResult<Value> {
    let digits = alt((
        (digit1, opt(('.', opt(digit1)))).void(),
        ('.', digit1).void(),
    ));
    let exponent = (one_of(['e', 'E']), opt(one_of(['+', '-'])), digit1);
    (opt(one_of(['+', '-'])), digits, opt(exponent))
        .take()
        .map(|number: &str| Value::Number(number.to_owned()))
        .parse_next(input)
}

fn operator(input: &mut Input<'_>) -> ModalResult<Operator> {
    let null = (multispace0, keyword("NULL"));
    let is_null = preceded(
        keyword("IS"),
        alt((
            (multispace0, keyword("NOT"), null).value(Operator::IsNotNull),
            null.value(Operator::IsNull),
        )),
    );
    let sign = alt((
        "!=".value(Operator::NotEqual),
        "<>".value(Operator::NotEqual),
        "<=".value(Operator::LessOrEqual),
        ">=".value(Operator::GreaterOrEqual),
        "<".value(Operator::Less),
        ">".value(Operator::Greater),
        "==".value(Operator::Equal),
        "=".value(Operator::Equal),
    ));
    alt((
        sign,
        keyword("LIKE").value(Operator::Like),
        keyword("ILIKE").value(Operator::Ilike),
        keyword("IN").value(Operator::In),
        (keyword("NOT"), multispace0, keyword("IN")).value(Operator::NotIn),
        is_null,
    ))
    .parse_next(input)
}

/// A whole word, in any case.
#[derive(Clone, Copy)]
struct Keyword(&'static str);

fn keyword(word: &'static str) -> Keyword {
    Keyword(word)
}

impl<'i> Parser<Input<'i>, (), ErrMode<ContextError>> for Keyword {
    fn parse_next(&mut self, input: &mut Input<'i>) -> ModalResult<()> {
        let boundary = alt((
            eof.void(),
            none_of(|c: char| c.is_alphanumeric() || c == '_').void(),
        ));
        terminated(Caseless(self.0), winnow::combinator::peek(boundary))
            .void()
            .parse_next(input)
    }
}
