"""The stock MLflow client against the tracking service: everything a user does.

Run as `python stock_client.py ADDRESS`; exits non-zero at the first difference.
"""

import math
import os
import pathlib
import sys
import tempfile

os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
os.environ["GIT_PYTHON_REFRESH"] = "quiet"

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


class AddN(mlflow.pyfunc.PythonModel):
    def __init__(self, n):
        self.n = n

    def predict(self, context, model_input, params=None):
        return model_input + self.n


def expect_error(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except MlflowException as error:
        assert error.error_code == code, (error.error_code, str(error))
        return str(error)
    raise AssertionError(f"{call} did not fail with {code}")


def experiments(client):
    default = client.get_experiment("0")
    assert default.name == "Default", default
    first = client.create_experiment("first", tags={"team": "a"})
    expect_error("RESOURCE_ALREADY_EXISTS", client.create_experiment, "first")
    expect_error("RESOURCE_DOES_NOT_EXIST", client.get_experiment, "4711")
    assert client.get_experiment_by_name("nothing") is None
    assert client.get_experiment(first).tags == {"team": "a"}
    client.set_experiment_tag(first, "team", "b")
    assert client.get_experiment_by_name("first").tags["team"] == "b"
    found = client.search_experiments(filter_string="tags.team = 'b' AND name LIKE 'fir%'")
    assert [e.experiment_id for e in found] == [first], found
    client.rename_experiment(first, "renamed")
    run = client.create_run(first)
    client.delete_experiment(first)
    assert client.get_experiment(first).lifecycle_stage == "deleted"
    assert client.get_run(run.info.run_id).info.lifecycle_stage == "deleted"
    deleted = client.search_experiments(view_type=ViewType.DELETED_ONLY)
    assert [e.experiment_id for e in deleted] == [first]
    client.restore_experiment(first)
    assert client.get_run(run.info.run_id).info.lifecycle_stage == "active"
    for number in range(5):
        client.create_experiment(f"page-{number}")
    token, names = None, []
    while True:
        page = client.search_experiments(
            filter_string="name ILIKE 'PAGE-%'", order_by=["name ASC"], max_results=2, page_token=token
        )
        names += [e.name for e in page]
        token = page.token
        if not token:
            break
    assert names == [f"page-{n}" for n in range(5)], names


def runs(client):
    experiment = client.create_experiment("runs")
    run = client.create_run(experiment, run_name="one", tags={"k": "v"})
    run_id = run.info.run_id
    client.log_metric(run_id, "loss", 0.5, step=1, timestamp=1000)
    client.log_metric(run_id, "loss", 0.5, step=1, timestamp=1000)
    client.log_metric(run_id, "loss", 0.25, step=2, timestamp=2000)
    client.log_metric(run_id, "nan", math.nan)
    client.log_metric(run_id, "infinite", math.inf)
    client.log_param(run_id, "depth", 3)
    client.log_param(run_id, "depth", 3)
    message = expect_error("INVALID_PARAMETER_VALUE", client.log_param, run_id, "depth", 4)
    assert "Changing param values is not allowed" in message, message
    client.set_tag(run_id, "mlflow.note.content", "hello")
    client.log_batch(
        run_id,
        metrics=[Metric(f"m{n}", n / 3, 5, n) for n in range(300)],
        params=[Param(f"p {n}", str(n)) for n in range(50)],
        tags=[RunTag("t", "1")],
    )
    back = client.get_run(run_id)
    assert back.info.run_name == "one" and back.info.status == "RUNNING", back.info
    assert back.data.metrics["loss"] == 0.25
    assert math.isnan(back.data.metrics["nan"])
    assert back.data.metrics["infinite"] == math.inf
    assert back.data.metrics["m299"] == 299 / 3
    assert back.data.params["depth"] == "3" and back.data.params["p 7"] == "7"
    assert back.data.tags["t"] == "1" and back.data.tags["mlflow.runName"] == "one"
    history = client.get_metric_history(run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.25)], history
    client.delete_tag(run_id, "t")
    expect_error("RESOURCE_DOES_NOT_EXIST", client.delete_tag, run_id, "t")
    client.update_run(run_id, name="renamed")
    client.set_terminated(run_id)
    info = client.get_run(run_id).info
    assert info.status == "FINISHED" and info.end_time and info.run_name == "renamed"
    client.delete_run(run_id)
    expect_error("INVALID_PARAMETER_VALUE", client.log_metric, run_id, "x", 1.0)
    assert client.search_runs([experiment]) == []
    assert len(client.search_runs([experiment], run_view_type=ViewType.ALL)) == 1
    client.restore_run(run_id)
    assert len(client.search_runs([experiment])) == 1
    expect_error("RESOURCE_DOES_NOT_EXIST", client.get_run, "0" * 32)


def search(client):
    experiment = client.create_experiment("search")
    for number in range(12):
        run = client.create_run(experiment, start_time=number + 1, run_name=f"run-{number}")
        client.log_metric(run.info.run_id, "auc", number / 12)
        if number % 2:
            client.log_metric(run.info.run_id, "odd one", number)
        client.log_param(run.info.run_id, "kind", "even" if number % 2 == 0 else "Odd")
        client.set_tag(run.info.run_id, "a.b", str(number))

    def names(filter_string, **kwargs):
        found = client.search_runs([experiment], filter_string, **kwargs)
        return [int(r.info.run_name.split("-")[1]) for r in found]

    assert names("") == list(reversed(range(12)))
    assert names("metrics.auc > 0.5 and params.kind = 'even'") == [10, 8]
    assert names("params.kind LIKE 'o%'") == []
    assert names("params.kind ILIKE 'o%'") == [11, 9, 7, 5, 3, 1]
    assert names("tags.`a.b` = '3' AND attributes.run_name = 'run-3'") == [3]
    assert names('metrics."odd one" >= 9') == [11, 9]
    assert names("attributes.start_time < 3", order_by=["attributes.start_time ASC"]) == [0, 1]
    assert names("", order_by=["metrics.`odd one` DESC"])[:6] == [11, 9, 7, 5, 3, 1]
    assert names("", order_by=["params.kind ASC", "metrics.auc ASC"])[:2] == [1, 3]
    assert names("status = 'RUNNING' and run_name != 'run-11'")[0] == 10
    assert names("tags.missing IS NULL", max_results=2) == [11, 10]
    token, seen = None, []
    while True:
        page = client.search_runs([experiment], order_by=["metrics.auc ASC"], max_results=5, page_token=token)
        seen += [int(r.info.run_name.split("-")[1]) for r in page]
        token = page.token
        if not token:
            break
    assert seen == list(range(12)), seen
    message = expect_error("INVALID_PARAMETER_VALUE", client.search_runs, [experiment], "metrics.auc >")
    assert "character 14" in message, message
    frame = mlflow.search_runs([experiment], filter_string="metrics.auc >= 0.5")
    assert len(frame) == 6 and frame["metrics.auc"].min() == 0.5


def nested_and_autolog(client):
    mlflow.set_experiment("autolog")
    mlflow.sklearn.autolog()
    data = load_iris(as_frame=True)
    with mlflow.start_run(run_name="parent") as parent:
        for c in (0.1, 1.0):
            with mlflow.start_run(nested=True) as child:
                LogisticRegression(C=c, max_iter=300).fit(data.data, data.target)
    mlflow.sklearn.autolog(disable=True)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert len(children) == 2, children
    best = client.get_run(child.info.run_id)
    assert best.data.params["C"] == "1.0"
    assert best.data.metrics["training_accuracy_score"] > 0.9
    assert best.inputs.dataset_inputs, "autolog notes its dataset"
    assert best.outputs.model_outputs, "autolog logs its model"
    with_data = client.search_runs([parent.info.experiment_id], "datasets.context = 'train'")
    assert len(with_data) == 2, with_data
    model = mlflow.get_logged_model(best.outputs.model_outputs[0].model_id)
    assert model.status == "READY" and model.source_run_id == child.info.run_id
    assert model.params["C"] == "1.0", model.params
    loaded = mlflow.sklearn.load_model(f"models:/{model.model_id}")
    assert (loaded.predict(data.data) == data.target).mean() > 0.9
    found = mlflow.search_logged_models(
        [parent.info.experiment_id],
        filter_string="metrics.training_accuracy_score > 0.5 AND params.C = '1.0'",
        output_format="list",
    )
    assert [m.model_id for m in found] == [model.model_id], found
    return child.info.run_id


def artifacts(client):
    experiment = client.create_experiment("artifacts")
    run = client.create_run(experiment)
    run_id = run.info.run_id
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "a b.txt").write_text("one")
        (folder / "deep" / "er" / "ü.bin").write_bytes(bytes(range(256)) * 4096)
        client.log_artifact(run_id, folder / "a b.txt")
        client.log_artifacts(run_id, folder / "deep", "sub")
        client.log_text(run_id, "text", "notes/x.txt")
        client.log_dict(run_id, {"k": [1, 2]}, "notes/x.json")
        listed = {f.path: (f.is_dir, f.file_size) for f in client.list_artifacts(run_id)}
        assert listed == {"a b.txt": (False, 3), "notes": (True, None), "sub": (True, None)}, listed
        inner = [f.path for f in client.list_artifacts(run_id, "sub/er")]
        assert inner == ["sub/er/ü.bin"], inner
        local = client.download_artifacts(run_id, "", str(folder / "deep"))
        assert (pathlib.Path(local) / "sub" / "er" / "ü.bin").read_bytes() == bytes(range(256)) * 4096
        text = mlflow.artifacts.load_text(f"runs:/{run_id}/notes/x.txt")
        assert text == "text", text
        # In parts, for a client that insists on it.
        os.environ["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"] = "true"
        os.environ["MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE"] = "1"
        os.environ["MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE"] = str(5 * 1024 * 1024)
        big = os.urandom(11 * 1024 * 1024 + 17)
        (folder / "big.bin").write_bytes(big)
        client.log_artifact(run_id, str(folder / "big.bin"), "parts")
        for name in ("ENABLE_PROXY_MULTIPART_UPLOAD", "MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "MULTIPART_UPLOAD_CHUNK_SIZE"):
            del os.environ[f"MLFLOW_{name}"]
        local = client.download_artifacts(run_id, "parts/big.bin")
        assert pathlib.Path(local).read_bytes() == big
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(run.info.artifact_uri)
    repository.delete_artifacts("sub")
    assert client.list_artifacts(run_id, "sub") == []


def registry(client, run_id):
    frame = pd.DataFrame({"x": [1, 2, 3]})
    mlflow.set_experiment("registry")
    with mlflow.start_run() as run:
        info = mlflow.pyfunc.log_model(
            name="model", python_model=AddN(5), input_example=frame, registered_model_name="adder"
        )
        mlflow.log_metric("score", 0.75, model_id=info.model_id)
    version = client.get_model_version("adder", "1")
    assert version.run_id == run.info.run_id and version.status == "READY", version
    client.set_registered_model_alias("adder", "champion", 1)
    assert client.get_model_version_by_alias("adder", "champion").version == "1"
    loaded = mlflow.pyfunc.load_model("models:/adder@champion")
    assert np.array_equal(loaded.predict(frame)["x"], frame["x"] + 5)
    for uri in ("models:/adder/1", "models:/adder/latest", f"runs:/{run.info.run_id}/model"):
        assert mlflow.pyfunc.load_model(uri).predict(frame)["x"].tolist() == [6, 7, 8], uri
    assert client.get_registered_model("adder").aliases == {"champion": "1"}
    second = mlflow.register_model(f"runs:/{run.info.run_id}/model", "adder", tags={"from": "runs"})
    assert second.version == "2", second
    assert mlflow.pyfunc.load_model("models:/adder/2").predict(frame)["x"].tolist() == [6, 7, 8]
    third = mlflow.register_model(f"models:/{info.model_id}", "adder")
    assert third.version == "3", third
    registered = mlflow.get_logged_model(info.model_id).tags["mlflow.modelVersions"]
    assert registered.count("adder") == 3, registered
    copied = client.copy_model_version("models:/adder/1", "copy")
    assert copied.name == "copy" and copied.version == "1"
    assert mlflow.pyfunc.load_model("models:/copy/1").predict(frame)["x"].tolist() == [6, 7, 8]
    client.update_model_version("adder", "2", "described")
    client.set_model_version_tag("adder", "2", "stage", "test")
    client.set_registered_model_tag("adder", "owner", "me")
    client.update_registered_model("adder", "about adders")
    assert client.get_model_version("adder", "2").description == "described"
    assert client.get_registered_model("adder").tags == {"owner": "me"}
    found = client.search_model_versions("name = 'adder' and tags.stage = 'test'")
    assert [v.version for v in found] == ["2"], found
    found = client.search_model_versions(f"run_id = '{run.info.run_id}'", order_by=["version_number ASC"])
    assert [v.version for v in found if v.name == "adder"] == ["1", "2", "3"], found
    found = client.search_registered_models("name ILIKE 'ADD%' and tags.owner = 'me'")
    assert [m.name for m in found] == ["adder"], found
    client.transition_model_version_stage("adder", "2", "Production")
    moved = client.transition_model_version_stage("adder", "3", "Production", archive_existing_versions=True)
    assert moved.current_stage == "Production"
    assert client.get_model_version("adder", "2").current_stage == "Archived"
    assert [v.version for v in client.get_latest_versions("adder", ["Production"])] == ["3"]
    client.delete_registered_model_alias("adder", "champion")
    expect_error("INVALID_PARAMETER_VALUE", client.get_model_version_by_alias, "adder", "champion")
    client.delete_model_version_tag("adder", "2", "stage")
    client.delete_model_version("adder", "2")
    expect_error("RESOURCE_DOES_NOT_EXIST", client.get_model_version, "adder", "2")
    client.rename_registered_model("adder", "renamed")
    assert len(client.search_model_versions("name = 'renamed'")) == 2
    client.delete_registered_model("renamed")
    expect_error("RESOURCE_DOES_NOT_EXIST", client.get_registered_model, "renamed")
    client.create_registered_model("evil")
    for source in (
        "/etc/passwd",
        "file:///etc/passwd",
        "file://localhost/etc",
        "s3://bucket/x",
        "http://127.0.0.1/x",
        "mlflow-artifacts:/../../etc",
        "mlflow-artifacts:/%2e%2e/%2e%2e/etc",
        "mlflow-artifacts:/%252e%252e/etc",
        "mlflow-artifacts://other/x",
        "../../etc",
        "FILE:/etc",
    ):
        expect_error("INVALID_PARAMETER_VALUE", client.create_model_version, "evil", source)


def main():
    mlflow.set_tracking_uri(sys.argv[1])
    client = MlflowClient()
    experiments(client)
    runs(client)
    search(client)
    run_id = nested_and_autolog(client)
    artifacts(client)
    registry(client, run_id)
    print("all fine with mlflow", mlflow.__version__)


if __name__ == "__main__":
    main()
