"""One call to MLflow, and what each way to fail means (targets.md §1.4 measured them). Nothing here knows a run.

MLflow's status codes don't say whether to try again: an exhausted connection pool is 400, as is a value that is too
long. So the text decides. Whether a call may have taken effect (`doubtful`) is decided here too: a refused connection
or 429 has none, a time-out, a reset, a 5xx or a broken answer may have. No call is repeated here.
"""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from yarl import URL

from pipetrail import observe
from pipetrail.targets.addresses import ANYWHERE, Addresses, AddressRefused, unusable
from pipetrail.targets.mlflow.answers import Trouble
from pipetrail.targets.mlflow.auth import HIDDEN, Auth, header, secrets
from pipetrail.targets.target import Retry, TargetError, Unauthorised, Unusable

API: Final = "/api/2.0/mlflow/"
CONNECT_S: Final = 5.0
TOTAL_S: Final = 30.0
CLOSING_S: Final = 10.0
IDLE_S: Final = 4.0  # uvicorn closes a connection that is idle for 5 s; a call must not meet that moment
MOST_BYTES: Final = 8 << 20
MOST_AFTER_S: Final = 3600.0

T = TypeVar("T")
SessionFactory = Callable[[ssl.SSLContext | None], aiohttp.ClientSession]

# What SQLAlchemy reports as BAD_REQUEST though the next try may work (mlflow/store/db/utils.py maps all but
# OperationalError to it).
_PASSING: Final = re.compile(
    r"QueuePool|database is locked|deadlock|could not serialize|OperationalError|server closed", re.IGNORECASE
)
_HTML: Final = re.compile(rb"\s*<(?:!doctype|html|head|body)", re.IGNORECASE)


class Rejection(Exception):
    """MLflow understood the call and does not want it: `code` is its error_code, `text` its message, one short line."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def session(tls: ssl.SSLContext | None, addresses: Addresses = ANYWHERE) -> aiohttp.ClientSession:
    """The connections of one target, none of which leads to what `addresses` refuses."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=16, keepalive_timeout=IDLE_S, ssl=True if tls is None else tls, socket_factory=addresses.socket
        ),
        timeout=aiohttp.ClientTimeout(total=TOTAL_S, sock_connect=CONNECT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        raise_for_status=False,
    )


class Wire:
    """Calls to one MLflow server. The session is made at the first call, inside the loop that uses it."""

    def __init__(
        self, address: str, auth: Auth, ca_pem: str | None = None, make_session: SessionFactory = session
    ) -> None:
        try:
            self._base = URL(address)
            self.where = str(self._base.with_user(None).with_query(None).with_fragment(None)).rstrip("/")
        except ValueError:
            raise Unusable(
                "NotMlflow", "the address is none that can be called: see backend.mlflow.trackingUri"
            ) from None
        self._path = self._base.raw_path.rstrip("/")
        self._headers = {**header(auth), "Accept": "application/json"}
        self._secrets = secrets(auth)
        self._tls = _trust(ca_pem) if ca_pem is not None else None
        self._make_session = make_session
        self._session: aiohttp.ClientSession | None = None
        self._under_way = 0
        self._idle = asyncio.Event()
        self._closed = False

    async def call(
        self, method: str, path: str, answer: type[T], *, body: Any = None, query: Mapping[str, str] | None = None,
        changes: bool = False,
    ) -> T:  # fmt: skip
        """Call `path` of the API and decode its answer.

        `changes` says that the call changes the run, so that it is doubtful where its effect is unknown. Raises
        :class:`Rejection` and :class:`TargetError`.
        """
        data = None if body is None else msgspec.json.encode(body)
        raw = await self._send(method, API + path, data, "application/json", query, changes=changes)
        try:
            return msgspec.json.decode(raw, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._unreadable(raw, path, changes=changes) from None

    async def put(self, path: str, data: bytes, media_type: str) -> None:
        """Put a file under `path`, which starts at the server's root and is percent-encoded."""
        await self._send("PUT", path, data, media_type, None, changes=False)

    async def get(self, path: str) -> bytes:
        """A file under `path`, as :meth:`put` takes it; one that is longer than an answer may be is a Rejection."""
        return await self._send("GET", path, None, "", None, changes=False)

    async def text(self, path: str) -> str:
        """What stands under `path` as one short line."""
        return self._line(await self._send("GET", path, None, "", None, changes=False))

    async def close(self) -> None:
        """Let what is under way end (for a while), then give the connections back."""
        self._closed = True
        if self._under_way:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_S):
                    await self._idle.wait()
        if self._session is not None:
            await self._session.close()

    async def _send(
        self, method: str, path: str, data: bytes | None, media_type: str, query: Mapping[str, str] | None, *,
        changes: bool,
    ) -> bytes:  # fmt: skip
        url = self._base.with_path(self._path + path, encoded=True)
        headers = self._headers if data is None else {**self._headers, "Content-Type": media_type}
        async with self._translated(changes=changes):
            if self._closed:
                raise Retry("Unreachable", "the connection to this target is being renewed")
            if self._session is None:
                self._session = self._make_session(self._tls)
            observe.count("tracker_calls")
            code = "none"
            try:
                async with self._session.request(
                    method, url, data=data, headers=headers, params=query, allow_redirects=False
                ) as response:
                    code = str(response.status) if 100 <= response.status < 600 else "odd"
                    raw = await _bounded(response)
            finally:
                observe.count(f"tracker_answer mlflow {code}")
            if response.status == 200 or response.status == 201:
                return raw
            raise self._failure(response.status, response.headers, raw, changes=changes)

    @contextlib.asynccontextmanager
    async def _translated(self, *, changes: bool) -> AsyncIterator[None]:
        """aiohttp's exceptions as ours. Their own texts are left out where they could hold a header."""
        self._under_way += 1
        try:
            yield
        except (TargetError, Rejection):
            raise
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise Unusable("TlsFailed", f"no TLS connection to {self.where}: {_tls_text(error)}") from None
        except aiohttp.ClientConnectorDNSError as error:
            raise Retry("Unreachable", f"the host {error.host!r} of {self.where} is not known") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, AddressRefused):
                raise unusable(self.where, str(error.os_error)) from None
            raise Retry("Unreachable", f"no connection to {self.where}: {error.strerror}") from None
        except aiohttp.ConnectionTimeoutError:
            raise Retry("Unreachable", f"{self.where} does not take the connection within {CONNECT_S:.0f} s") from None
        except TimeoutError:
            raise Retry(
                "Unreachable", f"{self.where} does not answer within {TOTAL_S:.0f} s", doubtful=changes
            ) from None
        except (aiohttp.InvalidURL, ValueError):
            raise Unusable("NotMlflow", f"{self.where} is no address that can be called") from None
        except aiohttp.ClientResponseError:
            raise self._garbage("what does not speak HTTP", changes=changes) from None
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            kind = type(error).__name__
            raise Retry("Unreachable", f"{self.where} broke the connection ({kind})", doubtful=changes) from None
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    def _failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, changes: bool) -> Exception:
        """What an answer other than 200 means."""
        trouble = _trouble(raw)
        text = self._line(trouble.message.encode() if trouble and trouble.message else raw)
        code = trouble.error_code if trouble else ""
        says = f"{self.where} answers {status}" + (f" {code}" if code else "") + (f": {text}" if text else "")
        match status:
            case 401:
                return Unauthorised("AuthenticationFailed", f"{says}: the credentials are missing or wrong")
            case 403 if "invalid host header" in text.lower():
                return Unusable(
                    "InvalidHostHeader",
                    f"MLflow at {self.where} refuses its name: start it with --allowed-hosts {self._base.authority}",
                )
            case 403:
                return Unauthorised("PermissionDenied", f"{says}: the user lacks a permission")
            case 408 | 425 | 429:
                return Retry("RateLimited" if status == 429 else "Unreachable", says, after_s=after_s(headers))
            case 400 if code == "BAD_REQUEST" and _PASSING.search(trouble.message if trouble else ""):
                return Retry("Unreachable", says, after_s=after_s(headers), doubtful=changes)
            case 400 | 404 | 409 if code and code != "ENDPOINT_NOT_FOUND":
                return Rejection(code, text)
            case 413 | 422:
                return Rejection("TOO_LARGE" if status == 413 else "UNPROCESSABLE", text or says)
            case 300 | 301 | 302 | 303 | 307 | 308:
                to = self._line(headers.get("Location", "").partition("?")[0].encode())
                return Unusable(
                    "NotMlflow",
                    f"{self.where} redirects to {to or 'elsewhere'}, which is not followed: name that address",
                )
            case _ if status >= 500 and (status != 501 or changes):
                return Retry("Unreachable", says, after_s=after_s(headers), doubtful=changes)
            case _:
                return Unusable("NotMlflow", f"{says}: no MLflow API there; does the address lack a path?")

    def _unreadable(self, raw: bytes, path: str, *, changes: bool) -> TargetError:
        if _HTML.match(raw):
            return self._garbage("a page for people", changes=changes)
        return Retry("Unreachable", f"{self.where} answers {path} with what is not MLflow's", doubtful=changes)

    def _garbage(self, what: str, *, changes: bool) -> TargetError:
        """Not MLflow; but a call that may have come through has to be looked at first."""
        if changes:
            return Retry("Unreachable", f"{self.where} answers with {what}", doubtful=True)
        return Unusable(
            "NotMlflow", f"{self.where} answers with {what}: open {self.where}/version, it must show a version"
        )

    def _line(self, raw: bytes) -> str:
        """What a server said as one line of at most 300 characters, without pages, SQL and our own secrets."""
        if _HTML.match(raw):
            return ""
        text = raw[:20_000].decode("utf-8", "replace")
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        text = re.split(r"\[SQL:|\[parameters:|\(Background on this error", text)[0]
        text = " ".join(text.split())
        return text if len(text) <= 300 else text[:299] + "…"


def after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds (RFC 9110 §10.2.3: a number or a date), bounded; None if there is none."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), MOST_AFTER_S)
    try:
        return min(max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0), MOST_AFTER_S)
    except (ValueError, TypeError, OverflowError):
        return None


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > MOST_BYTES:
            response.close()
            raise Rejection("ANSWER_TOO_LONG", f"the answer is longer than {MOST_BYTES >> 20} MiB")
    return bytes(raw)


def _trouble(raw: bytes) -> Trouble | None:
    try:
        return msgspec.json.decode(raw, type=Trouble)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _trust(pem: str) -> ssl.SSLContext:
    with contextlib.suppress(ssl.SSLError, ValueError):
        if pem.strip():  # an empty text would mean the public authorities
            return ssl.create_default_context(cadata=pem)
    raise Unusable("TlsFailed", "the CA bundle holds no certificate in PEM form")


def _tls_text(error: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError) -> str:
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"{cause.verify_message}: name its signer in caBundleRef, or mend the certificate or the host"
    if "WRONG_VERSION_NUMBER" in str(cause) or "RECORD_LAYER_FAILURE" in str(cause):
        return "the server does not speak TLS there: should the address begin with http://?"
    return str(getattr(cause, "reason", None) or cause)
