"""Our resource definitions on a real API server: applied is not yet served.

`kubectl wait` is no way to wait for that: on a definition so young that its status says `conditions: null` it ends with
an error in place of waiting.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from pipetrail import api

POLL_S = 0.2


def wait_established(kubectl: Callable[..., str], within_s: float = 60.0) -> None:
    """Return once the API server serves all of our kinds. `kubectl` takes words and returns what was printed.

    Raises:
        TimeoutError: One of them is not served by then; the text names it.
    """
    names = sorted(crd["metadata"]["name"] for crd in api.crds().values())
    deadline = time.monotonic() + within_s
    while young := [crd["metadata"]["name"] for crd in _listed(kubectl, names) if not _established(crd)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not established after {within_s:.0f} s: {', '.join(young)}")
        time.sleep(POLL_S)


def _listed(kubectl: Callable[..., str], names: list[str]) -> list[Any]:
    found: list[Any] = json.loads(kubectl("get", "crd", *names, "-o", "json"))["items"]
    return found


def _established(crd: Any) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
