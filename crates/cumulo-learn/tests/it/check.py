"""Loads each model with stock MLflow and compares its predictions with ours."""

import json
import pathlib
import sys

import mlflow
import numpy
import pandas

root = pathlib.Path(sys.argv[1])
worst = 0.0
for case in sorted(path for path in root.iterdir() if (path / "model").is_dir()):
    model = mlflow.pyfunc.load_model(str(case / "model"))
    rows = pandas.read_parquet(case / "rows.parquet")
    rows["day"] = pandas.to_datetime(rows["day"])
    expected = json.loads((case / "expected.json").read_text())
    whole = rows[rows.notna().all(axis=1)]
    frames = {
        "as read": rows,
        "nullable types": rows.convert_dtypes(),
        "reordered": rows[list(reversed(rows.columns))],
        "whole numbers, truth values": whole.astype({"count": "int64", "flag": "bool"}),
        "times with a zone": rows.assign(when=rows["when"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")),
        "times as text": rows.assign(when=rows["when"].map(lambda time: time.isoformat() + "Z", na_action="ignore")),
        "one row": whole[:1],
    }
    for name, frame in frames.items():
        predicted = model.predict(frame)
        assert list(predicted.columns) == list(expected), (case.name, name, list(predicted.columns))
        for column, values in expected.items():
            ours = numpy.array(values)[frame.index.to_numpy()]
            theirs = predicted[column].to_numpy()
            if column == "prediction" and case.name != "amount":
                assert list(theirs) == list(ours), (case.name, name, column)
                continue
            difference = float(numpy.max(numpy.abs(ours - theirs.astype("float64"))))
            worst = max(worst, difference)
            assert difference <= 1e-9, (case.name, name, column, difference)
    # The example and the schema are MLflow's own to read.
    example = model.metadata.load_input_example(str(case / "model"))
    assert len(model.predict(example)) == len(example), case.name
    names = model.metadata.get_input_schema().input_names()
    assert set(names) <= set(rows.columns), names
    outputs = model.metadata.get_output_schema().input_names()
    assert outputs == list(expected), outputs
    try:
        model.predict(rows.drop(columns=["a number"]))
    except Exception as error:
        assert "a number" in str(error), error
    else:
        raise AssertionError("a missing column was not refused")
    print(case.name, len(rows), "rows")
print("all equal; the largest difference is", worst)
