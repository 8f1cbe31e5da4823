"""A cluster's target that several shards serve: what each gets of its rate, says of it, and what that comes to."""

from pipetrail import api
from pipetrail.api import Condition, ShardStatus, SyncCounts
from pipetrail.delivery import standing


def said(shard: int, *, held_since: str = "", message: str = "", **sync: int) -> ShardStatus:
    return ShardStatus(shard=shard, ready="True", held_since=held_since, message=message, sync=SyncCounts(**sync))


def test_each_shard_has_an_equal_part_of_the_rate_and_at_least_one_call_at_a_time() -> None:
    limits = api.Delivery(concurrency=6, requests_per_second=50)
    assert [standing.part(limits, shards) for shards in (1, 4, 8)] == [(6, 50.0), (2, 12.5), (1, 6.25)]


def test_a_shard_takes_its_own_place_and_those_that_are_no_more_go() -> None:
    there = (said(0, synced=1), said(1, synced=2), said(3, synced=4))
    assert standing.joined(there, said(1, synced=9), 3) == (said(0, synced=1), said(1, synced=9))


def test_counts_are_added_up_and_the_last_sync_is_the_latest() -> None:
    one, two = said(0, synced=3, failed=1), said(1, synced=4, pending=2)
    assert standing.total((one, two)) == SyncCounts(synced=7, pending=2, failed=1)


def test_what_any_shard_holds_is_held_since_the_last_of_them_began_to() -> None:
    shards = (said(0), said(1, held_since="2026-01-01T00:00:05Z", message="22 runs"),
              said(2, held_since="2026-01-01T00:00:09Z", message="30 runs"))  # fmt: skip
    assert standing.held(shards[:1], 4) is None
    assert standing.held(shards, 4) == Condition(
        type=api.HELD, status="True", reason=api.HELD, message="22 runs; 30 runs", observed_generation=4,
        last_transition_time="2026-01-01T00:00:09Z",
    )  # fmt: skip


def test_a_shard_says_what_it_holds_before_how_ready_it_is() -> None:
    at = "2026-01-01T00:00:00Z"
    ready = Condition(type="Ready", status="True", reason="Ready", message="works", last_transition_time=at)
    hold = Condition(type=api.HELD, status="True", reason=api.HELD, message="22 runs", last_transition_time=at)
    assert standing.entry(2, None, None, SyncCounts()) == ShardStatus(shard=2)
    assert standing.entry(2, ready, hold, SyncCounts(pending=1)) == ShardStatus(
        shard=2, ready="True", reason="Ready", message="22 runs", held_since=at, sync=SyncCounts(pending=1)
    )


def test_what_shards_left_in_a_status_is_read_and_what_is_none_is_left_out() -> None:
    good = api.to_json(said(1, synced=2))
    assert api.shards_of({"status": {"shards": [good, {"shard": "x"}, 7]}}) == (said(1, synced=2),)
    assert api.shards_of({"status": {"shards": "all"}}) == ()
    assert api.shards_of({}) == ()
