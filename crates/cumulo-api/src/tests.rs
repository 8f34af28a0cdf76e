//! The published schemas hold what the documentation promises.

use std::time::Duration;

use crate::{crds, parse_duration};

#[test]
fn every_kind_is_published_in_the_cumulo_category_with_a_status() {
    let crds = crds();
    let names: Vec<_> = crds
        .iter()
        .map(|crd| crd.spec.names.plural.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "datasets",
            "trainjobs",
            "models",
            "inferenceservices",
            "queues"
        ]
    );
    for crd in &crds {
        assert_eq!(
            crd.spec.names.categories.as_deref(),
            Some(&["cumulo".to_owned()][..])
        );
        let version = &crd.spec.versions[0];
        assert!(
            version
                .subresources
                .as_ref()
                .is_some_and(|s| s.status.is_some())
        );
        assert!(
            version
                .additional_printer_columns
                .as_ref()
                .is_some_and(|c| c.len() > 4)
        );
    }
}

#[test]
fn defaults_stand_in_the_schema() {
    let crd = &crds()[3];
    let schema = serde_json::to_value(crd).unwrap();
    let spec = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    insta::assert_json_snapshot!(spec["replicas"]["default"], @r#"
    {
      "min": 0,
      "max": 4
    }
    "#);
    insta::assert_json_snapshot!(spec["runtime"]["default"], @r#""auto""#);
}

#[test]
fn durations() {
    assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
    assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
    for bad in [
        "",
        "5",
        "s",
        "5 parsecs",
        "-3s",
        "1e999d",
        "9999999999999999999999d",
    ] {
        let error = parse_duration(bad).unwrap_err();
        assert!(error.to_string().contains("is not a duration"), "{bad}");
    }
}
