"""HTTP to object stores: signed addresses in, bytes out, and nowhere that a store may not be.

An artifact repository is written by whoever owns the run's namespace, so its address is untrusted. Link-local and
metadata addresses are refused always, whatever name resolves to them and at the moment of connecting; a redirect is
never followed, since it could point there. (obstore's own client does follow redirects, with the credentials.)
"""

import asyncio
import ipaddress
import socket
import ssl
from typing import Any, Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from pipetrail.record import Frozen

_REFUSED_NAMES: Final = ("metadata.google.internal", "metadata.goog", "metadata")
_REFUSED_NETS: Final = tuple(
    ipaddress.ip_network(net)
    for net in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32", "0.0.0.0/32", "::/128")
)


class Refused(Exception):
    """The address is one that a store may never have; the message names it."""


class Unreachable(Exception):
    """No answer: refused connection, unknown name, bad certificate or time-out; the message says which, without URL."""


class Answer(Frozen, frozen=True):
    """What a store said. `size` is what it declared; `data` is empty after a HEAD, an error, or if it is too big."""

    status: int
    data: bytes = b""
    size: int | None = None
    media_type: str | None = None
    region: str | None = None
    whole: bool = True


def check_address(address: str, *, allow_loopback: bool = True) -> None:
    """Raise :class:`Refused` if the IP `address` is link-local, a cloud's metadata service, or unspecified."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    if any(ip in net for net in _REFUSED_NETS if net.version == ip.version) or ip.is_multicast:
        raise Refused(f"{address} is link-local or a metadata service")
    if ip.is_loopback and not allow_loopback:
        raise Refused(f"{address} is loopback")


async def check_host(host: str, *, allow_loopback: bool = True) -> None:
    """Raise :class:`Refused` if `host`, a name or an address, is or resolves to a refused address."""
    bare = host.strip("[]").rstrip(".").lower()
    if bare in _REFUSED_NAMES:
        raise Refused(f"{bare} is a metadata service")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unreachable(f"the name {bare[:200]!r} does not resolve") from None
    for *_, address in found:
        check_address(str(address[0]), allow_loopback=allow_loopback)


class _Resolver(AbstractResolver):
    """Resolves names, and refuses what no store may have."""

    def __init__(self, allow_loopback: bool) -> None:
        self._inner = ThreadedResolver()
        self._allow_loopback = allow_loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for result in found:
            check_address(result["host"], allow_loopback=self._allow_loopback)
        return found

    async def close(self) -> None:
        await self._inner.close()


class Transport:
    """One connection pool for all stores. Time-outs are in seconds and cover a whole request."""

    def __init__(self, *, allow_loopback: bool = True, timeout_s: float = 30.0, connect_s: float = 5.0) -> None:
        self.allow_loopback = allow_loopback
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
        await check_host(target.host or "", allow_loopback=self.allow_loopback)
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
            raise Unreachable(f"no connection ({type(error.os_error).__name__})") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"the connection failed ({type(error).__name__})") from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=32, resolver=_Resolver(self.allow_loopback))
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
                raise Unreachable("the CA certificate of its artifact repository is not PEM") from None
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
