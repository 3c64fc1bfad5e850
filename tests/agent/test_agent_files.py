"""What an agent keeps on disk: keys that only it reads, whole files or old ones, and damage that is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from netctl.agent.storage.hostlock import host_lock
from netctl.agent.storage.keyfiles import load_keys, make_keys
from netctl.agent.storage.locations import Locations, read_document
from netctl.agent.storage.statestore import StateStore
from netctl.config import load_document
from netctl.model.errors import LocalError
from netctl.node.choices import Down
from netctl.session.replica import Kept
from tests.session.loginkit import KEY, PEER
from tests.session.test_replica import PIN, sealed, view

GOOD = """apiVersion: netctl/v1
mediators: []
members: {here: {wireguard: "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="}}
networks:
  office: {mode: routed, ipv4: 10.1.2.0/24, members: ["*"], addresses: {here: 10.1.2.3}}
  lab: {mode: routed, ipv4: 10.1.3.0/24, members: ["*"], addresses: {here: 10.1.3.3}}
"""


@pytest.fixture
def where(tmp_path: Path) -> Locations:
    """Places below a directory of this test."""
    return Locations(tmp_path / "networks.yaml", tmp_path / "state", tmp_path / "run", tmp_path / "hosts")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_an_option_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NETCTL_CONFIG", "NETCTL_STATE", "NETCTL_RUN", "NETCTL_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    assert Locations.find() == Locations()
    monkeypatch.setenv("NETCTL_STATE", "/one")
    monkeypatch.setenv("NETCTL_RUN", "/two")
    found = Locations.find(state="/three")
    assert found.state == Path("/three")
    assert found.socket == Path("/two/agent.sock")
    assert found.private_key == Path("/three/wireguard.key")


def test_keys_are_for_their_owner_alone_and_made_once(where: Locations) -> None:
    old = os.umask(0)
    try:
        made, fresh = make_keys(where)
    finally:
        os.umask(old)
    assert fresh
    assert (mode(where.private_key), mode(where.identity_key), mode(where.state)) == (0o600, 0o600, 0o700)
    kept, fresh = make_keys(where)
    assert not fresh
    assert (kept.wireguard, kept.identity) == (made.wireguard, made.identity)
    assert made.wireguard.raw != made.identity.raw
    for secret in (where.private_key.read_text().strip(), where.identity_key.read_text().strip()):
        assert secret not in repr(made)


def test_one_lost_key_is_made_anew_and_the_other_stays(where: Locations) -> None:
    made, _ = make_keys(where)
    where.identity_key.unlink()
    kept, fresh = make_keys(where)
    assert fresh
    assert kept.wireguard == made.wireguard
    assert kept.identity != made.identity


@pytest.mark.parametrize("damage", ["", "%%%", "AAAA", "\x00" * 40])
def test_a_damaged_key_is_never_replaced_silently(damage: str, where: Locations) -> None:
    make_keys(where)
    where.private_key.write_text(damage)
    with pytest.raises(LocalError, match="damaged") as caught:
        make_keys(where)
    assert "\n" not in str(caught.value)
    assert where.private_key.read_text() == damage
    where.private_key.unlink()
    with pytest.raises(LocalError, match="netctl keys init"):
        load_keys(where)


def test_a_document_is_remembered_and_damage_says_what_to_do(where: Locations) -> None:
    store = StateStore(where)
    assert store.document() is None
    store.accept(GOOD)
    loaded = store.document()
    assert loaded is not None
    assert loaded.document.digest == load_document(GOOD).document.digest
    where.accepted.write_text(GOOD[:90])
    with pytest.raises(LocalError, match="run `netctl apply` again") as caught:
        store.document()
    assert "\n" not in str(caught.value)
    where.accepted.write_bytes(b"\xff")
    with pytest.raises(LocalError, match="run `netctl apply` again"):
        store.document()


def test_what_is_down_is_remembered_and_taken_out_of_the_document(where: Locations) -> None:
    store = StateStore(where)
    document = load_document(GOOD).document
    assert store.down() == Down()
    store.set_down(Down(networks=frozenset({"lab"})))
    assert list(StateStore(where).down().of(document).networks) == ["office"]
    store.set_down(Down(everything=True))
    assert list(StateStore(where).down().of(document).networks) == []
    store.set_down(Down())
    assert not where.down.exists()
    assert list(store.down().of(document).networks) == ["office", "lab"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"everything": true}', '{"everything": 1, "networks": 2}'])
def test_a_damaged_note_of_what_is_down_means_up(text: str, where: Locations) -> None:
    where.state.mkdir()
    where.down.write_text(text)
    assert StateStore(where).down() == Down()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"type": "nothing"}]', "[" * 2000])
def test_a_damaged_view_is_no_view(text: str, where: Locations) -> None:
    where.state.mkdir()
    where.view.write_text(text)
    keys, _ = make_keys(where)
    assert StateStore(where).view((keys.identity,), keys.wireguard) is None


def test_the_newest_generations_are_kept_by_identity_and_by_the_stores_name(where: Locations) -> None:
    shown = view(PEER, generation=7)
    kept = Kept(shown, sealed(shown), {PIN: 7}, {"other": 3, "s": 7})
    StateStore(where).keep_view(kept)
    found = StateStore(where).view((PIN,), KEY)
    assert found is not None
    assert (found.newest, list(found.stores.items())) == ({PIN: 7}, [("other", 3), ("s", 7)])


def test_of_a_view_from_disk_nobodys_presence_is_known(where: Locations) -> None:
    shown = view(PEER, generation=7)
    StateStore(where).keep_view(Kept(shown, sealed(shown), {PIN: 7}))
    found = StateStore(where).view((PIN,), KEY)
    assert found is not None
    assert {member.online for member in found.view.members.values()} == {None}


def test_a_view_that_an_older_agent_kept_has_no_names_of_stores(where: Locations) -> None:
    shown = view(PEER, generation=7)
    StateStore(where).keep_view(Kept(shown, sealed(shown), {PIN: 7}))
    store = StateStore(where)
    whole = store._read(where.view, json.loads, "")
    assert whole is not None
    store._write(where.view, json.dumps({name: value for name, value in whole.items() if name != "stores"}))
    found = StateStore(where).view((PIN,), KEY)
    assert found is not None
    assert (found.newest, found.stores) == ({PIN: 7}, {})


def test_one_writer_at_a_time(where: Locations) -> None:
    busy = pytest.raises(LocalError, match=rf"process {os.getpid()}\) is changing this host")
    with host_lock(where), busy, host_lock(where):
        raise AssertionError("two writers")
    with host_lock(where):
        assert where.lock.read_text() == str(os.getpid())


def test_a_document_that_cannot_be_read(where: Locations) -> None:
    with pytest.raises(LocalError, match="there is no"):
        read_document(where.config)
    where.config.mkdir()
    with pytest.raises(LocalError, match="is a directory"):
        read_document(where.config)
