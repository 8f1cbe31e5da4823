"""Ports that are free on this machine, remembered by the record so that a restart keeps its address."""

import random
import socket
from collections.abc import Iterable, Mapping

from .trouble import Trouble

# Below the range from which the kernel gives ports to outgoing connections, so that none takes a
# part's port while that part is being restarted.
CHOICE = range(20000, 30000)


def is_free(port: int) -> bool:
    """Whether a server could listen there, on any address."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError:
            return False
        return True


def choose(names: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """The known ports, and a free one for each name that has none yet."""
    ports = dict(known)
    candidates = iter(random.sample(CHOICE, len(CHOICE)))
    for name in names:
        if name not in ports:
            ports[name] = next(port for port in candidates if port not in ports.values() and is_free(port))
    return ports


def check_free(wanted: Mapping[str, int]) -> None:
    """Trouble if somebody else listens where a part has to."""
    for part, port in wanted.items():
        if not is_free(port):
            raise Trouble(
                f"port {port} is in use and {part} needs it: end what listens there "
                f"(`ss -ltnp sport = :{port}` names it), then run this again"
            )
