"""The parts of both tiers: etcd, the API server, the S3 store; and the node tier's two controllers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .api import Api, expect_ok
from .builds import Tools, parse_go_version
from .layout import Layout
from .pki import Secrets, token_file
from .processes import Part
from .record import Tier

LOOPBACK = "127.0.0.1"
GATEWAY = "10.88.0.1"  # this machine, as pods see it
SERVICE_RANGE = "10.96.0.0/16"
BUCKET = "artifacts"
REGION = "us-east-1"
SHARDS_SINCE = (1, 36)

API_PORTS = ("etcd", "etcd-peer", "kube-apiserver", "s3")
NODE_PORTS = ("kube-controller-manager", "kube-scheduler", "kubelet", "kubelet-health")


@dataclass(frozen=True)
class Cluster:
    """All that decides how the parts are started."""

    layout: Layout
    tier: Tier
    tools: Tools
    ports: Mapping[str, int]
    secrets: Secrets

    @property
    def server(self) -> str:
        """The API server's address on this machine."""
        return f"https://{LOOPBACK}:{self.ports['kube-apiserver']}"

    @property
    def s3_endpoint(self) -> str:
        """The S3 store as host:port; in the node tier the one address that pods and this machine share."""
        return f"{GATEWAY if self.tier == 'node' else LOOPBACK}:{self.ports['s3']}"

    @property
    def api(self) -> Api:
        """The API server as its admin."""
        return Api(self.server, self.layout.pki / "ca.crt", self.secrets.tokens["admin"])

    @property
    def kubectl(self) -> Path:
        """The kubectl binary."""
        return self.tools["kubectl"].path


def etcd(cluster: Cluster) -> Part:
    """The store of the API server. It does not wait for the disk: this data may be lost with the machine's power."""
    client = f"http://{LOOPBACK}:{cluster.ports['etcd']}"
    peer = f"http://{LOOPBACK}:{cluster.ports['etcd-peer']}"
    data = cluster.layout.cluster / "etcd"
    return Part(
        name="etcd",
        version=cluster.tools["etcd"].version,
        argv=(
            str(cluster.tools["etcd"].path),
            "--name=lab",
            f"--data-dir={data}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=lab={peer}",
            "--unsafe-no-fsync",
            "--auto-compaction-retention=1h",
            "--log-level=warn",
        ),
        address=client,
        probe=lambda: expect_ok(f"{client}/health"),
    )


def kube_apiserver(cluster: Cluster) -> Part:
    """The API server: on loopback alone, unless pods must reach it too."""
    pki = cluster.layout.pki
    tool = cluster.tools["kube-apiserver"]
    with_node = cluster.tier == "node"
    flags = [
        f"--etcd-servers=http://{LOOPBACK}:{cluster.ports['etcd']}",
        f"--secure-port={cluster.ports['kube-apiserver']}",
        f"--bind-address={'0.0.0.0' if with_node else LOOPBACK}",
        f"--advertise-address={GATEWAY if with_node else LOOPBACK}",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        # The node's name means nothing to this machine's own resolver; its address does.
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--token-auth-file={pki / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allow-privileged=true",
        "--profiling=false",
    ]
    if parse_go_version(tool.version) >= SHARDS_SINCE:
        flags.append("--feature-gates=ShardedListAndWatch=true")
    if not with_node:
        # Nobody makes default ServiceAccounts in this tier, and pods are refused without one.
        flags.append("--disable-admission-plugins=ServiceAccount")
    return Part(
        name="kube-apiserver",
        version=tool.version,
        argv=(str(tool.path), *flags),
        address=cluster.server,
        probe=cluster.api.probe,
        files={pki / "tokens.csv": token_file(cluster.secrets)},
    )


def s3(cluster: Cluster) -> Part:
    """The S3 store: plain HTTP, path style, its buckets are the folders of its root."""
    root = cluster.layout.cluster / "s3"
    port = cluster.ports["s3"]
    addresses = [LOOPBACK, GATEWAY] if cluster.tier == "node" else [LOOPBACK]
    listen = [word for address in addresses for word in ("--port", f"{address}:{port}")]
    return Part(
        name="s3",
        version=cluster.tools["versitygw"].version,
        argv=(
            str(cluster.tools["versitygw"].path),
            *listen,
            "--region",
            REGION,
            "--health",
            "/health",
            "--quiet",
            "posix",
            "--sidecar",
            str(root / "metadata"),
            str(root / "buckets"),
        ),
        env={"ROOT_ACCESS_KEY": cluster.secrets.s3_access_key, "ROOT_SECRET_KEY": cluster.secrets.s3_secret_key},
        address=f"http://{cluster.s3_endpoint}",
        probe=lambda: expect_ok(f"http://{LOOPBACK}:{port}/health"),
        folders=(root / "metadata", root / "buckets" / BUCKET),
    )


def kube_controller_manager(cluster: Cluster) -> Part:
    """ServiceAccounts, namespaces, garbage collection, Jobs and the rest."""
    pki = cluster.layout.pki
    kubeconfig = pki / "kube-controller-manager.kubeconfig"
    port = cluster.ports["kube-controller-manager"]
    return Part(
        name="kube-controller-manager",
        version=cluster.tools["kube-controller-manager"].version,
        argv=(
            str(cluster.tools["kube-controller-manager"].path),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--secure-port={port}",
            f"--bind-address={LOOPBACK}",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki / 'service-account.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            "--leader-elect=false",
        ),
        address=f"https://{LOOPBACK}:{port}",
        probe=lambda: expect_ok(f"https://{LOOPBACK}:{port}/healthz"),
    )


def kube_scheduler(cluster: Cluster) -> Part:
    """Puts pods on the one node."""
    kubeconfig = cluster.layout.pki / "kube-scheduler.kubeconfig"
    port = cluster.ports["kube-scheduler"]
    return Part(
        name="kube-scheduler",
        version=cluster.tools["kube-scheduler"].version,
        argv=(
            str(cluster.tools["kube-scheduler"].path),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--secure-port={port}",
            f"--bind-address={LOOPBACK}",
            "--leader-elect=false",
        ),
        address=f"https://{LOOPBACK}:{port}",
        probe=lambda: expect_ok(f"https://{LOOPBACK}:{port}/healthz"),
    )


def base_parts(cluster: Cluster) -> list[Part]:
    """The parts of the api tier, which the node tier has too."""
    return [etcd(cluster), kube_apiserver(cluster), s3(cluster)]
