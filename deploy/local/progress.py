"""What is going on, for someone who waits: one line that moves on a terminal, a line every 15 s elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

QUIET_INTERVAL_S = 15.0
TERMINAL_INTERVAL_S = 1.0


def clock(seconds: float) -> str:
    """Minutes and seconds as `2:05`."""
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def line(what: str, elapsed_s: float, expected_s: float | None) -> str:
    """`kube-apiserver 1.36.3  2:10 of about 6:00`; past its time it says so instead of looking stuck."""
    if not expected_s:
        return f"{what}  {clock(elapsed_s)}"
    if elapsed_s > expected_s:
        return f"{what}  {clock(elapsed_s)}, longer than the usual {clock(expected_s)}; still at work"
    return f"{what}  {clock(elapsed_s)} of about {clock(expected_s)}"


class Progress:
    """Shows one job at a time on `out`. Not thread-safe."""

    def __init__(
        self, out: TextIO | None = None, now: Callable[[], float] = time.monotonic, terminal: bool | None = None
    ) -> None:
        self._out = sys.stderr if out is None else out
        self._now = now
        self._terminal = self._out.isatty() if terminal is None else terminal
        self._what = ""
        self._expected: float | None = None
        self._begun = self._shown = now()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._print(text, stays=True)

    def begin(self, what: str, expected_s: float | None = None) -> None:
        """Start showing a job."""
        self._what, self._expected = what, expected_s
        self._begun = self._shown = self._now()
        self._print(line(what, 0, expected_s), stays=not self._terminal)

    def tick(self) -> None:
        """Show the job again if it is time to; call it as often as you like."""
        interval = TERMINAL_INTERVAL_S if self._terminal else QUIET_INTERVAL_S
        if self._now() - self._shown >= interval:
            self._shown = self._now()
            self._print(line(self._what, self.elapsed, self._expected), stays=not self._terminal)

    def done(self, note: str = "done") -> None:
        """End the job with a line that stays."""
        self._print(f"{self._what}  {note} in {clock(self.elapsed)}", stays=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the job began."""
        return self._now() - self._begun

    def _print(self, text: str, *, stays: bool) -> None:
        start = "\r\033[K" if self._terminal else ""
        self._out.write(f"{start}{text}{chr(10) if stays else ''}")
        self._out.flush()
