"""Certificates, keys and tokens of one cluster, made once with the openssl command."""

import base64
import csv
import io
import json
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .layout import Layout
from .record import write_private
from .trouble import Trouble

DAYS = "3650"
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
ADDRESSES = ("127.0.0.1", "10.96.0.1", "10.88.0.1")
NODE = "node0"

# Who may log in with a token, and the groups of each. The tenants have no rights but those a test gives them.
USERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("admin", ("system:masters",)),
    "tenant-a": ("tenant-a", ("tenants",)),
    "tenant-b": ("tenant-b", ("tenants",)),
    "kube-controller-manager": ("system:kube-controller-manager", ()),
    "kube-scheduler": ("system:kube-scheduler", ()),
    "kubelet": (f"system:node:{NODE}", ("system:nodes",)),
    "workflow-controller": (
        "system:serviceaccount:argo:argo",
        ("system:serviceaccounts", "system:serviceaccounts:argo"),
    ),
}
PEOPLE = ("admin", "tenant-a", "tenant-b")


@dataclass(frozen=True)
class Secrets:
    """What must not be guessed: a token for each of USERS, and the S3 store's key pair."""

    tokens: Mapping[str, str]
    s3_access_key: str
    s3_secret_key: str


def ensure_secrets(layout: Layout) -> Secrets:
    """Read the cluster's secrets; make them the first time."""
    path = layout.pki / "secrets.json"
    if not path.exists():
        made = {
            "tokens": {user: secrets.token_hex(20) for user in USERS},
            "s3": {"accessKey": f"lab{secrets.token_hex(8)}", "secretKey": secrets.token_hex(20)},
        }
        write_private(path, json.dumps(made, indent=1))
    raw = json.loads(path.read_text())
    return Secrets(raw["tokens"], raw["s3"]["accessKey"], raw["s3"]["secretKey"])


def token_file(known: Secrets) -> str:
    """The API server's static tokens: token, user, uid, groups."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for key, (user, groups) in USERS.items():
        writer.writerow([known.tokens[key], user, user, ",".join(groups)])
    return out.getvalue()


def ensure_certificates(layout: Layout) -> None:
    """Make the authority, the API server's two certificates and the ServiceAccounts' signing key."""
    pki = layout.pki
    if (pki / "complete").exists():
        return
    if shutil.which("openssl") is None:
        raise Trouble("the openssl command is needed to make certificates: install it, then run this again")
    pki.mkdir(parents=True, exist_ok=True)
    pki.chmod(0o700)
    layout.cluster.chmod(0o700)
    names = ",".join([f"DNS:{n}" for n in ("localhost", *SERVICE_NAMES)] + [f"IP:{a}" for a in ADDRESSES])
    _authority(pki)
    _certificate(pki, "apiserver", "/CN=kube-apiserver", f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    # With this one the API server introduces itself to the kubelet, for logs and exec.
    _certificate(pki, "kubelet-client", "/O=system:masters/CN=kube-apiserver", "extendedKeyUsage=clientAuth\n")
    _openssl("genrsa", "-out", str(pki / "service-account.key"), "2048")
    _openssl("rsa", "-in", str(pki / "service-account.key"), "-pubout", "-out", str(pki / "service-account.pub"))
    for key in pki.glob("*.key"):
        key.chmod(0o600)
    (pki / "complete").touch()


def _authority(pki: Path) -> None:
    config = pki / "ca.cnf"
    config.write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=ca\nprompt=no\n[dn]\nCN=pipetrail-lab-ca\n"
        "[ca]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
    )
    files = ("-keyout", str(pki / "ca.key"), "-out", str(pki / "ca.crt"))
    _openssl("req", "-x509", "-sha256", *CURVE, "-days", DAYS, "-config", str(config), *files)


def _certificate(pki: Path, name: str, subject: str, extensions: str) -> None:
    key, request, extra = pki / f"{name}.key", pki / f"{name}.csr", pki / f"{name}.cnf"
    extra.write_text(extensions)
    _openssl("req", "-new", "-sha256", *CURVE, "-subj", subject, "-keyout", str(key), "-out", str(request))
    signer = ("-CA", str(pki / "ca.crt"), "-CAkey", str(pki / "ca.key"), "-set_serial", str(secrets.randbits(63)))
    files = ("-in", str(request), "-extfile", str(extra), "-out", str(pki / f"{name}.crt"))
    _openssl("x509", "-req", "-sha256", "-days", DAYS, *signer, *files)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"openssl {arguments[0]} failed: {done.stderr.strip()[-500:]}")


def kubeconfig(layout: Layout, user: str, token: str, server: str) -> str:
    """A kubeconfig that stands alone: the authority is inside. JSON, which is YAML too."""
    authority = base64.b64encode((layout.pki / "ca.crt").read_bytes()).decode()
    name = f"pipetrail-{layout.name}"
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user, "namespace": "default"}}],
        "current-context": name,
    }
    return json.dumps(body, indent=1)


def write_kubeconfigs(layout: Layout, known: Secrets, server: str) -> None:
    """A kubeconfig for each user: people's beside the record, the parts' among the keys."""
    for user, token in known.tokens.items():
        path = layout.kubeconfig(user) if user in PEOPLE else layout.pki / f"{user}.kubeconfig"
        text = kubeconfig(layout, user, token, server)
        if not path.exists() or path.read_text() != text:
            write_private(path, text)
