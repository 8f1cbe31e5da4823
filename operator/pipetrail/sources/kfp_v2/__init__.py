"""Kubeflow Pipelines v2: a Workflow that KFP compiled, its pods and what MLMD says, to a record. Pure."""
