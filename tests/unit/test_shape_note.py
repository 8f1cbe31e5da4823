import json

from tests.unit.shape_cases import items, policy, record, step, tree, tried

from pipetrail.record import Artifact, Link, Partial
from pipetrail.shape.note import code, fence


def test_a_note_leads_to_the_run():
    assert tree(record()).parent.note == (
        "[Argo workflow `churn-7w6gn`](https://argo.example/workflows/team-a/churn-7w6gn?uid=1234) in namespace "
        "`team-a`: **succeeded**\n\n```\nkubectl get workflow -n team-a churn-7w6gn\n```"
    )


def test_a_failed_step_is_told_with_its_reason_its_last_lines_and_its_logs():
    failed = step(
        "fit", status="failed", reason="OOMKilled", exit_code=137, log_tail="epoch 3\nKilled",
        iteration=items((0, 4)), params={"depth": "4"},
        attempts=(tried("fit-1", start=0, end=9), tried("fit-2", start=10, end=60)),
    )  # fmt: skip
    assert (
        "Step `fit depth=4` **failed** after 2 attempts: `OOMKilled`, exit code 137 "
        "([logs](https://logs.example/team-a/fit-2))\n\n```\nepoch 3\nKilled\n```"
    ) in tree(record(failed, status="failed")).parent.note


def test_a_policy_can_keep_log_lines_back():
    failed = step("fit", status="failed", log_tail="private")
    assert "private" not in tree(record(failed, status="failed"), policy(logs="Never")).parent.note


def test_what_is_around_a_failed_step_is_not_told_again():
    made = record(step("a", kind="composite", status="failed"), step("a/b", status="failed"), status="failed")
    note = tree(made).parent.note
    assert ("`a/b`" in note, "`a`" in note) == (True, False)


def test_three_failures_are_told_and_the_rest_is_counted():
    made = record(*(step(f"s{n}", status="failed") for n in range(5)), status="failed")
    assert "and 2 more failed steps" in tree(made).parent.note


def test_a_run_that_failed_without_a_step_says_why():
    made = tree(record(status="error", message="invalid spec: templates.main"))
    assert "```\ninvalid spec: templates.main\n```" in made.parent.note


def test_what_could_not_be_known_is_said_at_the_end():
    made = record(partial=(Partial(reason="StoreForbidden", message="grant get on secret s3"),))
    assert "- `StoreForbidden` `grant get on secret s3`" in tree(made).parent.note


def test_the_commit_is_told():
    made = tree(record(annotations={"ci.example.com/git-commit": "0a1b2c3d"})).parent
    assert (made.commit, "Commit `0a1b2c3d`" in made.note) == ("0a1b2c3d", True)


def test_a_run_in_another_tracker_is_linked_by_a_tag_alone():
    url = "http://mlflow:5000/#/experiments/1/runs/0123456789abcdef0123456789abcdef"
    made = record(step("a", status="failed", log_tail=f"View run at: {url}\n"), links=(Link(rel="wandb", href="h"),))
    tags = tree(made).parent.tags
    assert (tags["pipetrail.link.mlflow-run"], tags["pipetrail.link.wandb"]) == (url, "h")


def test_no_text_ends_its_code_span():
    assert code("a`b](http://x)\n# <script>\x1b[31mred\x1b[0m") == "`a'b](http://x) # <script>red`"


def test_no_text_ends_its_fence():
    assert fence("````\n[x](javascript:1)\n```") == "`````\n````\n[x](javascript:1)\n```\n`````"


def test_a_fence_keeps_the_last_lines():
    assert fence("\n".join(str(n) for n in range(100)) + "\n\n").splitlines()[1:-1] == [str(n) for n in range(80, 100)]


def test_artifacts_are_listed_when_the_run_has_ended():
    made = step("fit", artifacts=(Artifact(name="mo|del", uri="s3://b/m", size=9, digest="ab"),))
    as_json, as_markdown = tree(record(made)).parent.files
    assert [(f["step"], f["name"], f["uri"], f["size"]) for f in json.loads(as_json.data)] == [
        ("fit", "mo|del", "s3://b/m", 9)
    ]
    assert as_markdown.data.decode().splitlines()[2] == "| `fit` | `mo\\|del` |  | `s3://b/m` | `9` | `ab` |"
    assert tree(record(made, status="running")).parent.files == ()


def test_a_git_artifact_tells_the_commit_and_where_it_comes_from():
    made = tree(record(links=(Link(rel="git", href="https://git.example/ml.git@0a1b2c3d"),))).parent
    assert (made.commit, made.tags["pipetrail.link.git"]) == ("0a1b2c3d", "https://git.example/ml.git@0a1b2c3d")
    assert "Commit `0a1b2c3d` · Source `https://git.example/ml.git@0a1b2c3d`" in made.note


def test_a_branch_is_no_commit():
    assert tree(record(links=(Link(rel="git", href="https://git.example/ml.git@main"),))).parent.commit is None


def test_a_message_that_repeats_the_exit_code_is_not_shown():
    failed = step("fit", status="failed", reason="ExitCode", exit_code=1, message="main: Error (exit code 1)")
    assert "Error (exit" not in tree(record(failed, status="failed", reason="StepFailed")).parent.note
