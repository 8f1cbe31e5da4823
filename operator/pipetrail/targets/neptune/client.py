"""The vendor's package, called. The only module that imports it, in the worker process alone.

It is called at the level of its backend: its own wire, login, renewal of tokens and errors, but without `Run`. An open
`Run` pings, keeps a web socket and five threads, and on the second start of a run it writes ``sys/name = Untitled`` and
``sys/failed = false`` over what is there: a failed run would show as one that is well until we had mended it. What its
``mode="sync"`` does with one operation (SyncOperationProcessor) is done here with several in one request.
"""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from neptune.common.backends.utils import with_api_exceptions_handler
from neptune.internal.backends.factory import get_backend
from neptune.internal.backends.hosted_client import DEFAULT_REQUEST_KWARGS
from neptune.internal.backends.nql import RawNQLQuery
from neptune.internal.container_type import ContainerType
from neptune.internal.id_formats import QualifiedName, UniqueId
from neptune.internal.operation import (
    AssignBool,
    AssignDatetime,
    AssignFloat,
    AssignInt,
    AssignString,
    DeleteAttribute,
    LogFloats,
    UploadFileContent,
)
from neptune.internal.operation import Operation as VendorOperation
from neptune.internal.utils.paths import parse_path
from neptune.types.mode import Mode
from neptune.version import __version__

from pipetrail.targets.neptune import wire

PAGE: Final = 1000
FOUND_MOST: Final = 10_000


class Client:
    """One project of one server. Logs in at the first call that needs it."""

    def __init__(self, setup: wire.Setup) -> None:
        self._token = setup.token
        self._name = QualifiedName(setup.project)
        self._made: Any = None
        self._project: Any = None

    @property
    def logged_in(self) -> bool:
        """True once the server has shown that it is Neptune and let us in."""
        return self._made is not None

    def answer(self, call: wire.Call) -> wire.Result:
        """Do what `call` asks for; raises whatever the package raises (troubles.py knows what it means)."""
        match call:
            case wire.Check():
                self._project = self._backend.get_project(self._name)
                return wire.Project(version=f"client {__version__}")
            case wire.Search(path=path, value=value):
                return wire.Ids(ids=self._search(path, value))
            case wire.Create(custom_id=custom_id):
                return _run(self._backend.create_run(project_id=self._project_id, custom_run_id=custom_id))
            case wire.Get(id=run):
                return _run(self._backend.get_metadata_container(self._identified(run), ContainerType.RUN))
            case wire.Attributes(run=run):
                return self._attributes(run)
            case wire.Series(run=run, path=path, offset=offset):
                return self._series(run, path, offset)
            case wire.Operate(run=run, operations=operations):
                return self._execute(run, [vendors(o) for o in operations])
            case wire.Upload(run=run, path=path, extension=extension, data=data):
                content = base64.b64encode(data).decode()
                return self._execute(run, [UploadFileContent(parse_path(path), extension, content)])
            case wire.Trash(id=short):
                return self._trash(short)

    @property
    def _backend(self) -> Any:
        if self._made is None:
            self._made = get_backend(mode=Mode.SYNC, api_token=self._token, proxies={})
        return self._made

    @property
    def _project_id(self) -> UniqueId:
        if self._project is None:
            self._project = self._backend.get_project(self._name)
        return self._project.id  # type: ignore[no-any-return]

    def _identified(self, run: str) -> str:
        """Short ids (PIPE-12) hold in their project, Neptune's own everywhere."""
        return run if run.count("-") == 4 else f"{self._name}/{run}"

    def _search(self, path: str, value: str) -> tuple[str, ...]:
        found = self._backend.search_leaderboard_entries(
            project_id=self._project_id, types=[ContainerType.RUN], columns=["sys/id"], sort_by="sys/id",
            ascending=True, limit=FOUND_MOST, progress_bar=False,
            query=RawNQLQuery(f'(`{path}`:string = "{value}")'),
        )  # fmt: skip
        return tuple(entry.id for entry in found)

    def _attributes(self, run: str) -> wire.Found:
        api = self._backend.leaderboard_client.api
        found = _retried(api.getExperimentAttributes, experimentId=run)
        attributes = tuple(wire.Attribute(path=a.name, type=a.type, value=_value(a)) for a in found.attributes)
        return wire.Found(attributes=attributes, trashed=bool(found.trashed))

    def _series(self, run: str, path: str, offset: int) -> wire.Points:
        points: list[tuple[float, float, int]] = []
        while True:
            page = self._backend.get_float_series_values(
                run, ContainerType.RUN, parse_path(path), offset + len(points), PAGE
            )
            points += [(float(p.value), float(p.step), int(p.timestampMillis)) for p in page.values]
            total = int(page.totalItemCount)
            if not page.values or offset + len(points) >= total or len(points) >= wire.PAGE_POINTS:
                return wire.Points(points=tuple(points), total=total)

    def _execute(self, run: str, operations: list[VendorOperation]) -> wire.Errors:
        done, errors = self._backend.execute_operations(
            container_id=run, container_type=ContainerType.RUN, operations=operations, operation_storage=None
        )
        assert done == len(operations), "the client would have sent the rest in a second request"
        return wire.Errors(errors=tuple(str(e) for e in errors))

    def _trash(self, short: str) -> wire.Errors:
        api = self._backend.leaderboard_client.api
        said = _retried(
            api.trashExperiments, projectIdentifier=self._name, experimentIdentifiers=[f"{self._name}/{short}"]
        )
        return wire.Errors(errors=tuple(str(e.errorDescription) for e in said.errors or ()))


def vendors(operation: wire.Operation) -> VendorOperation:
    """`operation` as the package has it.

    The package cuts a time to milliseconds with ``int(seconds * 1000)``, which a float may miss by one: so it is given
    the middle of the millisecond.
    """
    path = parse_path(operation.path)
    match operation:
        case wire.AssignText(value=text):
            return AssignString(path, text)
        case wire.AssignNumber(value=int() as number):
            return AssignInt(path, number)
        case wire.AssignNumber(value=number):
            return AssignFloat(path, number)
        case wire.AssignFlag(value=flag):
            return AssignBool(path, flag)
        case wire.AssignTime(ms=ms):
            return AssignDatetime(path, datetime.fromtimestamp(seconds(ms), UTC))
        case wire.Append(points=points):
            return LogFloats(
                path, [LogFloats.ValueType(value, step=step, ts=seconds(ms)) for value, step, ms in points]
            )
        case wire.Delete():
            return DeleteAttribute(path)


def seconds(ms: int) -> float:
    """The middle of a millisecond, in seconds."""
    return (ms + 0.5) / 1000


def _retried(call: Any, **arguments: Any) -> Any:
    """The package's own way to call, with its translation of errors (NEPTUNE_RETRIES_TIMEOUT bounds it to one try)."""
    once: Callable[[Any], Any] = with_api_exceptions_handler
    return once(lambda: call(**arguments, **DEFAULT_REQUEST_KWARGS).response().result)()


def _run(found: Any) -> wire.Run:
    return wire.Run(id=str(found.id), short=str(found.sys_id), trashed=bool(found.trashed))


def _value(attribute: Any) -> str | int | float | bool | None:
    match attribute.type:
        case "string":
            return str(attribute.stringProperties.value)
        case "int":
            return int(attribute.intProperties.value)
        case "float":
            return float(attribute.floatProperties.value)
        case "bool":
            return bool(attribute.boolProperties.value)
        case "datetime":
            return int(1000 * attribute.datetimeProperties.value.timestamp() + 0.5)
        case "floatSeries":
            last = attribute.floatSeriesProperties.last
            return None if last is None else float(last)
        case _:
            return None
