"""Shards: which operator of several looks after a namespace. Pure.

The API server hashes a namespace's name by FNV-1a, 64 bits wide (``shardSelector``, KEP-5866), and so do we. Each shard
has one stretch of that space; together they are all of it, so a namespace that is made tomorrow has its shard already.
FNV-1a's high bits hardly differ between `team-a` and `team-b`, so equal stretches would put most namespaces on one
shard: the stretches are cut between the hashes of the namespaces that have runs, by how many runs those have.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

from pipetrail.record import Frozen

TOP: Final = 1 << 64
"""The end of the last stretch; the hashes are below it."""
_OFFSET: Final = 0xCBF29CE484222325
_PRIME: Final = 0x100000001B3
HEAVY: Final = 1.5
"""A cut is left as it is while its heaviest shard has at most so many times its fair part of all runs."""
WORTH: Final = 0.8
"""Nor is it changed unless the heaviest shard then has at most so much of what it has now: a change stops all senders
for a moment."""


@lru_cache(maxsize=1 << 14)
def place(name: str) -> int:
    """Where `name` stands in [0, TOP): FNV-1a over its UTF-8."""
    found = _OFFSET
    for byte in name.encode():
        found = (found ^ byte) * _PRIME % TOP
    return found


class Share(Frozen, frozen=True):
    """What shard `number` of `of` looks after: namespaces whose place is in [`low`, `high`)."""

    number: int = 0
    of: int = 1
    low: int = 0
    high: int = TOP

    def owns(self, namespace: str) -> bool:
        """True if runs of this namespace, with all that belongs to them, are this shard's."""
        return self.of == 1 or self.low <= place(namespace) < self.high

    def speaks_for(self, target: str) -> bool:
        """True if the conditions of the cluster's target of this name are written here: by one shard of all."""
        return self.owns(target)

    @property
    def query(self) -> Mapping[str, str]:
        """What has the API server leave out other shards' objects. Servers that do not know it send them all."""
        if self.of == 1:
            return {}
        stretch = f"'{self.low:#018x}','{self.high:#018x}'"
        return {"shardSelector": f"shardRange(object.metadata.namespace,{stretch})"}


WHOLE: Final = Share()
"""One operator looks after everything."""


class Cut(Frozen, frozen=True):
    """Where the stretches of several shards meet: shard i has [edges[i-1], edges[i]), the first from 0, the last to
    the top. Edges never fall.
    """

    edges: tuple[int, ...] = ()

    @property
    def shards(self) -> int:
        """How many stretches these are."""
        return len(self.edges) + 1

    def share(self, number: int) -> Share | None:
        """What shard `number` has; null if there are not so many."""
        if not 0 <= number < self.shards:
            return None
        bounds = (0, *self.edges, TOP)
        return Share(number=number, of=self.shards, low=bounds[number], high=bounds[number + 1])

    @property
    def sound(self) -> bool:
        """True if it covers the whole space once: of one that someone edited it may not be so."""
        return all(a <= b for a, b in pairwise((0, *self.edges, TOP)))

    def loads(self, runs: Mapping[str, int]) -> tuple[int, ...]:
        """How many of `runs` (by namespace) each shard has."""
        found = [0] * self.shards
        for namespace, count in runs.items():
            at = place(namespace)
            found[sum(at >= edge for edge in self.edges)] += count
        return tuple(found)


def cut(runs: Mapping[str, int], shards: int) -> Cut:
    """The cut into `shards` whose heaviest shard has the fewest runs that any cut allows. The same for the same `runs`.

    A namespace is never cut through. Each edge is half-way between two namespaces' places, so that names which are
    alike have room on both sides; shards that no namespace is left for share what is above the last one evenly.
    """
    weights: dict[int, int] = {}
    for namespace, count in runs.items():
        if count > 0:
            weights[place(namespace)] = weights.get(place(namespace), 0) + count
    places = sorted(weights)
    counts = [weights[at] for at in places]
    groups = _groups(counts, min(shards, len(counts)))
    edges = [_between(places[at - 1], places[at]) for at in groups[1:]]
    last = places[-1] + 1 if places else 0
    left = shards - max(1, len(groups))
    edges += [last + (TOP - last) * (i + 1) // (left + 1) for i in range(left)]
    return Cut(edges=tuple(edges))


def kept(now: Cut, runs: Mapping[str, int], shards: int) -> Cut:
    """`now`, if it is good enough for `shards` and what runs today; else a new one.

    The rule, so that the cut seldom moves: it stays while its heaviest shard has at most `HEAVY` times its fair part,
    and unless a new cut's heaviest has at most `WORTH` of that.
    """
    if now.shards == shards and now.sound:
        heaviest, total = max(now.loads(runs)), sum(runs.values())
        better = cut(runs, shards)
        if heaviest * shards <= HEAVY * total or max(better.loads(runs)) > WORTH * heaviest:
            return now
        return better
    return cut(runs, shards)


def _groups(counts: Sequence[int], groups: int) -> list[int]:
    """Where each of `groups` (none empty) of neighbours begins, such that the largest sum is the smallest there is."""
    if not counts:
        return []
    low, high = max(counts), sum(counts)
    while low < high:
        middle = (low + high) // 2
        if _needed(counts, middle) <= groups:
            high = middle
        else:
            low = middle + 1
    firsts, held = [0], counts[0]
    for at in range(1, len(counts)):
        rest, open_still = len(counts) - at, groups - len(firsts)
        if held + counts[at] > low or rest <= open_still:
            firsts.append(at)
            held = 0
        held += counts[at]
    return firsts


def _needed(counts: Sequence[int], most: int) -> int:
    """Into how many groups of neighbours, each of at most `most`, `counts` can be put."""
    groups, held = 1, 0
    for count in counts:
        if held + count > most:
            groups, held = groups + 1, 0
        held += count
    return groups


def _between(below: int, above: int) -> int:
    return (below + above + 1) // 2
