"""Lines of a stream that comes in pieces of any size. Pure."""

from collections.abc import Iterator


class Lines:
    """Cuts pieces into lines; a line longer than `most` bytes is left out, counted, and never held as a whole."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun = bytearray()
        self._skipping = False
        self.too_long = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The lines that end in `piece`, without their ends; empty ones are left out."""
        *ends, rest = piece.split(b"\n")
        for end in ends:
            if self._skipping:
                self._skipping = False
                continue
            line = bytes(self._begun + end) if self._begun else end
            self._begun.clear()
            if len(line) > self._most:
                self.too_long += 1
            elif line:
                yield line
        if self._skipping:
            return
        self._begun += rest
        if len(self._begun) > self._most:
            self.too_long += 1
            self._begun.clear()
            self._skipping = True
