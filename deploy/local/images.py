"""Container images without a registry: docker archives made of tar files, kept by the digest of their inputs."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .builds import Tools, run_logged
from .layout import Layout
from .packages import static_busybox
from .progress import Progress
from .recipes import ARGO, digest_of
from .trouble import Trouble

PAUSE = "lab.local/pause:1"
ARGOEXEC = f"lab.local/argoexec:v{ARGO}"
PYTHON = "lab.local/python:3.11"
# Python 3.11 is this release's own.
DEBIAN_RELEASE = "bookworm"
# libstdc++6 is what wheels of C++ need and what Debian's own slim images have.
PYTHON_PACKAGES = ("python3", "python3-pip", "python3-venv", "ca-certificates", "busybox-static", "libstdc++6")
BOOTSTRAP = ("--variant=essential", f"--include={','.join(PYTHON_PACKAGES)}", DEBIAN_RELEASE)
# Removed from the image: nobody reads manual pages in a step, and every pod's start unpacks less.
TRIMMED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/var/cache/apt/*", "/var/lib/apt/lists/*")
SEARCH_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUSYBOX_COMMANDS = ("sh", "cat", "cp", "echo", "ls", "mkdir", "rm", "sleep", "tar", "true", "false", "chmod", "env")


@dataclass(frozen=True)
class Image:
    """One image: `key` is the digest of its inputs, `make` writes its archive to a path."""

    reference: str
    key: str
    expected_s: float
    make: Callable[[Path], None]


def all_images(layout: Layout, tools: Tools, progress: Progress) -> list[Image]:
    """The pods' pause container, Argo's executor, and a Python for steps."""
    busybox = static_busybox()
    if busybox is None:
        raise Trouble("a static busybox is needed for the images: apt-get install busybox-static")
    shell = busybox.read_bytes()
    executor = tools["argoexec"]
    bootstrap = json.dumps([BOOTSTRAP, TRIMMED])
    return [
        Image(PAUSE, digest_of("pause-1", shell), 2, lambda path: _pause(path, shell)),
        Image(
            ARGOEXEC,
            digest_of("argoexec-1", shell, executor.digest),
            5,
            lambda path: _argoexec(path, shell, executor.path.read_bytes()),
        ),
        Image(PYTHON, digest_of("python-1", bootstrap), 90, lambda path: _python(path, layout, progress)),
    ]


def ensure(layout: Layout, image: Image, progress: Progress) -> Path:
    """The image's archive; made if it is not there."""
    name = image.reference.rpartition("/")[2].replace(":", "-")
    path = layout.images / f"{name}-{image.key}.tar"
    if not path.exists():
        layout.images.mkdir(parents=True, exist_ok=True)
        progress.begin(f"image {image.reference}", image.expected_s)
        partial = path.with_suffix(".partial")
        image.make(partial)
        partial.rename(path)
        progress.done()
    return path


def _pause(path: Path, busybox: bytes) -> None:
    layer = layer_of({"bin/busybox": busybox}, {})
    write_archive(path, PAUSE, [layer], {"Entrypoint": ["/bin/busybox", "sleep", "2147483647"]})


def _argoexec(path: Path, busybox: bytes, executor: bytes) -> None:
    links = {f"bin/{name}": "busybox" for name in BUSYBOX_COMMANDS}
    folders = {"tmp": 0o1777, "etc": 0o755}
    files = {"bin/argoexec": executor, "bin/busybox": busybox}
    layer = layer_of(files, links, folders)
    write_archive(path, ARGOEXEC, [layer], {"Entrypoint": ["argoexec"], "Env": [SEARCH_PATH]})


def _python(path: Path, layout: Layout, progress: Progress) -> None:
    root = path.with_suffix(".rootfs.tar")
    trimmed = [f"--dpkgopt=path-exclude={pattern}" for pattern in TRIMMED]
    command = ["mmdebstrap", *trimmed, *BOOTSTRAP[:-1], DEBIAN_RELEASE, str(root)]
    layout.build.mkdir(parents=True, exist_ok=True)
    run_logged(command, layout.build, layout.build / "image-python.log", progress, f"the image {PYTHON}")
    extra = layer_of({}, {"usr/local/bin/python": "/usr/bin/python3"})
    try:
        write_archive(path, PYTHON, [root, extra], {"Cmd": ["python3"], "Env": [SEARCH_PATH, "PYTHONUNBUFFERED=1"]})
    finally:
        root.unlink()


def layer_of(files: Mapping[str, bytes], links: Mapping[str, str], folders: Mapping[str, int] | None = None) -> bytes:
    """A layer of executables, links and folders, the same bytes for the same content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in (folders or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            tar.addfile(entry)
    return out.getvalue()


def write_archive(path: Path, reference: str, layers: Sequence[bytes | Path], config: Mapping[str, Any]) -> None:
    """A docker archive, as `docker save` writes and `ctr images import` reads."""
    digests = [_sha256(layer) for layer in layers]
    body = {
        "architecture": _architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "pipetrail deploy/local"} for _ in layers],
    }
    text = json.dumps(body).encode()
    config_name = f"{hashlib.sha256(text).hexdigest()}.json"
    names = [f"{digest}/layer.tar" for digest in digests]
    manifest = json.dumps([{"Config": config_name, "RepoTags": [reference], "Layers": names}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, layer in zip(names, layers, strict=True):
            _add(tar, name, layer)
        _add(tar, config_name, text)
        _add(tar, "manifest.json", manifest)


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    entry = tarfile.TarInfo(name)
    if isinstance(content, Path):
        entry.size = content.stat().st_size
        with content.open("rb") as file:
            tar.addfile(entry, file)
    else:
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


def _sha256(layer: bytes | Path) -> str:
    if isinstance(layer, bytes):
        return hashlib.sha256(layer).hexdigest()
    with layer.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _architecture() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
