"""Neptune's API token: base64 of JSON that names the server which made it. Pure, and shows no secret.

The client calls the address in the token, whatever it is told. So a token is taken only if that is the server which the
target names: a request must not go where only a Secret leads.
"""

import base64
import binascii
from typing import Final
from urllib.parse import urlsplit

import msgspec

from pipetrail.record import Frozen
from pipetrail.targets.target import Unauthorised, Unusable

MOST: Final = 8192
WAY_OUT: Final = (
    "Neptune's hosted service was closed on 2026-03-05 and its data deleted: name a Neptune server of your own, or "
    "record in MLflow or TensorBoard"
)


class Addresses(Frozen, frozen=True):
    """What a token says of its server: `api_url` is the newer field and wins."""

    api_address: str
    api_url: str | None = None


def origin(address: str) -> tuple[str, str, int]:
    """Scheme, host and port of `address`; raises ValueError if it has none."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no http address")
    return parts.scheme, parts.hostname.lower().rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)


def admitted(server_uri: str, token: str) -> None:
    """Raises what is wrong with the two: :class:`Unusable` or :class:`Unauthorised`."""
    try:
        wanted = origin(server_uri)
    except ValueError:
        raise Unusable("NotNeptune", "serverUri is no address that can be called") from None
    if _hosted(wanted[1]):
        raise Unusable("ServiceDiscontinued", WAY_OUT)
    named = _read(token)
    for address in (named.api_address, named.api_url):
        if address is None:
            continue
        try:
            same = origin(address if "://" in address else f"https://{address}") == wanted
        except ValueError:
            same = False
        if not same:
            raise Unusable(
                "TokenMismatch",
                f"the API token was made by {_shown(address)}, serverUri is {_shown(server_uri)}: use a token of that "
                "server, or mend serverUri",
            )


def _read(token: str) -> Addresses:
    wrong = Unauthorised("AuthenticationFailed", "the Secret does not hold a Neptune API token: copy it from Neptune")
    if not token or len(token) > MOST or not token.isascii() or not token.isprintable():
        raise wrong
    try:
        return msgspec.json.decode(base64.b64decode(token), type=Addresses)
    except (binascii.Error, ValueError, RecursionError):
        raise wrong from None


def _hosted(host: str) -> bool:
    return host == "neptune.ai" or host.endswith(".neptune.ai")


def _shown(address: str) -> str:
    """Without what may be secret, and not longer than a line holds."""
    try:
        scheme, host, port = origin(address if "://" in address else f"https://{address}")
    except ValueError:
        return "an address that can't be read"
    return f"{scheme}://{host}:{port}"[:200]
