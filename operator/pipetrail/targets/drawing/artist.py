"""Who asks for pictures, and the one process that draws them. One event loop has one artist."""

import asyncio
import contextlib
import importlib.util
import os
import re
import sys
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from pipetrail.record import Figure, Frozen, Html
from pipetrail.targets.drawing.sketch import TITLE_CHARS, CannotDraw, Page, Sketch, line, sketch
from pipetrail.targets.drawing.worker import Drawn
from pipetrail.targets.sanitise import Sanitised

WAITING_MOST: Final = 100  #: orders that wait
ANSWER_BYTES: Final = 16 << 20
HTML_MOST: Final = 4 << 20  #: characters

_HALF_PAIRS: Final = re.compile("[\ud800-\udfff]")
_PASSED_ON: Final = ("PYTHONPATH", "PYTHONHOME")  # where Python is; nothing else of our environment


class Patience(Frozen, frozen=True):
    """Seconds that things may take: a process's first order with the imports in it, each other one, and no order."""

    start_s: float = 60.0
    draw_s: float = 30.0
    idle_s: float = 60.0


PATIENCE: Final = Patience()


async def png(figure: Figure) -> bytes:
    """`figure` as a PNG of 460 to 1 100 pixels a side; equal figures give equal bytes.

    Raises :class:`CannotDraw` with the reasons of :func:`pipetrail.targets.drawing.sketch.sketch` and besides
    ``DrawingNotInstalled`` without matplotlib, ``DrawingTimedOut``, ``DrawingFailed``, and ``DrawingBusy`` (with
    `again`) where too many wait.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise CannotDraw("DrawingNotInstalled", "there is no picture without matplotlib: install pipetrail[figures]")
    return (await _artist().draw(await asyncio.to_thread(sketch, figure))).data


async def page(figure: Html) -> Sanitised:
    """`figure` as a whole page that runs and loads nothing, and what was taken out of it (sanitise.py).

    Raises :class:`CannotDraw` as :func:`png` does, ``FigureTooLarge`` for more than :data:`HTML_MOST` characters.
    """
    if len(figure.text) > HTML_MOST:
        raise CannotDraw("FigureTooLarge", f"HTML of {len(figure.text)} characters; up to {HTML_MOST} are sanitised")
    title = line(figure.name or "", TITLE_CHARS)
    drawn = await _artist().draw(Page(title=title, html=_HALF_PAIRS.sub("\ufffd", figure.text)))
    return Sanitised(text=drawn.data.decode(), removed=drawn.removed)


def _artist() -> "Artist":
    loop = asyncio.get_running_loop()
    if (artist := _artists.get(loop)) is None:
        artist = _artists[loop] = Artist()
    return artist


class Artist:
    """Draws what is ordered, in order. Its task holds the process, and ends it when it is cancelled with its loop."""

    def __init__(self, patience: Patience = PATIENCE) -> None:
        self._patience = patience
        self._orders: asyncio.Queue[tuple[bytes, asyncio.Future[Drawn]]] = asyncio.Queue(WAITING_MOST)
        self._task: asyncio.Task[None] | None = None

    async def draw(self, wanted: Sketch | Page) -> Drawn:
        """The picture or page. Raises :class:`CannotDraw`."""
        order = msgspec.msgpack.encode(wanted)
        picture: asyncio.Future[Drawn] = asyncio.get_running_loop().create_future()
        try:
            self._orders.put_nowait((order, picture))
        except asyncio.QueueFull:
            raise CannotDraw("DrawingBusy", f"{WAITING_MOST} figures wait to be drawn", again=True) from None
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="drawing")
        return await picture

    async def _work(self) -> None:
        try:
            while not self._orders.empty():
                await self._with_one_process()
        except OSError as error:  # no process can be started
            while not self._orders.empty():
                said = f"no process can be started: {type(error).__name__}"
                _fail(self._orders.get_nowait()[1], CannotDraw("DrawingFailed", said, again=True))
        finally:
            self._task = None  # nothing is awaited between the last look at the orders and this
            while not self._orders.empty():  # only if we were cancelled
                self._orders.get_nowait()[1].cancel()

    async def _with_one_process(self) -> None:
        """Start a process and have it draw until it is idle, dead or late."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pipetrail.targets.drawing.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env={k: os.environ[k] for k in _PASSED_ON if k in os.environ} | {"OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        patience = self._patience.start_s
        try:
            while True:
                try:
                    async with asyncio.timeout(self._patience.idle_s):
                        order, picture = await self._orders.get()
                except TimeoutError:
                    return
                try:
                    await _answer(process, order, picture, patience)
                except (EOFError, OSError):
                    return
                patience = self._patience.draw_s
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it, and wait until it is gone also if we are cancelled meanwhile: that takes no time any more."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            await process.communicate()
        except asyncio.CancelledError as error:
            cancelled = error
        else:
            break
    if cancelled is not None:
        raise cancelled


async def _answer(
    process: asyncio.subprocess.Process, order: bytes, picture: "asyncio.Future[Drawn]", patience: float
) -> None:
    """Have one picture drawn. Raises EOFError or OSError if the process is of no further use."""
    if picture.done():  # whoever ordered it has gone
        return
    try:
        async with asyncio.timeout(patience):
            drawn = await _converse(process, order)
    except TimeoutError:
        _fail(picture, CannotDraw("DrawingTimedOut", f"it was not drawn within {patience:.0f} s"))
        raise EOFError from None
    except (EOFError, OSError, ValueError, msgspec.DecodeError):
        _fail(picture, CannotDraw("DrawingFailed", "the process that draws ended on the way"))
        raise EOFError from None
    except asyncio.CancelledError:
        picture.cancel()
        raise
    if drawn.error:
        _fail(picture, CannotDraw("DrawingFailed", f"it could not be drawn: {drawn.error}"))
    elif not picture.done():
        picture.set_result(drawn)


async def _converse(process: asyncio.subprocess.Process, order: bytes) -> Drawn:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(len(order).to_bytes(4, "big") + order)
    await process.stdin.drain()
    size = int.from_bytes(await process.stdout.readexactly(4), "big")
    if size > ANSWER_BYTES:
        raise ValueError
    return msgspec.msgpack.decode(await process.stdout.readexactly(size), type=Drawn)


def _fail(picture: "asyncio.Future[Drawn]", error: CannotDraw) -> None:
    if not picture.done():
        picture.set_exception(error)


_artists: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Artist]] = WeakKeyDictionary()
