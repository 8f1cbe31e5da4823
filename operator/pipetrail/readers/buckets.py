"""One bucket of an object store, as one user: signs addresses, asks through the transport, lists prefixes.

obstore signs and lists; it does not fetch (see :mod:`~pipetrail.readers.transport`). Only keys that come from Secrets
of the run's namespace are used: where a repository names none we ask anonymously, never as ourselves, and nothing is
taken from the environment. No message here holds a credential or a signed address.
"""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast
from urllib.parse import quote

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore

from pipetrail.formats import Note
from pipetrail.readers import Fetched, listing, signing
from pipetrail.readers.transport import Answer, Refused, Transport, Unreachable
from pipetrail.record import Frozen
from pipetrail.sources import AzureLocation, GcsLocation, Location, S3Location
from pipetrail.sources import Unreadable as NeverFetched

# A path is only known of Azure's emulator.
_ADDRESS: Final = re.compile(
    r"https?://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?P<path>/[A-Za-z0-9]+)?"
)
# Lists of these are asked for by obstore's own client, which follows redirects: nobody else may answer it.
_AZURES_OWN: Final = re.compile(
    r"[a-z0-9-]{1,63}\.blob\.(core\.windows\.net|core\.chinacloudapi\.cn|core\.usgovcloudapi\.net|storage\.azure\.net)"
)
_BAD_KEYS: Final = (
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "InvalidToken", "ExpiredToken",
    "XAdminUserNotFound",  # versitygw, with status 404
)  # fmt: skip
_SIGNED_FOR: Final = timedelta(minutes=5)


class Credentials(Frozen, frozen=True):
    """What the Secrets of a location hold. Never printed."""

    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    ca: str | None = None
    service_account_key: str | None = None
    account_key: str | None = None

    def __repr__(self) -> str:
        return "Credentials(...)"


class Failed(Exception):
    """A fetch that gives nothing; its argument is the :class:`Fetched` that says why."""


class Bucket:
    """One location with its credentials: signs, asks, lists. `where` names it for people."""

    def __init__(self, location: Location, credentials: Credentials, transport: Transport) -> None:
        self.where = describe(location)
        self._location = location
        self._credentials = credentials
        self._transport = transport
        self._region: str | None = None
        match location:
            case S3Location():
                host = location.endpoint or f"s3.{location.region or 'us-east-1'}.amazonaws.com"
                scheme, _, rest = host.rpartition("://")
                scheme = scheme or ("http" if location.insecure else "https")
                self.base, self.key, self._anonymous = f"{scheme}://{rest}", location.key, not credentials.access_key
                container = location.bucket
            case GcsLocation():
                self.base, self.key = "https://storage.googleapis.com", location.key
                self._anonymous, container = not credentials.service_account_key, location.bucket
            case AzureLocation():
                base = location.endpoint if "://" in location.endpoint else f"https://{location.endpoint}"
                self.base, self.key = base.rstrip("/"), location.key
                self._anonymous, container = not credentials.account_key, location.container
            case NeverFetched():
                raise Failed(failure(location.reason, location.message))
        self.base = self.base.rstrip("/")
        self._plain = f"{self.base}/{quote(container, safe='')}"
        address = _ADDRESS.fullmatch(self.base)
        if address is None or not container or (address["path"] and not isinstance(location, AzureLocation)):
            raise Refused("its address is not a host with an optional port")
        self._host = address["host"]

    async def request(self, method: str, *, key: str | None = None, limit: int = 0, span: str | None = None) -> Answer:
        """The answer, if it is 200 or 404; anything else ends the fetch."""
        url = await self._signed(method, key or self.key)
        answer = await self._transport.request(method, url, limit=limit, ca=self._credentials.ca, span=span)
        if answer.region and answer.region != self._region and answer.status in (301, 307, 400, 403):
            # AWS says so where the repository names no region, or the wrong one.
            self._region = answer.region
            url = await self._signed(method, key or self.key)
            answer = await self._transport.request(method, url, limit=limit, ca=self._credentials.ca, span=span)
        if answer.status in (200, 404):
            return answer
        raise Failed(self._refusal(answer.status))

    async def objects(self) -> AsyncIterator[tuple[str, int]]:
        """The (key, size) of all objects below the key, which is a folder's."""
        if isinstance(self._location, S3Location):
            async for found in self._listed(self._location):
                yield found
            return
        if isinstance(self._location, AzureLocation) and not _AZURES_OWN.fullmatch(self._host):
            message = f"{self.where}: what lies below it is not listed, since only Microsoft's own endpoints are asked"
            raise Failed(failure("StoreRefused", message))
        try:
            async for batch in obstore.list(self._store(), prefix=self.key.strip("/") or None, chunk_size=200):
                for meta in batch:
                    yield meta["path"], meta["size"]
        except FileNotFoundError:
            return
        except (PermissionDeniedError, UnauthenticatedError):
            raise Failed(self._refusal(403)) from None
        except BaseError as error:
            # the text holds the store's answer and the address: only its status is taken from it
            status = re.search(r"status code: (\d{3})", str(error))
            if status and int(status[1]) == 404:
                raise self._no_bucket() from None
            if status:
                raise Failed(self._refusal(int(status[1]))) from None
            raise Unreachable("the connection failed") from None

    async def _listed(self, location: S3Location) -> AsyncIterator[tuple[str, int]]:
        keys, following = None if self._anonymous else self._keys(location), ""
        while True:
            url = listing.address(self._plain, f"{self.key.strip('/')}/", following, keys, datetime.now(UTC))
            answer = await self._transport.request("GET", url, limit=listing.PAGE_BYTES, ca=self._credentials.ca)
            if answer.code in _BAD_KEYS:
                raise Failed(self._refusal(403))
            if answer.status == 404:
                raise self._no_bucket()
            if answer.status != 200:
                raise Failed(self._refusal(answer.status))
            page = listing.page(answer.data)
            for found in page.objects:
                yield found
            if not page.following or page.following == following:
                return
            following = page.following

    def _no_bucket(self) -> Failed:
        note = Note(reason="BucketNotFound", message=f"{self.where}: there is no such bucket")
        return Failed(Fetched(notes=(note,), present=False))

    def _refusal(self, status: int) -> Fetched:
        match status:
            case 401 | 403:
                return failure("StoreForbidden", f"{self.where}: refused ({status}): {_grant(self._location)}")
            case 300 | 301 | 302 | 303 | 307 | 308:
                return failure(
                    "StoreRefused", f"{self.where}: it answers with a redirect ({status}), which is not followed; "
                    "name the right endpoint and region in the artifact repository",
                )  # fmt: skip
            case _ if status >= 500 or status in (408, 425, 429):
                return failure("StoreUnreachable", f"{self.where}: the store answers {status}", again=True)
            case _:
                return failure("StoreError", f"{self.where}: the store answers {status}")

    async def _signed(self, method: str, key: str) -> str:
        if not key.strip("/"):
            raise Failed(failure("StoreKeyUnusable", f"{self.where}: the key is empty"))
        if self._anonymous:
            return f"{self._plain}/{quote(key.lstrip('/'), safe='/~')}"
        try:
            if isinstance(self._location, S3Location):
                address = f"{self._plain}/{signing.path(key)}"
                return signing.signed(method, address, {}, self._keys(self._location), datetime.now(UTC))
            return str(await obstore.sign_async(self._store(), cast("Any", method), key, _SIGNED_FOR))
        except (BaseError, ValueError, TypeError):
            message = f"{self.where}: the key or the credentials can't be used for a signed request"
            raise Failed(failure("StoreKeyUnusable", message)) from None

    def _keys(self, location: S3Location) -> signing.Keys:
        return signing.Keys(
            access_key=self._credentials.access_key or "", secret_key=self._credentials.secret_key or "",
            session_token=self._credentials.session_token, region=self._region or location.region or "us-east-1",
        )  # fmt: skip

    def _store(self) -> Any:
        credentials, location = self._credentials, self._location
        options: Any = {
            "allow_http": self.base.startswith("http://"), "timeout": timedelta(seconds=30),
            "connect_timeout": timedelta(seconds=5),
        }  # fmt: skip
        if credentials.ca:
            options["root_certificate"] = credentials.ca
        retry: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}
        try:
            match location:
                case GcsLocation():
                    gcs: Any = {"skip_signature": True} if self._anonymous else {
                        "service_account_key": _service_account(credentials.service_account_key or "")
                    }  # fmt: skip
                    return GCSStore(location.bucket, config=gcs, client_options=options, retry_config=retry)
                case AzureLocation():
                    azure: Any = {
                        "account_name": self._host.partition(".")[0], "endpoint": self.base,
                        "skip_signature": self._anonymous,
                    }  # fmt: skip
                    if not self._anonymous:
                        azure["account_key"] = credentials.account_key
                    return AzureStore(location.container, config=azure, client_options=options, retry_config=retry)
        except (BaseError, ValueError, TypeError, KeyError):
            pass
        raise Failed(failure("StoreKeyUnusable", f"{self.where}: the credentials can't be used"))


def _service_account(text: str) -> str:
    # Only what signs: the file could also name another base URL, and switch authentication off.
    key = json.loads(text)
    return json.dumps({name: key[name] for name in ("type", "client_email", "private_key", "private_key_id")})


def failure(reason: str, message: str, *, again: bool = False) -> Fetched:
    """A fetch that gives nothing but a note."""
    return Fetched(notes=(Note(reason=reason, message=message),), present=None, again=again)


def describe(location: Location) -> str:
    """The location for people."""
    match location:
        case S3Location():
            return f"s3://{location.bucket}/{location.key}"
        case GcsLocation():
            return f"gs://{location.bucket}/{location.key}"
        case AzureLocation():
            return f"azure://{location.container}/{location.key}"
        case NeverFetched():
            return "the artifact"


def _grant(location: Location) -> str:
    match location:
        case S3Location(access_key=key):
            who = f"the key in Secret {key.name!r}" if key else "the repository names no access key, so nobody"
            return f"{who} needs s3:GetObject on it, and s3:ListBucket on the bucket {location.bucket!r}"
        case GcsLocation(service_account_key=key):
            who = f"the account in Secret {key.name!r}" if key else "the repository names no key, so everybody"
            return f"{who} needs roles/storage.objectViewer on the bucket {location.bucket!r}"
        case AzureLocation(account_key=key):
            who = f"the key in Secret {key.name!r}" if key else "the repository names no key, so everybody"
            return f"{who} needs to read the container {location.container!r}"
        case NeverFetched():
            return ""
