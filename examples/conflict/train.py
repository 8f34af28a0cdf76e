"""Logs a model that answers with the version of numpy it runs on."""

import sys

import mlflow
import numpy
import pandas


class NumpyVersion(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: pandas.DataFrame, params=None):
        import numpy

        return pandas.DataFrame(
            {
                "numpy": [numpy.__version__] * len(model_input),
                "sum": numpy.asarray(model_input["x"], dtype="float64") + 1.0,
            }
        )


example = pandas.DataFrame({"x": [1.0, 2.0]})
with mlflow.start_run():
    mlflow.log_param("numpy", numpy.__version__)
    mlflow.pyfunc.log_model(
        name="model",
        python_model=NumpyVersion(),
        input_example=example,
        pip_requirements=["mlflow-skinny==" + mlflow.__version__, "pandas", f"numpy=={numpy.__version__}", "cloudpickle"],
    )
print("numpy", numpy.__version__, "on Python", sys.version.split()[0])
