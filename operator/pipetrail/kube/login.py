"""The login: which API server, and as whom, as kubectl would have it."""

import os
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config
from kubernetes.aio.config import kube_config

from pipetrail.kube.errors import KubeError


class Login:
    """Address, certificates and token, in `configuration`; `from_file` if a kubeconfig's `context` gave them."""

    def __init__(self, configuration: Any, *, context: str | None = None, from_file: bool = False) -> None:
        configuration.retries = None  # a retry is the caller's decision
        # Else aiohttp looks for a proxy and reads ~/.netrc, each in a thread, for every single call.
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.proxy = configuration.proxy or _proxy(str(configuration.host))
        self.configuration = configuration
        self._context = context
        self._from_file = from_file

    @classmethod
    async def find(cls, context: str | None = None, *, connections: int = 100) -> Self:
        """As kubectl would: the pod's ServiceAccount, else KUBECONFIG or ~/.kube/config (`context` of it).

        At most so many `connections` at a time, 0 for any number: a watch holds one.
        """
        configuration = k8s.Configuration()
        configuration.connection_pool_maxsize = connections
        try:
            if context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                k8s_config.load_incluster_config(configuration)
            else:
                await k8s_config.load_kube_config(
                    context=context, client_configuration=configuration, persist_config=False
                )
        except (k8s_config.ConfigException, OSError, TypeError) as error:
            raise KubeError(f"no cluster to talk to: {error}; set KUBECONFIG or pass --context") from None
        from_file = context is not None or "KUBERNETES_SERVICE_HOST" not in os.environ
        return cls(configuration, context=context, from_file=from_file)

    async def renew(self) -> bool:
        """Read the token anew where it lies: the one that we have is no longer taken. True if there is another one.

        In a pod the client does so by itself every minute.
        """
        if not self._from_file:
            return False
        fresh = k8s.Configuration()
        try:
            await k8s_config.load_kube_config(context=self._context, client_configuration=fresh, persist_config=False)
        except (k8s_config.ConfigException, OSError, TypeError):
            return False
        mine = self.configuration
        changed = bool(fresh.api_key != mine.api_key)
        mine.api_key = fresh.api_key
        return changed

    async def credentials(self) -> dict[str, Any]:
        """What kopf needs to log in as the same user; a token that is refreshed is read anew each time."""
        await self.renew()
        configuration = self.configuration
        setting = (await configuration.auth_settings()).get("BearerToken") or {}
        scheme, _, token = str(setting.get("value") or "").partition(" ")
        return {
            "server": configuration.host,
            "ca_path": configuration.ssl_ca_cert or None,
            "insecure": not configuration.verify_ssl,
            "certificate_path": configuration.cert_file or None,
            "private_key_path": configuration.key_file or None,
            "scheme": scheme.capitalize() or None,
            "token": token or None,
        }


def context_namespace(context: str | None) -> str:
    """The namespace that kubectl would take: the one of the kubeconfig's context, else ``default``."""
    try:
        contexts, active = kube_config.list_kube_config_contexts()
    except (k8s_config.ConfigException, OSError):
        return "default"  # no kubeconfig, as in a pod: connecting will say what is wrong if anything is
    chosen = next((c for c in contexts if c["name"] == context), active)
    return str(chosen.get("context", {}).get("namespace") or "default")


def _proxy(address: str) -> str | None:
    """The proxy that the environment names for the API server, as kubectl would take it (HTTPS_PROXY, NO_PROXY)."""
    parts = urlsplit(address)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    found = getproxies()
    return found.get(parts.scheme) or found.get("all")
