"""The operator's own settings: one file, flags override it (design §10). Nothing here belongs to a single target."""

import re
from typing import Final

import msgspec

DEFAULT_HISTORY_TTL_S: Final = 3600.0
DEFAULT_OUTBOX_MAX: Final = "256Mi"
MOST_SHARDS: Final = 64
"""Each is a process with watches of its own: far fewer are wanted."""
_UNITS: Final = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_SIZE: Final = re.compile(r"([0-9]{1,15})(Ki|Mi|Gi)?B?")


class Places(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Addresses for people, for the links that a run's description carries.

    `argo_ui` is the Argo Server's address; `logs_url` may hold ``{namespace}`` and ``{pod}``.
    """

    argo_ui: str | None = None
    logs_url: str | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What an admin sets once for the operator.

    `cluster` names this cluster in every key; empty means the uid of the namespace kube-system. `namespace` is the
    operator's own. `watch_namespaces` empty means all. `mlmd` is host:port of KFP's metadata store;
    `tensorboard_root` is the folder below which TensorBoard targets write. `allow_addresses` are networks (CIDR) that
    trackers may have though they are special: link-local, loopback, the API server's own.

    `lease` is the name of the Lease in `namespace` that one of several operators holds (empty: none, for an operator
    that is known to be alone), and `identity` who we are in it: who comes with the same one takes over at once.
    `shard` is which of `shards` operators this is, from 0 on (ADR 0009); each has a Lease of its own, called `lease`
    with its number behind it, the first one's without.

    `listen` is the address of /healthz, /readyz and /metrics; empty means that nothing is served.

    `outbox_max` is what finished records that wait for their trackers, and the TrackedRuns, may take of etcd. `outbox`
    (``s3://bucket/prefix`` or ``file:///folder``) takes what is above it; empty: it is refused, and said.

    `argo_server` is the address of the Argo Server through which Argo's archive is read (empty: it is not), as the
    account whose token is in `argo_server_token_file`; `argo_server_ca` is a file of the CA to trust, in PEM form.
    """

    cluster: str = ""
    namespace: str = "pipetrail"
    watch_namespaces: tuple[str, ...] = ()
    places: Places = Places()
    mlmd: str = ""
    tensorboard_root: str = ""
    allow_addresses: tuple[str, ...] = ()
    lease: str = "pipetrail"
    identity: str = ""
    shard: int = 0
    shards: int = 1
    listen: str = ""
    history_ttl_s: float = DEFAULT_HISTORY_TTL_S
    outbox: str = ""
    outbox_max: str = DEFAULT_OUTBOX_MAX
    argo_server: str = ""
    argo_server_token_file: str = ""
    argo_server_ca: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.shard < MOST_SHARDS or not 1 <= self.shards <= MOST_SHARDS:
            raise ValueError(f"shard {self.shard} of {self.shards}: there are 1 to {MOST_SHARDS}, counted from 0")
        if not self.lease and (self.shard or self.shards > 1):
            raise ValueError("shards need a Lease each: leave out --no-lease")
        size_bytes(self.outbox_max)  # a ValueError of it names the field to who loads a file

    @property
    def outbox_max_bytes(self) -> int:
        """`outbox_max` in bytes."""
        return size_bytes(self.outbox_max)


def size_bytes(text: str) -> int:
    """``256Mi``, ``256MiB`` or a number of bytes; raises :class:`ValueError` for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size: write it like 256Mi or 1Gi")
    return int(match[1]) * _UNITS[match[2] or ""]


def load(data: bytes) -> Settings:
    """Settings from a YAML or JSON file's bytes; raises :class:`msgspec.ValidationError` naming the field."""
    return msgspec.yaml.decode(data, type=Settings)
