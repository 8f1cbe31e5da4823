"""One collection, followed: listed page by page, then watched, and watched on from where a watch ended.

A watch says of each object what became of it, and of the collection where it stands (a resourceVersion; a bookmark
moves it on when nothing happens). So whatever ends a watch, the next one goes on from there and nothing is missed. Only
if the API server has forgotten that version (410, cluster.md §2) is the collection listed again: what was deleted in
between shows nowhere then, and `gap` is called, for the survey to find it.

Nothing that an API server does ends a stream. What is wrong is said once, until it is something else or over.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from pipetrail import observe
from pipetrail.controller.lines import Lines
from pipetrail.controller.news import News
from pipetrail.delivery.lane import backoff_s
from pipetrail.kube import PAGE, TIMEOUT_S, ApiError, Kube, KubeError
from pipetrail.record import Frozen
from pipetrail.shards import WHOLE, Share
from pipetrail.sources.argo.body import obj, whole, word
from pipetrail.sources.argo.glimpse import Glimpse

WATCH_S: Final = 60
"""The API server is asked to end a watch after this long. So a quiet watch is heard of, whether bookmarks come or not:
on a quiet cluster they came 60 to 150 s apart."""
SILENCE_S: Final = 80.0
"""Who says nothing for longer than a watch lasts is gone."""
WORDLESS_S: Final = 600.0
"""After watches of so long together in which no word came all is listed again: if the server's history was set back
(etcd restored from a copy), the version that we hold is yet to come, and until then it would tell us nothing."""
CATCH_UP_S: Final = 2
"""How long a watch lasts that begins at a saved version: what happened meanwhile is told at once."""
LIST_S: Final = 60.0  # a page
MAX_LINE_BYTES: Final = 8 << 20  # etcd takes 1.5 MB unless told otherwise
MAX_PAGE_BYTES: Final = 32 << 20
SHORT_S: Final = 1.0
"""A watch that ends sooner is not asked for again at once, however well it ended."""
PAUSE_MOST_S: Final = 30.0


class Collection(Frozen, frozen=True):
    """What is followed: the path of its lists and watches, what the server selects, and whose namespaces count.

    A server that knows shards leaves out what is of others, one that does not sends it: here it is left out again.
    """

    path: str
    query: Mapping[str, str] = {}
    share: Share = WHOLE

    @property
    def asked(self) -> Mapping[str, str]:
        """The query of each list and watch."""
        return {**self.query, **self.share.query}


class Pulse(Frozen, frozen=True):
    """How a watch stands. `heard_s` is how long ago the server last said anything to it, null if it never did.

    `listed` is true once all that stood at the start has been seen; `version` is where a watch would go on; `restarts`
    counts what ended a watch before its time; `trouble` is what is wrong now, or empty.
    """

    path: str
    version: str
    listed: bool
    heard_s: float | None
    restarts: int
    trouble: str


class Stream:
    """Follows one collection and hands what it sees to `news`, in the loop that runs it.

    With a `version` that was saved it watches for a moment from there on, so that what was deleted meanwhile is told
    with its last body, and lists then: the list alone would not show what is gone, the watch alone not what has not
    changed. It goes on from where that first watch ended, lest what is deleted during the list be missed. Until the
    list is read, what is seen counts as listed.

    `known` says instead that all which stood at `version` is known already: then there is no list.
    """

    def __init__(
        self, kube: Kube, collection: Collection, glimpse: Glimpse, news: News, *, gap: Callable[[], None],
        version: str = "", known: bool = False,
    ) -> None:  # fmt: skip
        self._collection = collection
        self._kube = kube
        self._glimpse = glimpse
        self._news = news
        self._gap = gap
        self._version = version
        self._resumed = bool(version)  # a list without a version means then that something was missed
        self._catch_up = bool(version) and not known
        self._to_list = not version or not known
        self._caught_up = not self._to_list
        self._heard_at: float | None = None
        self._wordless_s = 0.0  # how long watches stood since the last word
        self._troubles = 0  # in a row
        self._restarts = 0
        self._trouble = ""
        self._said = ""

    def pulse(self) -> Pulse:
        """How it stands at this moment."""
        return Pulse(
            path=self._collection.path, version=self._version, listed=self._caught_up, restarts=self._restarts,
            heard_s=None if self._heard_at is None else _now() - self._heard_at, trouble=self._trouble,
        )  # fmt: skip

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                if self._catch_up and self._version:
                    await self._watch(CATCH_UP_S)
                    self._catch_up = False
                if self._to_list or not self._version:
                    await self._list()
                await self._watch(WATCH_S)
            except KubeError as error:
                await self._pause(error)
            except Exception as error:  # noqa: BLE001  a defect in one stream must not deafen the others; it is said
                observe.count("handler_errors")
                await self._pause(KubeError(f"{self._collection.path}: {observe.where(error)}"))

    # --- reading --------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        """Hand over all that stands, page by page; of each page nothing but uids is kept."""
        path, uids = self._collection.path, set[str]()
        size, token = PAGE, ""
        while True:
            query: dict[str, str | int] = {**self._collection.asked, "limit": size}
            if token:
                query["continue"] = token
            data = await self._kube.get_bytes(path, most=MAX_PAGE_BYTES + 1, timeout_s=LIST_S, **query)
            if len(data) > MAX_PAGE_BYTES and size > 1:
                size = max(1, size // 8)
                continue
            try:
                page = self._glimpse.page(data)
            except (msgspec.DecodeError, RecursionError) as error:
                raise KubeError(f"GET {path}: {type(error).__name__} in a list") from None
            self._heard()
            for body in page.items:
                if not self._ours(body):
                    continue
                uids.add(word(obj(body, "metadata").get("uid")))
                self._saw("ADDED", body, listed=True)
            token = page.following
            if not token:
                break
            await asyncio.sleep(0)  # deliveries have their turns meanwhile
        if not page.version:
            raise KubeError(f"GET {path}: a list without a resourceVersion")
        self._news.stand(uids)
        missed = self._resumed and not self._version
        self._version = _earlier(self._version, page.version)
        self._to_list, self._caught_up, self._resumed = False, True, True
        if missed:
            self._gap()

    async def _watch(self, most_s: int) -> None:
        """Hand over what happens until the server ends the watch after `most_s`; raises what ended it otherwise."""
        query: dict[str, str | int] = {
            **self._collection.asked, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": most_s,
            "resourceVersion": self._version,
        }  # fmt: skip
        path, lines = self._collection.path, Lines(MAX_LINE_BYTES)
        began, stood, heard, missed = _now(), False, False, 0
        stream = self._kube.stream(path, timeout_s=most_s + TIMEOUT_S, silence_s=SILENCE_S, **query)
        try:
            async with contextlib.aclosing(stream) as pieces:
                async for piece in pieces:
                    stood = True
                    self._heard()
                    for line in lines.feed(piece):
                        missed += not self._take(line)
                        if not heard:
                            heard = True
                            self._well()
                    if lines.too_long + missed:
                        self._missed(lines.too_long + missed)
                        lines.too_long = missed = 0
        finally:
            lasted = _now() - began
            if lasted > PAUSE_MOST_S:
                self._well()
            self._wordless_s = 0.0 if heard else self._wordless_s + stood * lasted
            if self._wordless_s >= WORDLESS_S:
                self._version, self._wordless_s = "", 0.0
        if lasted < SHORT_S:
            raise KubeError(f"WATCH {path}: ended after {lasted:.1f} s")

    def _take(self, line: bytes) -> bool:
        """One line of a watch; False if it can't be read."""
        try:
            event = self._glimpse.event(line)
        except (msgspec.DecodeError, RecursionError):
            return False
        version = word(obj(event.body, "metadata").get("resourceVersion"))
        match event.type:
            case "BOOKMARK":
                pass
            case "ADDED" | "MODIFIED" | "DELETED":
                if self._ours(event.body):
                    self._saw(event.type, event.body, listed=not self._caught_up)
            case "ERROR":
                status = event.body
                reason, message = word(status.get("reason")), word(status.get("message"))
                code = whole(status.get("code")) or 500
                raise ApiError(code, reason, message, f"WATCH {self._collection.path}")
            case _:
                return False
        self._version = version or self._version
        return bool(version)

    def _ours(self, body: Mapping[str, Any]) -> bool:
        return self._collection.share.owns(word(obj(body, "metadata").get("namespace")))

    def _saw(self, change: str, body: Mapping[str, Any], *, listed: bool) -> None:
        try:
            self._news.saw(change, body, listed=listed)
        except Exception as error:  # noqa: BLE001  one odd object must not stop the others; it is said
            observe.count("handler_errors")
            observe.log().error("event failed", watch=self._collection.path, error=observe.where(error))

    # --- how it goes ----------------------------------------------------------------------------------------------

    def _heard(self) -> None:
        self._heard_at = _now()
        self._trouble = ""

    def _well(self) -> None:
        self._troubles = 0
        if self._said:
            observe.log().info("watch goes on", watch=self._collection.path)
        self._said = ""

    def _missed(self, n: int) -> None:
        """Events that could not be read: what they were about is found by comparing."""
        observe.count("watch_lines_unread", n)
        observe.log().warning("events not read", watch=self._collection.path, lines=n)
        self._gap()

    async def _pause(self, error: KubeError) -> None:
        """Say what is wrong, unless that was said before, and wait: longer each time, by chance, at most 30 s."""
        gone = isinstance(error, ApiError) and error.status == 410
        if gone:
            self._version = ""
        if not self._troubles:
            self._restarts += 1
            observe.count("watch_restarts")
        self._trouble = str(error)
        if self._trouble != self._said:
            self._said = self._trouble
            observe.log().warning("watch ended", watch=self._collection.path, cause=self._said)
        if isinstance(error, ApiError) and error.status == 401 and await self._kube.login.renew():
            return
        self._troubles += 1
        await asyncio.sleep(backoff_s(self._troubles, PAUSE_MOST_S))


def _earlier(mine: str, listed: str) -> str:
    """Where to watch on after a list: where we were, unless the server has not come so far (its history was set back).

    Versions are numbers that grow (KEP-5504); one that is none is not ours to compare.
    """
    if mine.isdecimal() and listed.isdecimal() and int(mine) <= int(listed):
        return mine
    return listed


def _now() -> float:
    return asyncio.get_running_loop().time()
