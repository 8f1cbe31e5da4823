"""Kubeflow Pipelines v2: a Workflow that KFP compiled, its pods, and what the metadata store says, to a record. Pure."""
