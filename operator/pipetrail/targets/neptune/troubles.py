"""What the vendor's exceptions and its server's answers mean, in the worker process (it imports neptune).

No text of an exception goes further: the package's are pages of advice, and some hold what was sent. What the server
itself says is one line, without our token.
"""

import json
from typing import Final, Literal

import requests
from neptune import exceptions as vendor
from neptune.common import exceptions as common
from neptune.management.exceptions import ObjectNotFound

from pipetrail.record import Frozen
from pipetrail.targets.addresses import unusable
from pipetrail.targets.neptune.guard import Elsewhere, Guard, Seen, TooLong, Unanswered
from pipetrail.targets.neptune.wire import Trouble

AFTER_MOST_S: Final = 3600.0
_GONE: Final = (vendor.ContainerUUIDNotFound, vendor.MetadataContainerNotFound, ObjectNotFound)
_LIMITS: Final = (vendor.NeptuneLimitExceedException, vendor.NeptuneStorageLimitException)
Kind = Literal["retry", "unauthorised", "unusable", "refused", "rejected"]


class Meaning(Frozen, frozen=True):
    """The parts of a :class:`Trouble` that an exception decides."""

    kind: Kind
    reason: str
    message: str
    after_s: float | None = None


class Sense:
    """Turns an exception of a call into a :class:`Trouble`. `secret` is never said."""

    def __init__(self, guard: Guard, server_uri: str, project: str, secret: str) -> None:
        self._guard = guard
        self._server = server_uri.rstrip("/")
        self._project = project
        self._secret = secret

    def of(self, number: int, error: BaseException, *, logged_in: bool) -> Trouble:
        """`logged_in` is false while nothing has shown yet that a Neptune server is there."""
        means = self._by_guard(error) or self._by_package(error) or self._by_answer(error, logged_in=logged_in)
        return Trouble(
            number=number, kind=means.kind, reason=means.reason, message=means.message, after_s=means.after_s,
            doubtful=means.kind == "retry" and self._guard.doubtful,
        )  # fmt: skip

    def _by_guard(self, error: BaseException) -> Meaning | None:
        if self._guard.refused:
            refused = unusable(self._server, self._guard.refused)
            return Meaning(kind="unusable", reason=refused.reason, message=refused.message)
        match error:
            case Elsewhere():
                where = f"sends us to {error or 'elsewhere'}, which is not followed: name that address"
                return self._means("unusable", "NotNeptune", where)
            case TooLong():
                return self._means("retry", "Unreachable", "gives an answer that is longer than what is read")
            case MemoryError():
                return Meaning(kind="retry", reason="WorkerFailed", message="the Neptune worker has no memory left")
        return None

    def _by_package(self, error: BaseException) -> Meaning | None:
        match error:
            case vendor.ProjectNotFound():
                return self._means("unusable", "ProjectNotFound", f"has no project {self._project}")
            case vendor.NeptuneLegacyProjectException():
                return self._means("unusable", "ProjectNotFound", f"has a {self._project} of a kind that takes no runs")
            case common.WritingToArchivedProjectException():
                return self._means("unusable", "ProjectArchived", f"takes nothing for {self._project}: it is archived")
            case vendor.NeptuneFieldCountLimitExceedException():
                return Meaning(
                    kind="rejected", reason="TooManyFields", message="the run has all fields that it may have"
                )
            case vendor.NeptuneObjectCreationConflict():
                why = "Neptune has a run of this id and does not give it: is it deleted?"
                return Meaning(kind="refused", reason="RunExists", message=why)
            case vendor.NeptuneClientUpgradeRequiredError():
                return self._means("unusable", "NotNeptune", "asks for another version of the client")
            case vendor.CannotResolveHostname():
                return self._means("retry", "Unreachable", "has a host that is not known")
            case common.NeptuneInvalidApiTokenException() | common.Unauthorized():
                return self._means("unauthorised", "AuthenticationFailed", "does not accept the API token")
            case common.Forbidden():
                return self._means("unauthorised", "PermissionDenied", "does not let the token's user do this")
        if isinstance(error, _LIMITS):
            return self._means("unusable", "LimitExceeded", f"refuses: {self._said() or 'a limit is reached'}")
        if isinstance(error, _GONE):
            return Meaning(kind="refused", reason="RunGone", message="the run is no longer in Neptune")
        if isinstance(error, Unanswered) and _untrusted(error.cause):
            why = "has a certificate that is not trusted: name its signer in caBundleRef, or mend it or the host"
            return self._means("unusable", "TlsFailed", why)
        return None

    def _by_answer(self, error: BaseException, *, logged_in: bool) -> Meaning:
        seen = self._guard.seen
        if seen is None:  # of the last request no answer came, or not all of it
            late = isinstance(error, Unanswered) and isinstance(error.cause, requests.exceptions.Timeout)
            return self._means("retry", "Unreachable", "does not answer in time" if late else "broke the connection")
        if seen.status >= 400:
            return self._answered(seen, logged_in=logged_in)
        if not logged_in:
            return self._means("unusable", "NotNeptune", "answers, but not as a Neptune server does")
        return self._means("retry", "Unreachable", f"answers with what is not Neptune's ({type(error).__name__})")

    def _answered(self, seen: Seen, *, logged_in: bool) -> Meaning:
        said = self._said()
        says = f"answers {seen.status}" + (f": {said}" if said else "")
        match seen.status:
            case 401:
                return self._means("unauthorised", "AuthenticationFailed", f"{says}: it does not accept the API token")
            case 403:
                return self._means("unauthorised", "PermissionDenied", f"{says}: the token's user lacks a right")
            case 408 | 429:
                return self._means(
                    "retry", "RateLimited" if seen.status == 429 else "Unreachable", says, _after_s(seen)
                )
            case 402 | 422:
                return self._means("unusable", "LimitExceeded", says)
            case _ if seen.status >= 500:
                return self._means("retry", "Unreachable", says, _after_s(seen))
            case _ if not logged_in:
                return self._means(
                    "unusable", "NotNeptune", f"{says}: no Neptune there; is serverUri the right address?"
                )
            case 404:
                return self._means("refused", "RunGone", f"{says}: the run is no longer in Neptune")
            case _:
                return self._means("rejected", "Rejected", says)

    def _means(self, kind: Kind, reason: str, what: str, after_s: float | None = None) -> Meaning:
        return Meaning(kind=kind, reason=reason, message=f"{self._server} {what}", after_s=after_s)

    def _said(self) -> str:
        """What the server said, as one line of at most 300 characters; nothing of a page for people."""
        seen = self._guard.seen
        text = "" if seen is None else seen.text
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        if isinstance(body, dict):
            text = str(body.get("title") or body.get("message") or body.get("errorType") or "")
        if text.lstrip().startswith("<"):
            return ""
        text = " ".join(text.replace(self._secret, "<redacted>").split())
        return text if len(text) <= 300 else text[:299] + "…"


def _untrusted(cause: BaseException) -> bool:
    return isinstance(cause, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(cause)


def _after_s(seen: Seen) -> float | None:
    text = seen.headers.get("retry-after", "").strip()
    return min(float(text), AFTER_MOST_S) if text.isascii() and text.isdigit() and len(text) < 10 else None
