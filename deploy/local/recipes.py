"""What is built, from which sources, and how long it takes: the pinned versions of this cluster."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .layout import RECIPE

KUBERNETES = "1.36.3"
ARGO = "3.7.18"
ETCD = "3.7.3"
VERSITYGW = "1.8.0"

# The very flags of a build by hand, so that Go's own cache serves both.
BUILD_FLAGS = ("-trimpath",)
BUILD_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
STRIPPED = "-s -w"


@dataclass(frozen=True)
class Locked:
    """Built in one of the folders under locks/: a go.mod and go.sum that pin every module."""

    folder: str


@dataclass(frozen=True)
class Patched:
    """Built in a copy of a module, with files added that its published archive lacks.

    `checksum` is the module's h1 sum, so that nothing else can be built by mistake; all that the module
    needs is pinned by its own go.sum.
    """

    module: str
    version: str
    checksum: str
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Tool:
    """One binary. `expected_s` is the time on 2 cores from an empty Go cache, downloads included."""

    name: str
    version: str
    source: Locked | Patched
    package: str
    ldflags: str
    expected_s: float

    @property
    def label(self) -> str:
        """How a person calls it."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Manifests:
    """Folders of a module that are copied as they are, not built."""

    name: str
    version: str
    source: Patched
    folders: tuple[str, ...]
    expected_s: float

    @property
    def label(self) -> str:
        """How a person calls it."""
        return f"{self.name} {self.version}"


Recipe = Tool | Manifests

ARGO_MODULE = "github.com/argoproj/argo-workflows/v3"
ARGO_SOURCE = Patched(
    module=ARGO_MODULE,
    version=f"v{ARGO}",
    checksum="h1:B8v2GIBCqUATiqrI3NaLGDplT2Id18bIruebwSXkFZI=",
    files=(
        # Not in the published module: how the executor signals and reaps on Linux, and the built web page.
        ("workflow/executor/osspecific/signal_linux.go", "patches/argo_signal_linux.go.txt"),
        ("ui/dist/app/index.html", "patches/argo-ui.html"),
    ),
)


def _kubernetes(name: str, expected_s: float) -> Tool:
    # Without the version the server calls itself v0.0.0-master and clients that check it misbehave.
    major, minor, _ = KUBERNETES.split(".")
    at = "k8s.io/component-base/version"
    stamped = f"-X {at}.gitVersion=v{KUBERNETES} -X {at}.gitMajor={major} -X {at}.gitMinor={minor}"
    return Tool(
        name, KUBERNETES, Locked("kubernetes"), f"k8s.io/kubernetes/cmd/{name}", f"{STRIPPED} {stamped}", expected_s
    )


def _argo(name: str, expected_s: float) -> Tool:
    # A tag and a clean tree make Argo report the release's plain version.
    values = {"version": f"v{ARGO}", "gitTag": f"v{ARGO}", "gitTreeState": "clean", "gitCommit": "66e32e5cc367"}
    stamped = " ".join(f"-X {ARGO_MODULE}.{key}={value}" for key, value in values.items())
    return Tool(name, ARGO, ARGO_SOURCE, f"./cmd/{name}", f"{STRIPPED} {stamped}", expected_s)


ETCD_SERVER = Tool("etcd", ETCD, Locked("etcd"), "go.etcd.io/etcd/server/v3", STRIPPED, 76)
KUBE_APISERVER = _kubernetes("kube-apiserver", 361)
KUBECTL = _kubernetes("kubectl", 40)
S3_STORE = Tool(
    "versitygw", VERSITYGW, Locked("versitygw"), "github.com/versity/versitygw/cmd/versitygw", STRIPPED, 180
)
ARGO_MANIFESTS = Manifests(
    "argo-manifests", ARGO, ARGO_SOURCE, ("manifests/base/crds/full", "manifests/cluster-install-no-crds"), 30
)
CONTROLLER_MANAGER = _kubernetes("kube-controller-manager", 101)
SCHEDULER = _kubernetes("kube-scheduler", 9)
KUBELET = _kubernetes("kubelet", 34)
WORKFLOW_CONTROLLER = _argo("workflow-controller", 190)
ARGOEXEC = _argo("argoexec", 185)
ARGO_CLI = _argo("argo", 14)

API_TIER: tuple[Recipe, ...] = (ETCD_SERVER, KUBE_APISERVER, KUBECTL, S3_STORE, ARGO_MANIFESTS)
NODE_TIER: tuple[Recipe, ...] = (
    *API_TIER,
    CONTROLLER_MANAGER,
    SCHEDULER,
    KUBELET,
    WORKFLOW_CONTROLLER,
    ARGOEXEC,
    ARGO_CLI,
)
# What envtest's folder of ready-made binaries holds.
READY_MADE = frozenset({"etcd", "kube-apiserver", "kubectl"})


def digest_of(*parts: str | bytes) -> str:
    """Twelve hex digits that change with any of the parts."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "big") + raw)
    return total.hexdigest()[:12]


def _contents(files: Iterable[Path]) -> list[bytes]:
    return [path.read_bytes() for path in files]


def digest(recipe: Recipe) -> str:
    """Identifies the build inputs that this recipe decides: modules, flags, added files.

    The Go version is not among them: a newer compiler does not make a finished binary stale.
    """
    match recipe.source:
        case Locked(folder):
            inputs = _contents(RECIPE / "locks" / folder / name for name in ("go.mod", "go.sum"))
        case Patched(checksum=checksum, files=files):
            inputs = [checksum.encode(), *_contents(RECIPE / ours for _, ours in files)]
    match recipe:
        case Tool(package=package, ldflags=ldflags):
            choices = json.dumps([package, ldflags, BUILD_FLAGS, sorted(BUILD_ENVIRONMENT.items())])
        case Manifests(folders=folders):
            choices = json.dumps(folders)
    return digest_of(recipe.name, recipe.version, choices, *inputs)
