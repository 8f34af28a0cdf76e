"""Fills a SQLite database of MLflow with runs, the quick way: `mlflow_peer.py DATABASE RUNS`.

The tables and their content are what MLflow's own server would have written for
the same runs, one request each, which takes it an hour.
"""

import sqlite3
import sys

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

METRICS, PARAMS, TAGS = 5, 5, 3


def main():
    path, count = sys.argv[1], int(sys.argv[2])
    SqlAlchemyStore(f"sqlite:///{path}", "mlflow-artifacts:/")
    database = sqlite3.connect(path)
    runs, metrics, latest, params, tags = [], [], [], [], []
    for n in range(count):
        run = f"{n:032x}"
        runs.append((run, f"run-{n}", "UNKNOWN", "", "", "me", "FINISHED", n + 1, n + 2, "", "active", f"mlflow-artifacts:/0/{run}/artifacts", 0))
        for m in range(METRICS):
            value = ((n * 7919 + m * 104729) % count) / count
            metrics.append((f"metric-{m}", value, 1, run, 0, 0))
            latest.append((f"metric-{m}", value, 1, 0, 0, run))
        params += [(f"param-{p}", str((n + p) % 10), run) for p in range(PARAMS)]
        tags += [(f"tag-{t}", str((n + t) % 100), run) for t in range(TAGS)]
        tags.append(("mlflow.runName", f"run-{n}", run))
    database.executemany(
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,"
        " start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        runs,
    )
    database.executemany("INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)", metrics)
    database.executemany("INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)", latest)
    database.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", params)
    database.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", tags)
    database.commit()


if __name__ == "__main__":
    main()
