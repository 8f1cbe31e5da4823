"""Which address and which API token can be right together; nothing of a token is ever said."""

import base64
import json

import pytest

from pipetrail.targets.neptune.target import NeptuneTarget
from pipetrail.targets.neptune.token import admitted
from pipetrail.targets.target import TargetError, Unauthorised, Unusable

KEY = "s3cret-key"


def token(address: str = "https://neptune.example.com", url: str | None = None) -> str:
    said = {"api_address": address, "api_key": KEY} | ({} if url is None else {"api_url": url})
    return base64.b64encode(json.dumps(said).encode()).decode()


def refusal(server_uri: str, api_token: str) -> TargetError:
    with pytest.raises(TargetError) as caught:
        admitted(server_uri, api_token)
    return caught.value


@pytest.mark.parametrize(
    ("server_uri", "address"),
    [
        ("https://neptune.example.com", "https://neptune.example.com"),
        ("https://neptune.example.com/", "https://NEPTUNE.example.com:443/api"),
        ("https://neptune.example.com", "neptune.example.com"),
        ("http://10.0.0.7:8080/x", "http://10.0.0.7:8080"),
    ],
)
def test_a_token_of_the_server_itself_is_taken(server_uri: str, address: str) -> None:
    admitted(server_uri, token(address, url=address))


@pytest.mark.parametrize(
    "wrong",
    [
        token("https://other.example.com"), token("http://neptune.example.com"),
        token("https://neptune.example.com:8443"), token(url="https://evil.example.com"), token("nowhere at all"),
        token("https://neptune.example.com.evil.org"), token("https://app.neptune.ai"),
    ],
)  # fmt: skip
def test_a_token_of_another_server_is_a_mismatch_that_names_both(wrong: str) -> None:
    error = refusal("https://neptune.example.com", wrong)
    assert (type(error), error.reason) == (Unusable, "TokenMismatch")
    assert "https://neptune.example.com:443" in error.message
    assert KEY not in error.message


@pytest.mark.parametrize("wrong", ["", "x", "e30=", "W10=", token()[:-4], "a" * 9000, "größe", token() + "\n{"])
def test_what_is_no_token_says_so_and_no_more(wrong: str) -> None:
    error = refusal("https://neptune.example.com", wrong)
    assert (type(error), error.reason) == (Unauthorised, "AuthenticationFailed")
    assert not wrong or wrong not in error.message


@pytest.mark.parametrize("hosted", ["https://app.neptune.ai", "https://neptune.ai", "http://ui.NEPTUNE.ai:80/x/y"])
def test_the_hosted_service_is_named_as_closed_with_the_way_out(hosted: str) -> None:
    error = refusal(hosted, token(hosted))
    assert (type(error), error.reason) == (Unusable, "ServiceDiscontinued")
    assert "MLflow or TensorBoard" in error.message


def test_a_bundle_without_a_certificate_is_said_before_anything_is_called() -> None:
    with pytest.raises(Unusable) as caught:
        NeptuneTarget("https://neptune.example.com", "a/b", token(), ca_pem="")
    assert caught.value.reason == "TlsFailed"


def test_a_target_shows_its_address_and_not_its_token() -> None:
    target = NeptuneTarget("https://neptune.example.com", "team/churn", token())
    assert repr(target) == "NeptuneTarget('https://neptune.example.com', 'team/churn')"
    assert KEY not in repr(target.process._setup)
    assert token() not in repr(target.process._setup)
