"""``pipetrail crds``: the CustomResourceDefinitions, for kubectl or for the files in crds/."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipetrail import api
from pipetrail.api import conditions as reasons


def crds(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write one file each into this folder.", file_okay=False)
    ] = None,
    *,
    conditions: Annotated[bool, typer.Option("--conditions", help="Print the page on conditions instead.")] = False,
) -> None:
    """Print the CRDs: pipetrail crds | kubectl apply --server-side -f -"""
    made = api.crds()
    if conditions:
        sys.stdout.write(reasons.to_markdown())
    elif output is None:
        sys.stdout.write("---\n".join(api.to_yaml(crd) for crd in made.values()))
    else:
        output.mkdir(parents=True, exist_ok=True)
        for name, crd in made.items():
            (output / name).write_text(api.to_yaml(crd))
