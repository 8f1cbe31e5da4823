"""What is logged: our lines, and nothing that a frame of a traceback happens to hold."""

import io
import logging

import pytest

from pipetrail import observe

CANARY = "canary-7f3a-token"


def fail_with_a_secret_at_hand() -> None:
    token = CANARY
    raise ValueError(f"no use for {len(token)} characters")


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_shows_no_locals(form: str) -> None:
    out = io.StringIO()
    observe.configure(form=form, stream=out)
    try:
        fail_with_a_secret_at_hand()
    except ValueError:
        logging.getLogger("kopf.objects").exception("a handler failed")
        observe.log().error("failed", exc_info=True)
    said = out.getvalue()
    assert (CANARY in said, "no use for 17 characters" in said) == (False, True)


def test_a_place_is_named_without_the_text_of_the_error() -> None:
    with pytest.raises(ValueError, match="no use") as raised:
        fail_with_a_secret_at_hand()
    place, _, line = observe.where(raised.value).partition(":")
    assert (place, line.isdecimal()) == ("ValueError at test_observe.py", True)
