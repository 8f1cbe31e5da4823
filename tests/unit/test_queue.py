"""The queue of a lane: who is next, by priority, by namespace and by time; and how little it keeps."""

import random
import tracemalloc

from pipetrail.delivery.queue import Priority, Queue


def taken(queue: Queue, now: float = 0.0) -> list[str]:
    keys = []
    while (found := queue.take(now)) is not None:
        keys.append(found)
    return keys


def put(queue: Queue, *keys: str, at: float = 0.0, priority: Priority = "Live") -> None:
    """Keys are called group/name."""
    for key in keys:
        queue.put(key, at, group=key.split("/")[0], priority=priority)


def test_each_namespace_has_its_turn_and_within_one_the_first_comes_first() -> None:
    queue = Queue()
    put(queue, "a/1", "a/2", "a/3", "b/1", "c/1", "c/2")
    assert taken(queue) == ["a/1", "b/1", "c/1", "a/2", "c/2", "a/3"]


def test_one_run_beside_five_thousand_of_another_team_is_the_second_to_be_taken() -> None:
    queue = Queue()
    put(queue, *(f"busy/{n}" for n in range(5000)))
    queue.take(0.0)
    put(queue, "quiet/1")
    assert [queue.take(0.0) for _ in range(2)] == ["busy/1", "quiet/1"]


def test_live_runs_go_before_backfill_whenever_they_come() -> None:
    queue = Queue()
    put(queue, "a/old1", "a/old2", "b/old", priority="Backfill")
    first = queue.take(0.0)
    put(queue, "a/new", "b/new")
    assert (first, taken(queue)) == ("a/old1", ["a/new", "b/new", "b/old", "a/old2"])


def test_a_key_stands_once_with_the_earliest_of_its_times_and_the_higher_of_its_priorities() -> None:
    queue = Queue()
    put(queue, "a/1", at=50.0, priority="Backfill")
    put(queue, "a/1", at=10.0, priority="Backfill")
    put(queue, "a/1", at=90.0, priority="Live")
    put(queue, "a/0", at=0.0, priority="Backfill")
    assert (len(queue), queue.next_at()) == (2, 0.0)
    assert (taken(queue, 9.0), queue.next_at()) == (["a/0"], 10.0)
    put(queue, "b/0", at=10.0, priority="Backfill")
    assert taken(queue, 10.0) == ["a/1", "b/0"]


def test_a_backfilled_run_that_has_news_while_it_is_due_is_live_from_then_on() -> None:
    queue = Queue()
    put(queue, "a/0", "a/1", "a/2", "b/0", priority="Backfill")
    assert queue.take(0.0) == "a/0"
    put(queue, "a/2")
    assert taken(queue) == ["a/2", "b/0", "a/1"]


def test_what_is_due_later_lets_others_through_and_is_taken_when_it_is_due_or_hastened() -> None:
    queue = Queue()
    put(queue, "a/late", at=100.0)
    put(queue, "a/now", at=1.0)
    assert (taken(queue, 1.0), queue.next_at()) == (["a/now"], 100.0)
    queue.hasten(2.0)
    assert (queue.next_at(), taken(queue, 2.0), queue.next_at()) == (2.0, ["a/late"], None)


def test_whatever_is_done_to_it_each_key_is_taken_once_and_never_before_its_time() -> None:
    rng = random.Random(3)
    for _ in range(200):
        queue, due, now = Queue(), {}, 0.0
        for _ in range(120):
            key = f"{rng.choice('abc')}/{rng.randrange(12)}"
            match rng.randrange(6):
                case 0 | 1 | 2:
                    at = now + rng.choice((0.0, 0.0, 1.0, 5.0))
                    put(queue, key, at=at, priority=rng.choice(("Live", "Backfill")))
                    due[key] = min(at, due.get(key, at))
                case 3:
                    queue.drop(key)
                    due.pop(key, None)
                case 4:
                    now += rng.random() * 3
                case _:
                    found = queue.take(now)
                    ready = {k for k, at in due.items() if at <= now}
                    assert (found in ready) if found else not ready
                    if found:
                        del due[found]
            assert len(queue) == len(due)
        assert sorted(taken(queue, now + 10.0)) == sorted(due)


def test_a_waiting_key_takes_less_than_a_kibibyte_however_often_it_is_put_off() -> None:
    queue = Queue()
    keys = [f"team-{n % 50}/{n}" for n in range(5000)]
    put(queue, "team-0/first")
    tracemalloc.start()
    try:
        for turn in range(20):
            for key in keys:
                queue.put(key, 1000.0 - turn, group=key.split("/")[0], priority="Live")
        held = tracemalloc.get_traced_memory()[0] / len(keys)
    finally:
        tracemalloc.stop()
    assert held < 1024, f"{held:.0f} bytes a key"
