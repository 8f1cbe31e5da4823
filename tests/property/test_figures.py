"""Whatever a step logged as a figure is drawn or said why not, keeps its path, and stays harmless once made so."""

import re

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.shape_cases import at, in_file, items, policy, record, step, tree

from pipetrail.record import ConfusionMatrix, Html, Markdown, Outcome, RocCurve, Table, packed
from pipetrail.targets import sanitise
from pipetrail.targets.drawing.sketch import CannotDraw, Curve, Heatmap, sketch

NUMBERS = st.one_of(st.integers(), st.floats(), st.just(10**400))
TEXTS = st.text(st.characters(), max_size=30)
NAMES = st.none() | st.sampled_from(["cls", "roc", "a/b", "..", ""]) | TEXTS


def tuples(values, most=5):
    return st.lists(values, max_size=most).map(tuple)


MATRICES = st.builds(ConfusionMatrix, labels=tuples(TEXTS), rows=tuples(tuples(NUMBERS)), name=NAMES)
CURVES = st.builds(
    RocCurve, fpr=tuples(NUMBERS | st.floats(0, 1)), tpr=tuples(st.floats(0, 1)), threshold=tuples(NUMBERS), name=NAMES
)
FIGURES = st.one_of(
    MATRICES,
    CURVES,
    st.builds(Table, header=tuples(TEXTS), rows=tuples(tuples(TEXTS)), name=NAMES),
    st.builds(Markdown, text=TEXTS, name=NAMES),
    st.builds(Html, text=TEXTS, name=NAMES),
)


def sketched(figure):
    try:
        return sketch(figure)
    except CannotDraw as error:
        return error.reason


@given(FIGURES)
@example(ConfusionMatrix(labels=("a",), rows=((7e305,),)))
def test_a_figure_has_a_sketch_that_can_be_sent_or_a_reason(figure):
    made = sketched(figure)
    if isinstance(made, str):
        assert made in ("NotAPicture", "EmptyFigure", "MalformedFigure", "FigureTooLarge")
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=type(made)) == made
    match made:
        case Heatmap():
            assert len(made.shades) == made.size**2
            assert len(made.texts) in (0, made.size**2)
            assert len(made.ticks) == len(made.labels)
        case Curve():
            assert all(0 <= v <= 1 for v in (*made.x, *made.y))


@given(FIGURES)
def test_a_figure_has_one_packing(figure):
    assert packed(figure) == packed(msgspec.structs.replace(figure))


@st.composite
def runs(draw):
    """A run that has ended, its steps at different times, with and without figures and metrics."""
    steps = []
    for n, path in enumerate(draw(st.lists(st.sampled_from(["", "a", "a/b", "a?b", "a*b", "train"]), unique=True))):
        for index in range(draw(st.integers(1, 3)) if path == "train" else 1):
            points = [in_file("acc", 0.5, seconds=n + 1)] if draw(st.booleans()) else []
            turn = items((index, draw(st.sampled_from([1, "x/y"])))) if path == "train" else None
            found = draw(tuples(FIGURES, most=4))
            steps.append(step(path, *points, iteration=turn, figures=found, seconds=draw(st.integers(1, 9))))
    return steps


def figures(made):
    return {(run.key, p.path): (packed(p.figure), p.time_ms) for run in made.runs for p in run.figures}


@given(runs(), st.integers(0, 9), st.sampled_from(["Auto", "Flat", "Nested", "Siblings"]))
@settings(deadline=None)
def test_figures_of_a_live_run_are_all_in_its_later_trees(steps, now, layout):
    running = {"outcome": Outcome(status="running"), "finished": None, "points": (), "figures": ()}
    then = [s if s.finished <= at(now) else msgspec.structs.replace(s, **running) for s in steps]
    live = figures(tree(record(*then, status="running"), policy(layout)))
    ended = figures(tree(record(*steps), policy(layout)))
    assert live.items() <= ended.items()


@given(runs(), st.sampled_from(["Auto", "Flat", "Nested", "Siblings"]))
@settings(deadline=None)
def test_every_figure_arrives_once_under_a_path_of_its_own(steps, layout):
    made = tree(record(*steps), policy(layout))
    sent = sorted(packed(p.figure) for run in made.runs for p in run.figures)
    assert sent == sorted(packed(f) for s in steps for f in s.figures)
    every = [(run.key, p.path) for run in made.runs for p in run.figures]
    assert len(every) == len(set(every))
    assert [path for _, path in every if re.search(r"(^|/)\.*(/|$)|[^\w.\- /]", path)] == []


PIECES = st.lists(
    st.sampled_from(
        ["<", ">", "</", "/>", "<!--", "-->", "<p>", "<b ", "<svg>", "<style>", "<img src=", "<a href='", "'", '"', "=",
         "javascript:", "onerror=", "x", " ", "\n", "&", "&lt;", "`", "```", "[", "](", "]:", "![", ")",
         "data:image/png;base64,", "http://a", "HTTP://a", "#a", "mailto:", "\\", "\x00", "<math><mtext>", "<table>",
         "<noscript>", "</p>", "]]>", "<?"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@given(PIECES)
@settings(deadline=None)
def test_html_that_is_harmless_stays_as_it_is(text):
    once = sanitise.html(text).text
    assert sanitise.html(once) == sanitise.Sanitised(text=once)
    tags = re.findall(r"<[^<>]*>?", once)
    assert [t for t in tags if re.search(r"(?i)<(svg|style|math|noscript|script)|onerror=|\"javascript:", t)] == []


@given(PIECES)
@example("![![x](http://a)")
@example("<<b>")
@example("`<`b>")
@example("](<http://a")
def test_markdown_that_is_harmless_stays_as_it_is(text):
    once = sanitise.markdown(text).text
    assert sanitise.markdown(once) == sanitise.Sanitised(text=once)
