"""Whether a run's object, or what only its pods know, may go by itself before anyone has read it."""

from typing import Any

from pipetrail.record import Frozen
from pipetrail.sources.argo.body import obj, word
from pipetrail.sources.argo.kfp import KFP_RUN


class Lifetime(Frozen, frozen=True):
    """What goes without anybody asking: the object, by a time to live or a deletion that has begun; its pods."""

    object_goes: bool = False
    pods_go: bool = False


def lifetime(body: Any) -> Lifetime:
    """By the Workflow's own words and those of the template that it was made from.

    KFP's persistence agent deletes the Workflows of runs a day after their end, and no object says so.
    """
    meta = obj(body, "metadata")
    specs = (obj(body, "spec"), obj(obj(body, "status"), "storedWorkflowTemplateSpec"))
    return Lifetime(
        object_goes=any(obj(spec, "ttlStrategy") for spec in specs)
        or bool(meta.get("deletionTimestamp"))
        or KFP_RUN in obj(meta, "labels"),
        pods_go=any(word(obj(spec, "podGC").get("strategy")) for spec in specs),
    )
