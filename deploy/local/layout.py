"""Where things lie: one state folder, never in the checkout."""

import os
from dataclasses import dataclass
from pathlib import Path

from .trouble import Trouble

RECIPE = Path(__file__).resolve().parent
DEFAULT_NAME = "lab"

# A Unix socket's address holds 107 bytes; containerd's own suffix takes some of them.
LONGEST_CLUSTER_PATH = 70


def state_folder() -> Path:
    """`PIPETRAIL_STATE`, else `~/.cache/pipetrail`."""
    named = os.environ.get("PIPETRAIL_STATE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "pipetrail"


@dataclass(frozen=True)
class Layout:
    """The paths of one cluster. Binaries and images are shared by all clusters of a state folder."""

    state: Path
    name: str = DEFAULT_NAME

    @property
    def bin(self) -> Path:
        """Finished binaries, one folder for each tool, version and digest of its build inputs."""
        return self.state / "bin"

    @property
    def build(self) -> Path:
        """Unfinished builds and their logs."""
        return self.state / "build"

    @property
    def images(self) -> Path:
        """Finished container images as docker archives, named by the digest of their inputs."""
        return self.state / "images"

    @property
    def locks(self) -> Path:
        """Lock files: outside the cluster's folder, because `down` removes that one while others wait."""
        return self.state / "locks"

    @property
    def cluster(self) -> Path:
        """All that belongs to this cluster alone; `down` removes it."""
        return self.state / "clusters" / self.name

    @property
    def record(self) -> Path:
        """What this cluster started and changed: see record.py."""
        return self.cluster / "record.json"

    @property
    def pki(self) -> Path:
        """Certificates, keys and the token file."""
        return self.cluster / "pki"

    @property
    def logs(self) -> Path:
        """One log for each part."""
        return self.cluster / "logs"

    @property
    def commands(self) -> Path:
        """Links to kubectl and argo, to be put on a PATH."""
        return self.cluster / "bin"

    def kubeconfig(self, user: str = "admin") -> Path:
        """The kubeconfig of one user."""
        return self.cluster / f"{user}.kubeconfig"

    def checked(self) -> "Layout":
        """This layout, or Trouble if its paths cannot work."""
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise Trouble(f"the cluster's name is {self.name!r}: use letters, digits, - and _ only")
        if len(str(self.cluster)) > LONGEST_CLUSTER_PATH:
            raise Trouble(
                f"{self.cluster} is too long for the sockets in it: name a folder with a shorter path "
                "with --state or PIPETRAIL_STATE"
            )
        if self.state.resolve().is_relative_to(RECIPE.parents[1]):
            raise Trouble(f"{self.state} is inside the checkout: name a folder outside it with --state")
        return self
