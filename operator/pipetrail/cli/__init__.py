"""The command ``pipetrail``, also installed as ``kubectl-pipetrail``: one module per verb, imported when it is called.

A verb's module holds a function of the verb's name (with _ for -). Nothing is imported for another verb's sake:
``preview`` starts without kopf, ``crds`` without aiohttp.
"""

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

VERBS: Final = (
    "run",
    "status",
    "explain",
    "preview",
    "verify",
    "resend",
    "backfill",
    "confirm-close",
    "record",
    "replay",
    "crds",
)
"""In the order in which ``--help`` lists them."""


class Verbs(TyperGroup):
    """Finds a verb's module by its name."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All verbs."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb, imported now."""
        if cmd_name not in VERBS:
            return None
        verb = typer.Typer(add_completion=False)
        name = cmd_name.replace("-", "_")
        function = getattr(import_module(f"pipetrail.cli.{name}"), name)
        verb.command(name=cmd_name, help=_help(function))(function)
        return typer.main.get_command(verb)


def _help(verb: Callable[..., Any]) -> str:
    """The verb's docstring with each paragraph on one line, for the terminal to wrap; examples stay."""
    paragraphs = (inspect.getdoc(verb) or "").split("\n\n")
    return "\n\n".join(p if "\n  " in p else " ".join(p.split()) for p in paragraphs)


app = typer.Typer(
    cls=Verbs,
    name="pipetrail",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pipetrail {metadata.version('pipetrail')}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 all is well; 1 it was looked at and something is wrong or differs; 2 the command line is "
    "wrong; 3 the cluster, the run or the tracker could not be had. Also as: kubectl pipetrail"
)
def _pipetrail(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The flight recorder for pipelines: what ran, with what, and what came out, in your experiment tracker."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the scripts."""
    app(args=list(args) if args is not None else None, prog_name="pipetrail")
