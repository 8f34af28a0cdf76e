//! Checks that hold, that break, and that make no sense.

use serde_json::json;

use crate::fixture::{Fixture, request, with_checks};

fn fixture() -> Fixture {
    let fixture = super::fixture();
    fixture.file(
        "t.csv",
        "id,hour,origin,delay\n1,5,EWR,3\n2,25,JFK,\n2,-1,XXX,\n3,23,LGA,1\n",
    );
    fixture
}

#[tokio::test]
async fn checks_that_hold_are_recorded() {
    let fixture = fixture();
    let request = with_checks(
        request(
            &[("t", "t.csv")],
            "SELECT * FROM t WHERE hour BETWEEN 0 AND 23",
        ),
        json!([
            {"column": "id", "notNull": true, "unique": true, "range": {"min": 1}},
            {"column": "origin", "allowedValues": ["EWR", "JFK", "LGA"]},
            {"expression": "hour BETWEEN 0 AND 23"},
            {"column": "delay", "range": {"min": 0, "max": 60}},
        ]),
    );
    let outcome = fixture.build(&request).await.expect("built");
    let lines: Vec<String> = outcome
        .checks
        .iter()
        .map(|check| format!("{} {} {}", check.name, check.passed, check.failed_rows))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    id is not null true 0
    id at least 1 true 0
    id is unique true 0
    origin in ["EWR", "JFK", "LGA"] true 0
    hour BETWEEN 0 AND 23 true 0
    delay between 0 and 60 true 0
    "#);
}

#[tokio::test]
async fn a_broken_check_publishes_nothing_and_says_how_broken_it_is() {
    let fixture = fixture();
    let all = "SELECT * FROM t";
    let message = async |checks| {
        let request = with_checks(request(&[("t", "t.csv")], all), checks);
        fixture.failure(&request).await
    };
    insta::assert_snapshot!(message(json!([{"column": "delay", "notNull": true}])).await, @r#"[CheckFailed] check "delay is not null" failed: 2 of 4 rows (50 %) break it; nothing was published"#);
    insta::assert_snapshot!(message(json!([{"expression": "hour BETWEEN 0 AND 23", "tolerance": 0.25}])).await, @r#"[CheckFailed] check "hour BETWEEN 0 AND 23" failed: 2 of 4 rows (50 %) break it, 25 % may, for example -1; 25; nothing was published"#);
    insta::assert_snapshot!(message(json!([{"column": "id", "unique": true}, {"column": "origin", "allowedValues": ["EWR", "JFK", "LGA"]}])).await, @r#"[CheckFailed] check "id is unique" failed: 1 of 4 rows (25 %) break it, for example 2; check "origin in ["EWR", "JFK", "LGA"]" failed: 1 of 4 rows (25 %) break it, for example XXX; nothing was published"#);
}

#[tokio::test]
async fn a_tolerance_lets_some_rows_through_and_nulls_pass_but_for_not_null() {
    let fixture = fixture();
    let request = with_checks(
        request(&[("t", "t.csv")], "SELECT * FROM t"),
        json!([
            {"expression": "hour BETWEEN 0 AND 23", "tolerance": 0.5},
            {"expression": "delay > 0"},
            {"column": "delay", "allowedValues": [1, 3]},
        ]),
    );
    let outcome = fixture.build(&request).await.expect("built");
    assert_eq!(outcome.checks[0].failed_rows, 2);
    assert!((outcome.checks[0].fraction - 0.5).abs() < 1e-12);
    assert!(outcome.checks.iter().all(|check| check.passed));
}

#[tokio::test]
async fn checks_that_make_no_sense_are_refused_with_the_nearest_name() {
    let fixture = fixture();
    let message = async |checks| {
        let request = with_checks(request(&[("t", "t.csv")], "SELECT * FROM t"), checks);
        fixture.failure(&request).await
    };
    insta::assert_snapshot!(message(json!([{"column": "origins", "notNull": true}])).await, @r#"[CheckInvalid] check 1 is not valid: the result has no column "origins": did you mean "origin"?"#);
    insta::assert_snapshot!(message(json!([{"column": "id", "notNull": true}, {"expression": "houre > 1"}])).await, @r#"
    [CheckInvalid] check 2 is not valid: it names the column "houre" at line 1, column 1, which is not there: did you mean "hour"?
      1 | houre > 1
        | ^
    "#);
    insta::assert_snapshot!(message(json!([{"expression": "hour + 1"}])).await, @r#"[CheckInvalid] check 1 is not valid: "hour + 1" is Int64, and a check must be true or false"#);
    insta::assert_snapshot!(message(json!([{"expression": "hour >"}])).await, @r"
    [CheckInvalid] check 1 is not valid: it has a syntax error at line 1, column 7: expected an expression, found the end of the query
      1 | hour >
        |       ^
    ");
    insta::assert_snapshot!(message(json!([{"column": "id"}])).await, @r#"[RequestInvalid] check 1 is not valid: nothing is asked of column "id": give notNull, range, unique or allowedValues"#);
    insta::assert_snapshot!(message(json!([{"column": "origin", "range": {"min": 1}}])).await, @r#"[CheckInvalid] check 1 is not valid: a range is one of numbers, and "origin" is Utf8: write it as an expression"#);
}

/// New checks on a version that is there are run on it, without the query.
#[tokio::test]
async fn new_checks_are_run_on_what_is_there() {
    let fixture = fixture();
    let plain = request(&[("t", "t.csv")], "SELECT * FROM t");
    let first = fixture.build(&plain).await.expect("built");
    let good = with_checks(plain.clone(), json!([{"column": "id", "notNull": true}]));
    let second = fixture.build(&good).await.expect("checked");
    assert!(second.reused);
    assert_eq!((second.checks.len(), &second.version), (1, &first.version));
    let bad = with_checks(plain.clone(), json!([{"column": "id", "unique": true}]));
    fixture.build(&bad).await.expect_err("broken");
    let third = fixture.build(&good).await.expect("there");
    assert_eq!(third, second);
}
