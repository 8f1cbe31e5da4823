"""A small client of the API server for what the recipe itself needs; all else goes through kubectl."""

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import Unhealthy
from .trouble import Trouble

TIMEOUT_S = 5.0
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def local_opener(context: ssl.SSLContext | None = None) -> urllib.request.OpenerDirector:
    """Talks straight to an address of this machine, whatever proxy the user's session names."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def expect_ok(url: str) -> None:
    """Unhealthy unless a plain or a self-signed address answers 200 within two seconds."""
    # These are the parts' own health ports on this machine, with certificates that they sign themselves.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with local_opener(context).open(url, timeout=2):
            return
    except urllib.error.HTTPError as answer:
        raise Unhealthy(f"{url} says {answer.code}") from None
    except urllib.error.URLError as wrong:
        raise Unhealthy(f"{url}: {wrong.reason}") from None


@dataclass(frozen=True)
class Api:
    """The API server as the admin sees it."""

    server: str
    authority: Path
    token: str

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """One request; the decoded answer. HTTPError and URLError pass."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, data=data, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        context = ssl.create_default_context(cafile=str(self.authority))
        with local_opener(context).open(request, timeout=TIMEOUT_S) as answer:
            text = answer.read()
        return json.loads(text) if text[:1] in (b"{", b"[") else text.decode()

    def probe(self) -> None:
        """Unhealthy until the server says that it is ready."""
        try:
            self.call("GET", "/readyz")
        except urllib.error.HTTPError as answer:
            raise Unhealthy(f"/readyz says {answer.code}") from None
        except urllib.error.URLError as wrong:
            raise Unhealthy(str(wrong.reason)) from None

    def empty_namespace(self, name: str) -> None:
        """Delete all objects in a namespace and the namespace itself.

        In the api tier no controller does that, so a namespace that is only deleted stays for ever.
        """
        path = f"/api/v1/namespaces/{name}"
        try:
            self.call("DELETE", path)
        except urllib.error.HTTPError as answer:
            if answer.code == 404:
                return
            raise
        for base, resource in self._collections():
            try:
                self.call("DELETE", f"{base}/namespaces/{name}/{resource}?gracePeriodSeconds=0")
            except urllib.error.HTTPError as answer:
                if answer.code not in {404, 405}:
                    raise
        try:
            body = self.call("GET", path)
            body["spec"]["finalizers"] = []
            self.call("PUT", f"{path}/finalize", body)
        except urllib.error.HTTPError as answer:
            if answer.code not in {404, 409}:
                raise

    def _collections(self) -> list[tuple[str, str]]:
        found = []
        for root in ("/api", "/apis"):
            for group in self.call("GET", root, headers={"Accept": DISCOVERY})["items"]:
                name = group["metadata"].get("name", "")
                for version in group["versions"][:1]:
                    base = f"{root}/{name}/{version['version']}" if name else f"{root}/{version['version']}"
                    found += [
                        (base, resource["resource"])
                        for resource in version.get("resources", ())
                        if resource["scope"] == "Namespaced" and "deletecollection" in resource["verbs"]
                    ]
        return found


def kubectl(binary: Path, kubeconfig: Path, arguments: Sequence[str], stdin: str | None = None) -> str:
    """Run kubectl as the admin; its output, or Trouble with what it said."""
    done = subprocess.run(
        [binary, "--kubeconfig", kubeconfig, *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Trouble(f"kubectl {' '.join(arguments[:3])} failed: {done.stderr.strip()[-1500:]}")
    return done.stdout


def apply(binary: Path, kubeconfig: Path, objects: Sequence[Any]) -> None:
    """Server-side apply of some objects."""
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    kubectl(binary, kubeconfig, ["apply", "--server-side", "--force-conflicts", "-f", "-"], stdin=body)
