"""Pipetrail: the flight recorder for pipelines on Kubernetes."""
