import pytest

from pipetrail.sources.argo.names import place


@pytest.mark.parametrize(
    ("name", "path", "turns", "attempts", "role"),
    [
        ("w", "", [], (-1,), "step"),
        ("w(2)", "", [], (2,), "step"),
        ("w.train", "train", [], (-1, -1), "step"),
        ("w[0].train", "train", [], (-1, -1), "step"),
        ("w.fit(1:b)(2)", "fit", [(1, "b")], (-1, 2), "step"),
        ("w[2].outer(0:x)[0].inner(1:2)", "outer/inner", [(0, "x"), (1, "2")], (-1, -1, -1), "step"),
        ("w(0).a(1)[0].b(3:lr:0.1,model:r.f[1])(4)", "a/b", [(3, "lr:0.1,model:r.f[1]")], (0, 1, 4), "step"),
        ("w[1].again[1].again[0].inc", "again/again/inc", [], (-1, -1, -1, -1), "step"),
        ("w[2].show(0:datalist/a.txt)", "show", [(0, "datalist/a.txt")], (-1, -1), "step"),
        ("w.fit(0:)", "fit", [(0, "")], (-1, -1), "step"),
        ("w.fit(0:two\nlines)", "fit", [(0, "two\nlines")], (-1, -1), "step"),
        ("w.onExit", "onExit", [], (-1, -1), "exit-handler"),
        ("w.onExit(1)", "onExit", [], (-1, 1), "exit-handler"),
        ("w.onExit[0].notify", "onExit/notify", [], (-1, -1, -1), "exit-handler"),
        ("w.train.onExit", "train.onExit", [], (-1, -1), "exit-handler"),
        ("w[0].train(1:b).onExit", "train.onExit", [(1, "b")], (-1, -1), "exit-handler"),
        ("w.hooks.running", "hooks.running", [], (-1, -1), "hook"),
        ("w.train.hooks.running", "train.hooks.running", [], (-1, -1), "hook"),
        ("w.train.hooks.running(0)", "train.hooks.running", [], (-1, 0), "hook"),
        ("w[0].set.prep", "set/prep", [], (-1, -1, -1), "step"),
    ],
)
def test_a_nodes_name_tells_its_path_its_turns_its_attempts_and_its_role(name, path, turns, attempts, role):
    found = place(name, "w")
    assert (path, turns, attempts, role) == (
        found.path, [(t.index, t.item) for t in found.turns], found.attempts, found.role
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["", "other.train", "w..", "w.(", "w.a(b)", "w[0]", "w.a b(1:", "(((", "w.a(99999999999:x)"]
)
def test_a_name_that_fits_no_rule_is_a_path_of_its_own(name):
    assert isinstance(place(name, "w").path, str)


def test_the_attempts_of_a_step_have_one_key_and_come_in_order():
    tries = [place(n, "w") for n in ("w(0).a(10)", "w(1).a(0)", "w(0).a(9)")]
    assert {("a", ())} == {t.key for t in tries}
    assert sorted(t.attempts for t in tries) == [(0, 9), (0, 10), (1, 0)]


def test_the_same_turn_of_different_loops_is_not_one_key():
    assert place("w.a(0:x).b", "w").key != place("w.a.b(0:x)", "w").key
