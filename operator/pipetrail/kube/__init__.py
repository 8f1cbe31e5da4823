"""The API server: `connection` calls it, `login` says as whom, `paths` where objects stand, `errors` how calls end."""

from pipetrail.kube.connection import PAGE, TIMEOUT_S, Kube
from pipetrail.kube.errors import ApiError, KubeError, Unreachable
from pipetrail.kube.login import context_namespace
from pipetrail.kube.paths import ARGO, TRACKED_RUNS, collections

__all__ = [
    "ARGO", "PAGE", "TIMEOUT_S", "TRACKED_RUNS", "ApiError", "Kube", "KubeError", "Unreachable", "collections",
    "context_namespace",
]  # fmt: skip
