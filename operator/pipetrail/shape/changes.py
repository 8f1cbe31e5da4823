"""What arrives otherwise than the source has it, said once per cause and not once per turn of a loop."""

from typing import Literal

from pipetrail.targets.target import Change

Item = Literal["param", "metric", "tag", "name", "note", "file", "figure", "run"]


class Changes:
    """Collects changes while a tree is made; the first wording of a cause stands."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str, str], Change] = {}

    def say(self, item: Item, key: str, reason: str, detail: str = "", *, run: str = "") -> None:
        """`key` (of the tracker run `run`; empty for the parent) is left out or renamed by the rule `reason`."""
        self._found.setdefault((run, item, key, reason), Change(item=item, key=key, reason=reason, detail=detail))

    def of(self, run: str = "") -> tuple[Change, ...]:
        """All that concern one tracker run."""
        return tuple(change for (owner, *_), change in self._found.items() if owner == run)
