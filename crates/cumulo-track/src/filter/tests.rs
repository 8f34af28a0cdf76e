use super::{Operator, Value, parse_filter, parse_order};
use proptest::prelude::*;

fn check(text: &str) -> String {
    match parse_filter(text) {
        Ok(comparisons) => comparisons
            .iter()
            .map(|c| {
                let entity = c.identifier.entity.as_deref().unwrap_or("-");
                format!(
                    "{entity}|{}|{}|{:?}\n",
                    c.identifier.key,
                    c.operator.as_str(),
                    c.value
                )
            })
            .collect(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn filters_are_understood() {
    insta::assert_snapshot!(check(
        "metrics.auc > 0.7 and params.\"x y\" = 'a' AND tags.`mlflow.runName` ILIKE '%a%' \
         and attributes.start_time >= 1 and attributes.status IN ('FINISHED', \"FAILED\") \
         and tags.t is not null AND name NOT IN ('a') and params.a.b != 'it''s' and metrics.loss <= -1.5e-3"
    ), @r#"
    metrics|auc|>|Number("0.7")
    params|x y|=|Text("a")
    tags|mlflow.runName|ILIKE|Text("%a%")
    attributes|start_time|>=|Number("1")
    attributes|status|IN|List(["FINISHED", "FAILED"])
    tags|t|IS NOT NULL|Nothing
    -|name|NOT IN|List(["a"])
    params|a.b|!=|Text("it's")
    metrics|loss|<=|Number("-1.5e-3")
    "#);
    assert_eq!(check("   "), "");
}

#[test]
fn mistakes_say_where_and_what_was_expected() {
    insta::assert_snapshot!(check("metrics.auc >"), @"Invalid filter 'metrics.auc >': at character 14 expected a number or a quoted text, but it ends here.");
    insta::assert_snapshot!(check("metrics.auc 0.7"), @"Invalid filter 'metrics.auc 0.7': at character 13 expected an operator (=, !=, <, <=, >, >=, LIKE, ILIKE, IN, NOT IN, IS NULL, IS NOT NULL), but found `0.7`.");
    insta::assert_snapshot!(check("metrics.a = 1 OR metrics.b = 2"), @"Invalid filter 'metrics.a = 1 OR metrics.b = 2': at character 15 expected `AND` or the end, but found `OR metrics.b = 2`.");
    insta::assert_snapshot!(check("params.a = 'open"), @"Invalid filter 'params.a = 'open': at character 17 expected the closing quote, but it ends here.");
    insta::assert_snapshot!(check("status IN ()"), @"Invalid filter 'status IN ()': at character 12 expected a list of quoted texts, such as ('a', 'b'), but found `)`.");
    insta::assert_snapshot!(check("= 1"), @"Invalid filter '= 1': at character 1 expected a name, such as metrics.accuracy or tags.`my tag`, but found `= 1`.");
    insta::assert_snapshot!(check("a = 1 and"), @"Invalid filter 'a = 1 and': at character 10 expected a name, such as metrics.accuracy or tags.`my tag`, but it ends here.");
}

#[test]
fn orders_are_understood() {
    let order = parse_order("metrics.`val loss` desc").unwrap();
    assert_eq!(order.identifier.entity.as_deref(), Some("metrics"));
    assert_eq!(order.identifier.key, "val loss");
    assert!(!order.ascending);
    assert!(parse_order("start_time").unwrap().ascending);
    assert!(parse_order("start_time ASC").unwrap().ascending);
    insta::assert_snapshot!(parse_order("a b c").unwrap_err(), @"Invalid order_by clause 'a b c': at character 3 expected `ASC`, `DESC` or the end, but found `b c`.");
}

fn quote(text: &str, with: char) -> String {
    let doubled = text.replace(with, &format!("{with}{with}"));
    format!("{with}{doubled}{with}")
}

proptest! {
    /// Whatever a key and a text are, quoting them brings them through unchanged.
    #[test]
    fn quoting_is_lossless(key in ".{1,20}", value in ".*") {
        let text = format!("tags.{} = {}", quote(&key, '`'), quote(&value, '\''));
        let parsed = parse_filter(&text).unwrap();
        prop_assert_eq!(parsed.len(), 1);
        prop_assert_eq!(&parsed[0].identifier.key, &key);
        prop_assert_eq!(&parsed[0].value, &Value::Text(value));
        prop_assert_eq!(parsed[0].operator, Operator::Equal);
    }

    /// No input makes the parser panic.
    #[test]
    fn any_text_is_answered(text in ".{0,80}") {
        let _ = parse_filter(&text);
        let _ = parse_order(&text);
    }

    /// Comparisons joined by AND come back one by one.
    #[test]
    fn conjunctions_keep_their_parts(count in 1usize..20) {
        let text = vec!["metrics.m >= 1"; count].join("  aNd ");
        prop_assert_eq!(parse_filter(&text).unwrap().len(), count);
    }
}
