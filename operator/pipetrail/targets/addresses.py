"""Which addresses we call: every socket to a tracker or a store is judged here, at the moment of connecting.

An address is written by whoever may write a TrackingTarget or owns a run's namespace, and we stand where they may not:
beside the node's metadata service, the API server and what listens on our own loopback. So these are refused, unless
the operator's admin allows them (``--allow-address``). What counts is the number that a socket is about to connect to:
after DNS, whatever the name said when someone looked before, and however the number was written (decimal, octal, an
IPv4 address inside an IPv6 one). A private address is what most trackers have, and is no reason to refuse it.

Nothing here speaks HTTP: a client hands :meth:`Addresses.socket` to its connector.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

from pipetrail.record import Frozen
from pipetrail.targets.target import Retry, Unusable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

RESOLVE_S: Final = 5.0
LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_NAT64: Final = ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address

# Metadata services that are not link-local: AWS's IPv6 one, Alibaba's, Oracle's, Azure's "wire server".
_METADATA: Final = ("fd00:ec2::254/128", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32")
_REFUSED: Final[Mapping[str, tuple[Network, ...]]] = {
    "loopback": LOOPBACK,
    "link-local or a metadata service": tuple(map(ip_network, ("169.254.0.0/16", "fe80::/10", *_METADATA))),
    "unspecified": (ip_network("0.0.0.0/8"), ip_network("::/128")),  # Linux takes 0.0.0.0 for its own loopback
    "multicast or broadcast": tuple(map(ip_network, ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8"))),
}  # fmt: skip


class AddressRefused(OSError):
    """A socket was asked for that leads where we don't call; the text is the kind of address."""


class Addresses(Frozen, frozen=True):
    """The judge. Without arguments it refuses all that is special and allows everything else.

    `allowed` are the networks of ``--allow-address``. `api_server` holds its addresses, each with the one port that is
    its own, or None if all are. A range does not allow the API server: only its very address (a /32 or /128) does.
    """

    allowed: tuple[Network, ...] = ()
    api_server: frozenset[tuple[Address, int | None]] = frozenset()

    def refusal(self, address: str, port: int) -> str:
        """What kind of address this is, if it is one that we don't call; else an empty text."""
        try:
            ip = _unwrapped(ip_address(address.partition("%")[0]))
        except ValueError:  # a resolver gives numbers in plain form; this is one that libc would still understand
            return "not written as an IP address"
        allowing = [net for net in self.allowed if ip in net]
        if not self.api_server.isdisjoint({(ip, port), (ip, None)}):
            return "" if any(net.num_addresses == 1 for net in allowing) else "the API server's"
        if allowing:
            return ""
        return next((kind for kind, nets in _REFUSED.items() if any(ip in net for net in nets)), "")

    def socket(self, wanted: tuple[Any, ...]) -> socket.socket:
        """A socket for one result of ``getaddrinfo``, made only if that may be called; else :class:`AddressRefused`.

        It is the ``socket_factory`` of aiohttp's connector, which connects it to that very result.
        """
        family, kind, proto, _, where = wanted
        if refused := self.refusal(str(where[0]), int(where[1])):
            raise AddressRefused(refused)
        return socket.socket(family=family, type=kind, proto=proto)

    async def judge(self, url: str) -> None:
        """Refuse `url` if any address of its host is refused: for a client that makes its own connections.

        Between this and the client's own look-up a name may change, so it does not replace :meth:`socket`. Raises
        :class:`Unusable` (``AddressRefused``), or :class:`Retry` where the host is not known.
        """
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        found = await resolved(parts.hostname or "")
        if not found:
            raise Retry("Unreachable", f"the host {parts.hostname!r} is not known")
        for address in found:
            if refused := self.refusal(address, port):
                raise unusable(f"{parts.scheme}://{parts.hostname}", refused)

    def of_stores(self) -> "Addresses":
        """The judge of artifact stores, whose addresses users write: of what is special at most loopback is allowed."""
        return Addresses(
            allowed=tuple(
                loop if net.supernet_of(loop) else net  # type: ignore[arg-type]  # of one version, as asked just below
                for net in self.allowed
                for loop in LOOPBACK
                if net.version == loop.version and net.overlaps(loop)
            ),
            api_server=self.api_server,
        )


REFUSING: Final = Addresses()
ANYWHERE: Final = Addresses(allowed=(ip_network("0.0.0.0/0"), ip_network("::/0")))
"""For a command that a person runs: on their machine, with their rights, to addresses that they may call anyway."""


def unusable(where: str, kind: str) -> Unusable:
    """What a target says whose address is refused."""
    return Unusable(
        "AddressRefused",
        f"{where} leads to an address that is {kind}: name the tracker's own, or have the operator's admin allow it "
        "(--allow-address)",
    )


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks or single addresses as ``--allow-address`` names them; raises ValueError with what is wrong."""
    return tuple(ip_network(text) for text in texts)


async def known(allowed: Iterable[str], server: str, environment: Mapping[str, str] = os.environ) -> Addresses:
    """The judge of an operator that talks to the API server at `server` and allows the networks `allowed`.

    In a pod the API server is also what ``KUBERNETES_SERVICE_HOST`` and ``kubernetes.default.svc`` name: addresses on
    which nothing else listens, so that no port of them is called.
    """
    parts = urlsplit(server)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    hosts: list[tuple[str, int | None]] = [(parts.hostname or "", port)]
    if inside := environment.get("KUBERNETES_SERVICE_HOST", ""):
        hosts += [(inside, None), ("kubernetes.default.svc", None)]
    found = await asyncio.gather(*(resolved(host) for host, _ in hosts))
    return Addresses(
        allowed=networks(allowed),
        api_server=frozenset(
            (_unwrapped(ip_address(address.partition("%")[0])), port)
            for (_, port), addresses in zip(hosts, found, strict=True)
            for address in addresses
        ),
    )


async def resolved(host: str) -> tuple[str, ...]:
    """The addresses of `host`, as the system's resolver gives them; none if it is not known within 5 s.

    One that is an address needs no resolver, whose threads may all wait for names.
    """
    with contextlib.suppress(ValueError):
        return (str(ip_address(host.strip("[]"))),)
    try:
        async with asyncio.timeout(RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return ()
    return tuple(dict.fromkeys(str(where[0]) for *_, where in found))


def _unwrapped(ip: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(ip, IPv4Address):
        return ip
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip
