"""The node tier: containerd, the kubelet and Argo's controller, on a network of their own."""

import json
import os
import sys
import time
import urllib.error
from pathlib import Path
from typing import Any

from . import argo, cgroups, control_plane, images, network, packages
from .api import expect_ok
from .control_plane import GATEWAY, LOOPBACK, Cluster
from .pki import NODE
from .processes import Part, reconcile
from .progress import Progress
from .record import Cgroup, Ledger, Links, Mounts
from .trouble import Trouble

READY_WITHIN_S = 60.0
# What the kubelet sets for itself; recorded first, so that `down` can put it back.
KUBELET_SETTINGS = {
    "/proc/sys/vm/overcommit_memory": "1\n",
    "/proc/sys/vm/panic_on_oom": "0\n",
    "/proc/sys/kernel/panic": "10\n",
    "/proc/sys/kernel/panic_on_oops": "1\n",
    "/proc/sys/kernel/keys/root_maxkeys": "1000000\n",
    "/proc/sys/kernel/keys/root_maxbytes": "25000000\n",
}
CONTAINER_LOG_LINKS = "/var/log/containers"


def check_machine() -> None:
    """Trouble unless this machine can have a node."""
    if sys.platform != "linux":
        raise Trouble("the node tier needs Linux, because pods do: use `--tier api` here, or a Linux machine")
    if os.geteuid() != 0:
        raise Trouble(
            "the node tier needs root, for containers and their network: run it with sudo and the same "
            "--state, or use `--tier api`, which needs none"
        )


def check_vacant(ledger: Ledger) -> None:
    """Trouble if another cluster of this machine has a node."""
    network.check_vacant(ledger)


def _pods_group(cluster: Cluster) -> str:
    return f"pipetrail-{cluster.layout.name}"


def _runtime_group(cluster: Cluster) -> str:
    return f"pipetrail-{cluster.layout.name}-runtime"


def _socket(cluster: Cluster) -> Path:
    return cluster.layout.cluster / "containerd" / "containerd.sock"


def parts(cluster: Cluster) -> list[Part]:
    """What the node tier has beyond the api tier, in the order of its start."""
    return [*_controllers(cluster), _containerd(cluster), *_agents(cluster), argo.workflow_controller(cluster)]


def _controllers(cluster: Cluster) -> list[Part]:
    return [control_plane.kube_controller_manager(cluster), control_plane.kube_scheduler(cluster)]


def _agents(cluster: Cluster) -> list[Part]:
    return [network.dns(cluster.layout.cluster), _kubelet(cluster)]


def prepare(cluster: Cluster, ledger: Ledger, progress: Progress) -> None:
    """Install what is missing and make the network; says what changes first."""
    packages.ensure(cluster.layout, progress)
    progress.say(
        f"changing this machine until `down`: bridge {network.BRIDGE} ({network.SUBNET}), address {network.SERVICE} on "
        f"lo, IP forwarding, iptables rules and chain {network.CHAIN}, control groups {_pods_group(cluster)}*, "
        "the kubelet's kernel settings, mounts below the state folder"
    )
    guarded = (cluster.ports["kube-apiserver"], argo.HEALTH_PORT)
    network.set_up(network.plan(cluster.ports["kube-apiserver"], guarded), ledger, cluster.layout.cluster)


def bring_up(cluster: Cluster, ledger: Ledger, progress: Progress) -> None:
    """Start the node's parts, in an order in which each finds what it needs."""
    layout = cluster.layout
    reconcile(_controllers(cluster), layout, ledger, progress)
    # Recorded before containerd and the kubelet make any, and so undone after those have stopped.
    for thing in (
        Links(CONTAINER_LOG_LINKS, str(layout.cluster)),
        Mounts(str(layout.cluster)),
        Cgroup(_pods_group(cluster)),
        Cgroup(_runtime_group(cluster)),
    ):
        if thing not in ledger.now().things:
            ledger.add(thing)
    for group in (_pods_group(cluster), _runtime_group(cluster)):
        cgroups.make(group)
    for path, value in KUBELET_SETTINGS.items():
        if Path(path).exists():
            network.change_setting(path, value, ledger)
    reconcile([_containerd(cluster)], layout, ledger, progress)
    _import_images(cluster, ledger, progress)
    reconcile(_agents(cluster), layout, ledger, progress)
    _wait_for_node(cluster, progress)
    reconcile([argo.workflow_controller(cluster)], layout, ledger, progress)


def network_complaint() -> str | None:
    """Whether pods would reach the API server under its service address."""
    if not Path("/sys/class/net", network.BRIDGE).exists():
        return f"the bridge {network.BRIDGE} is gone"
    try:
        network.listens(network.SERVICE, 443)
    except OSError as wrong:
        return f"{network.SERVICE}:443 does not lead to the API server: {wrong}"
    return None


def _containerd(cluster: Cluster) -> Part:
    base = cluster.layout.cluster / "containerd"
    config = base / "config.toml"
    cni = base / "cni"
    socket = _socket(cluster)
    plugins = packages.cni_folder() or Path("/usr/lib/cni")
    # Without restrict_oom_score_adj no sandbox starts where lowering the score is not allowed. With
    # netns_mounts_under_state_dir the pods' network namespaces lie where Mounts finds them.
    text = f"""\
version = 2
root = "{base}/root"
state = "{base}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", \
"io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{base}/runc"
SystemdCgroup = false
"""
    binary = packages.find("containerd") or "containerd"
    return Part(
        name="containerd",
        version="system",
        argv=(binary, "--config", str(config), "--log-level", "warn"),
        address=f"unix://{socket}",
        probe=lambda: _answers(cluster),
        files={config: text, cni / "10-lab.conflist": network.cni_config(base / "ipam")},
        folders=(base / "root", base / "state"),
        cgroup=_runtime_group(cluster),
    )


def ctr(cluster: Cluster, *arguments: str) -> str:
    """Ask the node's containerd, as its own client does."""
    binary = packages.find("ctr") or "ctr"
    return network.run(binary, "--address", str(_socket(cluster)), "--namespace", "k8s.io", *arguments)


def _answers(cluster: Cluster) -> None:
    try:
        ctr(cluster, "version")
    except Trouble as silent:
        raise OSError(str(silent)) from None


def _import_images(cluster: Cluster, ledger: Ledger, progress: Progress) -> None:
    there = set(ctr(cluster, "images", "ls", "-q").split())
    for image in images.all_images(cluster.layout, cluster.tools, progress):
        archive = images.ensure(cluster.layout, image, progress)
        what = f"image {image.reference}"
        if image.reference in there and ledger.now().applied.get(what) == image.key:
            continue
        progress.begin(f"importing {image.reference}", 10)
        ctr(cluster, "images", "import", str(archive))
        ledger.mark(what, image.key)
        progress.done()


def _kubelet(cluster: Cluster) -> Part:
    pki = cluster.layout.pki
    base = cluster.layout.cluster / "kubelet"
    config = base / "config.json"
    resolver = base / "resolv.conf"
    health = cluster.ports["kubelet-health"]
    body: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": GATEWAY,
        "port": cluster.ports["kubelet"],
        "healthzBindAddress": LOOPBACK,
        "healthzPort": health,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{_socket(cluster)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{_pods_group(cluster)}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "clusterDNS": [GATEWAY],
        "resolvConf": str(resolver),
        "syncFrequency": "1s",
        "podLogsDir": str(base / "pod-logs"),
        "volumePluginDir": str(base / "volume-plugins"),
        # Images cannot be pulled again, and a laptop's disk is often nearly full.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
    }
    return Part(
        name="kubelet",
        version=cluster.tools["kubelet"].version,
        argv=(
            str(cluster.tools["kubelet"].path),
            f"--config={config}",
            f"--kubeconfig={pki / 'kubelet.kubeconfig'}",
            f"--root-dir={base / 'root'}",
            f"--cert-dir={base / 'certificates'}",
            f"--hostname-override={NODE}",
            f"--node-ip={GATEWAY}",
        ),
        address=f"https://{GATEWAY}:{cluster.ports['kubelet']}",
        probe=lambda: expect_ok(f"http://{LOOPBACK}:{health}/healthz"),
        files={config: json.dumps(body, indent=1), resolver: f"nameserver {GATEWAY}\n"},
        folders=(base / "root", base / "pod-logs", base / "volume-plugins"),
    )


def _wait_for_node(cluster: Cluster, progress: Progress) -> None:
    progress.begin(f"waiting for {NODE} to be ready", 10)
    until = time.monotonic() + READY_WITHIN_S
    said = "it has not registered"
    while time.monotonic() < until:
        try:
            body = cluster.api.call("GET", f"/api/v1/nodes/{NODE}")
        except urllib.error.HTTPError as answer:
            said = f"the API server says {answer.code}"
        else:
            ready = next((c for c in body["status"].get("conditions", ()) if c["type"] == "Ready"), None)
            if ready and ready["status"] == "True":
                progress.done("ready")
                return
            said = ready["message"] if ready else "it has no Ready condition"
        progress.tick()
        time.sleep(0.2)
    raise Trouble(f"{NODE} is not ready after {READY_WITHIN_S:.0f} s: {said}; see {cluster.layout.logs}/kubelet.log")
