"""Listing below a prefix of an S3 bucket: the signed address of a page, and what a page says.

obstore could list too, but with a client of its own, which follows redirects wherever a store points it and looks the
store's name up again. So a page is asked for through :mod:`~pipetrail.readers.transport`, like everything else. Pure:
the time is given.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from html import unescape
from typing import Final
from urllib.parse import quote, unquote

from yarl import URL

from pipetrail.record import Frozen

PAGE: Final = 200
PAGE_BYTES: Final = 2 << 20  # 200 keys of 1 024 bytes, percent-encoded, are 0.6 MB
_CONTENTS: Final = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)
_SIGNED_FOR_S: Final = 300


class Keys(Frozen, frozen=True):
    """Whom a listing is signed for, and for which region."""

    access_key: str
    secret_key: str
    session_token: str | None = None
    region: str = "us-east-1"


class Page(Frozen, frozen=True):
    """(key, bytes) of objects, and the token of the next page (empty: this is the last)."""

    objects: tuple[tuple[str, int], ...] = ()
    following: str = ""


def address(bucket: str, prefix: str, following: str, keys: Keys | None, now: datetime) -> str:
    """The address of a page of the objects below `prefix`; `bucket` is the bucket's own, ``scheme://host/name``.

    Signed in the query as AWS asks (Signature Version 4, docs "Authenticating Requests: Using Query Parameters"), or
    not at all without `keys`.
    """
    query = {"list-type": "2", "max-keys": str(PAGE), "encoding-type": "url", "prefix": prefix}
    if following:
        query["continuation-token"] = following
    if keys is None:
        return f"{bucket}?{_encoded(query)}"
    url = URL(bucket, encoded=True)
    host = url.raw_host if url.is_default_port() else f"{url.raw_host}:{url.port}"
    day, stamp = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{day}/{keys.region}/s3/aws4_request"
    query |= {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": f"{keys.access_key}/{scope}", "X-Amz-Date": stamp,
        "X-Amz-Expires": str(_SIGNED_FOR_S), "X-Amz-SignedHeaders": "host",
    }  # fmt: skip
    if keys.session_token:
        query["X-Amz-Security-Token"] = keys.session_token
    request = "\n".join(("GET", url.raw_path, _encoded(query), f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"))
    to_sign = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{keys.secret_key}".encode()
    for part in (day, keys.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return f"{bucket}?{_encoded(query)}&X-Amz-Signature={hmac.digest(key, to_sign.encode(), 'sha256').hex()}"


def page(body: bytes) -> Page:
    """What a page says; anything that is no listing is an empty one. Markers of folders are no objects."""
    text = body.decode("utf-8", "replace")
    encoded = _one("EncodingType", text) == "url"
    objects = []
    for contents in _CONTENTS.findall(text):
        key, size = _one("Key", contents), _one("Size", contents)
        key = unquote(key) if encoded else key
        if key and not key.endswith("/") and size.isascii() and size.isdecimal() and len(size) < 20:
            objects.append((key, int(size)))
    more = _one("IsTruncated", text).lower() == "true"
    return Page(objects=tuple(objects), following=_one("NextContinuationToken", text) if more else "")


def _one(name: str, text: str) -> str:
    found = re.search(f"<{name}>([^<]*)</{name}>", text)
    return unescape(found[1]).strip("\r\n") if found else ""


def _encoded(query: Mapping[str, str]) -> str:
    return "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(query.items()))
