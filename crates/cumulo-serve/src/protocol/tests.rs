use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::tensor::{DATATYPES, Data, Datatype};

fn message(body: &str) -> String {
    parse(body.as_bytes()).expect_err("a mistake").to_string()
}

#[test]
fn columns() {
    let request = parse(
        br#"{"id": "7", "parameters": {"content_type": "pd"}, "inputs": [
            {"name": "distance", "shape": [2], "datatype": "INT64", "data": [746, null]},
            {"name": "carrier", "shape": [2, 1], "datatype": "BYTES", "data": [["UA"], [null]],
             "parameters": {"content_type": "str"}},
            {"data": [1, 2.5], "datatype": "FP64", "name": "wind"}
        ], "outputs": [{"name": "prediction"}]}"#,
    )
    .expect("a request");
    assert_eq!(request.id.as_deref(), Some("7"));
    assert_eq!(request.outputs, ["prediction"]);
    let [distance, carrier, wind] = &request.inputs[..] else {
        panic!("three inputs")
    };
    assert!(
        matches!(&distance.data, Data::F64(values) if values[0] == 746.0 && values[1].is_nan())
    );
    assert_eq!(carrier.data, Data::Text(vec![Some("UA".into()), None]));
    assert!(carrier.is_column());
    assert_eq!(wind.shape, [2]);
}

#[test]
fn mistakes_say_what_and_where() {
    assert_snapshot!(message("{}"), @r#"the request is no inference request: missing field `inputs` at line 1 column 2; expected {"inputs": [{"name", "shape", "datatype", "data"}, …]}"#);
    assert_snapshot!(message(r#"{"inputs": []}"#), @"the request has no inputs; send each column as a tensor in `inputs`");
    let one = |rest: &str| message(&format!(r#"{{"inputs": [{{"name": "x", {rest}}}]}}"#));
    assert_snapshot!(one(r#""shape": [1], "datatype": "FLOAT", "data": [1]"#), @"input `x`: `FLOAT` is no datatype; choose one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BYTES");
    assert_snapshot!(one(r#""shape": [2], "datatype": "FP64", "data": [1, "a"]"#), @r#"input `x`: element 1 is the text "a", which is no FP64"#);
    assert_snapshot!(one(r#""shape": [1], "datatype": "INT8", "data": [300]"#), @"input `x`: element 0 is 300, which is no INT8");
    assert_snapshot!(one(r#""shape": [1], "datatype": "INT64", "data": [1.5]"#), @"input `x`: element 0 is 1.5, which is no INT64");
    assert_snapshot!(one(r#""shape": [1], "datatype": "BYTES", "data": [5]"#), @"input `x`: element 0 is 5, which is no BYTES");
    assert_snapshot!(one(r#""shape": [3], "datatype": "FP64", "data": [1]"#), @"input `x`: shape [3] means 3 elements, but data has 1");
    assert_snapshot!(one(r#""shape": [1], "datatype": "FP64", "data": 1"#), @"input `x`: `data` must be an array");
    assert_snapshot!(one(r#""shape": [1], "datatype": "FP64""#), @"input `x` has no `data`; binary tensors are not supported, send the elements as JSON");
    assert!(
        one(r#""shape": [1], "datatype": "FP64", "data": [NaN]"#)
            .contains("write null for a missing value")
    );
}

fn data() -> impl Strategy<Value = (Datatype, Data)> {
    prop_oneof![
        proptest::collection::vec(any::<i64>(), 1..8).prop_map(|v| (Datatype::Int64, Data::I64(v))),
        proptest::collection::vec(any::<u64>(), 1..8)
            .prop_map(|v| (Datatype::Uint64, Data::U64(v))),
        proptest::collection::vec(-1e300f64..1e300, 1..8)
            .prop_map(|v| (Datatype::Fp64, Data::F64(v))),
        proptest::collection::vec(-1e30f32..1e30, 1..8)
            .prop_map(|v| (Datatype::Fp32, Data::F32(v))),
        proptest::collection::vec(any::<Option<bool>>(), 1..8)
            .prop_map(|v| (Datatype::Bool, Data::Bool(v))),
        proptest::collection::vec(any::<Option<String>>(), 1..8)
            .prop_map(|v| (Datatype::Bytes, Data::Text(v))),
    ]
}

proptest! {
    /// What is rendered is parsed to the same tensors, bit by bit.
    #[test]
    fn rendered_is_parsed(tensors in proptest::collection::vec(data(), 1..5)) {
        let tensors: Vec<Tensor> = tensors.into_iter().enumerate().map(|(index, (datatype, data))| Tensor {
            name: format!("t{index}"), datatype, shape: vec![data.len()], data,
        }).collect();
        let text = String::from_utf8(render("m", None, None, &tensors)).expect("text");
        let parsed = parse(text.replace("\"outputs\"", "\"inputs\"").as_bytes());
        // A text that holds the word `"outputs"` may be changed by the line above.
        if let Ok(parsed) = parsed {
            prop_assert_eq!(parsed.inputs, tensors);
        }
    }

    /// No input makes the parser panic.
    #[test]
    fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..200), datatype in 0usize..13, data in ".{0,30}") {
        let _ = parse(&body);
        let name = DATATYPES[datatype].1;
        let _ = parse(format!(r#"{{"inputs":[{{"name":"x","datatype":"{name}","data":[{data}]}}]}}"#).as_bytes());
    }
}
