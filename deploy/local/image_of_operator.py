"""The operator's own image, from the Dockerfile as users build it, kept by the digest of all that goes in.

buildah needs neither a daemon nor a registry: the base image comes from an archive and the result is one. Its storage
is a folder of the state folder that is gone afterwards.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from . import images, network, packages
from .builds import run_logged
from .control_plane import Cluster
from .images import PYTHON, Image
from .layout import Layout
from .locking import locked
from .node import ctr
from .progress import Progress
from .recipes import digest_of
from .trouble import Trouble

REPOSITORY = "lab.local/pipetrail"
SOURCE = Path(__file__).resolve().parents[2]
INPUTS = ("Dockerfile", ".dockerignore", "pyproject.toml", "uv.lock", "README.md", "LICENSE", "operator")
EXPECTED_S = 90.0
CERTIFICATES = Path("/etc/ssl/certs")
NEEDED = (("buildah", lambda: packages.find("buildah") is not None),)


def ensure(cluster: Cluster, progress: Progress) -> str:
    """Build the image if its inputs changed, put it on the node, and give its name. Older ones are removed."""
    if cluster.tier != "node":
        raise Trouble("an image needs a node to run on: `cluster.py up --tier node` first")
    layout = cluster.layout
    packages.ensure(layout, progress, NEEDED)
    with locked(layout.locks / "image.lock", progress):
        image = described(cluster, progress)
        archive = images.ensure(layout, image, progress)
        there = set(ctr(cluster, "images", "ls", "-q").split())
        if image.reference not in there:
            progress.begin(f"importing {image.reference}", 20)
            ctr(cluster, "images", "import", str(archive))
            progress.done()
        for old in layout.images.glob("pipetrail-*.tar"):
            if old != archive:
                old.unlink()
        for old_reference in (name for name in there if name.startswith(f"{REPOSITORY}:") and name != image.reference):
            ctr(cluster, "images", "rm", old_reference)
    return image.reference


def described(cluster: Cluster, progress: Progress) -> Image:
    """The image: what it is called and how it is made."""
    (base,) = [
        image for image in images.all_images(cluster.layout, cluster.tools, progress) if image.reference == PYTHON
    ]
    key = digest_of("operator-1", base.key, _digest_of_source())
    reference = f"{REPOSITORY}:{key}"
    return Image(reference, key, EXPECTED_S, lambda path: _build(path, reference, base, cluster.layout, progress))


def _digest_of_source() -> str:
    """Of the names and bytes of all that the Dockerfile may copy."""
    found = hashlib.sha256()
    for name in INPUTS:
        top = SOURCE / name
        for file in [top] if top.is_file() else sorted(top.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(f"{file.relative_to(SOURCE)}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()


def _build(path: Path, reference: str, base: Image, layout: Layout, progress: Progress) -> None:
    storage = layout.build / "buildah"
    buildah = [
        packages.find("buildah") or "buildah", "--root", str(storage / "root"), "--runroot", str(storage / "run"),
        "--storage-driver", "vfs",
    ]  # fmt: skip
    log = layout.build / "image-operator.log"
    log.unlink(missing_ok=True)
    # The steps of a build see this machine's authorities: what they download may come through a company's proxy.
    trust = ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"] if CERTIFICATES.is_dir() else []
    steps = (
        [*buildah, "pull", f"docker-archive:{images.ensure(layout, base, progress)}"],
        [*buildah, "bud", "--isolation", "chroot", *trust, "--build-arg", f"BASE={base.reference}",
         "--build-arg", f"REVISION={_revision()}", "--tag", reference, str(SOURCE)],
        [*buildah, "push", reference, f"docker-archive:{path}:{reference}"],
    )  # fmt: skip
    _clear(storage)
    storage.mkdir(parents=True)
    try:
        for step in steps:
            run_logged(step, layout.build, log, progress, f"the image {reference}")
    finally:
        _clear(storage)


def _clear(storage: Path) -> None:
    """Empty the storage of builds. One that was killed left mounts in it, which are taken away first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if Path(m).is_relative_to(storage)), reverse=True):
        network.run("umount", "--lazy", mount)
    shutil.rmtree(storage, ignore_errors=True)


def _revision() -> str:
    """The commit, if this is a checkout."""
    command = ["git", "-C", str(SOURCE), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return done.stdout.strip() or "unknown"
