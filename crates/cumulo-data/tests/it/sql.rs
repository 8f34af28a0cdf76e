//! SQL over snapshots, and answers as text.

use cumulo_data::{
    Options, SqlLimits, SqlTable, query_tables, snapshot_files, to_csv, to_json, to_table,
};

use crate::fixture::{Fixture, request};

async fn table() -> (Fixture, SqlTable) {
    let fixture = Fixture::new();
    fixture.file(
        "t.csv",
        "origin,delay,ok\nEWR,1.5,true\nJFK,-20,false\nEWR,2,\nLGA,NA,true\n",
    );
    let request = request(&[("t", "t.csv")], "SELECT * FROM t");
    let outcome = fixture.build(&request).await.expect("built");
    let files = snapshot_files(&fixture.folder_of(&request, &outcome)).expect("files");
    let table = SqlTable {
        name: "flights".to_owned(),
        files,
    };
    (fixture, table)
}

#[tokio::test]
async fn answers_are_shown_as_table_csv_and_json() {
    let (_fixture, table) = table().await;
    let answer = query_tables(
        &[table],
        "SELECT origin, avg(delay) AS delay, count(*) AS n FROM flights GROUP BY 1 ORDER BY 1",
        SqlLimits::default(),
        &Options::default(),
    )
    .await
    .expect("an answer");
    let shown = to_table(&answer.schema, &answer.batches, 100, answer.truncated);
    insta::assert_snapshot!(shown.expect("a table"), @r"
    origin  delay  n
    ──────  ─────  ─
    EWR      1.75  2
    JFK     -20.0  1
    LGA            1
    (3 rows)
    ");
    let shown = to_table(&answer.schema, &answer.batches, 2, answer.truncated);
    insta::assert_snapshot!(shown.expect("a table"), @r"
    origin  delay  n
    ──────  ─────  ─
    EWR      1.75  2
    JFK     -20.0  1
    (2 of 3 rows shown)
    ");
    insta::assert_snapshot!(to_csv(&answer.schema, &answer.batches).expect("CSV"), @r"
    origin,delay,n
    EWR,1.75,2
    JFK,-20.0,1
    LGA,,1
    ");
    insta::assert_snapshot!(to_json(&answer.batches).expect("JSON"), @r#"[{"origin":"EWR","delay":1.75,"n":2},{"origin":"JFK","delay":-20.0,"n":1},{"origin":"LGA","delay":null,"n":1}]"#);
}

#[tokio::test]
async fn answers_are_bounded_and_may_depend_on_the_time() {
    let (_fixture, table) = table().await;
    let answer = query_tables(
        std::slice::from_ref(&table),
        "SELECT origin, unnest(range(0, 100000)) AS n FROM flights WHERE now() > '2020-01-01'",
        SqlLimits { max_rows: 7 },
        &Options::default(),
    )
    .await
    .expect("an answer");
    assert_eq!((answer.rows(), answer.truncated), (7, true));
    let empty = query_tables(
        &[table],
        "SELECT origin, ok FROM flights WHERE origin = 'none'",
        SqlLimits::default(),
        &Options::default(),
    )
    .await
    .expect("an answer");
    insta::assert_snapshot!(to_table(&empty.schema, &empty.batches, 9, false).expect("a table"), @r"
    origin  ok
    ──────  ──
    (0 rows)
    ");
    insta::assert_snapshot!(to_csv(&empty.schema, &empty.batches).expect("CSV"), @"origin,ok");
    insta::assert_snapshot!(to_json(&empty.batches).expect("JSON"), @"[]");
}

#[tokio::test]
async fn mistakes_are_explained() {
    let (_fixture, table) = table().await;
    let ask = async |sql: &str| {
        query_tables(
            std::slice::from_ref(&table),
            sql,
            SqlLimits::default(),
            &Options::default(),
        )
        .await
        .expect_err("refused")
        .to_string()
    };
    insta::assert_snapshot!(ask("SELECT orgin FROM flights").await, @r#"
    the query names the column "orgin" at line 1, column 8, which is not there: did you mean "origin"?
      1 | SELECT orgin FROM flights
        |        ^
    "#);
    insta::assert_snapshot!(ask("SELECT origin FROM flight").await, @r#"
    the query names the table "flight" at line 1, column 20, which is not a source: did you mean "flights"?
      1 | SELECT origin FROM flight
        |                    ^
    "#);
    insta::assert_snapshot!(ask("INSERT INTO flights VALUES (1)").await, @"the query is a INSERT statement: only SELECT is allowed");
}
