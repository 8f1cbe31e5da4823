"""The ways in which team A tries to see or touch what is team B's: what it writes, and what comes of it.

Each is a row: `does` writes as A's user, `sees` says in a few words what came of it, and `expected` says what should
have. Beside that, after all of them together, nothing of B's stands where A can see it, B's runs are as they were, and
no address that only A chose was called (test_tenants.py). The rows are in targets.py, runs.py and trackedruns.py, and
docs/security.md has them as its table.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from tests.cluster.tenants.town import Town

from pipetrail.kube import ApiError

Does = Callable[[Town], Awaitable[Any]]
Sees = Callable[[Town, Any], Awaitable[str]]
REFUSED: Final = "the API server refuses it"
ITS_OWN: Final = "recorded as team A's own"


class Way(NamedTuple):
    """`away` ones are done while the operator is not running: it meets them in a list, when it starts again."""

    what: str
    expected: str
    does: Does
    sees: Sees
    away: bool = False


async def refused(_: Town, made: Any) -> str:
    return REFUSED if isinstance(made, ApiError) and made.status in (403, 422) else f"it took it: {made}"


async def ready(town: Town, made: Any) -> str:
    return await town.a.ready(made["metadata"]["name"])


async def not_called(town: Town, made: Any) -> str:
    """aiohttp refuses some spellings of a number before the judge sees them."""
    said = await ready(town, made)
    return "AddressRefused" if said in ("AddressRefused", "NotMlflow") else said


async def lacks(town: Town, made: Any) -> str:
    return await town.a.reaches(made["metadata"]["name"])


async def own(town: Town, made: Any) -> str:
    """It is A's run in A's namespace, and has no more than A gave it."""
    name = made["metadata"]["name"]
    said = await town.a.reaches(name)
    key = (await town.a.tracked(name))["spec"]["run"]["key"]
    return ITS_OWN if said == "Synced" and key.endswith(made["metadata"]["uid"]) else said
