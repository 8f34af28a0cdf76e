//! Label selectors with Kubernetes' whole grammar:
//! `key`, `!key`, `key=v`, `key==v`, `key!=v`, `key in (a,b)`, `key notin (a,b)`,
//! `key>1`, `key<1`, joined by commas.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::storage::LabelBits;

use super::SelectorError;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The key is there.
    Exists,
    /// The key is not there.
    DoesNotExist,
    /// The value is one of these.
    In,
    /// The key is absent, or its value none of these.
    NotIn,
    /// The value is an integer greater than this.
    GreaterThan,
    /// The value is an integer less than this.
    LessThan,
}

/// One part of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub operator: Operator,
    /// Values compared with.
    pub values: Vec<String>,
}

/// All requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// The requirements.
    pub requirements: Vec<Requirement>,
}

impl Requirement {
    fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let value = labels.and_then(|l| l.get(&self.key));
        let number = |text: &str| text.parse::<i64>().ok();
        match self.operator {
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::In => value.is_some_and(|v| self.values.contains(v)),
            Operator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            Operator::GreaterThan | Operator::LessThan => {
                let (Some(have), Some(want)) = (
                    value.and_then(|v| number(v)),
                    self.values.first().and_then(|v| number(v)),
                ) else {
                    return false;
                };
                if self.operator == Operator::GreaterThan {
                    have > want
                } else {
                    have < want
                }
            }
        }
    }
}

impl LabelSelector {
    /// Parses the text of a `labelSelector` parameter.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser {
            rest: text.trim_start(),
        };
        let mut requirements = Vec::new();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement()?);
            if parser.rest.is_empty() {
                break;
            }
            parser.expect(',')?;
            if parser.rest.is_empty() {
                return Err(SelectorError(
                    "found '', expected: identifier after ','".into(),
                ));
            }
        }
        Ok(Self { requirements })
    }

    /// Reads a `LabelSelector` object (`matchLabels`, `matchExpressions`). An
    /// empty one selects everything.
    pub fn from_object(value: &Value) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        if let Some(labels) = value.get("matchLabels").and_then(Value::as_object) {
            for (key, wanted) in labels {
                requirements.push(Requirement {
                    key: key.clone(),
                    operator: Operator::In,
                    values: vec![wanted.as_str().unwrap_or_default().to_owned()],
                });
            }
        }
        for expression in value
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let text = |name: &str| {
                expression
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let operator = match text("operator").as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!(
                        "\"{other}\" is not a valid label selector operator"
                    )));
                }
            };
            let values = expression
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            requirements.push(Requirement {
                key: text("key"),
                operator,
                values,
            });
        }
        Ok(Self { requirements })
    }

    /// True when nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Bits that labels hold when they satisfy every requirement.
    pub fn label_bits(&self) -> LabelBits {
        let wanted = |r: &Requirement| match (r.operator, r.values.as_slice()) {
            (Operator::In, [value]) => LabelBits::label(&r.key, value),
            (Operator::In | Operator::Exists | Operator::GreaterThan | Operator::LessThan, _) => {
                LabelBits::key(&r.key)
            }
            (Operator::NotIn | Operator::DoesNotExist, _) => LabelBits::default(),
        };
        self.requirements
            .iter()
            .map(wanted)
            .fold(LabelBits::default(), LabelBits::and)
    }

    /// Whether labels satisfy every requirement.
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                self.skip_space();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: char) -> Result<(), SelectorError> {
        if self.rest.starts_with(token) {
            self.rest = &self.rest[token.len_utf8()..];
            self.skip_space();
            Ok(())
        } else {
            Err(SelectorError(format!(
                "found '{}', expected: '{token}'",
                self.peek()
            )))
        }
    }

    fn peek(&self) -> &str {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || ",()=!<>".contains(c))
            .unwrap_or(self.rest.len());
        if end == 0 {
            self.rest.get(..1).unwrap_or("")
        } else {
            &self.rest[..end]
        }
    }

    fn word(&mut self) -> String {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || ",()=!<>".contains(c))
            .unwrap_or(self.rest.len());
        let word = self.rest[..end].to_owned();
        self.rest = &self.rest[end..];
        self.skip_space();
        word
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let found = self.peek().to_owned();
        let key = self.word();
        if key.is_empty() {
            return Err(SelectorError(format!(
                "found '{found}', expected: identifier"
            )));
        }
        if !crate::validation::is_qualified_name(&key) {
            return Err(SelectorError(format!(
                "key: Invalid value: \"{key}\": {}",
                crate::validation::QUALIFIED_NAME
            )));
        }
        Ok(key)
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        let value = self.word();
        if crate::validation::is_label_value(&value) {
            Ok(value)
        } else {
            Err(SelectorError(format!(
                "values: Invalid value: \"{value}\": {}",
                crate::validation::LABEL_VALUE
            )))
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.eat("!") {
            return Ok(Requirement {
                key: self.key()?,
                operator: Operator::DoesNotExist,
                values: Vec::new(),
            });
        }
        let key = self.key()?;
        let (operator, values) = if self.rest.is_empty() || self.rest.starts_with(',') {
            (Operator::Exists, Vec::new())
        } else if self.eat("==") || self.eat("=") {
            (Operator::In, vec![self.value()?])
        } else if self.eat("!=") {
            (Operator::NotIn, vec![self.value()?])
        } else if self.eat(">") {
            (Operator::GreaterThan, vec![self.number()?])
        } else if self.eat("<") {
            (Operator::LessThan, vec![self.number()?])
        } else {
            match self.word().as_str() {
                "in" => (Operator::In, self.set()?),
                "notin" => (Operator::NotIn, self.set()?),
                found => {
                    return Err(SelectorError(format!(
                        "found '{found}', expected: in, notin, =, ==, !=, gt, lt"
                    )));
                }
            }
        };
        Ok(Requirement {
            key,
            operator,
            values,
        })
    }

    fn number(&mut self) -> Result<String, SelectorError> {
        let value = self.word();
        if value.parse::<i64>().is_ok() {
            Ok(value)
        } else {
            Err(SelectorError(format!(
                "values[0]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must be an integer"
            )))
        }
    }

    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        self.expect('(')?;
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            if self.eat(",") {
                continue;
            }
            self.expect(')')?;
            return Ok(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<String, String> = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let selector = LabelSelector::parse(selector).expect("a valid selector");
        let matched = selector.matches(Some(&labels));
        let held = LabelBits::of(Some(&labels)).holds(selector.label_bits());
        assert!(held || !matched, "{selector:?} would not be found");
        matched
    }

    #[test]
    fn what_cannot_match_is_mostly_known_from_bits() {
        let selector = LabelSelector::parse("app=web").expect("a valid selector");
        let held = (0..1000)
            .map(|n| BTreeMap::from([("app".to_owned(), format!("other-{n}"))]))
            .filter(|labels| LabelBits::of(Some(labels)).holds(selector.label_bits()))
            .count();
        assert!(held < 50, "{held} of 1000 would be looked at");
        assert!(!LabelBits::of(None).holds(selector.label_bits()));
    }

    #[test]
    fn the_whole_grammar() {
        let labels = [("app", "web"), ("tier", "front"), ("n", "5"), ("e", "")];
        for yes in [
            "",
            "app",
            "!gone",
            "app=web",
            "app==web",
            "app!=db",
            "gone!=x",
            "app in (web,db)",
            "app in (web , db), tier=front",
            "app notin (db)",
            "gone notin (db)",
            "n>4",
            "n<6,n > 1",
            "e=",
            "e in (,a)",
            "example.com/x!=1",
        ] {
            assert!(check(yes, &labels), "{yes} should match");
        }
        for no in [
            "gone",
            "!app",
            "app=db",
            "app!=web",
            "app notin (web)",
            "n>5",
            "app in (db)",
            "app>1",
        ] {
            assert!(!check(no, &labels), "{no} should not match");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let errors: Vec<String> = ["a in b", "=x", "a,,b", "a~b", "a in (x", "a>x", "-a", "a,"]
            .iter()
            .map(|s| format!("{s}: {}", LabelSelector::parse(s).expect_err("an error")))
            .collect();
        insta::assert_snapshot!(errors.join("\n"), @r#"
        a in b: unable to parse requirement: found 'b', expected: '('
        =x: unable to parse requirement: found '=', expected: identifier
        a,,b: unable to parse requirement: found ',', expected: identifier
        a~b: unable to parse requirement: key: Invalid value: "a~b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        a in (x: unable to parse requirement: found '', expected: ')'
        a>x: unable to parse requirement: values[0]: Invalid value: "x": for 'Gt', 'Lt' operators, the value must be an integer
        -a: unable to parse requirement: key: Invalid value: "-a": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        a,: unable to parse requirement: found '', expected: identifier after ','
        "#);
    }
}
