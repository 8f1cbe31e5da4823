"""The system's own parts of a node: a container runtime and what it calls, installed with apt if missing."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from .builds import run_logged
from .layout import Layout
from .progress import Progress
from .trouble import Trouble

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))


def cni_folder() -> Path | None:
    """Where the network plugins are."""
    return next((folder for folder in CNI_FOLDERS if (folder / "bridge").exists()), None)


def find(command: str) -> str | None:
    """A command, also where only root's PATH would have it."""
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def static_busybox() -> Path | None:
    """A busybox that needs no library, so that an image can hold it alone."""
    path = find("busybox")
    if path is None:
        return None
    return None if b"/ld-linux" in Path(path).read_bytes() else Path(path)


def postgres() -> Path | None:
    """Where PostgreSQL's server and its tools are: Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    named = find("initdb")
    return found[-1].parent if found else Path(named).parent if named else None


def _has(command: str) -> Callable[[], bool]:
    return lambda: find(command) is not None


# Debian's name of each package, and how to tell that what it brings is there.
Needed = tuple[tuple[str, Callable[[], bool]], ...]
NEEDED: Needed = (
    ("containerd", _has("containerd")),
    ("runc", _has("runc")),
    ("containernetworking-plugins", lambda: cni_folder() is not None),
    ("conntrack", _has("conntrack")),
    ("iptables", _has("iptables")),
    ("iproute2", _has("ip")),
    ("dnsmasq-base", _has("dnsmasq")),
    ("mmdebstrap", _has("mmdebstrap")),
    ("busybox-static", lambda: static_busybox() is not None),
    ("postgresql", lambda: postgres() is not None),  # of no part of the node: of tests and chaos
)


def missing(needed: Needed = NEEDED) -> list[str]:
    """The packages whose parts are not there."""
    return [package for package, is_there in needed if not is_there()]


def ensure(layout: Layout, progress: Progress, needed: Needed = NEEDED) -> None:
    """Install what is missing; says so first."""
    wanted = missing(needed)
    if not wanted:
        return
    names = " ".join(wanted)
    if shutil.which("apt-get") is None:
        raise Trouble(f"a node needs these Debian packages or what they hold, and apt is not here: {names}")
    progress.say(f"installing packages of this system (they stay after `down`): {names}")
    layout.build.mkdir(parents=True, exist_ok=True)
    log = layout.build / "apt.log"
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    try:
        progress.begin("apt-get update", 10)
        run_logged([*apt, "update"], layout.build, log, progress, "the list of packages")
        progress.done()
        progress.begin("apt-get install", 60)
        install = [*apt, "install", "-y", "--no-install-recommends", *wanted]
        run_logged(install, layout.build, log, progress, "the installation of packages")
        progress.done()
    except Trouble as failed:
        raise Trouble(f"{failed}\n  Install them yourself, then run this again: apt-get install {names}") from None
    if still := missing(needed):
        raise Trouble(f"apt installed its packages, yet these parts are not there: {' '.join(still)}")
