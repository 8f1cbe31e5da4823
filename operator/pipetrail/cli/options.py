"""What all verbs share and what costs nothing to import: options, and errors as one sentence.

Exit codes of all verbs: 0 all is well; 1 it was looked at and something is wrong or differs; 2 the command line is
wrong; 3 the cluster, the run or the tracker could not be had.
"""

from typing import Annotated, Literal, NoReturn

import typer
import yaml

Form = Literal["table", "json", "yaml"]
Context = Annotated[
    str | None, typer.Option("--context", help="kubeconfig context; default: the current one.", show_default=False)
]
Namespace = Annotated[
    str | None,
    typer.Option("-n", "--namespace", help="Namespace; default: the context's, or default.", show_default=False),
]
Mlmd = Annotated[
    str,
    typer.Option(
        "--mlmd", envvar="PIPETRAIL_MLMD", metavar="HOST:PORT", show_default=False,
        help="Kubeflow Pipelines' metadata store, as this machine reaches it, for runs of KFP v2.",
    ),
]  # fmt: skip
Output = Annotated[Form, typer.Option("-o", "--output", help="Form of the output.")]


def fail(message: str, code: int = 3) -> NoReturn:
    """One sentence on standard error, and out."""
    typer.echo(f"pipetrail: {message}", err=True)
    raise typer.Exit(code)


def one_line(error: BaseException) -> str:
    """What `error` says, without the line breaks, arrows and contexts that parsers put in."""
    match error:
        case yaml.MarkedYAMLError(problem=str() as problem, problem_mark=yaml.Mark(line=line)):
            return f"line {line + 1}: {problem}"
        case OSError(strerror=str() as said):
            return said
        case UnicodeDecodeError():
            return "it is not UTF-8 text"
        case _:
            return " ".join(str(error).split()) or type(error).__name__
