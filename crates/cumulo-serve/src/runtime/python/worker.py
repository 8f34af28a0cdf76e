"""Serves one MLflow pyfunc model to cumulo-serve over a Unix socket.

Frames: 4 bytes length, big-endian, then JSON. The first frame goes out and says
{"ready": {...}} or {"error": message}. Then each frame in is {"inputs": [tensor, ...]}
and is answered by {"outputs": [tensor, ...]} or {"error": message, "kind": "input"|"model"}.
A tensor is {"name", "datatype", "shape", "data"} as in the Open Inference Protocol.
"""

import difflib
import json
import math
import os
import queue
import socket
import struct
import sys
import threading
import traceback

FRAME_LIMIT = 1 << 30


class InputError(Exception):
    """The request does not fit the model."""


def read_exactly(connection, length):
    parts = []
    while length:
        part = connection.recv(min(length, 1 << 20))
        if not part:
            return None
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def read_frames(connection, frames):
    """Reads in a thread of its own, so that the end of the server is noticed
    even while a prediction runs."""
    while True:
        try:
            head = read_exactly(connection, 4)
            body = head and read_exactly(connection, struct.unpack(">I", head)[0])
        except OSError:
            body = None
        if body is None:
            os._exit(0)
        frames.put(body)


def send(connection, message):
    body = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    if len(body) > FRAME_LIMIT:
        body = json.dumps({"error": "the answer is larger than 1 GiB", "kind": "model"}).encode()
    connection.sendall(struct.pack(">I", len(body)) + body)


NUMPY = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}


def array(tensor):
    import numpy

    data, datatype = tensor["data"], tensor["datatype"]
    if datatype == "BYTES" or (datatype == "BOOL" and None in data):
        values = numpy.empty(len(data), dtype=object)
        values[:] = data
    elif None in data:
        dtype = NUMPY[datatype] if datatype.startswith("FP") else "float64"
        values = numpy.array([math.nan if value is None else value for value in data], dtype=dtype)
    else:
        values = numpy.array(data, dtype=NUMPY[datatype])
    return values.reshape(tensor["shape"])


def is_column(tensor):
    shape = tensor["shape"]
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


class Model:
    def __init__(self, path):
        import mlflow.pyfunc

        self.model = mlflow.pyfunc.load_model(path)
        metadata = self.model.metadata
        signature = getattr(metadata, "signature", None)
        schema = signature.inputs if signature is not None else None
        self.tensors = schema is not None and schema.is_tensor_spec()
        self.names = schema.input_names() if schema is not None and schema.has_input_names() else []
        self.columns = list(schema.inputs) if schema is not None and not self.tensors else []
        self.raw = self.probabilistic()

    def probabilistic(self):
        """The model behind the pyfunc, when it is a classifier that can tell
        probabilities and the pyfunc gives labels."""
        try:
            raw = self.model.get_raw_model()
        except Exception:
            return None
        if hasattr(raw, "predict_proba") and hasattr(raw, "classes_"):
            if getattr(self.model._model_impl, "predict_fn", "predict") in ("predict", None):
                return raw
        return None

    def frame(self, inputs):
        import pandas

        lengths = {tensor["shape"][0] for tensor in inputs}
        if len(lengths) > 1:
            raise InputError(f"the columns differ in length: {sorted(lengths)}")
        frame = pandas.DataFrame({tensor["name"]: array(tensor).reshape(-1) for tensor in inputs})
        if frame.empty:
            raise InputError("there are no rows to predict")
        named = [spec for spec in self.columns if spec.name is not None]
        missing = [spec.name for spec in named if getattr(spec, "required", True) and spec.name not in frame]
        if missing:
            raise InputError(describe_missing(missing, list(frame.columns)))
        for spec in named:
            if spec.name in frame:
                frame[spec.name] = convert(frame[spec.name], spec)
        # In the order of training, and without what the model has not seen.
        known = [spec.name for spec in named] or list(getattr(self.raw, "feature_names_in_", []))
        ordered = [name for name in known if name in frame]
        if named or (known and len(ordered) == len(known)):
            frame = frame[ordered]
        return frame

    def predict(self, inputs):
        if all(is_column(tensor) for tensor in inputs) and not self.tensors:
            data = self.frame(inputs)
        else:
            arrays = {tensor["name"]: array(tensor) for tensor in inputs}
            missing = [name for name in self.names if name not in arrays]
            if missing:
                raise InputError(describe_missing(missing, list(arrays)))
            data = next(iter(arrays.values())) if len(arrays) == 1 and not self.names else arrays
        try:
            result = self.model.predict(data)
        except Exception as error:
            if type(error).__name__ == "MlflowException" and "schema" in str(error).lower():
                raise InputError(str(error).splitlines()[0]) from error
            raise
        outputs = tensors(result)
        if self.raw is not None and len(outputs) == 1:
            outputs += self.probabilities(data)
        return outputs

    def probabilities(self, data):
        try:
            probabilities = self.raw.predict_proba(data)
        except Exception:
            # The pyfunc may do more than the model behind it; labels alone will do.
            self.raw = None
            return []
        classes = [getattr(label, "item", lambda label=label: label)() for label in self.raw.classes_]
        if len(classes) == 2:
            return [tensor("probability", probabilities[:, 1])]
        return [tensor(f"probability_{label}", probabilities[:, index]) for index, label in enumerate(classes)]


def describe_missing(missing, given):
    if len(missing) == 1:
        message = f"column `{missing[0]}` is missing"
    else:
        message = f"{len(missing)} columns are missing: " + ", ".join(f"`{name}`" for name in missing[:20])
    hints = []
    for name in missing[:5]:
        near = difflib.get_close_matches(str(name), [str(one) for one in given], 1, 0.7)
        if near:
            hints.append(f"is `{near[0]}` meant to be `{name}`?")
    if hints:
        return message + "; " + " ".join(hints)
    return message + "; given were " + ", ".join(f"`{name}`" for name in given[:20])


def convert(column, spec):
    """To the type that the model's signature says, where nothing is lost."""
    import pandas

    kind = getattr(getattr(spec, "type", None), "name", "")
    try:
        if kind == "datetime":
            return pandas.to_datetime(column)
        if kind in ("float", "double"):
            if column.dtype == object:
                raise ValueError(f"it holds {type(column.dropna().iloc[0]).__name__}" if column.notna().any() else "")
            return column.astype("float32" if kind == "float" else "float64")
        if kind in ("integer", "long"):
            if column.isna().any():
                raise ValueError("it has missing values")
            whole = column.astype("int32" if kind == "integer" else "int64")
            if not (whole == column).all():
                raise ValueError("it has values that are no whole numbers")
            return whole
        if kind == "boolean" and not column.isna().any() and column.isin([0, 1, True, False]).all():
            return column.astype(bool)
        if kind == "string" and column.dropna().map(lambda value: not isinstance(value, str)).any():
            raise ValueError("it holds no text")
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"column `{spec.name}` must hold {kind} values: {error}") from error
    return column


def tensor(name, values):
    import numpy

    values = numpy.asarray(values)
    kind = values.dtype.kind
    shape = list(values.shape) or [1]
    flat = values.reshape(-1)
    if kind == "b":
        return {"name": name, "datatype": "BOOL", "shape": shape, "data": flat.tolist()}
    if kind in "iu":
        datatype = ("INT" if kind == "i" else "UINT") + str(8 * values.dtype.itemsize)
        return {"name": name, "datatype": datatype, "shape": shape, "data": flat.tolist()}
    if kind == "f":
        wide = flat.astype("float64") if values.dtype.itemsize > 4 else flat.astype("float32")
        datatype = "FP64" if values.dtype.itemsize > 4 else "FP32"
        data = [value if math.isfinite(value) else None for value in wide.tolist()]
        return {"name": name, "datatype": datatype, "shape": shape, "data": data}
    data = []
    for value in flat.tolist():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            data.append(None)
        elif isinstance(value, str):
            data.append(value)
        elif isinstance(value, (dict, list, tuple)):
            data.append(json.dumps(value, default=str))
        else:
            data.append(str(value))
    return {"name": name, "datatype": "BYTES", "shape": shape, "data": data}


def tensors(result):
    if hasattr(result, "toarray"):
        result = result.toarray()
    if hasattr(result, "columns") and hasattr(result, "to_numpy"):
        names = [str(name) for name in result.columns]
        if names == ["0"]:
            names = ["prediction"]
        return [tensor(name, result.iloc[:, index].to_numpy()) for index, name in enumerate(names)]
    if isinstance(result, dict):
        return [tensor(str(name), values) for name, values in result.items()]
    if hasattr(result, "to_numpy"):
        result = result.to_numpy()
    if isinstance(result, (list, tuple)) and result and isinstance(result[0], dict):
        names = list(dict.fromkeys(name for row in result for name in row))
        return [tensor(str(name), [row.get(name) for row in result]) for name in names]
    return [tensor("prediction", result)]


def connect():
    """The socket to the server, which comes as standard input: the model finds an empty one."""
    connection = socket.socket(fileno=os.dup(0))
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return connection


def main():
    connection = connect()
    frames = queue.Queue()
    threading.Thread(target=read_frames, args=(connection, frames), daemon=True).start()
    try:
        model = Model(os.environ["CUMULO_WORKER_MODEL"])
    except ModuleNotFoundError as error:
        message = f"the model's environment has no module `{error.name}`; add it to the model's requirements.txt"
        send(connection, {"error": message})
        return 1
    except Exception as error:
        traceback.print_exc()
        send(connection, {"error": f"the model cannot be loaded: {type(error).__name__}: {error}"})
        return 1
    send(connection, {"ready": {"python": sys.version.split()[0]}})
    while True:
        body = frames.get()
        try:
            answer = {"outputs": model.predict(json.loads(body)["inputs"])}
        except InputError as error:
            answer = {"error": str(error), "kind": "input"}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"the model raised {type(error).__name__}: {error}", "kind": "model"}
        try:
            send(connection, answer)
        except ValueError as error:
            send(connection, {"error": f"the model's answer is no JSON: {error}", "kind": "model"})


if __name__ == "__main__":
    sys.exit(main())
