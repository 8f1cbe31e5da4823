"""What the command line says of itself, and how it fails where nothing but a file is needed."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pipetrail import api
from pipetrail.cli import VERBS, app

BROKEN = {
    b"": "no cluster to talk to",
    b"a: [": "the kubeconfig can't be read: line 1: ",
    b"\xff\xfe\x00": "the kubeconfig can't be read",
    b"[1, 2]": "no cluster to talk to",
    b"clusters: 7\ncurrent-context: x\ncontexts: [7]\n": "no cluster to talk to",
}


def pipetrail(*args, env=None):
    done = CliRunner().invoke(app, [str(a) for a in args], prog_name="pipetrail", env=env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_the_first_page_lists_every_verb_and_the_exit_codes():
    page = pipetrail("--help").stdout
    assert [verb for verb in VERBS if f"│ {verb} " not in page] == []
    assert "Exit codes: 0 all is well;" in page


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_by_examples_and_names_its_exit_codes(verb):
    page = pipetrail(verb, "--help").stdout
    assert f"   pipetrail {verb}" in page
    assert "Exit codes: 0 " in page


def test_the_version_is_said():
    assert pipetrail("--version").stdout == "pipetrail 0.1.0\n"


def test_a_verb_that_is_none_is_refused():
    done = pipetrail("records")
    assert (done.exit_code, "No such command 'records'" in done.output) == (2, True)


def test_help_needs_neither_kopf_nor_a_tracker():
    code = "import sys; from pipetrail.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    # Which modules --help loads is known only in a process that has loaded nothing else.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.splitlines()[-1].split()
    assert "pipetrail.cli.preview" in loaded
    assert "mlflow" not in loaded


def on_kubeconfig(path, *args):
    """In its own process: the official client reads KUBECONFIG when it is imported."""
    env = {key: value for key, value in os.environ.items() if key != "KUBERNETES_SERVICE_HOST"}
    return subprocess.run(
        [sys.executable, "-m", "pipetrail.cli", *args], capture_output=True, text=True, check=False, timeout=60,
        env=env | {"KUBECONFIG": str(path)},
    )  # fmt: skip


def one_sentence(done, said):
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("pipetrail: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("text", "said"), BROKEN.items())
def test_a_kubeconfig_that_is_none_is_said_in_one_sentence(tmp_path, text, said):
    path = tmp_path / "config"
    path.write_bytes(text)
    one_sentence(on_kubeconfig(path, "status"), said)


@pytest.mark.parametrize("verb", ["explain", "verify", "preview"])
def test_without_a_kubeconfig_one_sentence_says_what_to_set(tmp_path, verb):
    done = on_kubeconfig(tmp_path / "none", verb, "x")
    one_sentence(done, "no cluster to talk to")
    assert "set KUBECONFIG or pass --context" in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run", "--log-level", "loud"], "'loud' is not one of"),
        (["run", "--log-format", "xml"], "'xml' is not one of"),
        (["run", "--config", "/nowhere"], "does not exist"),
        (["run", "--outbox-max", "much"], "write it like 256Mi"),
        (["run", "--outbox", "ftp://host/x"], "write it like s3://bucket/prefix"),
        (["replay", "/nowhere"], "does not exist"),
        (["replay", ".", "--speed", "0"], "write a number above 0"),
        (["record", "x", "-o", "."], "is not empty"),
        (["crds", "--write", "/dev/null/x"], "Not a directory"),
        (["resend"], "name one run, or give --selector or --all"),
        (["resend", "x", "--all"], "name one run, or give --selector or --all"),
        (["resend", "--all", "--phase", "Lost"], "'Lost' is not one of Pending, Tracking, Synced, Failed"),
        (["resend", "x", "--phase", "Failed"], "a run that is named is sent"),
        (["resend", "--all", "-A", "-n", "team-a"], "without -n"),
        (["confirm-close", "mlflow", "--all"], "name targets, or give --all"),
        (["confirm-close", "mlflow", "-A"], "without -n and without names"),
    ],
)
def test_a_wrong_command_line_is_refused(args, said):
    done = pipetrail(*args)
    words = " ".join(line.strip("│ ") for line in done.output.splitlines() if line.startswith("│"))
    assert (done.exit_code, said in words) == (2, True), done.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "while parsing"),
        ("spec: {}", "unknown field `spec`"),
        ("historyTtlS: soon", "Expected `float`"),
        ("outboxMax: much", "write it like 256Mi"),
        ("7", "Expected `object`"),
    ],
)
def test_a_wrong_settings_file_is_refused_with_the_field(tmp_path, text, said):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    done = pipetrail("run", "--config", path)
    words = " ".join(line.strip("│ ") for line in done.output.splitlines() if line.startswith("│"))
    assert (done.exit_code, said in words) == (2, True), done.output


def test_the_crds_are_printed_and_written(tmp_path):
    assert pipetrail("crds").stdout == "---\n".join(api.to_yaml(crd) for crd in api.crds().values())
    assert pipetrail("crds", "--write", tmp_path / "new" / "crds").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "new" / "crds").iterdir()) == sorted(api.crds())
