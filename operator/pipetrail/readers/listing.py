"""Listing below a prefix of an S3 bucket: the signed address of a page, and what a page says.

obstore could list too, but with a client of its own, which follows redirects wherever a store points it and looks the
store's name up again. So a page is asked for through :mod:`~pipetrail.readers.transport`, like everything else. Pure:
the time is given.
"""

import re
from datetime import datetime
from html import unescape
from typing import Final
from urllib.parse import unquote

from pipetrail.readers import signing
from pipetrail.record import Frozen

PAGE: Final = 200
PAGE_BYTES: Final = 2 << 20  # 200 keys of 1 024 bytes, percent-encoded, are 0.6 MB
_CONTENTS: Final = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)


class Page(Frozen, frozen=True):
    """(key, bytes) of objects, and the token of the next page (empty: this is the last)."""

    objects: tuple[tuple[str, int], ...] = ()
    following: str = ""


def address(bucket: str, prefix: str, following: str, keys: signing.Keys | None, now: datetime) -> str:
    """The address of a page of the objects below `prefix`; `bucket` is the bucket's own, ``scheme://host/name``.

    Signed in its query, or not at all without `keys`.
    """
    query = {"list-type": "2", "max-keys": str(PAGE), "encoding-type": "url", "prefix": prefix}
    if following:
        query["continuation-token"] = following
    if keys is None:
        return f"{bucket}?{signing.encoded(query)}"
    return signing.signed("GET", bucket, query, keys, now)


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
