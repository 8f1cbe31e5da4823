"""A binary is reused as long as what decides its content is the same, and no longer."""

import dataclasses
import socket
import tarfile

import pytest
from deploy.local import builds, recipes
from deploy.local.images import layer_of, write_archive
from deploy.local.layout import RECIPE, Layout
from deploy.local.network import plan
from deploy.local.ports import check_free, choose, is_free
from deploy.local.record import Chain, Rule
from deploy.local.trouble import Trouble

ALL = recipes.NODE_TIER


def test_every_recipe_has_a_digest_of_its_own():
    digests = {recipe.name: recipes.digest(recipe) for recipe in ALL}
    assert len(set(digests.values())) == len(ALL)


def test_a_digest_stays_the_same():
    assert recipes.digest(recipes.ETCD_SERVER) == recipes.digest(dataclasses.replace(recipes.ETCD_SERVER))


@pytest.mark.parametrize(
    "change",
    [{"version": "3.7.4"}, {"ldflags": "-s"}, {"package": "elsewhere"}, {"source": recipes.Locked("versitygw")}],
)
def test_a_digest_changes_with_each_build_input(change):
    assert recipes.digest(dataclasses.replace(recipes.ETCD_SERVER, **change)) != recipes.digest(recipes.ETCD_SERVER)


def test_how_long_a_build_takes_is_no_build_input():
    slower = dataclasses.replace(recipes.ETCD_SERVER, expected_s=1e6)
    assert recipes.digest(slower) == recipes.digest(recipes.ETCD_SERVER)


def test_parts_are_told_apart_in_a_digest():
    assert recipes.digest_of("ab", "c") != recipes.digest_of("a", "bc")


@pytest.mark.parametrize("recipe", [r for r in ALL if isinstance(r.source, recipes.Locked)], ids=lambda r: r.name)
def test_the_locked_version_is_the_one_that_is_named(recipe):
    module = (RECIPE / "locks" / recipe.source.folder / "go.mod").read_text()
    required = next(line for line in module.splitlines() if line.startswith("require ") and "(" not in line)
    assert required.endswith(f" v{recipe.version}")
    assert required.split()[1] in recipe.package


def test_the_files_that_argo_lacks_are_there():
    assert all((RECIPE / ours).is_file() for _, ours in recipes.ARGO_SOURCE.files)


@pytest.mark.parametrize(
    ("text", "version"), [("go1.26.8\n", (1, 26, 8)), ("go1.27rc1", (1, 27)), ("1.36.3", (1, 36, 3)), ("", ())]
)
def test_versions_are_read(text, version):
    assert builds.parse_go_version(text) == version


@pytest.mark.parametrize(("cores", "seconds"), [(1, 152), (2, 76), (8, 19), (64, 19)])
def test_expected_time_follows_the_machine(cores, seconds):
    assert builds.expected_seconds(recipes.ETCD_SERVER, cores) == seconds


def test_the_state_folder_is_never_in_the_checkout():
    with pytest.raises(Trouble, match="inside the checkout"):
        Layout(RECIPE / "state").checked()


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_a_cluster_has_a_plain_name(tmp_path, name):
    with pytest.raises(Trouble, match="letters, digits"):
        Layout(tmp_path, name).checked()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(Trouble, match="too long"):
        Layout(tmp_path / ("x" * 80)).checked()


def test_ports_once_chosen_are_kept():
    first = choose(["etcd", "s3"], {})
    second = choose(["etcd", "s3", "kubelet"], first)
    assert {name: second[name] for name in first} == first
    assert len(set(second.values())) == 3


def test_a_port_in_use_is_told_with_the_part_that_needs_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(Trouble, match=rf"port {port} is in use and s3 needs it"):
            check_free({"s3": port})


def test_a_chain_is_made_before_its_rules_and_before_what_jumps_to_it():
    things = plan(20001, [20001, 6060])
    chain = next(i for i, thing in enumerate(things) if isinstance(thing, Chain))
    users = [i for i, t in enumerate(things) if isinstance(t, Rule) and "PIPETRAIL-LAB" in (t.chain, *t.arguments)]
    assert chain < min(users)
    assert max(users) == len(things) - 1


def test_the_same_content_makes_the_same_image(tmp_path):
    for name in ("one", "two"):
        layer = layer_of({"bin/tool": b"#!"}, {"bin/sh": "tool"}, {"tmp": 0o1777})
        write_archive(tmp_path / name, "lab.local/tool:1", [layer], {"Entrypoint": ["tool"]})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with tarfile.open(tmp_path / "one") as archive:
        assert archive.getnames()[-1] == "manifest.json"
