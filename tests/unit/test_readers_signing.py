"""Our signatures are those of obstore, for any key and any credentials."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import S3Store
from yarl import URL

from pipetrail.readers import signing

CHARACTERS = st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="/", exclude_categories=["Cc"])
TEXT = st.text(CHARACTERS, min_size=1, max_size=12)
NAMES = TEXT.filter(lambda name: name not in (".", ".."))


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD"]),
    key=st.lists(NAMES, min_size=1, max_size=3).map("/".join),
    base=st.sampled_from(["http://127.0.0.1:9000", "https://s3.eu-west-1.amazonaws.com", "http://[::1]:9000"]),
    secret=TEXT,
    token=st.none() | TEXT,
)
def test_a_signature_is_the_one_that_obstore_makes(method, key, base, secret, token):
    login = {"access_key_id": "AKIA", "secret_access_key": secret, "token": token, "expires_at": None}
    config = {"endpoint": base, "region": "eu-west-1", "virtual_hosted_style_request": False}
    store = S3Store("bucket", config=config, client_options={"allow_http": True}, credential_provider=lambda: login)
    theirs = str(obstore.sign(store, method, key, timedelta(seconds=signing.SIGNED_FOR_S)))
    at = datetime.strptime(URL(theirs, encoded=True).query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    keys = signing.Keys(access_key="AKIA", secret_key=secret, session_token=token, region="eu-west-1")
    ours = signing.signed(method, f"{base}/bucket/{signing.path(key)}", {}, keys, at)
    assert ours.partition("?")[0] == theirs.partition("?")[0]
    assert sorted(parse_qsl(ours.partition("?")[2])) == sorted(parse_qsl(theirs.partition("?")[2]))


@pytest.mark.parametrize("key", ["a//b", "a/../b", "./a", "..", "a\nb", "\x00", "a\x7f", "/", ""])
def test_a_key_that_may_be_taken_for_another_has_no_path(key):
    with pytest.raises(ValueError, match="key has"):
        signing.path(key)


def test_slashes_around_a_key_are_left_out_and_all_else_is_encoded():
    assert signing.path("/a b/c+d%2F~é/") == "a%20b/c%2Bd%252F~%C3%A9"


def test_keys_are_never_printed():
    assert "geheim" not in repr(signing.Keys(access_key="AKIA", secret_key="geheim", session_token="geheim"))
