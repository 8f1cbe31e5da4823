"""What an Argo Server may answer, and what comes of it. The server is a loopback script; tests/e2e has the real one."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from tests.real.proxy import Action, Answer, Drop, Proxy, Seen, Stall
from tests.unit.test_delivery_survey import NOWHERE, said

from pipetrail.readers import archive as reader
from pipetrail.readers.archive import ArchiveFailed, ArgoArchive

HTML = Answer(200, b"<!DOCTYPE html><html>sign in</html>", {"Content-Type": "text/html"})


def run(uid: str = "u", namespace: str = "team", phase: str = "Succeeded") -> dict[str, Any]:
    return {"metadata": {"uid": uid, "name": uid, "namespace": namespace}, "status": {"phase": phase}}


@asynccontextmanager
async def argo(decide: Callable[[Seen], Action], **how: Any) -> AsyncIterator[tuple[ArgoArchive, Proxy]]:
    async with Proxy(NOWHERE) as server, ArgoArchive(server.url, **how) as archive:
        server.decide = decide
        yield archive, server


async def test_pages_are_read_to_the_last_and_rows_of_other_namespaces_are_none() -> None:
    def decide(seen: Seen) -> Action:
        last = "continue" in seen.query
        items = [run("c"), {"odd": 1}, "x"] if last else [run("a"), run("b", "other")]
        return said({"metadata": {} if last else {"continue": "2"}, "items": items})

    async with argo(decide) as (archive, server):
        assert [header.uid async for header in archive.listed("team", "a=b,c!=d")] == ["a", "c"]
        asked = parse_qs(server.log[0].query)
        assert (asked["namespace"], asked["listOptions.labelSelector"]) == (["team"], ["a=b,c!=d"])
        assert [header.uid async for header in archive.listed("")] == ["a", "b", "c"]


async def test_a_server_that_gives_one_page_for_ever_is_left_at_the_second() -> None:
    async with argo(lambda _: said({"metadata": {"continue": "1"}, "items": [run()]})) as (archive, server):
        assert [header.uid async for header in archive.listed("team")] == ["u", "u"]
        assert len(server.log) == 2


@pytest.mark.parametrize(
    "other", [run("v"), run(namespace="other"), run(phase="Running"), {}, {"metadata": "x"}], ids=str
)
async def test_a_body_that_is_not_the_run_that_was_asked_for_is_none(other: Any) -> None:
    async with argo(lambda _: said(other)) as (archive, _):
        assert await archive.body("team", "u") is None


async def test_a_run_that_it_does_not_have_is_none_and_one_that_it_has_is_whole() -> None:
    async with argo(lambda seen: said(run()) if seen.ends("/u") else said({"code": 5}, 404)) as (archive, _):
        assert await archive.body("team", "u") == run()
        assert await archive.body("team", "v") is None


@pytest.mark.parametrize(
    ("answer", "words", "later"),
    [
        (Answer(401), "401: it does not take the token", False),
        (Answer(403), "403: the token may not list workflows", False),
        (Answer(302, headers={"Location": "http://elsewhere"}), "redirects", False),
        (Answer(503), "answers 503", True),
        (Answer(429), "answers 429", True),
        (HTML, "a page for people: is it Argo Server's own address", False),
        (Answer(200, b"[" * 100_000), "what is not JSON", False),
        (Answer(200, b"[]"), "what is not JSON", False),
        (Drop(), "no connection to http://127.0.0.1", True),
    ],
    ids=str,
)
async def test_what_goes_wrong_is_named_and_whether_it_may_pass(answer: Action, words: str, later: bool) -> None:
    async with argo(lambda _: answer) as (archive, _):
        with pytest.raises(ArchiveFailed, match=words) as failed:
            await archive.body("team", "u")
        assert failed.value.later is later


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BODY_BYTES", 1 << 20)
    async with argo(lambda _: Answer(200, b" " * (3 << 20))) as (archive, _):
        with pytest.raises(ArchiveFailed, match="answers with more than 1 MiB"):
            await archive.body("team", "u")


async def test_a_server_that_says_nothing_is_waited_for_only_so_long() -> None:
    async with argo(lambda _: Stall(), call_s=0.3) as (archive, _):
        with pytest.raises(ArchiveFailed, match="does not answer within") as failed:
            await archive.body("team", "u")
        assert failed.value.later


async def test_the_token_is_read_for_each_call_and_stands_in_no_message(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with argo(lambda _: Answer(401, b"first second"), token_file=str(token)) as (archive, server):
        for secret in ("first", "second"):
            token.write_text(secret)
            with pytest.raises(ArchiveFailed) as failed:
                await archive.body("team", "u")
            assert secret not in str(failed.value)
        assert [seen.headers["Authorization"] for seen in server.log] == ["Bearer first", "Bearer second"]
        token.unlink()
        with pytest.raises(ArchiveFailed, match="can't be read"):
            await archive.body("team", "u")
        token.write_text("two words")
        with pytest.raises(ArchiveFailed, match="more than one word"):
            await archive.body("team", "u")


@pytest.mark.parametrize("url", ["argo-server:2746", "ftp://a", "http://", "http://me:pw@argo", "https://argo?x=1"])
def test_what_is_no_address_of_an_argo_server_says_how_to_write_it(url: str) -> None:
    with pytest.raises(ValueError, match="write it like https://argo-server"):
        ArgoArchive(url)


def test_a_ca_that_is_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="holds no CA certificate"):
        ArgoArchive("https://argo", ca_file=str(tmp_path / "ca"))
