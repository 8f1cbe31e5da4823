"""Argo's archive of runs that have ended, through Argo Server: their bodies, when their objects are gone.

The list tells a run's metadata, times and phase, and no nodes; a run by its uid comes whole. The address is the admin's
(``--argo-server``), the rights are those of the token in the file that he names. What comes is still judged: a body
counts only if it is the run that was asked for, of the namespace that was asked for.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import msgspec
from yarl import URL

from pipetrail.sources import argo
from pipetrail.sources.argo.body import obj, objs, word

CALL_S: Final = 30.0
CONNECT_S: Final = 5.0
PAGE: Final = 100
PAGE_BYTES: Final = 16 << 20
BODY_BYTES: Final = 64 << 20
TOKEN_BYTES: Final = 1 << 16
_PATH: Final = "api/v1/archived-workflows"


class ArchiveFailed(Exception):
    """The archive did not say; the text names the cause and the fix, and no token stands in it.

    `later` is true where it may say so another time.
    """

    def __init__(self, message: str, *, later: bool = True) -> None:
        super().__init__(message)
        self.later = later


class ArgoArchive:
    """One Argo Server. `token_file` is read anew for each call, since tokens are rotated; `ca_file` is whom to trust.

    Raises :class:`ValueError` for an address of another form, and for a CA that is none.
    """

    def __init__(self, url: str, *, token_file: str = "", ca_file: str = "", call_s: float = CALL_S) -> None:
        address = URL(url)
        if address.scheme not in ("http", "https") or not address.host or address.query_string or address.user:
            raise ValueError(
                f"{url!r} is no address of an Argo Server: write it like https://argo-server.argo.svc:2746"
            )
        self.where = str(address).rstrip("/")
        self._token_file = token_file
        self._trust: ssl.SSLContext | bool = True
        if ca_file:
            try:
                self._trust = ssl.create_default_context(cafile=ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ValueError(f"{ca_file} holds no CA certificate in PEM form ({type(error).__name__})") from None
        self._call_s = call_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def listed(self, namespace: str, selector: str = "") -> AsyncIterator[argo.Header]:
        """What the archive's list tells of each run of `namespace` (empty: of all), the youngest first.

        Of what a run was made from the list tells next to nothing. A page begins where the one before ended by count,
        so that rows which are deleted meanwhile may hide others.
        """
        following = ""
        while True:
            query = {"listOptions.limit": str(PAGE)}
            query |= {"namespace": namespace} if namespace else {}
            query |= {"listOptions.labelSelector": selector} if selector else {}
            query |= {"listOptions.continue": following} if following else {}
            page = await self._get(_PATH, query, PAGE_BYTES)
            for item in objs(page.get("items")):
                header = argo.header(item)
                if header.uid and namespace in ("", header.namespace):
                    yield header
            before, following = following, word(obj(page, "metadata").get("continue"))
            if not following or following == before:
                return

    async def body(self, namespace: str, uid: str) -> Any:
        """The whole run, or None if the archive does not have it."""
        try:
            found = await self._get(f"{_PATH}/{uid}", {"namespace": namespace}, BODY_BYTES)
        except _Missing:
            return None
        header = argo.header(found)
        if (header.namespace, header.uid) != (namespace, uid) or not header.completed:
            return None  # another one's, or one that has not ended: nothing that is ours to send
        return found

    async def _get(self, path: str, query: Mapping[str, str], most: int) -> Mapping[str, Any]:
        headers = {"Accept": "application/json"}
        if token := await asyncio.to_thread(self._token):
            headers["Authorization"] = f"Bearer {token}"
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._call_s, sock_connect=CONNECT_S)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=8), timeout=timeout, trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )  # fmt: skip
        try:
            async with self._session.get(
                URL(self.where) / path, params=query, headers=headers, allow_redirects=False, ssl=self._trust
            ) as response:
                if response.status != 200:
                    raise self._refusal(response.status)
                raw = bytearray()
                async for piece in response.content.iter_chunked(1 << 16):
                    raw += piece
                    if len(raw) > most:
                        response.close()
                        raise ArchiveFailed(f"{self.where} answers with more than {most >> 20} MiB", later=False)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            said = f"no TLS connection to {self.where}: name the signer of its certificate (--argo-server-ca)"
            raise ArchiveFailed(said, later=False) from None
        except TimeoutError:
            raise ArchiveFailed(f"{self.where} does not answer within {self._call_s:.0f} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ArchiveFailed(f"no connection to {self.where} ({type(error).__name__})") from None
        return self._decoded(bytes(raw))

    def _decoded(self, raw: bytes) -> Mapping[str, Any]:
        try:
            decoded = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = None
        if not isinstance(decoded, dict):
            what = "a page for people" if raw.lstrip()[:1] == b"<" else "what is not JSON"
            raise ArchiveFailed(f"{self.where} answers with {what}: is it Argo Server's own address?", later=False)
        return decoded

    def _refusal(self, status: int) -> Exception:
        match status:
            case 404:
                return _Missing()
            case 401:
                said = "it does not take the token: see --argo-server-token-file, and its --auth-mode"
            case 403:
                said = "the token may not list workflows there: give its account the right to get and list workflows"
            case 300 | 301 | 302 | 303 | 307 | 308:
                said = "it redirects, which is not followed: name the address that it leads to"
            case _ if status >= 500 or status in (408, 425, 429):
                return ArchiveFailed(f"{self.where} answers {status}")
            case _:
                said = "is it Argo Server's own address, and is its archive switched on?"
        return ArchiveFailed(f"{self.where} answers {status}: {said}", later=False)

    def _token(self) -> str:
        if not self._token_file:
            return ""
        try:
            with Path(self._token_file).open("rb") as file:
                text = file.read(TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ArchiveFailed(f"the token can't be read from {self._token_file} ({type(error).__name__})") from None
        if any(character.isspace() or not character.isprintable() for character in text):
            raise ArchiveFailed(f"{self._token_file} holds no token: it has more than one word", later=False)
        return text


class _Missing(ArchiveFailed):
    """There is no such run, or no such path."""

    def __init__(self) -> None:
        super().__init__(
            "it answers 404: is it Argo Server's own address, and is its archive switched on?", later=False
        )
