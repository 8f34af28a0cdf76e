use base64::Engine as _;
use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::resource::builtin_types;

/// Kubernetes' own samples: every field of every kind set, in both formats.
fn samples() -> Vec<(String, Value, Vec<u8>)> {
    let packed = include_bytes!("../../tests/samples/protobuf.json.zst");
    let text = zstd::decode_all(packed.as_slice()).expect("zstd");
    let samples: Map<String, Value> = serde_json::from_slice(&text).expect("json");
    samples
        .into_iter()
        .map(|(kind, sample)| {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(sample["protobuf"].as_str().expect("text"))
                .expect("base64");
            (kind, sample["json"].clone(), bytes)
        })
        .collect()
}

/// Nulls mean nothing; Go's JSON has some, for what is unset and not left out.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => object
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

fn there_and_back(object: &Value) -> Value {
    decode(&encode(object).expect("encoded")).expect("decoded")
}

#[test]
fn kubernetes_samples_are_read_and_written_as_by_kubernetes() {
    let samples = samples();
    assert!(samples.len() > 50, "{}", samples.len());
    for (kind, json, bytes) in samples {
        let decoded = decode(&bytes).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(without_nulls(&decoded), without_nulls(&json), "{kind}");
        let encoded = encode(&json).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(there_and_back(&json), decoded, "{kind}");
        assert!(encoded == bytes, "{kind} is written with other bytes");
    }
}

#[test]
fn every_kind_that_is_served_has_a_message() {
    let missing: Vec<String> = builtin_types()
        .into_iter()
        // Metrics are JSON only.
        .filter(|t| !t.storage.is_empty())
        .flat_map(|t| {
            let version = t.api_version();
            [
                (version.clone(), t.kind.clone()),
                (version, t.list_kind.clone()),
            ]
        })
        .filter(|(version, kind)| Table::get().kind(version, kind).is_none())
        .map(|(version, kind)| format!("{version}/{kind}"))
        // Reviews and bindings cannot be listed.
        .filter(|kind| !kind.ends_with("ReviewList") && !kind.ends_with("BindingList"))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
    for kind in Table::get().kinds() {
        let (version, kind) = kind.rsplit_once('/').expect("a version");
        let empty = json!({"apiVersion": version, "kind": kind});
        let again = there_and_back(&empty);
        assert_eq!(there_and_back(&again), again, "{version}/{kind}");
    }
}

#[test]
fn an_object_is_what_gos_json_of_it_would_be() {
    // What `kubectl create deployment` sends: structs are there, unset text is not.
    let sent = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "", "labels": {"app": "web"}},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"creationTimestamp": null},
                "spec": {
                    "automountServiceAccountToken": false,
                    "serviceAccountName": "",
                    "containers": [{"name": "", "image": "nginx", "env": [{"name": "A"}]}],
                    "volumes": [
                        {"name": "a", "emptyDir": {}},
                        {"name": "b", "configMap": {"name": "settings", "optional": false}},
                    ],
                },
            },
        },
    });
    insta::assert_yaml_snapshot!(there_and_back(&sent), @r#"
    apiVersion: apps/v1
    kind: Deployment
    metadata:
      name: web
      labels:
        app: web
    spec:
      replicas: 0
      selector:
        matchLabels:
          app: web
      template:
        metadata: {}
        spec:
          volumes:
            - name: a
              emptyDir: {}
            - name: b
              configMap:
                name: settings
                optional: false
          containers:
            - name: ""
              image: nginx
              env:
                - name: A
              resources: {}
          automountServiceAccountToken: false
      strategy: {}
    status: {}
    "#);
}

#[test]
fn schemas_of_definitions_have_forms_of_their_own() {
    let schema = json!({
        "type": "object",
        "x-kubernetes-validations": [{"rule": "self.a < 5"}],
        "properties": {
            "a": {"type": "integer", "minimum": 0.0, "maximum": 4.5, "default": 3},
            "b": {"type": "array", "items": {"type": "string", "enum": ["x", null]}},
            "c": {"type": "object", "additionalProperties": {"type": "string"}},
            "d": {"type": "object", "additionalProperties": false, "$ref": "x"},
            "e": {"x-kubernetes-int-or-string": true, "default": {"deep": [1, {}]}},
            "f": {"items": [{"type": "string"}, {"type": "number"}], "additionalItems": true},
            "g": {"dependencies": {"x": ["y", "z"], "w": {"type": "string"}}},
        },
    });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.test.dev"},
        "spec": {
            "group": "test.dev", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    });
    let read = there_and_back(&definition);
    let read = &read["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(*read, schema);
}

#[test]
fn moments_and_numbers() {
    let lease = |acquired: &str| {
        there_and_back(&json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "a", "creationTimestamp": acquired},
            "spec": {"acquireTime": acquired, "leaseDurationSeconds": -1},
        }))
    };
    let shown = |acquired: &str| {
        let lease = lease(acquired);
        assert_eq!(lease["spec"]["leaseDurationSeconds"], -1);
        format!(
            "{} {}",
            lease["metadata"]["creationTimestamp"], lease["spec"]["acquireTime"]
        )
    };
    insta::assert_snapshot!(
        [
            shown("1970-01-01T00:00:00Z"),
            shown("2026-02-28T23:59:59.123456789Z"),
            shown("1900-01-01T12:00:00+02:00"),
        ]
        .join("\n"),
        @r#"
    "1970-01-01T00:00:00Z" "1970-01-01T00:00:00.000000Z"
    "2026-02-28T23:59:59Z" "2026-02-28T23:59:59.123456Z"
    "1900-01-01T10:00:00Z" "1900-01-01T10:00:00.000000Z"
    "#
    );
}

/// A body around the bytes of an object.
pub(super) fn body(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    wire::put_bytes(&mut types, 1, version.as_bytes());
    wire::put_bytes(&mut types, 2, kind.as_bytes());
    let mut body = PREFIX.to_vec();
    wire::put_bytes(&mut body, 1, &types);
    wire::put_bytes(&mut body, 2, raw);
    body
}

/// A bare `WatchEvent`.
pub(super) fn watch_event_of(event: &[u8]) -> Value {
    decode(&body("v1", "WatchEvent", event)).expect("decoded")
}

#[test]
fn what_cannot_be_read_is_told_with_its_place() {
    let container = |field: &[u8]| {
        let (mut spec, mut pod) = (Vec::new(), Vec::new());
        wire::put_bytes(&mut spec, 2, field);
        wire::put_bytes(&mut pod, 2, &spec);
        body("v1", "Pod", &pod)
    };
    let bodies = [
        b"".to_vec(),
        b"{}".to_vec(),
        b"k8s\0".to_vec(),
        b"k8s\0\xff".to_vec(),
        body("", "", b""),
        body("test.dev/v1", "Thing", b""),
        body("v1", "Pod", b"\x0a\x05x"),
        container(&[0x0a, 0x02, 0xff, 0xfe]),
        container(&[0x08, 0x01]),
        container(&[0x0a, 0x7f]),
        [body("v1", "Pod", b"").as_slice(), b"\x1a\x04gzip"].concat(),
    ];
    let all: Vec<String> = bodies
        .iter()
        .map(|body| decode(body).expect_err("refused").to_string())
        .collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]
    provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]
    empty body
    the object: unexpected end of the message
    Object 'Kind' or 'apiVersion' is missing in the envelope
    no kind "Thing" is registered for version "test.dev/v1"
    the object: unexpected end of the message
    spec.containers[0].name: invalid UTF-8
    spec.containers[0].name: wrong wire type 0
    spec.containers[0]: unexpected end of the message
    the object: content encoding "gzip" is not supported
    "#);
}

#[test]
fn a_small_body_does_not_become_a_large_object() {
    let many = [0x12, 0x00].repeat(MAX_VALUES);
    let error = decode(&body("v1", "PodList", &many)).expect_err("refused");
    assert!(
        error.to_string().ends_with("has more than 500000 values"),
        "{error}"
    );

    let mut schema = Vec::new();
    for _ in 0..200 {
        let inner = std::mem::take(&mut schema);
        wire::put_bytes(&mut schema, 28, &inner);
    }
    for number in [1, 4, 7, 2] {
        let inner = std::mem::take(&mut schema);
        wire::put_bytes(&mut schema, number, &inner);
    }
    let version = "apiextensions.k8s.io/v1";
    let error = decode(&body(version, "CustomResourceDefinition", &schema)).expect_err("refused");
    assert!(
        error
            .to_string()
            .ends_with("nested more than 128 levels deep"),
        "{error}"
    );
}

#[test]
fn an_event_of_a_watch_has_its_length_before_it() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let mut out = BytesMut::new();
    watch_event("ADDED", &object, &mut out).expect("encoded");
    let (length, event) = out.split_first_chunk().expect("a length");
    assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
    let read = watch_event_of(event);
    assert_eq!(read["type"], "ADDED");
    assert_eq!(read["object"], object);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kind in proptest::sample::select(vec!["Pod", "PodList", "Secret", "Event", "Status", "WatchEvent"]),
    ) {
        let _ = decode(&bytes);
        let _ = decode(&[PREFIX.as_slice(), &bytes].concat());
        let _ = decode(&body("v1", kind, &bytes));
    }

    #[test]
    fn a_damaged_body_is_read_or_refused(
        which in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        byte: u8,
        cut: bool,
    ) {
        static SAMPLES: std::sync::LazyLock<Vec<(String, Value, Vec<u8>)>> =
            std::sync::LazyLock::new(samples);
        let (_, _, mut bytes) = which.get(&SAMPLES).clone();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] = byte;
        }
        if let Ok(object) = decode(&bytes)
            && let Ok(again) = encode(&object)
        {
            // What was understood is understood the same way again.
            prop_assert_eq!(decode(&again).expect("decoded"), object);
        }
    }
}
