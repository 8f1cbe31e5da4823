"""Takes down what the record names, newest first, and nothing else."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from . import cgroups
from .processes import stop
from .progress import Progress
from .record import Address, Bridge, Cgroup, Chain, Ledger, Links, Mounts, Process, Rule, Sysctl, Thing
from .trouble import Trouble

MOUNTINFO = Path("/proc/self/mountinfo")


def describe(thing: Thing) -> str:
    """A thing in a few words."""
    match thing:
        case Process(name=name):
            return name
        case Bridge(name=name):
            return f"bridge {name}"
        case Address(address=address, device=device):
            return f"address {address} on {device}"
        case Rule(table=table, chain=chain):
            return f"a rule in {table} {chain}"
        case Chain(table=table, name=name):
            return f"chain {name} in {table}"
        case Sysctl(path=path):
            return f"setting {path}"
        case Mounts(folder=folder):
            return f"mounts below {folder}"
        case Cgroup(path=path):
            return f"control group {path}"
        case Links(folder=folder):
            return f"links in {folder}"


def take_down(ledger: Ledger, progress: Progress) -> None:
    """Undo all that is recorded. What cannot be undone stays in the record and is told at the end."""
    record = ledger.read()
    if record is None or not record.things:
        return
    progress.begin(f"taking down {len(record.things)} things of the record", 5)
    refused: list[str] = []
    for thing in reversed(record.things):
        progress.tick()
        try:
            _undo(thing, ledger)
        except (Trouble, OSError, subprocess.CalledProcessError) as wrong:
            refused.append(f"{describe(thing)}: {wrong}")
    if refused:
        raise Trouble("could not take down everything:\n    " + "\n    ".join(refused))
    progress.done()


def _undo(thing: Thing, ledger: Ledger) -> None:
    match thing:
        case Process():
            stop(thing, ledger)
            return
        case Bridge(name=name):
            _run_if(Path("/sys/class/net", name).exists(), "ip", "link", "delete", name)
        case Address(address=address, device=device):
            told = subprocess.run(
                ["ip", "-o", "addr", "show", "dev", device], capture_output=True, text=True, check=True
            )
            _run_if(f" {address} " in told.stdout, "ip", "addr", "delete", address, "dev", device)
        case Rule(table=table, chain=chain, arguments=arguments):
            while _iptables(table, "-C", chain, *arguments):
                _run_if(True, "iptables", "-w", "-t", table, "-D", chain, *arguments)
        case Chain(table=table, name=name):
            if _iptables(table, "-F", name):
                _run_if(True, "iptables", "-w", "-t", table, "-X", name)
        case Sysctl(path=path, before=before):
            Path(path).write_text(before)
        case Mounts(folder=folder):
            unmount_below(Path(folder))
        case Cgroup(path=path):
            cgroups.remove(path)
        case Links(folder=folder, target=target):
            _unlink(Path(folder), Path(target))
    ledger.drop(thing)


def _run_if(needed: bool, *command: str) -> None:
    if needed:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Trouble(f"`{' '.join(command)}` failed: {done.stderr.strip()}")


def _iptables(table: str, action: str, *arguments: str) -> bool:
    command = ["iptables", "-w", "-t", table, action, *arguments]
    return (
        shutil.which("iptables") is not None
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


def mount_points(mountinfo: str, folder: Path) -> list[Path]:
    """What is mounted at or below a folder, innermost and latest first."""
    points = [Path(_unescaped(line.split()[4])) for line in mountinfo.splitlines()]
    return [point for point in reversed(points) if point.is_relative_to(folder)]


def _unescaped(point: str) -> str:
    for code in (" ", "\t", "\n", "\\"):
        point = point.replace(f"\\{ord(code):03o}", code)
    return point


def unmount_below(folder: Path) -> None:
    """Unmount all below a folder; what is busy is detached, and goes when its last user does."""
    for point in mount_points(MOUNTINFO.read_text(), folder.resolve()):
        if subprocess.run(["umount", point], capture_output=True, check=False).returncode:
            _run_if(True, "umount", "--lazy", str(point))


def _unlink(folder: Path, target: Path) -> None:
    if not folder.is_dir():
        return
    for link in folder.iterdir():
        if link.is_symlink() and Path(os.readlink(link)).is_relative_to(target):
            link.unlink()
    with suppress(OSError):  # others may have links there
        folder.rmdir()


def remove_data(folder: Path) -> None:
    """Remove a cluster's own folder, after everything in it is down."""
    left = mount_points(MOUNTINFO.read_text(), folder.resolve()) if MOUNTINFO.exists() else []
    if left:
        # Never delete through a mount: it may be somebody's volume.
        raise Trouble(f"{left[0]} is still mounted, so {folder} is not removed: unmount it, then run `down` again")
    shutil.rmtree(folder, ignore_errors=False)
