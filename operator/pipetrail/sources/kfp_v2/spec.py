"""What KFP's compiler and drivers wrote into a Workflow: components, tasks, and what a launcher was told to do.

These texts hold whole components, Python source included (README 9). Only what is named here is taken from them: the
types and defaults of parameters, the names of outputs, loops, display names, images and addresses.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipetrail.record import Frozen
from pipetrail.sources.argo.body import EMPTY, Json, obj, objs, seq, whole, word
from pipetrail.sources.kfp_v2.values import parsed, typed

EXECUTOR_LOGS: Final = "executor-logs"
"""An output that KFP adds to every task: not the user's (README 10)."""


class Component(Frozen, frozen=True):
    """The interface of a component or a DAG: types and defaults of its parameters, where a DAG's outputs are."""

    inputs: Mapping[str, str] = {}
    defaults: Mapping[str, Any] = {}
    outputs: Mapping[str, str] = {}
    output_artifacts: Mapping[str, str] = {}
    sources: Mapping[str, Any] = {}

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs with their types, and the defaults of those that are not there: the launcher adds them (trap 72)."""
        all_of = {**self.defaults, **values}
        order = [*(n for n in self.inputs if n in all_of), *sorted(n for n in all_of if n not in self.inputs)]
        return {name: typed(all_of[name], self.inputs.get(name, "")) for name in order}


def component(text: Any) -> Component:
    """The interface in a component's JSON; empty where it is none."""
    spec = obj(parsed(text))
    inputs, outputs = obj(spec, "inputDefinitions", "parameters"), obj(spec, "outputDefinitions", "parameters")
    artifacts = obj(spec, "outputDefinitions", "artifacts")
    defaults = ((n, p["defaultValue"]) for n, p in inputs.items() if isinstance(p, Mapping) and "defaultValue" in p)
    return Component(
        inputs={word(n): _kind(p) for n, p in inputs.items()},
        defaults={word(n): value for n, value in defaults if value is not None},
        outputs={word(n): _kind(p) for n, p in outputs.items()},
        output_artifacts={word(n): word(obj(a, "artifactType").get("schemaTitle")) for n, a in artifacts.items()},
        sources=obj(spec, "dag", "outputs", "parameters"),
    )


def _kind(parameter: Any) -> str:
    return word(obj(parameter).get("parameterType")) or word(obj(parameter).get("type"))


class Task(Frozen, frozen=True):
    """A task in a DAG: its display name, its component's name, its constant inputs, and what a loop iterates over."""

    display_name: str = ""
    component: str = ""
    constants: Mapping[str, Any] = {}
    wired: Mapping[str, str] = {}  #: inputs that are an input of the DAG around, by that one's name
    item_input: str = ""
    items: tuple[Any, ...] | None = None


def task(text: Any) -> Task:
    """The task in a driver's JSON; empty where it is none."""
    spec = obj(parsed(text))
    parameters = obj(spec, "inputs", "parameters")
    iterator = obj(spec, "parameterIterator") or obj(spec, "artifactIterator")
    raw = parsed(obj(iterator, "items").get("raw"))
    return Task(
        display_name=word(obj(spec, "taskInfo").get("name")),
        component=word(obj(spec, "componentRef").get("name")).removeprefix("comp-"),
        constants={n: c for n, p in parameters.items() if (c := _constant(p)) is not None},
        wired={n: w for n, p in parameters.items() if (w := _wired(p))},
        item_input=word(iterator.get("itemInput")),
        items=tuple(raw) if isinstance(raw, list) else None,
    )


def _constant(parameter: Any) -> Any:
    given = obj(parameter, "runtimeValue")
    constant = given.get("constant", given.get("constantValue"))
    if isinstance(constant, Mapping):  # the older form: {"stringValue": "x"}
        constant = next(iter(constant.values()), None) if len(constant) == 1 else constant
    return None if isinstance(constant, str) and "{{" in constant else constant


def _wired(parameter: Any) -> str:
    spec = obj(parameter)
    return "" if spec.get("parameterExpressionSelector") else word(spec.get("componentInputParameter"))


class Launch(Frozen, frozen=True):
    """What a task's launcher was told: whose execution it is, inputs as KFP resolved them, and where outputs go."""

    execution_id: int | None = None
    image: str = ""
    inputs: Mapping[str, Any] | None = None
    outputs: tuple[tuple[str, str, str], ...] = ()  #: (name, type, URI) of each output artifact
    component: Component = Component()


def launch(patch: Any) -> Launch | None:
    """The launch in a driver's pod-spec-patch; null where there is none (a cached task, a driver that still runs)."""
    containers = [*objs(obj(parsed(patch)).get("containers"))]
    main = next((c for c in containers if c.get("name") == "main"), EMPTY) or next(iter(containers), EMPTY)
    if not main:
        return None
    told = _flags((*seq(main.get("command")), *seq(main.get("args"))))
    executor_input = obj(parsed(told.get("--executor_input")))
    inputs = obj(executor_input, "inputs").get("parameterValues", EMPTY)
    return Launch(
        execution_id=whole(told.get("--execution_id")),
        image=word(main.get("image")),
        inputs=obj(inputs) if executor_input else None,
        outputs=tuple(_outputs(obj(executor_input, "outputs", "artifacts"))),
        component=component(told.get("--component_spec")),
    )


def _outputs(artifacts: Json) -> Iterator[tuple[str, str, str]]:
    for name, listed in artifacts.items():
        for artifact in objs(obj(listed).get("artifacts")):
            if name != EXECUTOR_LOGS:
                yield word(name), word(obj(artifact, "type").get("schemaTitle")), word(artifact.get("uri"))


def _flags(words: tuple[Any, ...]) -> dict[str, str]:
    """``--name value`` of a command line, up to ``--``."""
    found: dict[str, str] = {}
    for at, name in enumerate(words[:-1]):
        if name == "--":
            break
        if isinstance(name, str) and name.startswith("--"):
            found.setdefault(name, word(words[at + 1]))
    return found


def importer(text: Any) -> tuple[str, str, Mapping[str, Any]]:
    """What an importer imports: URI, type and metadata; empty where they are not constants."""
    spec = obj(parsed(text))
    uri = obj(spec, "artifactUri")
    address = word(uri.get("constant")) or word(obj(uri, "constantValue").get("stringValue"))
    constant = {k: v for k, v in obj(spec, "metadata").items() if not (isinstance(v, str) and "{{" in v)}
    return ("" if "{{" in address else address), word(obj(spec, "typeSchema").get("schemaTitle")), constant


def run_config(driver: Mapping[str, Any]) -> dict[str, Any]:
    """The run's params: what its root driver was given, with the defaults of the pipeline."""
    config = obj(parsed(driver.get("runtime-config")))
    return component(driver.get("component")).given(_given(config))


def _given(config: Json) -> dict[str, Any]:
    values = {word(k): v for k, v in obj(config, "parameterValues").items()}
    # The form of KFP 2.0's alphas: {"parameters": {"lr": {"doubleValue": 0.1}}}.
    legacy = ((word(n), next(iter(p.values()))) for n, p in obj(config, "parameters").items() if _one(p))
    return {**dict(legacy), **values}


def _one(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) == 1
