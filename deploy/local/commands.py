"""The command line of the local cluster: what each command does is in lifecycle.py and report.py."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import argo, image_of_operator, lifecycle, report
from .layout import DEFAULT_NAME, Layout, state_folder
from .progress import Progress
from .trouble import Trouble

ABOUT = """\
A real Kubernetes cluster on this machine, built from source once, for tests and for the demo.

  api    etcd, kube-apiserver, kubectl and an S3 store. Needs Go, no root, and changes nothing outside
         the state folder. No pod runs in it: it is for resources, watches, rights, and replayed runs.
  node   all that, and controller-manager, scheduler, containerd, kubelet, Argo Workflows: real pods.
         Linux and root only. Makes a bridge, mounts, control groups and firewall rules, says so first,
         and `down` takes them away again.

The first `up` builds its parts: on 2 cores about 10 minutes (api) or 20 (node) from empty caches; after
that it takes seconds. Everything lies in the state folder: --state, else $PIPETRAIL_STATE, else
~/.cache/pipetrail. etcd, kube-apiserver and kubectl in $KUBEBUILDER_ASSETS are used instead of a build.
"""
EXAMPLES = """\
examples:
  python3 deploy/local/cluster.py up --tier api         start, or find it running
  eval "$(python3 deploy/local/cluster.py env)"         KUBECONFIG, S3 keys and kubectl for this shell
  python3 deploy/local/cluster.py namespace team-a      a namespace in which workflows can run
  python3 deploy/local/cluster.py status                which parts run, how they are, where they log
  python3 deploy/local/cluster.py down                  stop all of it and remove its data

users: admin (all rights), tenant-a and tenant-b (no rights but those you give); each has a
NAME.kubeconfig beside the cluster's record, `env -o json` lists them with their tokens.

exit codes: 0 done; 1 something to mend, and the message says what; 2 wrong usage;
3 from `status`: not running, or not healthy.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="cluster.py", description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", type=Path, metavar="DIR", help="the state folder")
    common.add_argument("--name", default=DEFAULT_NAME, help="one of several clusters in it (default: %(default)s)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common])

    up = command("up", "start a tier; a healthy cluster is reused, a half-dead one is replaced, its data kept")
    up.add_argument("--tier", choices=("api", "node"), default="api", help="default: %(default)s")
    command("down", "take down all that was started or changed, and remove the cluster's data")
    status = command("status", "show the parts: version, pid, address, health, memory")
    status.add_argument("-o", "--output", choices=("table", "json"), default="table")
    env = command("env", "print shell exports, or with -o json everything needed to reach the cluster")
    env.add_argument("-o", "--output", choices=("shell", "json"), default="shell")
    restart = command("restart", "stop one part and start it again on the same port")
    restart.add_argument("part", help="as `status` names it, such as kube-apiserver")
    restart.add_argument("--kill", action="store_true", help="with SIGKILL instead of SIGTERM")
    restart.add_argument("--down-for", type=float, default=0, metavar="SECONDS", help="wait before the start")
    namespace = command("namespace", "make a namespace ready for workflows: rights of steps, Secret s3-credentials")
    namespace.add_argument("namespace", metavar="NAME")
    namespace.add_argument("--delete", action="store_true", help="remove it with all that is in it (any tier)")
    command("image", "build the operator's image from the Dockerfile, put it on the node, print its name (node tier)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = parser().parse_args(arguments)
    # As Ctrl-C does: a build's compilers are ended with it, and what was started stays on the record.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run(given, Layout((given.state or state_folder()).expanduser().absolute(), given.name).checked())
    except Trouble as trouble:
        print(f"\nerror: {trouble}", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read the output has had enough, as `| head` does; nothing more is to be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except PermissionError as wrong:
        print(f"\nerror: may not touch {wrong.filename}: use the user that made it", file=sys.stderr)
    except OSError as wrong:
        if wrong.errno != errno.ENOSPC:
            raise
        print("\nerror: the disk is full: free some space and run this again", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted; `down` takes away what was started so far, `up` goes on", file=sys.stderr)
        return 130
    return 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run(given: argparse.Namespace, layout: Layout) -> int:
    """Carry out a parsed command line."""
    progress = Progress()
    match given.command:
        case "up":
            cluster = lifecycle.up(layout, given.tier, progress)
            progress.say(f"kubeconfig: {cluster.layout.kubeconfig()}")
        case "down":
            lifecycle.down(layout, progress)
        case "restart":
            lifecycle.restart(layout, given.part, kill=given.kill, down_for_s=given.down_for, progress=progress)
        case "status":
            return status(layout, as_json=given.output == "json")
        case "env":
            cluster, _ = lifecycle.opened(layout)
            print(report.settings_document(cluster) if given.output == "json" else report.exports(cluster))
        case "image":
            cluster, _ = lifecycle.opened(layout)
            print(image_of_operator.ensure(cluster, progress))
        case "namespace":
            cluster, _ = lifecycle.opened(layout)
            if given.delete:
                cluster.api.empty_namespace(given.namespace)
            else:
                argo.prepare_namespace(cluster, given.namespace)
    return 0


def status(layout: Layout, *, as_json: bool) -> int:
    """Print the state of the parts; 3 unless all are healthy."""
    if not layout.record.exists():
        print('{"healthy": false, "parts": []}' if as_json else f"no cluster {layout.name} in {layout.state}")
        return 3
    cluster, record = lifecycle.opened(layout)
    found = report.rows(cluster, record)
    print(report.status_document(cluster, record, found) if as_json else report.table(found))
    return 0 if all(row.healthy for row in found) else 3
