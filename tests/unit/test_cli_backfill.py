"""What the command makes of its flags, and what it joins."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import typer

from pipetrail import api
from pipetrail.cli import backfill

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
MLFLOW = api.Backend(mlflow=api.MlflowBackend(tracking_uri="http://mlflow"))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90d", NOW - timedelta(days=90)),
        (" 12h ", NOW - timedelta(hours=12)),
        ("2w", NOW - timedelta(weeks=2)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_since_is_a_span_or_a_time(text: str, moment: datetime) -> None:
    assert backfill._moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "90", "1y", "-3d", "999999w", "2026-13-01"])
def test_what_is_neither_says_how_to_write_it(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"like 90d|too far"):
        backfill._moment(text, NOW)


def target(wish: api.BackfillWish | None, said: api.Backfill | None = None) -> api.FoundTarget:
    text = "" if wish is None else msgspec.json.encode(wish).decode()
    ref = api.TargetRef(kind="TrackingTarget", name="mlflow", namespace="team")
    return api.FoundTarget(ref=ref, spec=api.TargetSpec(backend=MLFLOW), backfill=text, backfilled=said)


def test_a_wish_is_under_way_until_the_status_says_that_just_this_one_is_over() -> None:
    wish, before = api.BackfillWish(asked=NOW, pipeline="a"), NOW - timedelta(days=1)
    assert backfill._under_way(target(None)) is None
    assert backfill._under_way(target(wish)) == wish
    assert backfill._under_way(target(wish, api.Backfill(asked=before.isoformat(), phase="Done"))) == wish
    assert backfill._under_way(target(wish, api.Backfill(asked=wish.number, phase="Sending"))) == wish
    assert backfill._under_way(target(wish, api.Backfill(asked=wish.number, phase="Done"))) is None


def test_a_command_joins_what_covers_what_it_asks_for_and_nothing_else() -> None:
    day = timedelta(days=1)
    wish = api.BackfillWish(asked=NOW, since=NOW, pipeline="a", rate=5.0)
    assert wish.covers(api.BackfillWish(asked=NOW + day, since=NOW + day, pipeline="a"))
    assert not wish.covers(api.BackfillWish(asked=NOW + day, since=NOW - day, pipeline="a"))
    assert not wish.covers(api.BackfillWish(asked=NOW + day, pipeline="a"))
    assert api.BackfillWish(asked=NOW).covers(api.BackfillWish(asked=NOW, since=NOW))
    assert not wish.covers(api.BackfillWish(asked=NOW, since=NOW, pipeline="b"))
    assert not wish.covers(api.BackfillWish(asked=NOW, since=NOW, pipeline="a", sources=("archive",)))


def test_a_wish_comes_back_from_its_annotation_as_it_was() -> None:
    wish = api.BackfillWish(asked=NOW, since=NOW, namespace="team", pipeline="a*", selector="a=b", rate=0.5)
    assert api.backfill_wish(msgspec.json.encode(wish).decode()) == wish
    assert api.backfill_of({"backfill": api.to_json(api.Backfill(asked=wish.number, phase="Done", sent=3))}) == (
        api.Backfill(asked=wish.number, phase="Done", sent=3)
    )
    assert api.backfill_of({"backfill": {"asked": 5}}) is None
