"""The command ``pipetrail``, also installed as ``kubectl-pipetrail``: one module per verb, imported when it is called.

A verb's module holds a function of the verb's name. Nothing is imported for another verb's sake: ``preview`` starts
without kopf, ``crds`` without aiohttp.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

VERBS: Final = ("run", "status", "explain", "preview", "verify", "record", "replay", "crds")
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
        verb.command(name=cmd_name)(getattr(import_module(f"pipetrail.cli.{cmd_name}"), cmd_name))
        return typer.main.get_command(verb)


app = typer.Typer(
    cls=Verbs,
    name="pipetrail",
    help="The flight recorder for pipelines: what ran, with what, and what came out, in your experiment tracker.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _pipetrail() -> None:
    """The flight recorder for pipelines: what ran, with what, and what came out, in your experiment tracker."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the scripts."""
    app(args=list(args) if args is not None else None, prog_name="pipetrail")
