"""A plain scikit-learn script, tracked by MLflow.

By hand:      pip install scikit-learn mlflow && python train.py
On Cumulo:    cumulo train examples/quickstart/train.py --packages scikit-learn,mlflow
Nothing in it knows of Cumulo.
"""

import argparse

import mlflow
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

parser = argparse.ArgumentParser()
parser.add_argument("--strength", type=float, default=1.0, help="inverse of the regularisation")
arguments = parser.parse_args()

features, target = load_breast_cancer(return_X_y=True, as_frame=True)
train_x, test_x, train_y, test_y = train_test_split(features, target, random_state=1)

mlflow.sklearn.autolog(log_models=False)
with mlflow.start_run():
    model = make_pipeline(StandardScaler(), LogisticRegression(C=arguments.strength))
    model.fit(train_x, train_y)
    auc = roc_auc_score(test_y, model.predict_proba(test_x)[:, 1])
    mlflow.log_metric("test_auc", auc)
    mlflow.sklearn.log_model(model, name="model", input_example=test_x.head(2))
    print(f"test AUC {auc:.4f}")
