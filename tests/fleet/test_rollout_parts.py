"""Who goes first, where hosts are, and what a person gives wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.cli.main import main
from netctl.config import load_document
from netctl.fleet.ansible import TaskResult
from netctl.fleet.canary import Size, batches
from netctl.fleet.inventory import Inventory, from_document, split_host
from netctl.fleet.rollout import MAX_PLANS, Rollout, Wishes, unified
from netctl.model.errors import LocalError
from tests.fleet.test_review import DOCUMENT

HOSTS = [f"h{number}" for number in range(1, 11)]


@pytest.mark.parametrize(
    ("canary", "size", "lengths"),
    [("1", "3", [1, 3, 3, 3]), ("0", "50%", [5, 5]), ("20%", "100%", [2, 8]), ("h3,h9", "10", [2, 8])],
)
def test_batches(canary: str, size: str, lengths: list[int]) -> None:
    made = batches(HOSTS, canary, Size.parse(size))
    assert [len(batch) for batch in made] == lengths
    if "," in canary:
        assert made[0] == ["h3", "h9"]


def test_the_plan_names_every_host_also_beyond_the_documents_that_it_compares() -> None:
    loaded = load_document(DOCUMENT).document
    hosts = {f"h{number}": "laptop" for number in range(MAX_PLANS + 4)}
    rollout = Rollout(DOCUMENT, loaded, Inventory({}, hosts), Wishes(confirm_s=90), lambda _: None)
    for number, run in enumerate(rollout.runs.values()):
        run.before = f"{DOCUMENT}# {max(number, 2)}\n"
    rows = rollout.plan()
    assert rows[0].hosts == ("h0", "h1", "h2")
    assert sorted(host for row in rows for host in row.hosts) == sorted(hosts)
    assert [row.changes is None for row in rows] == [False] * MAX_PLANS + [True]
    assert len(rows[-1].hosts) == 2


@given(
    st.lists(st.from_regex(r"\A[a-z][a-z0-9]{0,8}\Z"), unique=True, max_size=40),
    st.integers(0, 50),
    st.integers(1, 100),
)
def test_everybody_is_in_one_batch(hosts: list[str], canary: int, percent: int) -> None:
    made = batches(hosts, str(canary), Size.parse(f"{percent}%"))
    assert sorted(host for batch in made for host in batch) == sorted(hosts)
    assert all(made)


@pytest.mark.parametrize("text", ["0", "-1", "x", "101%", "%", "", "1e3", "٣"])
def test_no_size(text: str) -> None:
    with pytest.raises(LocalError, match="is no size of a batch"):
        Size.parse(text)


def test_an_unknown_canary() -> None:
    with pytest.raises(LocalError, match="no such canary: h99"):
        batches(HOSTS, "h1,h99", Size(1))


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("nas", {"ansible_host": "nas"}),
        ("admin@nas.example.net", {"ansible_host": "nas.example.net", "ansible_user": "admin"}),
        ("nas:2222", {"ansible_host": "nas", "ansible_port": 2222}),
        (
            "root@[2001:db8::1]:22",
            {"ansible_host": "2001:db8::1", "ansible_user": "root", "ansible_port": 22},
        ),
        ("2001:db8::1", {"ansible_host": "2001:db8::1"}),
    ],
)
def test_where_a_host_is(text: str, variables: dict[str, Any]) -> None:
    assert split_host(text) == variables


def test_the_inventory_of_a_document() -> None:
    text = DOCUMENT.replace("a: {wire", "a: {host: root@a.example.net, wire")
    inventory = from_document(load_document(text).document)
    assert dict(inventory.hosts) == {"a": "a"}
    assert inventory.left_out == ("b",)
    with pytest.raises(LocalError, match="no member has a `host`"):
        from_document(load_document(DOCUMENT).document)


def test_a_diff_of_ansible() -> None:
    shown = unified(
        [{"before": "a\nb\n", "after": "a\nc\n", "before_header": "x"}, {"before": {}, "after": {"m": 1}}]
    )
    assert shown[:2] == ["--- x", "+++ after"]
    assert {"-b", "+c", "+{'m': 1}"} <= set(shown)
    assert unified(None) == []


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({"stderr": "warning: x\nerror: no agent runs\n", "msg": "non-zero return code"}, "no agent runs"),
        ({"msg": "Failed to connect"}, "Failed to connect"),
        ({}, "no reason given"),
        ({"msg": "\n\n"}, "no reason given"),
    ],
)
def test_why_a_task_failed(result: dict[str, str], why: str) -> None:
    assert TaskResult("h", "t", "failed", False, result).why == why


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no member has a `host`"),
        (["-i", "nowhere.ini"], "there is no inventory nowhere.ini"),
        (["--limit", "x"], "no member has a `host`"),
        (["-e", "x"], "is no variable"),
        (["--batch", "none"], "no member has a `host`"),
        (["--enrol"], "there is no host to enrol"),
    ],
)
def test_bad_words(words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "networks.yaml"
    file.write_text(DOCUMENT)
    assert main(["rollout", *words, str(file)]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--batch", "none"], "is no size of a batch"),
        (["--limit", "x"], "no such host: x; there are: a"),
        (["--confirm-within", "soon"], "is no duration"),
    ],
)
def test_bad_words_beside_a_host(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "networks.yaml"
    file.write_text(DOCUMENT.replace("a: {wire", "a: {host: root@127.0.0.1, wire"))
    assert main(["rollout", *words, str(file)]) == 1
    assert says in capsys.readouterr().err


def test_a_bad_document_is_rolled_out_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "networks.yaml"
    file.write_text("apiVersion: netctl/v1\n")
    assert main(["rollout", str(file)]) == 1
    assert "nothing was rolled out" in capsys.readouterr().err
