"""Play a recording onto a real API server as Argo's controller did (design §14): the demo, the tests, the benchmarks.

:mod:`.script` makes a recording ready (pure), :mod:`.play` plays it, as often and as many at once as one likes,
:mod:`.store` puts the recorded objects where the played run says they are. No pod runs; nothing but the recorded
objects is written, and only under the run's new name.
"""

from pipetrail.replay.play import Played, Replayed, ReplayError, prepare, replay
from pipetrail.replay.script import LABEL, Move, Script, Store, fresh_name, script
from pipetrail.replay.store import find_store, upload

__all__ = [
    "LABEL", "Move", "Played", "ReplayError", "Replayed", "Script", "Store",
    "find_store", "fresh_name", "prepare", "replay", "script", "upload",
]  # fmt: skip
