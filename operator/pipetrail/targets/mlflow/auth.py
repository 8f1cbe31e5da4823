"""How we log in to a tracker. Secrets show in no repr, message or log."""

import base64

from pipetrail.record import Frozen
from pipetrail.targets.target import Unauthorised

HIDDEN = "<redacted>"


class NoAuth(Frozen, frozen=True):
    """Without credentials."""


class Bearer(Frozen, frozen=True):
    """A token, sent as ``Authorization: Bearer``."""

    token: str

    def __repr__(self) -> str:
        """Says what it is and keeps what it holds."""
        return f"Bearer(token={HIDDEN})"


class Basic(Frozen, frozen=True):
    """A user's name and password."""

    user: str
    password: str

    def __repr__(self) -> str:
        """Says what it is and keeps what it holds."""
        return f"Basic(user={self.user!r}, password={HIDDEN})"


Auth = NoAuth | Bearer | Basic


def header(auth: Auth) -> dict[str, str]:
    """The header that carries `auth`; raises :class:`Unauthorised` if no header can hold it."""
    match auth:
        case NoAuth():
            return {}
        case Bearer(token=token):
            if not token or not token.isascii() or not token.isprintable():
                raise Unauthorised(
                    "AuthenticationFailed",
                    "the token is empty or holds what no HTTP header can carry: put the bare token in the Secret",
                )
            return {"Authorization": f"Bearer {token}"}
        case Basic(user=user, password=password):
            if ":" in user:
                raise Unauthorised("AuthenticationFailed", "the user name holds a colon, which basic auth can't carry")
            return {"Authorization": f"Basic {_pair(user, password)}"}


def secrets(auth: Auth) -> tuple[str, ...]:
    """Every text that must not be seen, longest first; what a server echoes is scrubbed of them."""
    match auth:
        case NoAuth():
            return ()
        case Bearer(token=token):
            return (token,)
        case Basic(user=user, password=password):
            return tuple(sorted({_pair(user, password), password} - {""}, key=len, reverse=True))


def _pair(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()
