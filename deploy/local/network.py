"""The pods' network: a bridge, the API server's service address, and the firewall rules for both."""

import json
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .control_plane import GATEWAY
from .packages import find
from .processes import Part
from .record import Address, Bridge, Chain, Ledger, Rule, Sysctl, Thing
from .trouble import Trouble

BRIDGE = "lab0"
GATEWAY_MAC = "0a:58:0a:58:00:01"
SUBNET = "10.88.0.0/24"
SERVICE = "10.96.0.1"
CHAIN = "PIPETRAIL-LAB"
FORWARDING = "/proc/sys/net/ipv4/ip_forward"


def run(*command: str) -> str:
    """Run a system command; Trouble with its words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def plan(api_port: int, guarded_ports: Sequence[int]) -> list[Thing]:
    """Every change to the machine's network, in order.

    No kube-proxy: the one service address that pods need leads to the API server by a redirect. The
    guarded ports listen on every address of this machine, because pods and loopback both need them, so
    the chain keeps out whoever comes from elsewhere.
    """
    to_api = ("-d", f"{SERVICE}/32", "-p", "tcp", "--dport", "443", "-j", "REDIRECT", "--to-ports", str(api_port))
    guarded = ("-p", "tcp", "-m", "multiport", "--dports", ",".join(map(str, guarded_ports)), "-j", CHAIN)
    return [
        Sysctl(FORWARDING, "0\n"),
        Bridge(BRIDGE),
        Address(f"{SERVICE}/32", "lo"),
        Rule("nat", "PREROUTING", to_api),
        Rule("nat", "OUTPUT", to_api),
        Rule("nat", "POSTROUTING", ("-s", SUBNET, "!", "-d", SUBNET, "-j", "MASQUERADE")),
        Rule("filter", "FORWARD", ("-i", BRIDGE, "-j", "ACCEPT")),
        Rule("filter", "FORWARD", ("-o", BRIDGE, "-j", "ACCEPT")),
        Rule("filter", "INPUT", ("-i", BRIDGE, "-j", "ACCEPT")),
        Chain("filter", CHAIN),
        Rule("filter", CHAIN, ("-i", "lo", "-j", "RETURN")),
        Rule("filter", CHAIN, ("-i", BRIDGE, "-j", "RETURN")),
        Rule("filter", CHAIN, ("-j", "DROP")),
        Rule("filter", "INPUT", guarded),
    ]


def set_up(things: Sequence[Thing], ledger: Ledger, owner: Path) -> None:
    """Make each of the changes that is not made yet; each is in the record first."""
    check_vacant(ledger)
    for thing in things:
        match thing:
            case Sysctl(path=path):
                change_setting(path, "1\n", ledger)
            case Bridge():
                ledger.add(thing)
                _make_bridge(owner)
            case Address(address=address, device=device):
                ledger.add(thing)
                if f" {address} " not in run("ip", "-o", "addr", "show", "dev", device):
                    run("ip", "addr", "add", address, "dev", device)
            case Chain(table=table, name=name):
                ledger.add(thing)
                if not _iptables_holds(table, "-L", name):
                    run("iptables", "-w", "-t", table, "-N", name)
            case Rule(table=table, chain=chain, arguments=arguments):
                ledger.add(thing)
                if not _iptables_holds(table, "-C", chain, *arguments):
                    # Ahead of the host's own rules, except inside our chain, where the order is ours.
                    run("iptables", "-w", "-t", table, "-A" if chain == CHAIN else "-I", chain, *arguments)
            case _:
                raise AssertionError(thing)


def change_setting(path: str, value: str, ledger: Ledger) -> None:
    """Change a kernel setting, remembering what it was before we first touched it."""
    setting = Path(path)
    before = setting.read_text()
    if before == value:
        return
    if not any(isinstance(thing, Sysctl) and thing.path == path for thing in ledger.now().things):
        ledger.add(Sysctl(path, before))
    setting.write_text(value)


def _make_bridge(owner: Path) -> None:
    if not Path("/sys/class/net", BRIDGE).exists():
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "link", "set", BRIDGE, "alias", str(owner))
        # Else it takes the lowest address of its ports: when that pod ends, all others look for the gateway where it
        # was, for up to a minute.
        run("ip", "link", "set", BRIDGE, "address", GATEWAY_MAC)
    if f" {GATEWAY}/24 " not in run("ip", "-o", "addr", "show", "dev", BRIDGE):
        run("ip", "addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")


def check_vacant(ledger: Ledger) -> None:
    """A machine has one node tier: whoever has the bridge already is named, by the label on it."""
    if find("ip") is None or Bridge(BRIDGE) in ledger.now().things:
        return
    links = json.loads(run("ip", "-json", "addr"))
    for link in links:
        if link["ifname"] == BRIDGE:
            alias = Path("/sys/class/net", BRIDGE, "ifalias").read_text().strip()
            raise Trouble(
                f"the bridge {BRIDGE} is there already and belongs to {alias or 'somebody else'}: a machine has "
                f"one node tier at a time. Take that one down (`cluster.py down` with its --state and --name), or "
                f"if its record is lost remove the bridge with `ip link delete {BRIDGE}`"
            )
        for address in link["addr_info"]:
            if address["local"].startswith("10.88.0."):
                raise Trouble(
                    f"{link['ifname']} has the address {address['local']}, which is in the pods' network {SUBNET}: "
                    "take that interface down first (podman's default network is one such)"
                )


def _iptables_holds(table: str, action: str, *arguments: str) -> bool:
    command = ["iptables", "-w", "-n"] if action == "-L" else ["iptables", "-w"]
    return not subprocess.run([*command, "-t", table, action, *arguments], capture_output=True, check=False).returncode


def cni_config(ipam_folder: Path) -> str:
    """How the container runtime connects a pod: to the bridge, with an address of the subnet."""
    ipam = {
        "type": "host-local",
        "dataDir": str(ipam_folder),
        "ranges": [[{"subnet": SUBNET, "gateway": GATEWAY}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    # Masquerading is one rule of ours, not a chain for each pod that would outlive a killed runtime.
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": False, "ipam": ipam}
    return json.dumps({"cniVersion": "0.4.0", "name": "pipetrail-lab", "plugins": [bridge]}, indent=1)


def dns(folder: Path, probe_port: int = 53) -> Part:
    """Names for pods: the API server's, and this machine under every service name, so that a server
    that runs on the host is a service for pods. Other names go where the host asks.
    """
    config = folder / "dnsmasq.conf"
    lines = [
        f"listen-address={GATEWAY}",
        "bind-interfaces",
        "no-hosts",
        "pid-file=",
        "user=root",
        f"address=/kubernetes.default.svc/kubernetes.default.svc.cluster.local/{SERVICE}",
        f"address=/svc/cluster.local/kubeflow/lab.local/{GATEWAY}",
    ]
    binary = find("dnsmasq") or "dnsmasq"
    return Part(
        name="dnsmasq",
        version="system",
        argv=(binary, "--keep-in-foreground", f"--conf-file={config}"),
        address=f"{GATEWAY}:{probe_port}",
        probe=lambda: listens(GATEWAY, probe_port),
        files={config: "\n".join(lines) + "\n"},
    )


def listens(host: str, port: int) -> None:
    """Raises OSError unless something takes connections there."""
    with socket.create_connection((host, port), timeout=2):
        return
