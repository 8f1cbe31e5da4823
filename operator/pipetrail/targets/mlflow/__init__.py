"""MLflow, spoken to over its documented REST API; importing this imports no mlflow (84 MiB, process-wide credentials).

`fit` says what MLflow can hold and `links` what its pages are called (both pure), `wire` is one call and what its
failure means, `batches` cuts and halves what is sent, `files` brings small files along, `target` puts it together.
"""
