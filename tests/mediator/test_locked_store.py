"""Another process holds the store's writer lock: everybody else is served, and what was asked gets its answer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mediator.shell.asking import ask_mediator
from mediator.shell.memberstore import PATIENCE_S, MemberStore
from mediator.shell.store import STORE_FILE, Store
from mediator.shell.storethread import StoreThread
from netctl.agent.mediators.enrolclient import enrol
from netctl.agent.storage.keyfiles import Keys
from netctl.model.errors import LocalError, RemoteError
from netctl.wire import control as w
from netctl.wire import operatorrequests as r
from netctl.wire.invite import Invite, parse_invite
from tests.mediator.contractkit import applicant, invited, run
from tests.mediator.loopbackkit import ANN, BOB, STRANGER, Member, Site, keys
from tests.mediator.test_admissions import DOCUMENT, NOW, key
from tests.mediator.test_exhausted import addresses, serving
from tests.support.patience import BUSY_S

LOCKED_S = float(os.environ.get("NETCTL_LOCKED_S", "8"))
"""Longer than anybody waits for the store; with 60 longer than members take to notice a mediator that stands still."""
LATE_S = 1.5
"""So long before the end somebody asks and waits: much less than the store's patience."""
STALL_S = 4.0
"""A loop that waits for the lock stands still for 5 s and more."""
SHORT_S = 2.0
"""A patience that ends soon, and that a read on a busy machine does not need."""
LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
db.execute("COMMIT")
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """By a process of its own."""
    command = [sys.executable, "-c", LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            other.stdin.close()


def open_house(site: Site, members: dict[str, Keys], absent: str = "") -> None:
    """The site's document, with a network that lets invites in."""
    site.write(members)
    text = json.loads(site.document.read_text())
    text["id"] = "lock-0001"
    text["networks"]["lan"]["join"] = {"invites": True}
    if absent:
        text["members"][absent]["state"] = "absent"
    site.document.write_text(json.dumps(text))


async def admitted(number: int, invite: Invite, name: str) -> str:
    """The name it got, or why not."""
    try:
        return (await enrol(keys(number), invite, name, exact=False)).name
    except RemoteError as error:
        return str(error)


def test_a_locked_store_holds_up_only_what_needs_it(site: Site, tmp_path: Path) -> None:
    log, path = tmp_path / "log", site.state / STORE_FILE
    open_house(site, {"ann": ANN, "bob": BOB})

    async def main() -> None:
        made = ask_mediator(site.state, r.CreateInvite("lan", 5)).reply
        invite = parse_invite(made.invite)
        async with Member(ANN, site.entry()) as ann, Member(BOB, site.entry()) as bob:
            await ann.view(lambda changed: len(addresses(changed.view)) == 2)
            await bob.view()
            with locked(path):
                began = time.monotonic()
                early = asyncio.create_task(admitted(10, invite, "early"))
                open_house(site, {"ann": ANN, "bob": BOB, "new": STRANGER}, absent="bob")
                gone = await ann.view(lambda changed: len(changed.view.members) == 2)
                assert "no member any more" in str((await bob.refused()).error)
                assert len(addresses(gone.view)) == 1, "the new member waits for its address"
                async with Member(STRANGER, site.entry()) as new:
                    await new.view()
                assert "let anybody in just now" in await early
                assert time.monotonic() - began < BUSY_S
                revoke = r.Revoke("new")
                with pytest.raises(LocalError, match="locked"):
                    await asyncio.to_thread(ask_mediator, site.state, revoke)
                await asyncio.sleep(max(0.0, LOCKED_S - LATE_S - (time.monotonic() - began)))
                before = time.monotonic()
                ann.client.send(w.Refresh())
                await ann.view()
                print(
                    f"locked for {before - began:.0f} s: a view on demand after {time.monotonic() - before:.3f} s"
                )
                late = asyncio.create_task(admitted(11, invite, "late"))
                await asyncio.sleep(LATE_S)
            assert await late == "late", "asked while it was locked, answered when it was not"
            whole = await ann.view(lambda changed: len(changed.view.members) == 3)
            while len(addresses(whole.view)) < 3:
                whole = await ann.view()
            assert await admitted(10, invite, "early") == "early"
        used = ask_mediator(site.state, r.ListInvites()).reply[0].used
        assert used == 2, "what was told of an error took no use"
        stall_s = ask_mediator(site.state, r.ServerStatusRequest()).plain["longest_stall_s"]
        print(f"locked for {LOCKED_S:.0f} s: the event loop was late by {stall_s} s at most")
        assert stall_s < STALL_S

    with serving(site, log):
        asyncio.run(asyncio.wait_for(main(), 3 * BUSY_S))
    said = log.read_text()
    assert "Traceback" not in said
    reasons = [line for line in said.splitlines() if "no new leases: " in line]
    assert 1 <= len(reasons) == len(set(reasons)), "each reason is said once, not at each try"
    assert "the store takes leases again" in said
    with closing(Store(path)) as store:
        assert store.check() == []


def test_who_waits_for_a_lock_is_told_so_in_time_and_nothing_happened(
    tmp_path: Path,
) -> None:

    async def main(store: MemberStore) -> None:
        token = await invited(store, 9)
        before = await store.kept()
        with locked(tmp_path / "m.db"):
            asked = [store.redeem(DOCUMENT, applicant(100 + n, token), NOW) for n in range(5)]
            asked.append(store.revoke(key(1), "x", NOW, by="amy", unix_s=NOW))  # type: ignore[arg-type]
            began = time.monotonic()
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(answer, LocalError) for answer in answers)
            assert time.monotonic() - began < len(asked) * SHORT_S, (
                "they wait together, not one after another"
            )
            assert await store.kept() == before, "whoever reads waits for no writer"
        assert await store.kept() == before
        assert (await store.redeem(DOCUMENT, applicant(100, token), NOW))[0].fresh

    run(lambda: StoreThread(Store(tmp_path / "m.db"), patience_s=SHORT_S), main)


def test_the_patience_of_a_store_ends_before_that_of_whoever_asks() -> None:
    from mediator.core.controlconnections import LOGIN_TIMEOUT_S
    from netctl.agent.mediators.enrolclient import ANSWER_TIMEOUT_S

    assert min(LOGIN_TIMEOUT_S, ANSWER_TIMEOUT_S) > PATIENCE_S
