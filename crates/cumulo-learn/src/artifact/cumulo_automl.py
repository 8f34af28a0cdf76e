"""Loads a Cumulo AutoML model: applies its feature plan and predicts with LightGBM.

Used by MLflow (`mlflow.pyfunc.load_model`), or by hand:

    import cumulo_automl
    model = cumulo_automl.load("path/to/the/model")
    model.predict(frame)  # a pandas DataFrame in, a pandas DataFrame out

The numbers are those of Cumulo's own server; `features.json` describes how
columns become features.
"""

import json
import os

import lightgbm
import numpy
import pandas

PLAN_VERSION = 1


def _load_pyfunc(path):
    """MLflow's entry point."""
    return Model(path)


def load(path):
    """Loads the model of a folder."""
    return Model(path)


class Model:
    """A model in memory."""

    def __init__(self, path):
        folder = path if os.path.isdir(path) else os.path.dirname(path)
        with open(os.path.join(folder, "features.json"), encoding="utf-8") as file:
            self.plan = json.load(file)
        if self.plan["version"] > PLAN_VERSION:
            raise ValueError(
                f"the feature plan has version {self.plan['version']}, "
                f"this loader reads up to {PLAN_VERSION}"
            )
        self.booster = lightgbm.Booster(model_file=os.path.join(folder, "model.lgb"))
        self.types = {column["name"]: column["type"] for column in self.plan["inputs"]}
        self.required = {column["name"] for column in self.plan["inputs"] if column["required"]}

    def features(self, frame):
        """The features of a data frame, a row of doubles per row."""
        missing = [name for name in self.types if name in self.required and name not in frame]
        if missing:
            raise ValueError("columns are missing: " + ", ".join(missing))
        matrix = numpy.full((len(frame), len(self.plan["features"])), numpy.nan)
        times = {}
        for position, feature in enumerate(self.plan["features"]):
            name = feature["input"]
            if name not in frame:
                continue
            column = frame[name]
            if feature["kind"] == "number":
                matrix[:, position] = _numbers(column)
            elif feature["kind"] == "category":
                matrix[:, position] = _categories(column, feature["levels"], feature["other"])
            elif feature["kind"] == "time":
                if name not in times:
                    times[name] = _times(column)
                matrix[:, position] = _part(times[name], feature["part"])
            else:
                raise ValueError(f"unknown kind of feature: {feature['kind']}")
        return matrix

    def predict(self, model_input, params=None):
        """Predicts every row of a data frame (or of a dict of columns)."""
        frame = model_input
        if not isinstance(frame, pandas.DataFrame):
            frame = pandas.DataFrame(frame)
        scores = self.booster.predict(self.features(frame))
        classes = self.plan["target"].get("classes", [])
        if not classes:
            columns = {"prediction": scores}
        elif len(classes) == 2:
            chosen = (scores > self.plan["target"]["threshold"]).astype(int)
            columns = {"prediction": _labels(classes, chosen), "probability": scores}
        else:
            columns = {"prediction": _labels(classes, numpy.argmax(scores, axis=1))}
            for number, name in enumerate(classes):
                name = str(name).lower() if isinstance(name, bool) else str(name)
                columns["probability_" + name] = scores[:, number]
        return pandas.DataFrame(columns, index=frame.index)


def _labels(classes, chosen):
    kind = object if isinstance(classes[0], str) else type(classes[0])
    return numpy.array(classes, dtype=kind)[chosen]


def _numbers(column):
    return pandas.to_numeric(column).to_numpy(dtype="float64", na_value=numpy.nan)


def _categories(column, levels, other):
    numbers = {level: float(number) for number, level in enumerate(levels)}
    unknown = float(len(levels)) if other else numpy.nan
    known = column.map(lambda text: numbers.get(text, unknown), na_action="ignore")
    return pandas.to_numeric(known).to_numpy(dtype="float64", na_value=numpy.nan)


def _times(column):
    if isinstance(column.dtype, pandas.DatetimeTZDtype) or column.dtype.kind == "M":
        times = column
    else:
        times = column.map(pandas.Timestamp, na_action="ignore")
    return pandas.to_datetime(times, utc=True)


def _part(times, part):
    parts = times.dt.dayofweek if part == "weekday" else getattr(times.dt, part)
    return parts.to_numpy(dtype="float64", na_value=numpy.nan)
