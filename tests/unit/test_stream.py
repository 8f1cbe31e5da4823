"""A stream against a server that speaks Kubernetes' lists and watches, with what goes wrong on the way."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Set
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes.aio import client as k8s
from tests.real.collection import EXPIRED, Collection, error

from pipetrail import observe
from pipetrail.controller import stream as streams
from pipetrail.controller.stream import Stream
from pipetrail.kube import Kube
from pipetrail.shards import WHOLE, Cut, Share, place
from pipetrail.sources.argo import glimpse

PATH = "/apis/argoproj.io/v1alpha1/workflows"
BROKEN = {**EXPIRED, "code": 500, "reason": "InternalError", "message": "etcdserver: request timed out"}


class Saw:
    """What a stream told: the seam that RunNews and its like stand at in the operator."""

    def __init__(self) -> None:
        self.news: list[tuple[str, str, bool]] = []
        self.bodies: list[Any] = []
        self.stood: list[set[str]] = []
        self.gaps = 0
        self.odd = ""

    def saw(self, change: str, body: Mapping[str, Any], *, listed: bool) -> None:
        if body["metadata"]["name"] == self.odd:
            raise ValueError("a defect of ours")
        self.news.append((change, body["metadata"]["name"], listed))
        self.bodies.append(body)

    def stand(self, uids: Set[str]) -> None:
        self.stood.append(set(uids))

    def gap(self) -> None:
        self.gaps += 1

    @property
    def live(self) -> list[tuple[str, str]]:
        """What was told as it happened, not by a list."""
        return [(change, name) for change, name, listed in self.news if not listed]


class Setting:
    """A server with two runs, and a stream that follows it."""

    def __init__(self, server: Collection, kube: Kube) -> None:
        self.server = server
        self.kube = kube
        self.told = Saw()

    @asynccontextmanager
    async def following(self, version: str = "", *, known: bool = False, share: Share = WHOLE) -> AsyncIterator[Stream]:
        collection = streams.Collection(path=PATH, query={"labelSelector": "a=b"}, share=share)
        made = Stream(
            self.kube, collection, glimpse.WORKFLOW, self.told, gap=self.told.gap, version=version, known=known
        )
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    async def watching(self) -> None:
        """Until a watch is open, and what it has to say at once is said."""
        await until(lambda: self.server.watching == 1)
        await asyncio.sleep(0.05)


async def until(true: Callable[[], Any], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def setting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setting]:
    monkeypatch.setattr(streams, "SHORT_S", 0.0)
    monkeypatch.setattr(streams, "PAUSE_MOST_S", 0.05)
    async with Collection() as server, Kube(k8s.Configuration(host=server.url)) as kube:
        server.put("one")
        server.put("two")
        yield Setting(server, kube)


async def test_what_stands_is_listed_by_pages_and_what_happens_then_is_told(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PAGE", 2)
    server, told = setting.server, setting.told
    for name in ("three", "four", "five"):
        server.put(name)
    async with setting.following() as stream:
        await setting.watching()
        server.put("six")
        server.put("one", status={"phase": "Running"})
        server.delete("two")
        await until(lambda: len(told.news) == 8)
        pulse = stream.pulse()
    assert sorted(name for change, name, listed in told.news[:5] if listed) == ["five", "four", "one", "three", "two"]
    assert told.news[5:] == [("ADDED", "six", False), ("MODIFIED", "one", False), ("DELETED", "two", False)]
    assert told.stood == [{f"uid-{name}" for name in ("one", "two", "three", "four", "five")}]
    assert [query.get("limit") for query in server.asked] == ["2", "2", "2", None]
    assert {query["labelSelector"] for query in server.asked} == {"a=b"}
    assert (pulse.version, pulse.listed, pulse.restarts, pulse.trouble) == ("108", True, 0, "")
    assert pulse.heard_s is not None
    assert pulse.heard_s < 5
    assert told.gaps == 0


async def test_only_the_last_body_of_what_is_deleted_is_handed_over_whole(setting: Setting) -> None:
    server, told = setting.server, setting.told
    whole = {"spec": {"entrypoint": "main", "shutdown": "Stop"}, "status": {"phase": "Running", "progress": "1/2"}}
    async with setting.following():
        await setting.watching()
        server.put("one", **whole)
        server.delete("one")
        await until(lambda: len(told.live) == 2)
    changed, deleted = told.bodies[-2:]
    assert (changed["spec"], changed["status"]) == ({"shutdown": "Stop"}, {"phase": "Running"})
    assert (deleted["spec"], deleted["status"]) == (whole["spec"], whole["status"])


@pytest.mark.parametrize("how", ["end", "cut"])
async def test_a_watch_that_ends_goes_on_where_it_ended(setting: Setting, how: str) -> None:
    server, told = setting.server, setting.told
    async with setting.following() as stream:
        await setting.watching()
        server.put("one")
        await until(lambda: told.live)
        getattr(server, how)()
        server.delete("two")
        await until(lambda: len(told.live) == 2)
        server.bookmark()
        await setting.watching()
        server.end()
        await until(lambda: len(server.watches) == 3)
        restarts = stream.pulse().restarts
    assert told.live == [("MODIFIED", "one"), ("DELETED", "two")]
    assert len(server.lists) == 1
    assert [query["resourceVersion"] for query in server.watches] == ["102", "103", "104"]
    assert told.gaps == 0
    assert restarts == (how == "cut")


async def test_a_bookmark_moves_a_watch_on(setting: Setting) -> None:
    server = setting.server
    async with setting.following() as stream:
        await setting.watching()
        server.compact()
        server.bookmark()
        await until(lambda: stream.pulse().version == str(server.version))
        server.cut()
        await until(lambda: len(server.watches) == 2)
        await setting.watching()
    assert len(server.lists) == 1
    assert setting.told.gaps == 0


@pytest.mark.parametrize("where", ["answer", "stream"])
async def test_where_the_version_is_too_old_all_is_listed_again_and_the_gap_is_said(
    setting: Setting, where: str
) -> None:
    server, told = setting.server, setting.told
    async with setting.following():
        await setting.watching()
        if where == "stream":
            server.troubles.append(error(EXPIRED))
        server.cut()
        server.delete("two")
        server.put("three")
        server.compact()
        await until(lambda: len(told.stood) == 2)
        await setting.watching()
        server.put("three")
        await until(lambda: told.live)
    assert told.stood == [{"uid-one", "uid-two"}, {"uid-one", "uid-three"}]
    assert told.live == [("MODIFIED", "three")]
    assert told.gaps == 1


async def test_a_list_that_expires_while_it_is_read_begins_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PAGE", 1)
    server, told = setting.server, setting.told
    first = {"metadata": {"resourceVersion": "99", "continue": "99 a"}, "items": []}
    server.troubles.append(web.json_response(first))
    async with setting.following():
        await setting.watching()
    assert [query.get("continue") for query in server.lists] == [None, "99 a", None, "102 one"]
    assert told.stood == [{"uid-one", "uid-two"}]
    assert told.gaps == 0


async def test_nothing_that_a_server_answers_ends_a_stream_or_loses_an_event(setting: Setting) -> None:
    server, told = setting.server, setting.told
    async with setting.following() as stream:
        await setting.watching()
        for n, trouble in enumerate([
            error(BROKEN), web.Response(status=500), web.Response(status=429, headers={"Retry-After": "1"}),
            web.Response(status=503, body=b"<html>"), web.Response(status=403), web.Response(status=404), b"",
            web.Response(body=b"<html>Sign in</html>"), web.Response(status=504, body=b"\x00\xff"),
        ]):  # fmt: skip
            server.troubles.append(trouble)
            server.cut()
            server.put("one", n=n)
            await until(lambda n=n: len(told.live) == n + 1)
        await setting.watching()
        server.bookmark()
        await until(lambda: stream.pulse().version == str(server.version))
        assert stream.pulse().trouble == ""
    assert told.live == [("MODIFIED", "one")] * 9
    assert len(server.lists) == 1


async def test_what_is_wrong_is_said_once_however_often_it_is_tried(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    observe.configure(form="json")
    server = setting.server
    before = observe.counts["watch_restarts"]
    forbidden = {"reason": "Forbidden", "message": "workflows is forbidden"}
    server.troubles.extend(web.json_response(forbidden, status=403) for _ in range(5))
    async with setting.following() as stream:
        await until(lambda: len(server.asked) == 5)
        assert "403 Forbidden" in stream.pulse().trouble
        assert not stream.pulse().listed
        await setting.watching()
        server.bookmark()
        await until(lambda: not stream.pulse().trouble)
        server.end()
        await until(lambda: len(server.watches) == 2)
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in said] == ["watch ended", "watch goes on"]
    assert "workflows is forbidden" in said[0]["cause"]
    assert observe.counts["watch_restarts"] - before == 1


async def test_a_token_that_expired_is_read_anew_at_once(setting: Setting, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(streams, "PAUSE_MOST_S", 60.0)
    server, file = setting.server, tmp_path / "kubeconfig"

    def login(token: str) -> None:
        file.write_text(json.dumps({
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x",
        }))  # fmt: skip

    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    login("old")
    async with await Kube.connect(connections=0) as kube:
        setting.kube = kube
        login("new")
        server.troubles.append(web.Response(status=401))
        async with setting.following():
            await setting.watching()
    assert server.tokens == ["Bearer old", "Bearer new", "Bearer new"]


async def test_a_connection_that_says_nothing_is_left_and_the_watch_goes_on(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SILENCE_S", 0.2)
    server, told = setting.server, setting.told
    async with setting.following() as stream:
        await until(lambda: len(server.watches) == 3)
        assert stream.pulse().restarts >= 1
        server.delete("two")
        await until(lambda: told.live)
    assert (told.live, told.gaps, len(server.lists)) == ([("DELETED", "two")], 0, 1)


@pytest.mark.parametrize("how", ["silence", "end"])
async def test_a_server_that_has_no_word_for_a_long_time_is_asked_for_all(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """As one is whose history was set back to before our version: it tells nothing until that version comes again."""
    monkeypatch.setattr(streams, "WORDLESS_S", 0.5)
    monkeypatch.setattr(streams, "SILENCE_S", 0.2 if how == "silence" else 80.0)
    server, told = setting.server, setting.told
    async with setting.following():
        async with asyncio.timeout(5):
            while len(server.lists) == 1 or not server.lists:
                await asyncio.sleep(0.2)
                if how == "end":
                    server.end()
    assert len(server.watches) >= 3
    assert {query["resourceVersion"] for query in server.watches} == {"102"}
    assert told.gaps == 1


async def test_a_server_that_is_away_is_not_one_that_says_nothing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "WORDLESS_S", 0.5)
    server, told = setting.server, setting.told
    async with setting.following():
        await setting.watching()
        server.troubles.extend(web.Response(status=503) for _ in range(20))
        server.cut()
        server.delete("one")
        await until(lambda: told.live)
    assert told.live == [("DELETED", "one")]
    assert len(server.lists) == 1


async def test_a_large_object_arrives_and_what_can_not_be_read_is_left_to_the_survey(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 2 << 20)
    server, told = setting.server, setting.told
    deep = b'{"type": "MODIFIED", "object": {"metadata": {"labels": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}}\n"
    async with setting.following():
        await setting.watching()
        server.put("large", metadata={"annotations": {"a": "x" * (1536 << 10)}})
        await until(lambda: len(told.live) == 1)
        assert told.gaps == 0
        for garbage in (b"\x00\xff{{{\n", b"[]\n", b'{"type": "NEWS"}\n', b'{"type": "ADDED"}\n', deep):
            before = told.gaps
            server.write(garbage)
            await until(lambda before=before: told.gaps == before + 1)
        server.put("beyond", metadata={"annotations": {"a": "x" * (3 << 20)}})
        server.put("after")
        await until(lambda: told.live[-1] == ("ADDED", "after"))
        assert told.gaps == 6
    assert ("ADDED", "beyond") not in told.live
    assert len(server.asked) == 2


async def test_pages_that_are_too_large_are_asked_for_in_smaller_ones(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_PAGE_BYTES", 10_000)
    for n in range(8):
        setting.server.put(f"large-{n}", metadata={"annotations": {"a": "x" * 3000}})
    async with setting.following():
        await setting.watching()
    assert setting.told.stood == [{"uid-one", "uid-two", *(f"uid-large-{n}" for n in range(8))}]
    assert [query["limit"] for query in setting.server.lists[:2]] == ["250", "31"]


async def test_a_watch_begins_where_a_process_before_us_was_and_lists_when_it_has_caught_up(setting: Setting) -> None:
    server, told = setting.server, setting.told
    server.delete("two")
    async with setting.following(version="102") as stream:
        await until(lambda: told.news)
        server.put("three")
        server.bookmark()
        await until(lambda: len(told.news) == 2)
        assert (server.lists, stream.pulse().listed) == ([], False)
        server.end()
        await setting.watching()
        assert stream.pulse().listed
        server.put("four")
        await until(lambda: told.live)
    assert told.news == [
        ("DELETED", "two", True), ("ADDED", "three", True),  # caught up
        ("ADDED", "one", True), ("ADDED", "three", True),  # listed
        ("ADDED", "four", False),
    ]  # fmt: skip
    assert [watch["timeoutSeconds"] for watch in server.watches] == [str(streams.CATCH_UP_S), str(streams.WATCH_S)]
    assert (told.stood, told.gaps) == ([{"uid-one", "uid-three"}], 0)


async def test_what_is_deleted_while_the_list_after_catching_up_is_read_is_told(setting: Setting) -> None:
    server, told = setting.server, setting.told
    async with setting.following(version="102"):
        await setting.watching()
        server.troubles.append(web.Response(status=503))  # the first try of the list
        server.end()
        await until(lambda: not server.troubles)
        server.delete("two")
        await until(lambda: told.live)
    assert told.live == [("DELETED", "two")]


async def test_a_version_that_is_yet_to_come_is_left_for_the_lists_own(setting: Setting) -> None:
    """The server's history was set back: etcd was restored from a copy."""
    server = setting.server
    async with setting.following(version="9000") as stream:
        await setting.watching()
        server.end()
        await until(lambda: stream.pulse().listed)
        await setting.watching()
        assert stream.pulse().version == "102"
        server.put("three")
        await until(lambda: setting.told.live)
    assert setting.told.live == [("ADDED", "three")]


async def test_what_is_known_already_is_not_listed(setting: Setting) -> None:
    server, told = setting.server, setting.told
    async with setting.following(version="102", known=True) as stream:
        await setting.watching()
        assert stream.pulse().listed
        server.put("three")
        await until(lambda: told.live)
    assert (server.lists, told.news, told.gaps) == ([], [("ADDED", "three", False)], 0)


async def test_a_saved_version_that_is_too_old_makes_a_list_and_a_gap(setting: Setting) -> None:
    server, told = setting.server, setting.told
    server.compact()
    async with setting.following(version="102"):
        await setting.watching()
    assert told.stood == [{"uid-one", "uid-two"}]
    assert told.gaps == 1


async def test_a_defect_over_one_object_leaves_the_others_alone(setting: Setting) -> None:
    server, told = setting.server, setting.told
    before = observe.counts["handler_errors"]
    told.odd = "one"
    async with setting.following():
        await setting.watching()
        server.put("one")
        server.put("two")
        await until(lambda: told.live)
    assert told.live == [("MODIFIED", "two")]
    assert observe.counts["handler_errors"] - before == 2
    assert len(server.asked) == 2


async def test_watches_that_end_at_once_are_not_asked_for_in_a_hurry(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SHORT_S", 1.0)
    monkeypatch.setattr(streams, "PAUSE_MOST_S", 30.0)
    server = setting.server
    bookmark = json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "102"}}}).encode() + b"\n"
    server.troubles.extend([web.json_response({"metadata": {"resourceVersion": "102"}, "items": None})])
    server.troubles.extend([bookmark] * 1000)
    async with setting.following():
        await asyncio.sleep(1.0)
    assert len(server.watches) < 30


async def test_what_is_of_another_shard_is_left_out_though_the_server_sends_it(setting: Setting) -> None:
    server, told = setting.server, setting.told
    server.put("theirs", namespace="elsewhere")
    low, high = sorted((place("team"), place("elsewhere")))
    share = Cut(edges=(high,)).share(0 if place("team") == low else 1)
    assert share is not None
    async with setting.following(share=share) as stream:
        await setting.watching()
        server.put("theirs", namespace="elsewhere", status={"phase": "Running"})
        server.put("one", status={"phase": "Running"})
        server.delete("theirs")
        await until(lambda: told.live)
        await until(lambda: stream.pulse().version == str(server.version))
    assert told.news == [("ADDED", "one", True), ("ADDED", "two", True), ("MODIFIED", "one", False)]
    assert told.stood == [{"uid-one", "uid-two"}]
    asked = {query.get("shardSelector") for query in (*server.lists, *server.watches)}
    assert asked == {share.query["shardSelector"]}
