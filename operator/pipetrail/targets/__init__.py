"""Targets: one module per tracker behind the contract of :mod:`pipetrail.targets.target`."""
