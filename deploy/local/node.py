from .control_plane import Cluster
from .processes import Part
from .progress import Progress
from .record import Ledger


def parts(cluster: Cluster) -> list[Part]:
    return []


def check_machine() -> None:
    pass


def network_complaint() -> str | None:
    return None


def prepare(cluster: Cluster, ledger: Ledger, progress: Progress) -> None:
    pass


def bring_up(cluster: Cluster, ledger: Ledger, progress: Progress) -> None:
    pass
