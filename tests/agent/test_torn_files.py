"""Every state file, torn at every place: the host comes back by the best that is whole, and what was lost is said."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.agent.agent import Agent
from netctl.agent.storage.commitstore import CommitStore
from netctl.agent.storage.keyfiles import load_keys, make_keys
from netctl.agent.storage.locations import Locations
from netctl.agent.storage.statestore import StateStore
from netctl.engine.sysctls import Sysctls
from netctl.model.errors import LocalError
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.node.choices import Down, Joined
from netctl.node.commit import Terms
from netctl.system import statefiles
from tests.agent.test_commit import LONG_S, World

KEY = WireGuardKey(bytes([2]) * 32)


def text(pool: int) -> str:
    return f"""apiVersion: netctl/v1
mediators: []
members: {{here: {{wireguard: "{KEY}"}}}}
networks: {{office: {{mode: routed, ipv4: 10.1.{pool}.0/24, members: ["*"], addresses: {{here: 10.1.{pool}.3}}}}}}
"""


@dataclass(frozen=True)
class Kind:
    """One file of state. `write` puts generation 1, 2, … there; `read` gives its number, or 0 for nothing."""

    place: Callable[[Locations], Path]
    write: Callable[[StateStore, int], None]
    read: Callable[[StateStore], int]


def _document(store: StateStore) -> int:
    try:
        loaded = store.document()
    except LocalError:
        return 0
    return int(str(loaded.document.networks["office"].ipv4).split(".")[2]) if loaded is not None else 0


def _joined(store: StateStore) -> int:
    joined = store.joined()
    return int(joined.network or 0) if joined is not None else 0


def _armed(store: StateStore) -> int:
    commits = CommitStore(store.locations)
    try:
        record = commits.record()
    except LocalError as error:
        store._lost[store.locations.armed] = str(error)
        return 0
    if commits.lost is not None:
        store._lost[store.locations.armed] = commits.lost
    return int(record.before or 0) if record is not None else 0


def _arm(store: StateStore, number: int) -> None:
    CommitStore(store.locations).arm(LONG_S, "text", str(number), HostState(), "auto", Terms())


WHERE = ("net", KEY)
KINDS = {
    "accepted": Kind(lambda at: at.accepted, lambda store, n: store.accept(text(n)), _document),
    "joined": Kind(lambda at: at.joined, lambda store, n: store.set_joined(Joined(str(n))), _joined),
    "leases": Kind(
        lambda at: at.leases,
        lambda store, n: store.keep_pins({WHERE: IPv4Address(n)}),
        lambda store: int(store.pins().get(WHERE, IPv4Address(0))),
    ),
    "down": Kind(
        lambda at: at.down,
        lambda store, n: store.set_down(Down(False, frozenset({str(n)}))),
        lambda store: int(next(iter(store.down().networks), "0")),
    ),
    "armed": Kind(lambda at: at.armed, _arm, _armed),
}
DAMAGES = st.one_of(
    st.just(lambda whole: b""),
    st.just(lambda whole: bytes(len(whole))),
    st.builds(lambda share: lambda whole: whole[: int(len(whole) * share)], st.floats(0, 0.999)),
    st.builds(
        lambda share: lambda whole: whole[: int(len(whole) * share)].ljust(len(whole), b"\0"),
        st.floats(0, 0.999),
    ),
    st.builds(lambda other: lambda whole: other, st.binary(max_size=200)),
    st.builds(
        lambda other: lambda whole: other.encode(),
        st.sampled_from(["{}", "[]", "null", "[" * 5000, '{"netw": 1}']),
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    before=st.integers(0, 2),
    damage=DAMAGES,
    sums=st.sampled_from(["whole", "torn", "none"]),
)
def test_what_is_torn_is_the_generation_before_or_nothing_and_always_said(
    kind: str,
    before: int,
    damage: Callable[[bytes], bytes],
    sums: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    where, one = Locations(state=tmp_path_factory.mktemp("state")), KINDS[kind]
    store = StateStore(where)
    for number in range(1, before + 2):
        one.write(store, number)
    newest, path = before + 1, one.place(where)
    assert one.read(StateStore(where)) == newest
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    beside = path.with_name(path.name + statefiles.SUMS)
    if sums == "torn":
        beside.write_bytes(beside.read_bytes()[:20])
    elif sums == "none":
        beside.unlink()
    reborn = StateStore(where)
    found = one.read(reborn)
    assert found in (newest, newest - 1, 0)
    if sums == "whole" and path.read_bytes() != whole:
        assert found == before, "the generation before is there and was not used"
        assert any(path.name in line for line in reborn.losses)
    # Without sums a file is one of an earlier version, and this one would say that there is nothing.
    is_earlier = sums == "none" and path.read_bytes() == b"{}"
    if found != newest and path.read_bytes().strip(statefiles.BLANK) and not is_earlier:
        assert any(path.name in line for line in reborn.losses), "lost in silence"
    if not path.read_bytes().strip(statefiles.BLANK):
        assert any(path.name in line for line in reborn.losses), "a blank file was taken for none"
    one.write(reborn, 7)
    assert one.read(reborn) == 7, "what was damaged stands in the way of what comes next"
    again = StateStore(where)
    assert (one.read(again), again.losses) == (7, ())


@pytest.mark.parametrize("gone", range(4))
def test_a_crash_between_any_two_steps_of_a_write_leaves_one_of_two_generations(
    gone: int, tmp_path: Path
) -> None:
    """The steps in their order, as far as they came: second name, sums, file."""
    path = tmp_path / "file"
    statefiles.write(path, "one")
    statefiles.write(path, "two")
    kept = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    statefiles.write(path, "three")
    steps = [f"file{statefiles.PREVIOUS}", f"file{statefiles.SUMS}", "file"]
    for name in steps[gone:]:
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(kept[name])
    found = statefiles.read(path)
    assert (found.text, found.lost) == ("three" if gone == 3 else "two", None)


def test_what_was_removed_does_not_come_back_with_a_file_that_is_torn_later(tmp_path: Path) -> None:
    path = tmp_path / "armed.json"
    statefiles.write(path, "of an earlier apply")
    path.unlink()  # a crash in the middle of a removal
    statefiles.write(path, "of this apply")
    path.write_bytes(b"")
    assert statefiles.read(path).content is None


def test_a_host_that_joined_and_lost_the_words_for_it_has_joined_still(tmp_path: Path) -> None:
    where = Locations(state=tmp_path)
    store = StateStore(where)
    store.accept(text(1))
    store.set_joined(Joined("office", routes=True))
    where.joined.write_bytes(b"")
    reborn = StateStore(where)
    assert reborn.joined() == Joined("office", routes=False), (
        "the strictest terms, and never a document of its own"
    )
    assert "takes no routes" in " ".join(reborn.losses)


def test_an_agent_comes_back_by_the_document_before_and_status_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def first(agent: Agent) -> None:
        await world.apply(world.text())
        await world.apply(world.text("10.1.2.5"))

    world.live(first)
    world.where.accepted.write_bytes(b"")

    async def second(agent: Agent) -> None:
        def whole(state: HostState) -> bool:
            peers = state.wireguard.peers.values() if state.wireguard is not None else ()
            return "10.1.2.4/32" in str([peer.allowed_ips for peer in peers])

        async with asyncio.timeout(30):
            while not whole(world.engine.state):
                await asyncio.sleep(0.01)
        conditions = (await world.ask(op="status"))["result"]["conditions"]
        assert any("accepted.yaml is empty: the generation before it is used" in line for line in conditions)
        await world.apply(world.text("10.1.2.5"))
        assert (await world.ask(op="status"))["result"]["conditions"] == []

    world.live(second)


@pytest.mark.parametrize("name", ["private_key", "identity_key"])
@given(damage=DAMAGES)
@settings(max_examples=20, deadline=None)
def test_a_torn_key_is_named_and_never_another_key(
    name: str, damage: Callable[[bytes], bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    where = Locations(state=tmp_path_factory.mktemp("state"))
    made, _ = make_keys(where)
    path: Path = getattr(where, name)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again, said = None, ""
    try:
        again = load_keys(where)
    except LocalError as error:
        said = str(error)
    if again is None:
        assert str(path) in said
    else:
        same = (again.wireguard, again.identity) == (made.wireguard, made.identity)
        assert same or len(base64.b64decode(path.read_text().strip())) == 32


def test_originals_of_kernel_parameters_outlive_a_torn_file(tmp_path: Path) -> None:
    """What was ours would be taken for the host's own value, and `down` would leave it there."""
    root, saved = tmp_path / "sys", tmp_path / "sysctls.json"
    (root / "net").mkdir(parents=True)
    for name in ("one", "two"):
        (root / "net" / name).write_text("0")
    sysctls = Sysctls(saved, root)
    sysctls.set("net/one", "1", link_bound=False)
    sysctls.set("net/two", "1", link_bound=False)
    saved.write_bytes(b"")
    reborn = Sysctls(saved, root)
    reborn.set("net/one", "1", link_bound=False)
    reborn.restore("net/one")
    assert (root / "net/one").read_text() == "0"


def test_a_record_that_is_torn_while_it_is_finished_still_leads_back(tmp_path: Path) -> None:
    where = Locations(state=tmp_path)
    commits = CommitStore(where)
    record = commits.arm(LONG_S, "text", "before", HostState(), "auto", Terms())
    commits.finish(record)
    plain: dict[str, Any] = json.loads(where.armed.read_text())
    assert plain["finished"]
    where.armed.write_bytes(where.armed.read_bytes()[:100])
    found = CommitStore(where).record()
    assert found is not None
    assert (found.nonce, found.before, found.finished) == (record.nonce, "before", False)
