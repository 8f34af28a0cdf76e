//! Versions, manifests, and what lies in the store.

use cumulo_data::{BuildRequest, Manifest, Progress, build, snapshot_files};

use crate::fixture::{Fixture, numbers, parquet, request};

fn manifest(
    fixture: &Fixture,
    request: &BuildRequest,
    outcome: &cumulo_data::BuildOutcome,
) -> Manifest {
    let path = fixture.folder_of(request, outcome).join("manifest.json");
    serde_json::from_slice(&std::fs::read(path).expect("a manifest")).expect("a manifest")
}

#[tokio::test]
async fn the_same_inputs_and_query_give_the_same_version_anywhere() {
    let one = super::fixture();
    let other = super::fixture();
    one.file("x.csv", "a\n1\n");
    other.file("deep/er/y.csv", "a\n1\n");
    let first = request(&[("t", "x.csv")], "SELECT a FROM t WHERE a > 0");
    let second = request(
        &[("t", "deep/*/y.csv")],
        "SELECT a -- the column\nFROM t\n  WHERE a>0;",
    );
    let first_outcome = one.build(&first).await.expect("built");
    let second_outcome = other.build(&second).await.expect("built");
    assert_eq!(first_outcome.version, second_outcome.version);
    assert_eq!(first_outcome.version.len(), 16);
    // The version is part of the format: should it change, raise FORMAT_GENERATION.
    insta::assert_snapshot!(first_outcome.version, @"fd0775c6141a9274");

    for (file, content, query) in [
        ("x.csv", "a\n2\n", "SELECT a FROM t WHERE a > 0"),
        ("x.csv", "a\n1\n", "SELECT a FROM t WHERE a > 1"),
    ] {
        one.file(file, content);
        let changed = request(&[("t", "x.csv")], query);
        let outcome = one.build(&changed).await.expect("built");
        assert_ne!(outcome.version, first_outcome.version, "{content} {query}");
    }
}

#[tokio::test]
async fn what_was_built_is_not_built_again() {
    let fixture = super::fixture();
    fixture.file("x.csv", "a\n1\n");
    let request = request(&[("t", "x.csv")], "SELECT a FROM t");
    let first = fixture.build(&request).await.expect("built");
    assert!(!first.reused);
    let modified = || fixture.written(&request, &first, "manifest.json");
    let before = modified();
    let steps = std::sync::Mutex::new(Vec::new());
    let second = build(&request, &fixture.store, &fixture.options, |step| {
        steps.lock().expect("a lock").push(step);
    })
    .await
    .expect("found");
    assert!(second.reused);
    assert_eq!(before, modified());
    assert_eq!(first.version, second.version);
    assert_eq!(first.schema, second.schema);
    let steps = steps.into_inner().expect("a lock");
    assert!(
        matches!(steps.last(), Some(Progress::UpToDate { .. })),
        "{steps:?}"
    );

    // A file that was lost is made again.
    fixture.lose(&request, &first, "part-0.parquet");
    let third = fixture.build(&request).await.expect("built");
    assert!(!third.reused);
    assert_eq!(fixture.rows(&request, &third).len(), 1);
    assert_eq!(fixture.versions(&request), [third.version]);
}

#[tokio::test]
async fn two_builds_of_one_version_at_once_both_succeed() {
    let fixture = super::fixture();
    fixture.file("t.parquet", parquet(&numbers(50_000)));
    let request = request(&[("t", "t.parquet")], "SELECT a, b FROM t WHERE a % 2 = 0");
    let (one, two) = tokio::join!(fixture.build(&request), fixture.build(&request));
    let (one, two) = (one.expect("built"), two.expect("built"));
    assert_eq!(one.version, two.version);
    assert_eq!(
        fixture.versions(&request),
        std::slice::from_ref(&one.version)
    );
    assert_eq!(one.rows, 25_000);
}

#[tokio::test]
async fn a_manifest_tells_what_a_snapshot_holds() {
    let fixture = super::fixture();
    fixture.file(
        "t.csv",
        "i,f,s,b,d\n1,0.5,x,true,2013-01-01\n3,,x,false,2013-01-03\n,1.5,y,true,\n",
    );
    let request = request(&[("t", "t.csv")], "SELECT * FROM t");
    let outcome = fixture.build(&request).await.expect("built");
    let manifest = manifest(&fixture, &request, &outcome);
    assert_eq!(manifest.rows, 3);
    assert_eq!(manifest.sources[0].files[0].sha256.len(), 64);
    assert_eq!(
        manifest.bytes,
        manifest.files.iter().map(|file| file.bytes).sum::<u64>()
    );
    insta::assert_json_snapshot!(manifest.columns, @r#"
    [
      {
        "name": "i",
        "type": "Int64",
        "nulls": 1,
        "distinct": 2,
        "min": 1,
        "max": 3,
        "mean": 2.0,
        "standardDeviation": 1.4142135623730951
      },
      {
        "name": "f",
        "type": "Float64",
        "nulls": 1,
        "distinct": 2,
        "min": 0.5,
        "max": 1.5,
        "mean": 1.0,
        "standardDeviation": 0.7071067811865476
      },
      {
        "name": "s",
        "type": "Utf8",
        "nulls": 0,
        "distinct": 2,
        "shortest": 1,
        "longest": 1,
        "topValues": [
          {
            "value": "x",
            "count": 2
          },
          {
            "value": "y",
            "count": 1
          }
        ]
      },
      {
        "name": "b",
        "type": "Boolean",
        "nulls": 0,
        "distinct": 2,
        "mean": 0.6666666666666666,
        "topValues": [
          {
            "value": "true",
            "count": 2
          },
          {
            "value": "false",
            "count": 1
          }
        ]
      },
      {
        "name": "d",
        "type": "Date32",
        "nulls": 1,
        "distinct": 2,
        "min": "2013-01-01",
        "max": "2013-01-03"
      }
    ]
    "#);
}

#[tokio::test]
async fn a_result_without_rows_has_its_columns_still() {
    let fixture = super::fixture();
    fixture.file("t.csv", "a,b\n1,x\n");
    let request = request(&[("t", "t.csv")], "SELECT a, b FROM t WHERE a > 1");
    let outcome = fixture.build(&request).await.expect("built");
    assert_eq!((outcome.rows, outcome.columns), (0, 2));
    let folder = fixture.folder_of(&request, &outcome);
    assert_eq!(
        cumulo_data::snapshot_schema(&folder)
            .expect("a schema")
            .fields()
            .len(),
        2
    );
}

/// The files are the same, byte for byte, whatever the number of cores, and the
/// rows of an inner join come in the order of the table that streams.
#[test]
fn a_snapshot_is_the_same_on_any_number_of_cores() {
    let mut facts = String::from("id,key\n");
    for id in 0..1_500_000 {
        facts.push_str(&format!("{id},{}\n", id % 7));
    }
    let mut seen: Option<Vec<Vec<u8>>> = None;
    for (workers, join) in [
        (1, "LEFT JOIN"),
        (2, "LEFT JOIN"),
        (5, "LEFT JOIN"),
        (2, "JOIN"),
    ] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()
            .expect("a runtime");
        let mut fixture = super::fixture();
        fixture.options.threads = workers;
        fixture.file("facts.csv", &facts);
        fixture.file("names.csv", "key,name\n0,a\n1,b\n2,c\n3,d\n4,e\n5,f\n");
        let request = request(
            &[("facts", "facts.csv"), ("names", "names.csv")],
            &format!("SELECT id, name FROM facts {join} names USING (key) WHERE id % 3 <> 1"),
        );
        let outcome = runtime.block_on(fixture.build(&request)).expect("built");
        if join == "JOIN" {
            use arrow::array::AsArray;
            let ids: Vec<i64> = fixture
                .rows(&request, &outcome)
                .iter()
                .flat_map(|batch| {
                    let ids = batch
                        .column(0)
                        .as_primitive::<arrow::datatypes::Int64Type>();
                    ids.values().to_vec()
                })
                .collect();
            assert!(ids.is_sorted());
            continue;
        }
        let files: Vec<Vec<u8>> = snapshot_files(&fixture.folder_of(&request, &outcome))
            .expect("files")
            .iter()
            .map(|path| std::fs::read(path).expect("a file"))
            .collect();
        assert!(files.len() > 1, "the file is large enough to be cut");
        assert!(
            *seen.get_or_insert_with(|| files.clone()) == files,
            "{workers} workers"
        );
    }
}

#[tokio::test]
async fn an_uploaded_file_is_read_from_the_store() {
    let fixture = super::fixture();
    fixture.file("t.csv", "a\n1\n");
    let local = request(&[("t", "t.csv")], "SELECT a FROM t");
    let from_folder = fixture.build(&local).await.expect("built");
    let hash = {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(b"a\n1\n"))
    };
    let path = format!("blobs/sha256/{hash}/t.csv");
    fixture
        .store
        .write(&path, bytes::Bytes::from_static(b"a\n1\n"))
        .await
        .expect("stored");
    let uploaded = request(&[("t", &format!("cumulo:{path}"))], "SELECT a FROM t");
    let from_store = fixture.build(&uploaded).await.expect("found");
    assert_eq!(from_folder.version, from_store.version);
    assert!(from_store.reused);
}

#[test]
fn an_outcome_fits_a_termination_message() {
    let outcome = cumulo_data::BuildOutcome {
        version: "0123456789abcdef".to_owned(),
        rows: 1,
        bytes: 2,
        columns: 1000,
        uri: "file:///x".to_owned(),
        reused: false,
        schema: (0..1000)
            .map(|i| (format!("a_column_of_many_{i}"), "Float64".to_owned()))
            .collect(),
        checks: (0..100)
            .map(|i| cumulo_data::CheckResult {
                name: format!("column_{i} is not null"),
                ..Default::default()
            })
            .collect(),
    };
    let text = outcome.to_message(4096);
    assert!(text.len() <= 4096, "{}", text.len());
    let back: cumulo_data::BuildOutcome = serde_json::from_str(&text).expect("JSON");
    assert_eq!(back.version, outcome.version);
    assert!(!back.schema.is_empty() && !back.checks.is_empty());
}

/// What a build that was killed left behind is no snapshot, and does not hinder the next.
#[tokio::test]
async fn a_snapshot_without_its_manifest_is_none() {
    let fixture = super::fixture();
    fixture.file("t.csv", "a\n1\n2\n");
    let request = request(&[("t", "t.csv")], "SELECT a FROM t");
    let first = fixture.build(&request).await.expect("built");
    fixture.lose(&request, &first, "manifest.json");
    let path = format!("datasets/default/d/{}", first.version);
    let names = cumulo_data::snapshot_names(&fixture.store, &path).await;
    assert!(names.expect("asked").is_empty());
    let second = fixture.build(&request).await.expect("built again");
    assert!(!second.reused);
    assert_eq!(fixture.rows(&request, &second)[0].num_rows(), 2);
    let names = cumulo_data::snapshot_names(&fixture.store, &path).await;
    assert_eq!(names.expect("asked"), ["part-0.parquet"]);
}

#[tokio::test]
async fn files_of_any_size_and_name_come_back_whole() {
    let fixture = super::fixture();
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    for size in [0, 1, 20_000_001_u32] {
        let content: Vec<u8> = (0..size)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8)
            .collect();
        std::fs::write(&from, &content).expect("a file");
        let path = format!("blobs/ü {size}%.bin");
        fixture.store.upload(&from, &path).await.expect("uploaded");
        assert_eq!(
            fixture.store.size(&path).await.expect("asked"),
            Some(u64::from(size))
        );
        assert!(
            fixture
                .store
                .download(&path, &to)
                .await
                .expect("downloaded")
        );
        assert!(std::fs::read(&to).expect("a file") == content, "{size}");
        assert!(
            fixture
                .store
                .read(&path)
                .await
                .expect("read")
                .expect("there")
                == content
        );
    }
    assert!(
        !fixture
            .store
            .download("blobs/none", &to)
            .await
            .expect("asked")
    );
    assert!(fixture.store.read("blobs/../x").await.is_err());
}
