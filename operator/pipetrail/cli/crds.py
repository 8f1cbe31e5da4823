"""``pipetrail crds``: the CustomResourceDefinitions, for kubectl or for the files in crds/."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipetrail import api
from pipetrail.api import conditions as reasons


def crds(
    folder: Annotated[
        Path | None, typer.Option("-o", "--write", metavar="DIR", help="Write one file each into this folder.")
    ] = None,
    *,
    conditions: Annotated[bool, typer.Option("--conditions", help="Print docs/conditions.md instead.")] = False,
    targets: Annotated[bool, typer.Option("--targets", help="Print docs/targets.md instead.")] = False,
) -> None:
    """Print the CustomResourceDefinitions, or the pages of the documentation that are made from code.

    Exit codes: 0 printed or written; 2 the command line is wrong or the folder can't be written.

    Examples:
      pipetrail crds | kubectl apply --server-side -f -
      pipetrail crds --write crds
    """
    made = api.crds()
    if conditions:
        sys.stdout.write(reasons.to_markdown())
    elif targets:
        from pipetrail.targets import matrix

        sys.stdout.write(matrix.to_markdown())
    elif folder is None:
        sys.stdout.write("---\n".join(api.to_yaml(crd) for crd in made.values()))
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, crd in made.items():
                (folder / name).write_text(api.to_yaml(crd))
        except OSError as error:
            raise typer.BadParameter(f"{folder}: {error.strerror}", param_hint="--write") from None
