"""What was fetched, put beside what the source knew: points, figures, tails, and what could not be had. Pure."""

from collections import defaultdict
from collections.abc import Iterable

from msgspec.structs import replace

from pipetrail.capture.cache import Got
from pipetrail.record import Artifact, Partial, Record, Step
from pipetrail.sources import FileRef, LogRef, kfp_v2


def merged(
    record: Record, files: Iterable[tuple[FileRef, Got]], logs: Iterable[tuple[LogRef, Got]], *, most: int,
    late: tuple[Partial, ...] = (),
) -> Record:  # fmt: skip
    """`record` with what its files and logs gave, up to `most` points; `late` is what is not known besides."""
    return _Merging(record, most, late).merged(files, logs)


class _Merging:
    def __init__(self, record: Record, most: int, late: tuple[Partial, ...]) -> None:
        self._record = record
        self._most = self._left = most
        self._partial = [*late]

    def merged(self, files: Iterable[tuple[FileRef, Got]], logs: Iterable[tuple[LogRef, Got]]) -> Record:
        of_files: dict[int, dict[str, Got]] = defaultdict(dict)
        of_logs: dict[int, list[tuple[LogRef, Got]]] = defaultdict(list)
        for ref, got in files:
            of_files[ref.step][ref.artifact] = got
            self._note(ref.step, got, prefix=f"artifact {ref.artifact}: ")
        for log_ref, got in logs:
            of_logs[log_ref.step].append((log_ref, got))
            self._note(log_ref.step, got, prefix="log: ")
        steps = tuple(
            self._step(index, step, of_files[index], of_logs[index]) if index in of_files or index in of_logs else step
            for index, step in enumerate(self._record.steps)
        )
        said_once = dict.fromkeys((*self._record.partial, *self._partial))
        return replace(self._record, steps=steps, partial=tuple(said_once))

    def _step(self, index: int, step: Step, files: dict[str, Got], logs: list[tuple[LogRef, Got]]) -> Step:
        for ref, got in logs:
            if ref.launcher is not None and got.launcher is not None:
                step, unknown = kfp_v2.merged(step, got.launcher, ref.launcher, ref.at)
                self._partial += unknown
        gots = [*files.values(), *(got for _, got in logs)]
        points = [p for got in gots for p in got.points]
        if len(points) > self._left:
            said = f"files and logs of the run hold more than {self._most} points; the rest is left out"
            self._say(index, "TooManyPoints", said)
            points = points[: self._left]
        self._left -= len(points)
        return replace(
            step,
            points=(*step.points, *points),
            figures=(*step.figures, *(f for got in gots for f in got.figures)),
            artifacts=tuple(_described(a, files.get(a.name)) for a in step.artifacts),
            log_tail=next((got.tail for got in gots if got.tail), step.log_tail),
        )

    def _note(self, step: int, got: Got, prefix: str) -> None:
        for note in got.notes:
            self._say(step, note.reason, prefix + note.message)

    def _say(self, step: int, reason: str, message: str) -> None:
        path = self._record.steps[step].path if step < len(self._record.steps) else None
        self._partial.append(Partial(reason=reason, message=message[:1000], step=path))


def _described(artifact: Artifact, got: Got | None) -> Artifact:
    if got is None or got.present is None:
        return artifact
    return replace(artifact, present=got.present, size=got.size, digest=got.digest, media_type=got.media_type)
