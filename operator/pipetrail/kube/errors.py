"""What a call to the API server can end in, as one tree."""

import aiohttp
import msgspec


class KubeError(Exception):
    """Anything that went wrong between us and the API server."""


class ApiError(KubeError):
    """The API server answered with an error: `status` is HTTP's, `reason` Kubernetes' own word (NotFound, Conflict)."""

    def __init__(self, status: int, reason: str, message: str, call: str) -> None:
        super().__init__(f"{call}: {status} {reason}: {message[:500]}")
        self.status = status
        self.reason = reason
        self.message = message


class Unreachable(KubeError):
    """No answer: the connection failed or the time ran out. A write may have happened or not."""


async def refusal(response: aiohttp.ClientResponse, call: str) -> ApiError:
    """The error that an answer of 400 or more says."""
    raw = await response.content.read(1 << 16)
    try:
        status = msgspec.json.decode(raw)
        reason, message = str(status.get("reason") or response.reason), str(status.get("message") or "")
    except (msgspec.DecodeError, AttributeError):
        reason, message = str(response.reason), raw.decode("utf-8", "replace")
    return ApiError(response.status, reason, message, call)
