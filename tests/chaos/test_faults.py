"""The troubles themselves: each happens as often as it was told, to the call that it was told for, and ends."""

import asyncio
import json
import random
from typing import get_args

from tests.chaos.faults import Faults, action
from tests.chaos.steps import How, Odd
from tests.real.proxy import Answer, CommitLater, Drop, Pass, Seen, Stall, Truncate


def call(path: str, method: str = "POST", body: object = None, **headers: str) -> Seen:
    return Seen(1, method, path, "", headers, json.dumps(body or {}).encode())


async def test_each_odd_answer_is_one_that_a_proxy_can_give() -> None:
    said = {how: type(action(how)) for how in get_args(How)}
    assert set(said.values()) == {Answer, Drop, Truncate, Stall, CommitLater}
    done = {how for how in said if getattr(action(how), "commit", False)}
    assert done == {how for how in said if how.endswith("though done")} - {"cut, though done"}


async def test_an_odd_answer_meets_as_many_calls_as_it_was_told_and_no_others() -> None:
    said: list[str] = []
    faults = Faults("mlflow", said.append)
    faults.add(Odd(0.0, "mlflow", "/runs/create", "503", 2))
    assert faults.decide(call("/api/2.0/mlflow/runs/search")) == Pass()
    answers = [faults.decide(call("/api/2.0/mlflow/runs/create")) for _ in range(3)]
    assert [type(a) for a in answers] == [Answer, Answer, Pass]
    assert (faults.happened, len(said), faults.waiting) == (2, 2, 0)


async def test_a_create_that_commits_late_does_so_by_itself() -> None:
    faults = Faults("mlflow", lambda _: None)
    faults.add(Odd(0.0, "mlflow", "/runs/create", "late", 1))
    late = faults.decide(call("/api/2.0/mlflow/runs/create"))
    assert isinstance(late, CommitLater)
    await asyncio.wait_for(late.when.wait(), 30)


async def test_a_tracker_that_is_away_answers_nothing_and_a_half_dead_one_now_and_then_until_it_is_healed() -> None:
    faults = Faults("second", lambda _: None)
    faults.away = True
    assert faults.decide(call("/runs/search")) == Drop()
    faults.heal()
    faults.half_dead(random.Random(1))
    odd = sum(faults.decide(call("/runs/search")) != Pass() for _ in range(400))
    assert 60 < odd < 140
    faults.heal()
    assert {faults.decide(call("/runs/search")) for _ in range(100)} == {Pass()}


async def test_only_the_token_of_the_day_is_let_in() -> None:
    faults = Faults("mlflow", lambda _: None)
    faults.token = "new"
    assert faults.decide(call("/runs/search", Authorization="Bearer old")) == Answer(401, b"{}")
    assert faults.decide(call("/runs/search", Authorization="Bearer new")) == Pass()


async def test_one_metric_is_never_welcome() -> None:
    faults = Faults("mlflow", lambda _: None)
    refused = faults.decide(call("/runs/log-batch", body={"metrics": [{"key": "score/unwelcome"}]}))
    assert isinstance(refused, Answer)
    assert refused.status == 400
    assert faults.decide(call("/runs/log-batch", body={"metrics": [{"key": "score/auc"}]})) == Pass()
