"""Watches every request that the vendor's package makes, in the worker process alone (it imports requests).

The package takes addresses from what a server answers, follows redirects, leaves out time-outs (an upload has none),
sleeps after each failure, and repeats a call by itself after a broken TLS connection, even one that appends. Here a
request goes to the server that the target names or nowhere, within a time; its answer is bounded; and what fails ends
the call at once, in exceptions that the package does not know and so does not try again after.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter

from pipetrail.record import Frozen
from pipetrail.targets.addresses import Addresses, AddressRefused
from pipetrail.targets.neptune.token import origin

ANSWER_MOST: Final = 32 << 20
CONNECT_S: Final = 5.0
_ASKS: Final = ("/search", "/token", "/ping")
_CHUNK: Final = 1 << 16


class Elsewhere(Exception):
    """The server sends us to another one, which is not followed."""


class Unanswered(Exception):
    """No answer came, or not all of it; `cause` is what requests says."""

    def __init__(self, cause: requests.exceptions.RequestException) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause


class NotNow(Exception):
    """The server says that it can't (5xx) or won't now (408, 429): see :attr:`Guard.seen`."""


class TooLong(Exception):
    """The answer has more bytes than may be read."""


class Seen(Frozen, frozen=True):
    """The last answer: its status, headers in lower case, and the beginning of its text."""

    status: int
    headers: Mapping[str, str]
    text: str


class Guard:
    """Put in front of requests by :meth:`install`; :meth:`begin` starts a call."""

    def __init__(self, server_uri: str, seconds: float, addresses: Addresses) -> None:
        self._origin = origin(server_uri)
        self._seconds = seconds
        self._addresses = addresses
        self._changing = False
        self.seen: Seen | None = None
        self.refused = ""

    def begin(self) -> None:
        """A new call: what it will have sent and seen."""
        self._changing = False
        self.seen = None
        self.refused = ""

    @property
    def doubtful(self) -> bool:
        """True if this call has sent something that changes the run, and the server has not refused it."""
        return self._changing

    def install(self) -> None:
        """From now on every request and every socket of this process passes here."""
        sys.addaudithook(self._judge)
        send = HTTPAdapter.send

        def guarded(adapter: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            options |= {"stream": True, "timeout": (CONNECT_S, self._seconds), "proxies": {}}
            return self._pass(request, lambda: send(adapter, request, **options))

        HTTPAdapter.send = guarded  # type: ignore[method-assign,assignment]

    def _judge(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python asks before each connect, with the address that DNS gave: what is refused is never called."""
        if event == "socket.connect" and isinstance(where := arguments[1], tuple):
            self.refused = self._addresses.refusal(str(where[0]), int(where[1]))
            if self.refused:
                raise AddressRefused(self.refused)

    def _pass(self, request: requests.PreparedRequest, send: Any) -> requests.Response:
        url = request.url or ""
        if origin(url) != self._origin:
            raise Elsewhere(url.partition("?")[0][:200])
        path = url.partition("?")[0]
        changes = request.method == "POST" and not path.endswith(_ASKS)
        before, self.seen = self._changing, None
        self._changing |= changes
        try:
            response: requests.Response = send()
            content = _bounded(response, time.monotonic() + self._seconds)
        except requests.exceptions.RequestException as error:
            if self.refused or _unconnected(error):
                self._changing = before  # nothing has come through
            raise Unanswered(error) from None
        self.seen = Seen(
            status=response.status_code, headers={k.lower(): v for k, v in response.headers.items()},
            text=content[:2000].decode("utf-8", "replace"),
        )  # fmt: skip
        if 300 <= response.status_code < 400:
            raise Elsewhere(response.headers.get("Location", "").partition("?")[0][:200])
        if 400 <= response.status_code < 500 and response.status_code != 408:
            self._changing = before
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise NotNow
        return response


def _unconnected(error: requests.exceptions.RequestException) -> bool:
    said = repr(error)
    return isinstance(error, requests.exceptions.ConnectTimeout) or any(
        word in said for word in ("NewConnectionError", "NameResolutionError", "CERTIFICATE_VERIFY_FAILED")
    )


def _bounded(response: requests.Response, until: float) -> bytes:
    """The answer's body, kept where the package looks for it."""
    raw = bytearray()
    for chunk in response.iter_content(_CHUNK):
        raw += chunk
        if len(raw) > ANSWER_MOST:
            response.close()
            raise TooLong
        if time.monotonic() > until:
            response.close()
            raise requests.exceptions.ReadTimeout("the answer takes too long")
    response._content = bytes(raw)
    return response._content
