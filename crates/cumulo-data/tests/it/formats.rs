//! Every format and compression gives the same table.

use cumulo_data::SourceOptions;
use cumulo_data::request::FileFormatName;

use crate::fixture::{Fixture, arrow_file, numbers, parquet, request, with_format};

const CSV: &str = "a,b\n0,row 0\n1,row 1\n2,row 2\n";
const JSON: &str =
    "{\"a\":0,\"b\":\"row 0\"}\n{\"a\":1,\"b\":\"row 1\"}\n\n{\"a\":2,\"b\":\"row 2\"}";

#[tokio::test]
async fn every_format_gives_the_same_rows() {
    let fixture = Fixture::new();
    fixture.file("t.csv", CSV);
    fixture.gzip("t.csv.gz", CSV);
    fixture.zstd("t.csv.zst", CSV);
    fixture.file("t.tsv", CSV.replace(',', "\t"));
    fixture.file("t.jsonl", JSON);
    fixture.gzip("t.json.gz", JSON);
    fixture.zstd("t.ndjson.zst", JSON);
    fixture.file("t.parquet", parquet(&numbers(3)));
    fixture.file("t.arrow", arrow_file(&numbers(3)));
    let mut shown = None;
    for file in [
        "t.csv",
        "t.csv.gz",
        "t.csv.zst",
        "t.tsv",
        "t.jsonl",
        "t.json.gz",
        "t.ndjson.zst",
        "t.parquet",
        "t.arrow",
    ] {
        let request = request(&[("t", file)], "SELECT a, b, a * 2 AS c FROM t");
        let outcome = fixture
            .build(&request)
            .await
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        let text = fixture.show(&request, &outcome);
        assert_eq!(*shown.get_or_insert_with(|| text.clone()), text, "{file}");
    }
    insta::assert_snapshot!(shown.expect("a table"), @r"
    +---+-------+---+
    | a | b     | c |
    +---+-------+---+
    | 0 | row 0 | 0 |
    | 1 | row 1 | 2 |
    | 2 | row 2 | 4 |
    +---+-------+---+
    ");
}

#[tokio::test]
async fn a_glob_is_one_table_in_the_order_of_its_names_whatever_the_compression() {
    let fixture = Fixture::new();
    fixture.file("day/2.csv", "a\n3\n4\n");
    fixture.gzip("day/1.csv.gz", "a\n1\n2\n");
    fixture.zstd("day/3.csv.zst", "a\n5\n");
    let request = request(&[("t", "day/*.csv*")], "SELECT a FROM t");
    let outcome = fixture.build(&request).await.expect("built");
    insta::assert_snapshot!(fixture.show(&request, &outcome), @r"
    +---+
    | a |
    +---+
    | 1 |
    | 2 |
    | 3 |
    | 4 |
    | 5 |
    +---+
    ");
}

#[tokio::test]
async fn types_nulls_quotes_and_line_breaks_in_values() {
    let fixture = Fixture::new();
    fixture.file(
        "t.csv",
        "i,f,b,d,t,s,empty\n1,2,true,2013-01-31,2013-01-31T10:00:00Z,\"a,\nb\",\nNA,2.5,NA,NA,NA,NA,NA\n",
    );
    let request = request(&[("t", "t.csv")], "SELECT * FROM t");
    let outcome = fixture.build(&request).await.expect("built");
    insta::assert_json_snapshot!(outcome.schema, @r#"
    [
      [
        "i",
        "Int64"
      ],
      [
        "f",
        "Float64"
      ],
      [
        "b",
        "Boolean"
      ],
      [
        "d",
        "Date32"
      ],
      [
        "t",
        "Timestamp(µs)"
      ],
      [
        "s",
        "Utf8"
      ],
      [
        "empty",
        "Utf8"
      ]
    ]
    "#);
    insta::assert_snapshot!(fixture.show(&request, &outcome), @r"
    +---+-----+------+------------+---------------------+----+-------+
    | i | f   | b    | d          | t                   | s  | empty |
    +---+-----+------+------------+---------------------+----+-------+
    | 1 | 2.0 | true | 2013-01-31 | 2013-01-31T10:00:00 | a, |       |
    |   |     |      |            |                     | b  |       |
    |   | 2.5 |      |            |                     |    |       |
    +---+-----+------+------------+---------------------+----+-------+
    ");
}

#[tokio::test]
async fn options_say_how_a_csv_file_is_read() {
    let fixture = Fixture::new();
    fixture.file("t.data", "1;x\n-;y\n");
    let request = with_format(
        request(
            &[("t", "t.data")],
            "SELECT column_1 AS a, column_2 AS b FROM t",
        ),
        Some(FileFormatName::Csv),
        SourceOptions {
            delimiter: Some(";".to_owned()),
            header: Some(false),
            null_values: Some(vec!["-".to_owned()]),
        },
    );
    let outcome = fixture.build(&request).await.expect("built");
    insta::assert_snapshot!(fixture.show(&request, &outcome), @r"
    +---+---+
    | a | b |
    +---+---+
    | 1 | x |
    |   | y |
    +---+---+
    ");
}

/// A file beyond the sample whose last value contradicts the sample's type, and
/// one with a line break in a value there: the outcome is as if all was read at once.
#[tokio::test]
async fn a_sample_that_misleads_is_corrected() {
    let fixture = Fixture::new();
    let mut text = String::from("a,b\n");
    while text.len() < 6 << 20 {
        text.push_str("12345,some text to fill the line with\n");
    }
    let rows = text.lines().count() as u64;
    fixture.file("t.csv", format!("{text}0.5,\"x\ny\"\n"));
    let request = request(&[("t", "t.csv")], "SELECT a, b FROM t");
    let outcome = fixture.build(&request).await.expect("built");
    assert_eq!(outcome.rows, rows);
    assert_eq!(outcome.schema[0].1, "Float64");
    let batches = fixture.rows(&request, &outcome);
    let last = batches.last().expect("a batch");
    let text = arrow::util::display::array_value_to_string(last.column(1), last.num_rows() - 1);
    assert_eq!(text.expect("text"), "x\ny");
}
