//! Every mistake a user can make, with the message it gets.

use crate::fixture::{Fixture, arrow_file, numbers, parquet, request};

const GOOD: &str = "SELECT a FROM t";

#[tokio::test]
async fn queries() {
    let fixture = Fixture::new();
    fixture.file("t.csv", "a,arr_delay,B\n1,2,3\n");
    fixture.file("u.csv", "a,z\n1,2\n");
    let message = async |query: &str| {
        fixture
            .failure(&request(&[("flights", "t.csv"), ("u", "u.csv")], query))
            .await
    };
    insta::assert_snapshot!(message("SELECT a,\n       FROM flights\n WHERE").await, @r"
    [QueryInvalid] the query has a syntax error at line 3, column 7: expected an expression, found the end of the query
      3 |  WHERE
        |       ^
    ");
    insta::assert_snapshot!(message("SELECT a FROM flights WHERE a = 'x").await, @r"
    [QueryInvalid] the query has a syntax error at line 1, column 33: Unterminated string literal
      1 | SELECT a FROM flights WHERE a = 'x
        |                                 ^
    ");
    insta::assert_snapshot!(message("SELECT a FROM flights\nWHERE (a > 1").await, @r"
    [QueryInvalid] the query has a syntax error at line 2, column 13: expected ), found the end of the query
      2 | WHERE (a > 1
        |             ^
    ");
    insta::assert_snapshot!(message("SELECT\n  arr_dely\nFROM flights").await, @r#"
    [QueryInvalid] the query names the column "arr_dely" at line 2, column 3, which is not there: did you mean "arr_delay"?
      2 |   arr_dely
        |   ^
    "#);
    insta::assert_snapshot!(message("SELECT f.arr_dely FROM flights f").await, @r#"
    [QueryInvalid] the query names the column "f.arr_dely" at line 1, column 8, which is not there: did you mean "f.arr_delay"?
      1 | SELECT f.arr_dely FROM flights f
        |        ^
    "#);
    insta::assert_snapshot!(message("SELECT b FROM flights").await, @r#"
    [QueryInvalid] the query names the column "b" at line 1, column 8, which is not there: did you mean "B"? (names with capital letters are written in double quotes)
      1 | SELECT b FROM flights
        |        ^
    "#);
    insta::assert_snapshot!(message("SELECT quite_another FROM flights").await, @r#"
    [QueryInvalid] the query names the column "quite_another" at line 1, column 8, which is not there: the columns here are a, arr_delay, B
      1 | SELECT quite_another FROM flights
        |        ^
    "#);
    insta::assert_snapshot!(message("SELECT a FROM fligths").await, @r#"
    [QueryInvalid] the query names the table "fligths" at line 1, column 15, which is not a source: did you mean "flights"?
      1 | SELECT a FROM fligths
        |               ^
    "#);
    insta::assert_snapshot!(message("SELECT a FROM flights JOIN u ON true").await, @r#"
    [QueryInvalid] the query names the column "a" at line 1, column 8, which more than one table has: put the table's name before it, as in TABLE.a
      1 | SELECT a FROM flights JOIN u ON true
        |        ^
    "#);
    insta::assert_snapshot!(message("SELECT * FROM flights JOIN u ON flights.a = u.a").await, @r#"[QueryInvalid] the query gives two columns the name "a": rename one with AS, or list the columns instead of *"#);
    insta::assert_snapshot!(message("SELECT avgg(a) FROM flights").await, @r"
    [QueryInvalid] the query is not valid at line 1, column 8: Invalid function 'avgg'. Did you mean 'avg'?
      1 | SELECT avgg(a) FROM flights
        |        ^
    ");
    insta::assert_snapshot!(message("SELECT arr_delay, count(*) FROM flights GROUP BY a").await, @r#"[QueryInvalid] the query is not valid: Column in SELECT must be in GROUP BY or an aggregate function: While expanding wildcard, column "flights.arr_delay" must appear in the GROUP BY clause or must be part of an aggregate function, currently only "flights.a, count(Int64(1))" appears in the SELECT clause satisfies this requirement"#);
    insta::assert_snapshot!(message("SELECT a, random() AS r FROM flights").await, @r"
    [QueryInvalid] the query calls random() at line 1, column 11, which gives something else each time: a snapshot must give the same rows for the same sources
      1 | SELECT a, random() AS r FROM flights
        |           ^
    ");
    insta::assert_snapshot!(message("SELECT a FROM flights; DROP TABLE flights").await, @"[QueryInvalid] the query has 2 statements: give one SELECT (WITH … AS joins several steps)");
    insta::assert_snapshot!(message("DELETE FROM flights").await, @"[QueryInvalid] the query is a DELETE statement: only SELECT is allowed");
    insta::assert_snapshot!(message("COPY flights TO '/tmp/x.csv'").await, @"[QueryInvalid] the query is a COPY statement: only SELECT is allowed");
    insta::assert_snapshot!(message("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'").await, @"[QueryInvalid] the query is a CREATE statement: only SELECT is allowed");
    insta::assert_snapshot!(message("SELECT * FROM '/etc/passwd'").await, @r#"[QueryInvalid] the query names the table "/etc/passwd", which is not a source: the sources are flights, u"#);
    insta::assert_snapshot!(message(" -- nothing").await, @"[QueryInvalid] the query is empty: give one SELECT");
    insta::assert_snapshot!(message("SELECT 1 / (a - 1) AS x FROM flights").await, @"[QueryFailed] the query failed while running: Divide by zero error");
    insta::assert_snapshot!(message("SELECT CAST('x' || a AS INT) AS x FROM flights").await, @"[QueryFailed] the query failed while running: Cast error: Cannot cast string 'x1' to value of Int32 type");
}

#[tokio::test]
async fn sources_that_are_not_there() {
    let fixture = Fixture::new();
    let message = async |uri: &str| fixture.failure(&request(&[("t", uri)], GOOD)).await;
    insta::assert_snapshot!(message("data/flights.csv").await, @r#"[SourceMissing] source "t": data/flights.csv does not exist: looked for FOLDER/project/data/flights.csv"#);
    insta::assert_snapshot!(message("data/*.parquet").await, @r#"[SourceMissing] source "t": no file matches data/*.parquet: looked for FOLDER/project/data/*.parquet"#);
    insta::assert_snapshot!(message("/etc/passwd").await, @r#"[SourceForbidden] source "t": /etc/passwd is outside the folders that may be read (FOLDER/project)"#);
    insta::assert_snapshot!(message("../../secret.csv").await, @r#"[SourceForbidden] source "t": ../../secret.csv is outside the folders that may be read (FOLDER/project)"#);
    insta::assert_snapshot!(message("s3://bucket/x.csv").await, @r#"[SourceForbidden] source "t": s3://bucket/x.csv is not a place that can be read: give a path, a glob, file://, http(s):// or cumulo:"#);
    insta::assert_snapshot!(message("cumulo:blobs/sha256/00/x.csv").await, @r#"[SourceMissing] source "t": cumulo:blobs/sha256/00/x.csv does not exist: the artifact store has no such file; run `cumulo apply` again from the project's folder"#);
    insta::assert_snapshot!(message("cumulo:../../x.csv").await, @r#"[SourceForbidden] source "t": cumulo:../../x.csv is not a place that can be read: give a path, a glob, file://, http(s):// or cumulo:"#);
    insta::assert_snapshot!(message("http://169.254.169.254/latest/meta-data.csv").await, @r#"[SourceForbidden] source "t": http://169.254.169.254/latest/meta-data.csv: the host 169.254.169.254 is not among the hosts that may be downloaded from (none): add it to the allowed hosts (CUMULO_ALLOWED_HOSTS)"#);
}

#[tokio::test]
async fn files_that_are_not_what_they_say() {
    let fixture = Fixture::new();
    let message = async |name: &str, content: &[u8]| {
        fixture.file(name, content);
        let message = fixture.failure(&request(&[("t", name)], GOOD)).await;
        std::fs::remove_file(fixture.options.roots[0].join(name)).expect("removed");
        message
    };
    let parquet = parquet(&numbers(3));
    insta::assert_snapshot!(message("t.parquet", b"a,b\n1,2\n").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.parquet says .parquet but looks like CSV or other text: correct the extension or give `format`"#);
    insta::assert_snapshot!(message("t.csv", &parquet).await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv says .csv but looks like Parquet: correct the extension or give `format`"#);
    insta::assert_snapshot!(message("t.csv.gz", b"a,b\n1,2\n").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv.gz says .gz but looks like CSV or other text: give the file the extension of what it is"#);
    insta::assert_snapshot!(message("t.csv", &[0x1f, 0x8b, 8, 0]).await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv says .csv but looks like gzip-compressed data: add .gz or .zst to its name"#);
    insta::assert_snapshot!(message("t.csv", b"PK\x03\x04...").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv says .csv but looks like a zip archive (or an Excel workbook): extract it, or compress it with gzip or zstd instead"#);
    insta::assert_snapshot!(message("t.csv", b"<!DOCTYPE html><html></html>").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv says .csv but looks like an HTML page: the address probably answers with a web page rather than the file"#);
    insta::assert_snapshot!(message("t.csv", b"a\n1\ncaf\xe9\n").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv says .csv but looks like text that is not UTF-8: convert it to UTF-8 (iconv -t utf-8)"#);
    insta::assert_snapshot!(message("t.json", b"[{\"a\":1}]").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.json says .json but looks like one JSON array: give one object a line (jq -c '.[]' makes it so)"#);
    insta::assert_snapshot!(message("t.csv", b"{\"a\":1}\n").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv says .csv but looks like JSON lines: correct the extension or give `format`"#);
    insta::assert_snapshot!(message("t.xlsx", b"x").await, @r#"[SourceInvalid] source "t": the format of FOLDER/project/t.xlsx cannot be told from its name: give `format: parquet`, `csv`, `json` or `arrow`"#);
    insta::assert_snapshot!(message("t.csv", b"").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv is empty"#);
}

#[tokio::test]
async fn files_that_are_cut_or_damaged() {
    let fixture = Fixture::new();
    let message = async |name: &str| {
        let message = fixture.failure(&request(&[("t", name)], GOOD)).await;
        std::fs::remove_file(fixture.options.roots[0].join(name)).expect("removed");
        message
    };
    let cut = |name: &str, bytes: &[u8]| {
        fixture.file(name, &bytes[..bytes.len() * 2 / 3]);
    };
    cut("t.parquet", &parquet(&numbers(300)));
    insta::assert_snapshot!(message("t.parquet").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.parquet is truncated: Parquet files end with a footer, and this one does not; get the file again"#);
    cut("t.arrow", &arrow_file(&numbers(300)));
    insta::assert_snapshot!(message("t.arrow").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.arrow is truncated: Arrow IPC files end with a footer, and this one does not; get the file again"#);
    // Large enough that the sample says nothing about the end.
    let mut text = String::from("a,b\n");
    for i in 0..1_500_000u64 {
        text.push_str(&format!(
            "{},{}\n",
            i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24,
            i % 9
        ));
    }
    let gzip = std::fs::read(fixture.gzip("t.csv.gz", &text)).expect("read");
    cut("t.csv.gz", &gzip);
    insta::assert_snapshot!(message("t.csv.gz").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv.gz is truncated: its gzip data ends in the middle; get the file again"#);
    let zstd = std::fs::read(fixture.zstd("t.csv.zst", &text)).expect("read");
    cut("t.csv.zst", &zstd);
    insta::assert_snapshot!(message("t.csv.zst").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv.zst is truncated: its zstd data ends in the middle; get the file again"#);
    fixture.file("t.csv", format!("{text}77"));
    insta::assert_snapshot!(message("t.csv").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv is truncated: its last line, 1500002, has 1 of 2 values; get the file again"#);
    fixture.file("t.csv", format!("{text}7,7,7\n{text}"));
    insta::assert_snapshot!(message("t.csv").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv, line 1500002: 3 values where the header has 2; check the delimiter (',') and the quotes"#);
    fixture.file("t.jsonl", "{\"a\":1}\n{\"a\":2}\n{\"a\":");
    insta::assert_snapshot!(message("t.jsonl").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.jsonl is truncated: its last line, 3, ends in the middle; get the file again"#);
    fixture.file("t.jsonl", "{\"a\":1}\n{\"a\" 2}\n{\"a\":3}\n");
    insta::assert_snapshot!(message("t.jsonl").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.jsonl, line 2: expected `:` at line 1 column 6"#);
    // Data pages overwritten, footer whole.
    let mut damaged = parquet(&numbers(3000));
    let middle = damaged.len() / 3;
    damaged[4..middle].fill(0xff);
    fixture.file("t.parquet", damaged);
    insta::assert_snapshot!(message("t.parquet").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.parquet: it is not a readable Parquet file (Parquet argument error: Parquet error: Unexpected struct field type 15); write or get it again"#);
    fixture.file("t.csv", "a,a\n1,2\n");
    insta::assert_snapshot!(message("t.csv").await, @r#"[SourceInvalid] source "t": FOLDER/project/t.csv: its header names the column "a" twice; rename one"#);
    fixture.file("x1.csv", "a,b\n1,2\n");
    fixture.file("x2.csv", "a,c\n1,2\n");
    insta::assert_snapshot!(fixture.failure(&request(&[("t", "x*.csv")], GOOD)).await, @r#"[SourceInvalid] source "t": FOLDER/project/x2.csv has other columns than FOLDER/project/x1.csv: ["b"] missing, ["c"] added; make them two sources, or bring them into one shape"#);
}

#[tokio::test]
async fn requests() {
    let fixture = Fixture::new();
    fixture.file("t.csv", "a\n1\n");
    let mut bad = request(&[("t", "t.csv")], GOOD);
    bad.name = "../../etc".to_owned();
    let error = fixture.build(&bad).await.expect_err("refused");
    insta::assert_snapshot!(error, @r#"the name "../../etc" is not valid: use lower-case letters, digits, '-' and '.', and at most 253 of them"#);
    insta::assert_snapshot!(fixture.failure(&request(&[("t", "t.csv"), ("T", "t.csv")], GOOD)).await, @r#"[RequestInvalid] the source "T" is given twice: a source's name is a table's name in the query"#);
    insta::assert_snapshot!(fixture.failure(&request(&[], GOOD)).await, @"[RequestInvalid] the dataset has no sources: give at least one under spec.sources");
    let error = cumulo_data::BuildRequest::from_json("{\"namespace\": \"default\", \"nmae\": 1}");
    insta::assert_snapshot!(error.expect_err("refused"), @"the build request is not valid: unknown field `nmae`, expected one of `namespace`, `name`, `sources`, `query`, `checks` at line 1 column 31");
}

/// A query that needs more memory than it may have is refused, not killed.
#[tokio::test]
async fn too_little_memory() {
    let mut fixture = Fixture::new();
    fixture.options.memory_limit = Some(1 << 20);
    fixture.file("t.parquet", parquet(&numbers(400_000)));
    let request = request(
        &[("t", "t.parquet")],
        "SELECT x.a, count(*) AS n FROM t x JOIN t y ON x.b = y.b GROUP BY x.a",
    );
    let message = fixture.failure(&request).await;
    assert!(
        message.starts_with("[OutOfMemory] the query needs more memory than it may use"),
        "{message}"
    );
}
