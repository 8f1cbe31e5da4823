"""A real Kubernetes cluster on one machine, from source, without root where it can be.

Standard library only: it runs from a fresh clone with `python3 deploy/local/cluster.py`, before any
virtual environment exists. Everything that it makes lies in one state folder outside the checkout.
"""
