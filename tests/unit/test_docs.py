"""The pages say what the code does: numbers, names of tests, links. And nothing of the machine they were written on."""

import ast
import re
from pathlib import Path

import pytest
from tests.named import named

from pipetrail import api, capture, kube, recording, recording_writer, settings, shards
from pipetrail.api import Delivery
from pipetrail.controller import alone, app, bookmarks, lease, shares, stands
from pipetrail.delivery import (
    attendant,
    backfill,
    courier,
    housekeeping,
    keeping,
    lane,
    ledger,
    memo,
    orphans,
    outbox,
    resend,
    runs,
    status,
    survey,
    turns,
)
from pipetrail.formats import archives, points, stdout, tail, views
from pipetrail.readers import archive, live, logs, overflow, stores
from pipetrail.record import MAX_DIGITS
from pipetrail.shape import facts, figures, names, note, selection
from pipetrail.sources.argo import nodes, pods
from pipetrail.targets import matrix, sanitise
from pipetrail.targets.drawing import artist, sketch, worker
from pipetrail.targets.mlflow import files, limits, links, target, wire
from pipetrail.targets.tensorboard import batches as tb_batches
from pipetrail.targets.tensorboard import figures as tb_figures
from pipetrail.targets.tensorboard import journal as tb_journal
from pipetrail.targets.tensorboard import page as tb_page
from pipetrail.targets.tensorboard import paths as tb_paths
from pipetrail.targets.tensorboard import storage as tb_storage
from pipetrail.targets.tensorboard import target as tb_target

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES.append(ROOT / "deploy" / "local" / "README.md")
LIMITS = " ".join((ROOT / "docs" / "limits.md").read_text().split())
SENT = " ".join((ROOT / "docs" / "what-is-sent.md").read_text().split())


def n(number: float) -> str:
    """4 096, as the pages write it."""
    return f"{number:,.0f}".replace(",", " ")


def size(number: int) -> str:
    return f"{number >> 20} MiB" if number >= 1 << 20 else f"{number >> 10} KiB"


s, a, p, c, m = stores.DEFAULT, archives.DEFAULT, points.DEFAULT, capture.DEFAULT, limits
PHRASES = [
    f"{size(s.object_bytes)} an object",
    f"lane | {backfill.WAITING_MOST}; all others wait in a list",
    f"takes | {n(backfill.CHOSEN_MOST)}, the newest",
    f"status | every {n(backfill.SAY_EVERY_S)} s at most",
    f"away | tried again after {n(backfill.AGAIN_S)} s, from the beginning",
    f"a call to Argo Server | {n(archive.CALL_S)} s, {n(archive.CONNECT_S)} s to connect;",
    f"a page of {archive.PAGE} runs of {size(archive.PAGE_BYTES)}, a run of {size(archive.BODY_BYTES)}",
    f"in one look at the cluster | {orphans.RECALLED_MOST};",
    f"{n(s.prefix_objects)} objects below a key that is a directory, {size(s.prefix_bytes)} of them",
    f"{n(s.artifact_s)} s for one artifact",
    f"{n(a.members)} members of an archive, {size(a.member_bytes)} a member, {size(a.total_bytes)} unpacked",
    f"{n(a.ratio)} times its size unpacked, from {size(a.ratio_from_bytes)} on",
    f"JSON: {size(p.document_bytes)} and {n(p.document_values)} values a document",
    f"YAML: {size(p.yaml_bytes)};",
    f"JSON lines: {size(p.line_bytes)} a line",
    f"nesting: {n(p.depth)} levels",
    f"an integer: {n(MAX_DIGITS)} digits",
    f"{n(p.points)} points |",
    f"{n(p.keys)} keys of {n(p.key_chars)} characters",
    f"more than {n(selection.MAX_KEYS)} keys or {n(selection.MAX_POINTS)} points is not sent",
    f"up to {n(selection.MAX_SHAPED_NUMBERS)} numbers and {size(selection.MAX_SHAPED_BYTES)}",
    f"{size(views.MAX_BYTES)}, {n(views.MAX_VIEWS)} figures",
    f"{n(views.MAX_SOURCE_CHARS)} characters a figure; {n(views.MAX_CELLS)} cells, {n(views.MAX_LABELS)} labels",
    f"{size(s.log_bytes)} are read for metrics",
    f"{size(logs.LIMIT_BYTES)} are read for metrics",
    f"{size(stdout.LIMITS.line_bytes)} a line | `LongLines`",
    f"{n(stdout.LIMITS.points)} points, {n(stdout.LIMITS.keys)} keys",
    f"{n(tail.LINES)} lines of {n(tail.MAX_LINE_CHARS)} characters",
    f"{n(c.fetches)} files and logs, {n(c.at_once)} at a time, {size(c.bytes)}",
    f"{n(c.points)} points of files and logs",
    f"{n(c.seconds)} s to read them",
    f"compressed nodes: {size(nodes.MAX_NODES_BYTES)} unpacked",
    f"{n(pods.MAX_PODS)} pods",
    f"{size(pods.MAX_RESULT_CHARS)} of outputs of task results",
    f"{figures.FIGURES_MOST} figures, {size(figures.RUN_BYTES)} of them",
    f"{size(figures.FIGURE_BYTES)} a figure",
    f"{n(sketch.LABELS_MOST)} labels; up to {sketch.NUMBERED_MOST} each cell shows its number,",
    f"{sketch.TICKS_MOST} labels are written at an axis",
    f"{n(sketch.POINTS_MOST)} points, of which {n(sketch.POINTS_DRAWN)} are drawn",
    f"HTML: {size(artist.HTML_MOST)}, {n(sanitise.TAGS_MOST)} elements, {n(sanitise.ENTITIES_MOST)} ampersands",
    f"{n(artist.PATIENCE.draw_s)} s, {n(artist.PATIENCE.start_s)} s for the first of a process",
    f"{worker.MEMORY_BYTES >> 30} GiB of addresses",
    f"{artist.WAITING_MOST} that wait",
    f"nothing was for {n(artist.PATIENCE.idle_s)} s",
    f"{note.MAX_FAILURES} failed steps with {note.MAX_LINES} lines of {note.MAX_LINE} characters,",
    f"{note.MAX_PARTIAL} partial entries",
    f"{facts.MAX_DIGESTS} image digests",
    f"{n(tb_target.CALL_S)} s, by one of {tb_target.THREADS} threads of the target",
    f"{n(tb_storage.LOCK_S)} s, then it is tried again",
    f"{size(tb_journal.FILE_MOST)} are read back",
    f"its first {n(tb_storage.NAMES_MOST)} names",
    f"{tb_paths.PART_BYTES} bytes; an experiment is up to {tb_paths.EXPERIMENT_PARTS} folders",
    f"{tb_page.ROWS_MOST} params and {tb_page.ROWS_MOST} tags, {tb_page.VALUE_MOST} characters of each",
    f"{tb_figures.ROWS_MOST} rows, {tb_figures.COLUMNS_MOST} columns, {n(tb_figures.TEXT_MOST)} characters",
    f"params in HPARAMS | {size(tb_batches.SESSION_CHARS)}",
    f"{n(wire.CONNECT_S)} s to connect, {n(wire.TOTAL_S)} s in all",
    f"an answer | {size(wire.MOST_BYTES)}",
    f"{n(m.ITEMS_A_BATCH)} items, of these {m.PARAMS_A_BATCH} params and {m.TAGS_A_BATCH} tags,",
    f"{n(m.BYTES_A_BATCH)} bytes",
    f"up to {n(wire.MOST_AFTER_S)} s are heeded",
    f"up to {target.ISOLATING_MOST} times",
    f"{links.MOST_COMPARED} children",
    f"a process of at most {n(files.WORKER_S)} s",
    f"`delivery.concurrency`: {Delivery().concurrency},",
    f"`delivery.requestsPerSecond`: {Delivery().requests_per_second},",
    f"`delivery.maxElapsed`: {Delivery().max_elapsed},",
    f"between 0 and {n(lane.BACKOFF_FIRST_S)} s, doubling with each failure up to {n(lane.BACKOFF_MOST_S)} s",
    f"opens after {lane.FAILURES_TO_OPEN} failures in a row",
    f"at most {n(lane.PROBE_MOST_S)} s apart",
    f"tried again after {n(turns.POISON_PAUSE_S)} s",
    f"looked at every {n(attendant.LOOK_TROUBLED_S)} s, a ready one every {n(attendant.LOOK_HEALTHY_S)} s",
    f"again after {n(courier.LOOK_AGAIN_S)} s",
    f"status | every {n(status.STATUS_EVERY_S)} s",
    f"may end for {n(app.DRAIN_S)} s",
    f"shown in full | {ledger.MAX_SHOWN_CHANGES},",
    f"partial entries shown | {ledger.MAX_SHOWN_PARTIAL} |",
    f"a message | {ledger.MAX_TEXT} characters",
    f"{n(keeping.KEEP_AFTER_S)} s after its end, {n(keeping.KEEP_GONE_AFTER_S)} s where its object is gone",
    f"a Secret | {size(outbox.CHUNK_BYTES)} of one copy",
    f"a copy, unpacked | {size(outbox.MAX_UNPACKED_BYTES)}",
    f"`--outbox-max`: {settings.DEFAULT_OUTBOX_MAX}.",
    f"copies that are made at a time | {keeping.AT_ONCE} |",
    f"tried again after {n(keeping.AGAIN_S)} s |",
    f"at the start, then every {n(keeping.LOOK_EVERY_S)} s |",
    f"`--outbox` names | {n(overflow.CALL_S)} s",
    f"for {n(settings.DEFAULT_HISTORY_TTL_S)} s after the run's object is gone",
    f"heeded at once, {resend.AT_ONCE} at a time; of its value {api.MAX_RESEND} characters",
    f"has ended and waits, after {n(housekeeping.REST_AFTER_S)} s without news",
    f"kept while that is {n(runs.MAX_PACKED_BYTES)} bytes",
    f"every {n(survey.HELD_EVERY_S)} s while runs are held",
    f"has {n(survey.GONE_S)} s for its last body to come; more than {orphans.LEAST} and more than a fifth",
    f"every {n(lease.RENEW_S)} s, in {size(bookmarks.MAX_CHARS)}",
    f"holds that back for {n(bookmarks.HOLD_S)} s",
    f"for {n(housekeeping.KEEP_SETTLED_S)} s those that are",
    f"{n(capture.FileCache.MAX)} files",
    f"has not been seen yet | {n(runs.MAX_STRAYS)},",
    f"just made | {memo.MEMO_RECORDS} |",
    f"more than {size(stores._BIG)}, and archives",
    f"{n(live._MAX_SECRETS)}, for {n(live.SECRET_TTL_S)} s each",
    f"then every {n(app.SURVEY_EVERY_S)} s",
    f"has died | every {n(app.STUCK_EVERY_S)} s",
    f"came or went | every {n(app.KINDS_EVERY_S)} s",
    f"API server | {n(kube.TIMEOUT_S)} s; lists in pages of {kube.PAGE}",
    f"| shards | {settings.MOST_SHARDS};",
    f"looked at every {n(shares.RECUT_EVERY_S)} s; changed if the heaviest shard has more than {shards.HEAVY} times",
    f"would have at most {shards.WORTH} of it",
    f"noticed within {n(lease.RENEW_S)} s; each ends what is under way within {n(app.DRAIN_S)} s",
    f"after {n(lease.DURATION_S)} s the others take it for run out; it sends nothing from {n(lease.GIVE_UP_S)} s on",
    f"can't see the other Leases | waits {n(alone.BLIND_S)} s",
    f"watches stood | used for {n(stands.STALE_S)} s",
    f"{size(recording_writer.MAX_EVENTS_BYTES)} of events, {size(recording_writer.MAX_STORE_BYTES)} of objects,",
    f"{size(recording_writer.MAX_LOG_BYTES)} a log",
    f"{size(recording.MAX_OBJECT_BYTES)} an object, {n(recording.MAX_FILES)} files a directory",
]


@pytest.mark.parametrize("phrase", PHRASES)
def test_the_page_on_limits_has_the_numbers_of_the_code(phrase):
    assert phrase in LIMITS


def test_the_reasons_on_the_page_on_limits_are_given_by_code():
    code = "".join(p.read_text() for p in (ROOT / "operator").rglob("*.py"))
    reasons = re.findall(r"`([A-Z][a-zA-Z0-9]+)`", LIMITS)
    assert len(reasons) > 20
    assert [r for r in reasons if f'"{r}"' not in code and r != "Retry"] == []


def test_the_page_on_targets_is_made_from_the_targets_own_words():
    assert (ROOT / "docs" / "targets.md").read_text() == matrix.to_markdown(), (
        "run `uv run pipetrail crds --targets > docs/targets.md`"
    )


def test_what_is_sent_has_the_globs_and_limits_of_the_code():
    globs = [*selection._NEVER, *selection._NOT_MEASURED]
    assert [g for g in globs if f"`{g}`" not in SENT] == []
    assert [word for word in selection._NAMED if word not in SENT] == []
    assert f"more than {n(selection.MAX_KEYS)} keys or {n(selection.MAX_POINTS)} points none is sent" in SENT
    assert f"at most {selection.MAX_SHAPED_NUMBERS} numbers and {size(selection.MAX_SHAPED_BYTES)}" in SENT
    assert f"longer than {names.MAX_ITEM} characters" in SENT
    assert [k for k in points.STEP_KEYS if f"`{k}`" not in SENT] == []


def test_what_is_sent_names_every_annotation_and_layout():
    annotations = [api.EXPERIMENT_ANNOTATION, api.RUN_NAME_ANNOTATION, api.TAGS_ANNOTATION]
    layouts = ["`Auto`", "`Flat`", "`Nested`", "`Siblings`"]
    assert [word for word in (*annotations, *layouts) if word not in SENT] == []


def test_every_test_that_the_guarantees_name_exists():
    missing = []
    for name in sorted(named()):
        file, _, test = name.partition("::")
        path = ROOT / file
        found = set()
        if path.is_file():
            tree = ast.walk(ast.parse(path.read_text()))
            found = {node.name for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        if test not in found:
            missing.append(name)
    assert len(named()) > 20
    assert missing == []


def test_links_between_pages_lead_somewhere():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())]
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


FOREIGN = {
    "a path of one machine": r"/work/|/root/|/home/\w",
    "a folder beside the repository": r"\.\./shared|specs/|captures/",
    "a number of an issue": r"\bissues? #?\d|(?<![\w&])#\d+\b",
    "a package registry or mirror": r"pypi\.org|proxy\.golang|artifactory|jfrog|nexus|index-url",
    "a page of the design": r"design §|mapping\.md|targets\.md §|kubernetes\.md|market\.md",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_no_page_names_what_a_reader_does_not_have(what):
    found = []
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if re.search(FOREIGN[what], line):
                found.append(f"{page.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []
