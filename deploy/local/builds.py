"""Makes the binaries, once: they stay in the state folder, keyed by version and by their build inputs."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import recipes
from .layout import RECIPE, Layout
from .locking import locked
from .progress import Progress, clock
from .recipes import Locked, Manifests, Patched, Recipe, Tool
from .trouble import Trouble

GO_AT_LEAST = (1, 26)
LOG_TAIL_LINES = 15
EXPECTED_ON_CORES = 2
# Go's caches and the binaries of a whole tier, from nothing.
SPACE_NEEDED_BYTES = 6 * 1024**3
POLL_S = 0.2


@dataclass(frozen=True)
class Built:
    """A finished binary or folder; `digest` is `ready-made` for one that the user brought."""

    path: Path
    version: str
    digest: str


Tools = Mapping[str, Built]


def expected_seconds(recipe: Recipe, cores: int | None = None) -> float:
    """Scales the measured time to this machine; compiling profits from up to 8 cores or so."""
    return recipe.expected_s * EXPECTED_ON_CORES / max(1, min(cores or os.cpu_count() or 1, 8))


def finished(layout: Layout, recipe: Recipe) -> Built | None:
    """The tool if it is there already: from KUBEBUILDER_ASSETS, else from the state folder."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and recipe.name in recipes.READY_MADE:
        brought = Path(assets).expanduser() / recipe.name
        if os.access(brought, os.X_OK):
            return Built(brought, _own_version(brought), "ready-made")
    key = recipes.digest(recipe)
    folder = layout.bin / f"{recipe.name}-{recipe.version}-{key}"
    path = folder / recipe.name if isinstance(recipe, Tool) else folder
    return Built(path, recipe.version, key) if path.exists() else None


def _own_version(binary: Path) -> str:
    """What a binary that we did not build says of itself, such as `1.33.0`."""
    arguments = ["version", "--client"] if binary.name == "kubectl" else ["--version"]
    told = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False).stdout
    words = (word.lstrip("v") for word in told.split())
    return next((w for w in words if w[:1].isdigit() and w.count(".") >= 1), "unknown")


def all_finished(layout: Layout, wanted: Sequence[Recipe]) -> Tools | None:
    """All tools, or None if one of them must be built first."""
    found = {recipe.name: finished(layout, recipe) for recipe in wanted}
    tools = {name: built for name, built in found.items() if built is not None}
    return tools if len(tools) == len(found) else None


def ensure(layout: Layout, wanted: Sequence[Recipe], progress: Progress) -> Tools:
    """Build what is missing. One process at a time builds in a state folder; the others wait, then find it done."""
    if (tools := all_finished(layout, wanted)) is not None:
        return tools
    with locked(layout.locks / "build.lock", progress):
        missing = [recipe for recipe in wanted if finished(layout, recipe) is None]
        if missing:
            _check_go()
            _check_space(layout)
            total = sum(expected_seconds(recipe) for recipe in missing)
            progress.say(
                f"building {len(missing)} parts into {layout.bin}: about {clock(total)} from empty caches, "
                "much less if Go has built them before; next time there is nothing to build"
            )
        for recipe in missing:
            _build(layout, recipe, progress)
        for copy in layout.build.glob("source-*"):
            shutil.rmtree(copy)
    tools = all_finished(layout, wanted)
    if tools is None:
        raise Trouble(f"a binary vanished from {layout.bin} while it was being made: run the command again")
    return tools


def _check_go() -> None:
    if shutil.which("go") is None:
        raise Trouble(
            f"Go is needed to build the cluster's parts and is not on the PATH: install Go {_dotted()} or newer, "
            "then run this again"
        )
    # Asked in a folder whose go.mod wants that version, so that a go command that can fetch it does.
    told = subprocess.run(
        ["go", "env", "GOVERSION"], cwd=RECIPE / "locks" / "kubernetes", capture_output=True, text=True, check=False
    )
    if told.returncode or parse_go_version(told.stdout) < GO_AT_LEAST:
        has = told.stdout.strip() or told.stderr.strip()
        raise Trouble(f"Go {_dotted()} or newer is needed to build the cluster's parts; this machine says: {has}")


def _dotted() -> str:
    return ".".join(map(str, GO_AT_LEAST))


def parse_go_version(text: str) -> tuple[int, ...]:
    """`go1.26.8` as (1, 26, 8); what is no number ends it (`go1.27rc1` is (1, 27))."""
    numbers: list[int] = []
    for part in text.strip().removeprefix("go").split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _check_space(layout: Layout) -> None:
    layout.build.mkdir(parents=True, exist_ok=True)
    for folder, what in ((layout.state, "the state folder"), (Path(_go_env("GOCACHE")), "Go's build cache")):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        if free < SPACE_NEEDED_BYTES:
            raise Trouble(
                f"{what}, {folder}, has {free / 1024**3:.1f} GiB left and building needs about "
                f"{SPACE_NEEDED_BYTES / 1024**3:.0f}: free some, or name another folder "
                "(--state, and GOCACHE for Go's)"
            )


def _go_env(name: str) -> str:
    return subprocess.run(["go", "env", name], capture_output=True, text=True, check=True).stdout.strip()


def _build(layout: Layout, recipe: Recipe, progress: Progress) -> None:
    key = recipes.digest(recipe)
    unfinished = layout.build / f"{recipe.name}-{key}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    log = layout.build / f"{recipe.name}.log"
    log.write_text("")
    progress.begin(recipe.label, expected_seconds(recipe))
    source = _source(layout, recipe, log, progress)
    match recipe:
        case Tool():
            command = ["go", "build", *recipes.BUILD_FLAGS, "-ldflags", recipe.ldflags]
            run_logged(
                [*command, "-o", str(unfinished / recipe.name), recipe.package],
                cwd=source,
                log=log,
                progress=progress,
                what=recipe.label,
            )
        case Manifests():
            for folder in recipe.folders:
                shutil.copytree(source / folder, unfinished / folder)
    layout.bin.mkdir(parents=True, exist_ok=True)
    unfinished.rename(layout.bin / f"{recipe.name}-{recipe.version}-{key}")
    progress.done()


def _source(layout: Layout, recipe: Recipe, log: Path, progress: Progress) -> Path:
    match recipe.source:
        case Locked(folder):
            return RECIPE / "locks" / folder
        case Patched() as patched:
            return _patched_copy(layout, patched, log, progress)


def _patched_copy(layout: Layout, patched: Patched, log: Path, progress: Progress) -> Path:
    """A writable copy of the module: Go refuses to overlay files in its own module cache."""
    copy = layout.build / f"source-{patched.version}-{recipes.digest_of(patched.checksum)}"
    if copy.exists():
        return copy
    what = f"{patched.module}@{patched.version}"
    answer = log.with_suffix(".json")
    run_logged(["go", "mod", "download", "-json", what], layout.build, log, progress, what, output=answer)
    told = json.loads(answer.read_text())
    if told["Sum"] != patched.checksum:
        raise Trouble(f"{what} has the checksum {told['Sum']}, expected {patched.checksum}: not building it")
    partial = copy.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    # Contents only: the cache's files are read-only and so would the copy be.
    shutil.copytree(told["Dir"], partial, copy_function=shutil.copyfile, ignore=_not_built)
    for folder, _, _ in os.walk(partial):
        Path(folder).chmod(0o755)
    for theirs, ours in patched.files:
        target = partial / theirs
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(RECIPE / ours, target)
    partial.rename(copy)
    return copy


def _not_built(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in {"docs", "examples", "sdks"} and (Path(folder) / "go.mod").exists()]


def run_logged(
    command: Sequence[str],
    cwd: Path,
    log: Path,
    progress: Progress,
    what: str,
    output: Path | None = None,
) -> None:
    """Run a long command with its words in `log`, showing progress; Trouble with the log's end if it fails."""
    environment = {**os.environ, **recipes.BUILD_ENVIRONMENT}
    with log.open("ab") as words, (output or log).open("wb" if output else "ab") as out:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=words,
            start_new_session=True,
        )
        try:
            while True:
                try:
                    child.wait(POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    progress.tick()
        except BaseException:
            # Ctrl-C or worse: its compilers are in its session, end them with it.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
    if child.returncode:
        lines = log.read_text(errors="replace").splitlines()
        tail = "\n".join(f"    {text}" for text in lines[-LOG_TAIL_LINES:])
        if any("no space left on device" in text for text in lines):
            raise Trouble(f"the disk is full: {what} could not be made. Free some space and run this again")
        raise Trouble(f"{what} could not be made; the end of {log}:\n{tail}")
