"""Laws of the cut of namespaces into shards, whatever runs where."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from pipetrail.shards import HEAVY, TOP, WHOLE, Cut, cut, kept, place

NAMESPACES = st.one_of(
    st.text(min_size=1, max_size=20),
    st.integers(0, 300).map(lambda i: f"team-{i}"),
    st.sampled_from(["kubeflow", "ml"]),
)
RUNS = st.dictionaries(NAMESPACES, st.integers(0, 5000), max_size=12)
SHARDS = st.integers(1, 8)
EDGES = st.lists(st.integers(0, TOP), max_size=7).map(lambda edges: Cut(edges=tuple(sorted(edges))))


def test_names_are_hashed_as_the_api_server_hashes_them() -> None:
    # The first two are FNV's own test vectors; the others were seen on a server (cluster.md §2).
    assert place("") == 0xCBF29CE484222325
    assert place("foobar") == 0x85944171F73967E8
    assert place("team-a") >> 48 == 0xDE90
    assert place("kubeflow") >> 48 == 0xFA94


@given(RUNS, SHARDS, NAMESPACES)
def test_each_namespace_is_on_one_shard_whether_it_had_runs_or_not(runs: dict[str, int], shards: int, new: str) -> None:
    made = cut(runs, shards)
    assert (made.shards, made.sound) == (shards, True)
    shares = [made.share(i) for i in range(shards)]
    for namespace in (*runs, new):
        assert [share is not None and share.owns(namespace) for share in shares].count(True) == 1


@given(RUNS, SHARDS)
def test_the_stretches_meet_and_cover_the_whole_space(runs: dict[str, int], shards: int) -> None:
    shares = [share for i in range(shards) if (share := cut(runs, shards).share(i)) is not None]
    assert [s.low for s in shares] == [0, *(s.high for s in shares[:-1])]
    assert shares[-1].high == TOP
    assert cut(runs, shards).share(shards) is None


@given(RUNS, SHARDS)
def test_a_cut_is_the_same_whatever_order_namespaces_came_in(runs: dict[str, int], shards: int) -> None:
    assert cut(dict(reversed(runs.items())), shards) == cut(runs, shards)


@given(RUNS, st.integers(1, 4))
def test_no_other_cut_has_a_lighter_heaviest_shard(runs: dict[str, int], shards: int) -> None:
    at = sorted({place(n) for n, count in runs.items() if count})
    best = min(
        (max(Cut(edges=edges).loads(runs)) for edges in combinations(at, min(shards, max(1, len(at))) - 1)), default=0
    )
    assert max(cut(runs, shards).loads(runs)) == best


@given(RUNS, SHARDS)
def test_no_shard_is_idle_while_there_are_namespaces_enough(runs: dict[str, int], shards: int) -> None:
    busy = len({place(n) for n, count in runs.items() if count})
    assert sum(load > 0 for load in cut(runs, shards).loads(runs)) == min(shards, busy)


@given(RUNS, SHARDS)
def test_a_cut_that_is_new_is_kept(runs: dict[str, int], shards: int) -> None:
    made = cut(runs, shards)
    assert kept(made, runs, shards) == made


@given(EDGES, RUNS, SHARDS)
def test_a_cut_moves_only_for_another_number_of_shards_or_for_much_less_load(
    now: Cut, runs: dict[str, int], shards: int
) -> None:
    then = kept(now, runs, shards)
    assert then.shards == shards
    if then != now and now.shards == shards:
        assert max(now.loads(runs)) * shards > HEAVY * sum(runs.values())
        assert max(then.loads(runs)) <= 0.8 * max(now.loads(runs))


@given(st.dictionaries(NAMESPACES, st.integers(100, 1000), min_size=1, max_size=12), SHARDS, st.data())
def test_a_few_runs_more_or_fewer_move_nothing(runs: dict[str, int], shards: int, data: st.DataObject) -> None:
    made = cut(runs, shards)
    later = {name: count + data.draw(st.integers(-9, 9)) for name, count in runs.items()}
    assert kept(made, later, shards) == made


def test_names_that_are_alike_are_told_apart() -> None:
    runs = {f"team-{letter}": 100 for letter in "abcdefgh"}
    assert cut(runs, 4).loads(runs) == (200, 200, 200, 200)


def test_a_cut_that_someone_edited_out_of_order_is_made_anew() -> None:
    edited = Cut(edges=(5, 3))
    assert not edited.sound
    assert kept(edited, {"a": 1, "b": 1, "c": 1}, 3).sound


def test_the_server_is_asked_for_the_stretch_alone_and_the_whole_is_asked_for_as_ever() -> None:
    assert WHOLE.query == {}
    last = Cut(edges=(1 << 63,)).share(1)
    assert last is not None
    assert last.query == {
        "shardSelector": "shardRange(object.metadata.namespace,'0x8000000000000000','0x10000000000000000')"
    }
