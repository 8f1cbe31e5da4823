"""Sources: one module or package per kind of run, each a pure function from what the cluster said to a record.

A source gives a :class:`Reading`: the record as far as the objects themselves tell it, and what has to be fetched to
complete it (files of artifacts, logs). It fetches nothing itself.
"""

from datetime import datetime
from typing import Literal

from pipetrail.record import Frozen, Record


class SecretKey(Frozen, frozen=True):
    """A key of a Secret in the run's own namespace."""

    name: str
    key: str


class S3Location(Frozen, frozen=True, tag="s3"):
    """An object, or with a trailing directory a prefix, in an S3 store that the run's artifact repository names."""

    endpoint: str | None
    bucket: str
    key: str
    region: str | None = None
    insecure: bool = False
    access_key: SecretKey | None = None
    secret_key: SecretKey | None = None
    session_token: SecretKey | None = None
    ca: SecretKey | None = None


class GcsLocation(Frozen, frozen=True, tag="gcs"):
    """An object in Google Cloud Storage."""

    bucket: str
    key: str
    service_account_key: SecretKey | None = None


class AzureLocation(Frozen, frozen=True, tag="azure"):
    """A blob in Azure Blob Storage."""

    endpoint: str
    container: str
    key: str
    account_key: SecretKey | None = None


class Unreadable(Frozen, frozen=True, tag="unreadable"):
    """An artifact that we never fetch: why, in CamelCase (HttpArtifact, PluginArtifact, RepositoryUnknown, ...)."""

    reason: str
    message: str


Location = S3Location | GcsLocation | AzureLocation | Unreadable


class FileRef(Frozen, frozen=True):
    """A file to fetch for `record.steps[step]`: the artifact's name, its file name inside the pod, where it lies.

    `at` is the time of the points in it (the same however early it is read); `key` tells this content from what the
    same artifact held in another attempt or generation. `figure` is set where the file as a whole is one, or lists
    them (``views``: :mod:`pipetrail.formats.views`).
    """

    step: int
    artifact: str
    path: str | None
    location: Location
    archive: Literal["none", "tar", "zip"] | None = None
    at: datetime | None = None
    key: str = ""
    figure: Literal["markdown", "html", "views"] | None = None


Launcher = Literal["checked", "alone", "silent"]
"""What KFP's launcher prints into a log beside the program: outputs that are checked against what the metadata store
has, outputs that stand alone since the store has not told, or nothing that is read."""


class LogRef(Frozen, frozen=True):
    """The main log of the last attempt of `record.steps[step]`: the pod while it lives, else Argo's archived copy.

    `at` is the time of points whose line has no stamp; `key` as in :class:`FileRef`. `launcher` says what the log is
    read for beside what the program printed; null where no launcher of KFP prints.
    """

    step: int
    pod: str | None
    pod_uid: str | None
    container: str = "main"
    archived: Location | None = None
    failed: bool = False
    at: datetime | None = None
    key: str = ""
    launcher: Launcher | None = None


class Reading(Frozen, frozen=True):
    """What a source makes of a run: the record so far, and what is still to be fetched for it.

    `again` is true if a later reading of the same body may tell more (the metadata store was away).
    """

    record: Record
    files: tuple[FileRef, ...] = ()
    logs: tuple[LogRef, ...] = ()
    again: bool = False
