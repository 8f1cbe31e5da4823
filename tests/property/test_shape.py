"""Same record, same tree; a live run's points all stand in its later trees; no secret leaves."""

import json
import string

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.unit.shape_cases import at, policy, record, step, tree

from pipetrail.record import (
    Attempt,
    FromFile,
    FromParameter,
    FromStdout,
    LoopItem,
    Outcome,
    Outputs,
    Point,
    Unread,
    to_json,
)
from pipetrail.redact import redact

LAYOUTS = ("Auto", "Flat", "Nested", "Siblings")
KEYS = st.sampled_from(["loss", "acc", "a/b", "loss.final", "n", "result"])
VALUES = st.sampled_from([0, 1, 0.5, -0.0, float("nan"), float("inf"), 2**70])
SOURCES = st.one_of(
    st.builds(
        FromFile,
        artifact=st.sampled_from(["metrics", "eval", "config", "out"]),
        file=st.sampled_from(["m.json", "x/m.csv", "y/m.csv"]),
        recognised=st.sampled_from([None, "step-table", "keras", "tensorboard"]),
        setting=st.booleans(),
    ),
    st.builds(FromParameter, parameter=st.sampled_from(["loss", "seed"])),
    st.just(FromStdout()),
)
ITEMS = st.sampled_from([2, 4, "a", "b/c", {"lr": 0.1}, "x" * 50, None, [1]])


@st.composite
def points(draw, end):
    number = draw(st.integers(0, 6))
    return tuple(
        Point(
            key=draw(KEYS), value=draw(VALUES), time=at(end), source=draw(SOURCES),
            step=draw(st.sampled_from([None, 0, 1, 2])),
        )
        for _ in range(number)
    )  # fmt: skip


@st.composite
def ended_steps(draw):
    """Steps of a run that has ended: plain ones, loops, and loops over a group of steps."""
    steps = []
    for path in draw(st.lists(st.sampled_from(["", "prep", "train", "a", "a/b", "sweep", "onExit"]), unique=True)):
        kind = draw(st.sampled_from(["plain", "loop", "group"]))
        for index in range(draw(st.integers(1, 3)) if kind != "plain" and path else 1):
            item = draw(ITEMS)
            turn = None if kind == "plain" or not path else (LoopItem(index=index, item=item),)
            inputs = {"depth": json.dumps(item)}
            ends = []
            for inner in ("train", "eval") if kind == "group" and path else ("",):
                end = draw(st.integers(1, 500))
                ends.append(end)
                steps.append(
                    step(
                        f"{path}/{inner}" if inner else path,
                        *draw(points(end)),
                        status=draw(st.sampled_from(["succeeded", "failed", "cached"])),
                        iteration=turn,
                        params=inputs,
                        seconds=end,
                    )
                )
            if kind == "group" and path:
                steps.append(step(path, kind="composite", iteration=turn, params=inputs, seconds=max(ends)))
    return steps


def as_it_stood(steps, now):
    """The record's steps at `now`: what has not ended runs, and has no points yet."""
    return [
        s
        if s.finished <= at(now)
        else msgspec.structs.replace(
            s, outcome=Outcome(status="running"), finished=None, points=(), outputs=Outputs(), attempts=()
        )
        for s in steps
    ]


def held(made):
    """All points of a tree with how often each is there; NaN as a word."""
    found = {}
    for run in made.runs:
        for m in run.metrics:
            point = (run.key, run.name, run.started, m.key, m.step, m.time_ms, repr(m.value))
            found[point] = found.get(point, 0) + 1
    return found


@given(ended_steps(), st.integers(0, 500), st.sampled_from(LAYOUTS))
def test_points_of_a_live_run_are_all_in_its_later_trees(steps, now, layout):
    live = held(tree(record(*as_it_stood(steps, now), status="running"), policy(layout)))
    ended = held(tree(record(*steps), policy(layout)))
    assert {p: n for p, n in live.items() if ended.get(p, 0) < n} == {}


@given(ended_steps(), st.integers(0, 500), st.sampled_from(LAYOUTS), st.data())
def test_points_of_a_run_that_was_read_in_part_are_all_in_its_later_trees(steps, now, layout, data):
    """Of some steps a part of the sources could not be read yet, whether or not the run still goes."""
    status = data.draw(st.sampled_from(["running", "succeeded"]))
    stood = as_it_stood(steps, now) if status == "running" else steps
    unread = data.draw(st.frozensets(st.integers(0, max(0, len(steps) - 1)), min_size=1))
    read = [
        msgspec.structs.replace(s, points=tuple(p for p in s.points if data.draw(st.booleans()))) if n in unread else s
        for n, s in enumerate(stood)
    ]
    part = held(tree(record(*read, status=status), policy(layout), unread=Unread(steps=unread)))
    whole = held(tree(record(*steps), policy(layout)))
    assert {p: n for p, n in part.items() if whole.get(p, 0) < n} == {}


@given(ended_steps(), st.sampled_from(LAYOUTS))
def test_the_same_record_gives_the_same_tree(steps, layout):
    made = record(*steps, params={"lr": "0.1"})
    encode = msgspec.json.encode
    assert encode(tree(made, policy(layout))) == encode(tree(made, policy(layout)))


@given(ended_steps(), st.sampled_from(LAYOUTS))
def test_runs_of_a_tree_have_keys_of_their_own_and_no_metric_key_starts_with_its_separator(steps, layout):
    made = tree(record(*steps), policy(layout))
    keys = [run.key for run in made.runs]
    assert len(keys) == len(set(keys))
    assert [m.key for run in made.runs for m in run.metrics if m.key.startswith("/")] == []


@given(ended_steps(), st.sampled_from(LAYOUTS))
def test_every_selected_value_is_there_or_its_absence_is_said(steps, layout):
    """What one file alone has under a key is sent exactly once, whatever the layout."""
    lonely = Point(key="unique-key", value=0.125, time=at(9), source=FromFile(artifact="unique-metrics", file="u.json"))
    made = tree(record(step("lonely", lonely, seconds=9), *steps), policy(layout))
    found = [m.value for run in made.runs for m in run.metrics if "unique-key" in m.key]
    assert found == [0.125]


SECRETS = st.text(string.ascii_letters + string.digits + "-_.:/+=\"\\ <>&ü\n", min_size=4, max_size=30).filter(
    lambda s: (
        len(s.strip()) >= 4
        and not s.strip().replace(".", "").replace("-", "").replace("+", "").isdigit()
        and s.strip() not in "<redacted> pipetrail.record/v1 succeeded"
        and s.strip().lower() not in ("true", "false", "none", "null", "default", "empty", "unset", "undefined")
    )
)  # fmt: skip
AROUND = st.text("ab /=\"'\n", max_size=6)


def strings(value):
    """Every text in a JSON value, names too."""
    match value:
        case str():
            yield value
        case dict():
            for key, item in value.items():
                yield key
                yield from strings(item)
        case list():
            for item in value:
                yield from strings(item)


def with_secret(name, secret, text):
    """A record that has a secret under `name` and, in every place that holds text, `text`."""
    return record(
        step(
            "s",
            Point(key=text, value=1, time=at(1), source=FromFile(artifact="m", file=text)),
            status="failed", message=text, params={"p": text}, outputs={"o": text}, result=text, log_tail=text,
            iteration=(LoopItem(index=0, item={"i": [text, {text: json.dumps(text)}]}),),
            attempts=(Attempt(outcome=Outcome(status="failed", message=text)),),
        ),
        params={name: secret, "other": text, "json": json.dumps({"k": text})},
        tags={"t": text}, annotations={"a": text}, message=text, user=text,
    )  # fmt: skip


def leaves(made):
    """Every text that leaves: in the record's JSON, and in the notes of its tracker runs."""
    texts = [*strings(json.loads(to_json(made))), *(run.note for run in tree(made).runs)]
    return [text.replace("<redacted>", "\0") for text in texts]


OURS = "\n".join(leaves(with_secret("name", "~~~~", "~~~~")))  # "kind" is our word, not a leak


@given(SECRETS, AROUND, AROUND, st.sampled_from(["password", "api-token", "clientSecret", "api_key"]))
def test_no_secret_leaves(secret, before, after, name):
    assume(secret not in OURS)
    left = redact(with_secret(name, secret, f"{before}{secret}{after}"))
    assert [text for text in leaves(left) if secret in text] == []
