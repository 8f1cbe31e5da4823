"""What goes wrong at the trackers: how the proxies before them answer, by what the schedule has told them."""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Final

from tests.chaos.generating import UNWELCOME
from tests.chaos.steps import How, Odd, Tracker
from tests.real.proxy import Action, Answer, CommitLater, Drop, Pass, Seen, Stall, Truncate

HTML: Final = {"Content-Type": "text/html"}
JSON: Final = {"Content-Type": "application/json"}
GARBAGE: Final = b"\x00\xff{{{"
PAGE: Final = b"<!doctype html><html><title>Sign in</title></html>"
STALL_S: Final = 35.0  # MLflow's calls end after 30
RELEASE_S: Final = 5.0
REFUSED: Final = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "it is not welcome"}).encode()
HALF: Final[tuple[How, ...]] = (
    "429", "500", "503", "502, though done", "reset", "reset, though done", "cut, though done", "garbage, though done",
)  # fmt: skip


def action(how: How) -> Action:
    """What a proxy does for one kind of odd answer."""
    match how:
        case "429":
            return Answer(429, b"{}")
        case "429 in 2 s":
            return Answer(429, b"{}", {**JSON, "Retry-After": "2"})
        case "429 at a date":
            when = datetime.now(UTC) + timedelta(seconds=3)
            return Answer(429, b"{}", {**JSON, "Retry-After": format_datetime(when, usegmt=True)})
        case "500" | "502" | "503":
            return Answer(int(how), b"<html>busy</html>", HTML)
        case "502, though done":
            return Answer(502, b"<html>bad gateway</html>", HTML, commit=True)
        case "reset":
            return Drop()
        case "reset, though done":
            return Drop(commit=True)
        case "cut, though done":
            return Truncate(12)
        case "garbage":
            return Answer(200, GARBAGE)
        case "garbage, though done":
            return Answer(200, GARBAGE, commit=True)
        case "a page, though done":
            return Answer(200, PAGE, HTML, commit=True)
        case "stall":
            return Stall(STALL_S)
        case "stall, though done":
            return Stall(STALL_S, commit=True)
        case "late":
            return CommitLater(asyncio.Event())


class Faults:
    """The troubles of one tracker: `decide` is for the proxy before it."""

    def __init__(self, tracker: Tracker, say: Callable[[str], None]) -> None:
        self.tracker = tracker
        self.away = False
        self.token: str | None = None  # only calls with this one are let in
        self._waiting: list[tuple[str, How]] = []
        self._say = say
        self._half_dead: random.Random | None = None
        self.happened = 0

    def add(self, odd: Odd) -> None:
        """From now on."""
        self._waiting += [(odd.path, odd.how)] * odd.times

    def half_dead(self, rng: random.Random) -> None:
        """One call in four is answered oddly, until :meth:`heal`."""
        self._half_dead = rng

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self._waiting.clear()
        self._half_dead = None
        self.away = False

    @property
    def waiting(self) -> int:
        """Odd answers that no call has met yet."""
        return len(self._waiting)

    def decide(self, seen: Seen) -> Action:
        """What becomes of a call."""
        if self.away:
            return Drop()
        if self.token is not None and seen.headers.get("Authorization") != f"Bearer {self.token}":
            return Answer(401, b"{}")
        if seen.ends("/runs/log-batch") and any(
            m["key"].endswith(UNWELCOME) for m in json.loads(seen.body).get("metrics", ())
        ):
            return Answer(400, REFUSED)
        for at, (path, how) in enumerate(self._waiting):
            if seen.ends(path) and (path != "/v1/attributes" or seen.method == "GET"):
                del self._waiting[at]
                return self._answer(seen, how)
        if self._half_dead is not None and self._half_dead.random() < 0.25:
            return self._answer(seen, self._half_dead.choice(HALF))
        return Pass()

    def _answer(self, seen: Seen, how: How) -> Action:
        self.happened += 1
        self._say(f"{self.tracker}: {how}: {seen.method} …{seen.path[-40:]}")
        chosen = action(how)
        if isinstance(chosen, CommitLater):
            # After the caller's look-up, which follows within a second or two.
            asyncio.get_running_loop().call_later(RELEASE_S, chosen.when.set)
        return chosen


class Disk:
    """A small volume of its own for TensorBoard's files, which can be filled up. Root alone can mount one."""

    SIZE: Final = "192m"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / ".ballast"

    async def mount(self) -> str:
        """Empty if it is mounted, else why not."""
        words = ("mount", "-t", "tmpfs", "-o", f"size={self.SIZE},mode=0755", "tmpfs", str(self.folder))
        return await _ran(*words)

    async def unmount(self) -> None:
        """With all that is in it."""
        await _ran("umount", str(self.folder))

    def fill(self) -> None:
        """Until not a byte more fits."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass

    def free(self) -> None:
        """As it was."""
        self._ballast.unlink(missing_ok=True)


async def _ran(*words: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        return str(error)
    said, _ = await process.communicate()
    return "" if process.returncode == 0 else said.decode(errors="replace").strip() or f"{words[0]} failed"
