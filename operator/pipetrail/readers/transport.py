"""HTTP to object stores: signed addresses in, bytes out, and nowhere that a store may not be.

An artifact repository is written by whoever owns the run's namespace, so its address is untrusted. Link-local and
metadata addresses and the API server's are refused always, whatever name resolves to them and at the moment of
connecting (:mod:`pipetrail.targets.addresses`); a redirect is never followed, since it could point there. (obstore's
own client does follow redirects, with the credentials.)
"""

import re
import ssl
from typing import Any, Final, Self

import aiohttp
from msgspec.structs import replace
from yarl import URL

from pipetrail.record import Frozen
from pipetrail.targets.addresses import ANYWHERE, Addresses, AddressRefused, resolved

_REFUSED_NAMES: Final = ("metadata.google.internal", "metadata.goog", "metadata")
_ERROR_BYTES: Final = 4096
_HERE: Final = ANYWHERE.of_stores()


class Refused(Exception):
    """The address is one that a store may never have; the message names it."""


class Unreachable(Exception):
    """No answer: refused connection, unknown name, bad certificate or time-out; the message says which, without URL."""


class BadCertificate(Exception):
    """The CA certificate that the store is to be trusted by is none: no request can be made with it."""


class Answer(Frozen, frozen=True):
    """What a store said. `size` is what it declared; `data` is empty after a HEAD, an error, or if it is too big.

    `code` is the word that S3 has for an error, where it gave one.
    """

    status: int
    data: bytes = b""
    size: int | None = None
    media_type: str | None = None
    region: str | None = None
    whole: bool = True
    code: str = ""


async def check_host(host: str, port: int, addresses: Addresses) -> None:
    """Raise :class:`Refused` if `host`, a name or an address, is or resolves to what `addresses` refuses.

    The connection itself is judged again; this gives the better message, and holds where no number is looked up.
    """
    bare = host.strip("[]").rstrip(".").lower()
    if bare in _REFUSED_NAMES:
        raise Refused(f"{bare} is a metadata service")
    found = await resolved(bare)
    if not found:
        raise Unreachable(f"the name {bare[:200]!r} does not resolve")
    for address in found:
        if kind := addresses.refusal(address, port):
            raise Refused(f"{address} is {kind}")


class Transport:
    """One connection pool for all stores. Time-outs are in seconds and cover a whole request.

    Without `addresses` a store may live on loopback too: so it is for the commands, which run on a person's machine.
    """

    def __init__(self, *, addresses: Addresses = _HERE, timeout_s: float = 30.0, connect_s: float = 5.0) -> None:
        self._addresses = addresses
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_s, sock_read=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self, method: str, url: str, *, limit: int = 0, ca: str | None = None, span: str | None = None
    ) -> Answer:
        """Send one request; `url` is already encoded and may be signed, so it stands in no message.

        At most `limit` bytes are taken; where the store declares more, none is. `span` is a Range header's value: then
        the first `limit` bytes of what comes are taken and `whole` is false if there was more.
        """
        target = URL(url, encoded=True)
        await check_host(target.host or "", target.port or 0, self._addresses)
        session = self._open()
        headers = {"Range": f"bytes={span}"} if span else {}
        try:
            async with session.request(
                method, target, headers=headers, allow_redirects=False, ssl=self._context(ca), auto_decompress=False
            ) as response:
                return await _answer(method, response, limit, ranged=span is not None)
        except TimeoutError:
            raise Unreachable("no answer in time") from None
        except aiohttp.ClientConnectorCertificateError:
            raise Unreachable("its certificate is not trusted") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, AddressRefused):
                raise Refused(f"its address is {error.os_error}") from None
            raise Unreachable(f"no connection ({type(error.os_error).__name__})") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"the connection failed ({type(error).__name__})") from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=32, socket_factory=self._addresses.socket)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, trust_env=False)
        return self._session

    def _context(self, ca: str | None) -> ssl.SSLContext | bool:
        if ca is None:
            return True
        if ca not in self._contexts:
            try:
                context = ssl.create_default_context()
                context.load_verify_locations(cadata=ca)
            except (ssl.SSLError, ValueError):
                raise BadCertificate("the CA certificate of its artifact repository is not PEM") from None
            if len(self._contexts) >= 64:
                self._contexts.clear()
            self._contexts[ca] = context
        return self._contexts[ca]


async def _answer(method: str, response: Any, limit: int, *, ranged: bool) -> Answer:
    size = response.content_length
    if (total := response.headers.get("Content-Range", "").rpartition("/")[2]).isdecimal():
        size = int(total)
    answer = Answer(
        status=response.status, size=size, region=response.headers.get("x-amz-bucket-region"),
        media_type=response.headers.get("Content-Type"),
    )  # fmt: skip
    if method == "GET" and response.status >= 400:
        raw = await response.content.read(_ERROR_BYTES)
        response.close()
        code = re.search(rb"<Code>(\w{1,40})</Code>", raw)
        return replace(answer, code=code[1].decode() if code else "")
    if method == "HEAD" or response.status not in (200, 206) or (not ranged and (size or 0) > limit):
        response.close()  # what was not read of a big body is not waited for
        return answer
    data = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        data += chunk
        if len(data) > limit:
            response.close()
            if ranged:
                del data[limit:]
            else:
                data.clear()
                size = max(size or 0, limit + 1)
            break
    whole = size is None or len(data) >= size
    return Answer(
        status=200, data=bytes(data), size=size if size is not None else len(data), media_type=answer.media_type,
        region=answer.region, whole=whole,
    )  # fmt: skip
