"""A mediator that finds its files lost, damaged or on a full disk: it starts as far as it can, and says the rest."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mediator.shell.asking import ask_mediator
from mediator.shell.credentials import RELAY_SECRET_FILE, relay_secret
from mediator.shell.main import main
from mediator.shell.pairstore import PairReader
from mediator.shell.relayplace import RelayPlace
from mediator.shell.store import STORE_FILE
from mediator.shell.storeplace import MARK_FILE, open_store
from mediator.shell.watched import KEPT_FILE
from netctl.model.errors import LocalError
from netctl.wire import operatorrequests as r
from netctl.wire.invite import parse_invite
from tests.mediator.loopbackkit import ANN, BOB, HOST, STRANGER, Member, Site
from tests.mediator.test_exhausted import addresses, full, serving, small_disk
from tests.mediator.test_locked_store import admitted, open_house
from tests.support.patience import BUSY_S, wait_for

__all__ = ["small_disk"]
Said = pytest.CaptureFixture[str]


def fails(site: Site, *more: str) -> str:
    """What `serve` says when it does not start."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "mediator.shell.main",
        "serve",
        "--no-relay",
        "--listen",
        HOST,
        *more,
    ]
    command += ["--document", str(site.document), "--state", str(site.state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUSY_S, check=False)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return done.stderr


def check(site: Site, capsys: Said) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["check", "--state", str(site.state), "--document", str(site.document)])
    return code, "".join(capsys.readouterr())


async def logged_in(site: Site) -> None:
    async with Member(ANN, site.entry()) as ann:
        await ann.view(lambda changed: bool(addresses(changed.view)))


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another(path: Path) -> None:
    path.write_bytes(b"not a database, however long it may be; " * 500)


@pytest.mark.parametrize(("lose", "word"), [(gone, "missing"), (empty, "empty"), (another, "damaged")])
def test_a_lost_store_is_no_new_one(
    lose: Callable[[Path], None], word: str, site: Site, tmp_path: Path, capsys: Said
) -> None:
    log, path = tmp_path / "log", site.state / STORE_FILE
    assert check(site, capsys) == (0, f"sound: 2 members, no store yet, at {HOST}:{site.port}\n")
    with serving(site, log):
        asyncio.run(asyncio.wait_for(logged_in(site), BUSY_S))
    assert check(site, capsys) == (0, f"sound: 2 members, 2 leases, at {HOST}:{site.port}\n")
    assert "is sound, so it is kept" in fails(site, "--new-store")
    lose(path)
    said = fails(site)
    assert f"{path} is {word}, and this server had one" in said
    assert "netctl-mediator serve --new-store" in said
    code, told = check(site, capsys)
    assert (code, f"is {word}" in told) == (1, True)
    assert not path.exists() or path.stat().st_size in (0, 20_000), "neither makes one"
    with closing(open_store(site.state, new=True)) as store:
        assert store.leases() == {}
    aside = [found.name for found in site.state.iterdir() if ".lost-" in found.name]
    assert len(aside) == (0 if lose is gone else 1), "what is left of it is kept"
    with serving(site, log):
        asyncio.run(asyncio.wait_for(logged_in(site), BUSY_S))
    assert check(site, capsys)[0] == 0


def test_a_new_store_is_whole_or_not_there(small_disk: Path) -> None:
    state = small_disk / "state"
    with full(small_disk):
        with pytest.raises(LocalError, match=r"full|No space|room"):
            open_store(state)
        assert not any(path.is_file() for path in state.glob("*"))
    open_store(state).close()
    assert {path.name for path in state.iterdir()} == {STORE_FILE, MARK_FILE}


def test_a_damaged_relay_secret_is_seen_beside_a_damaged_store(site: Site, capsys: Said) -> None:
    open_store(site.state).close()
    relay_secret(site.state)
    (site.state / RELAY_SECRET_FILE).write_bytes(b"")
    (site.state / STORE_FILE).write_bytes(b"")
    site.document.write_text("members: {")
    code, told = check(site, capsys)
    assert code == 1
    assert all(word in told for word in ("relay secret: ", "store: ", "document: ")), told


def test_with_a_full_disk_it_starts_for_those_whom_it_knows(small_disk: Path, tmp_path: Path) -> None:
    site, log = Site(small_disk), tmp_path / "log"
    site.document = tmp_path / "networks.yaml"
    open_house(site, {"ann": ANN, "bob": BOB})
    with serving(site, log):
        asyncio.run(asyncio.wait_for(logged_in(site), BUSY_S))
        made = ask_mediator(site.state, r.CreateInvite("lan", 5)).reply
    invite = parse_invite(made.invite)

    async def meanwhile() -> None:
        async with Member(ANN, site.entry()) as ann, Member(BOB, site.entry()) as bob:
            before = addresses((await ann.view()).view)
            await bob.view()
            assert len(before) == 2
            assert "is its disk full?" in await admitted(10, invite, "early")
            open_house(site, {"ann": ANN, "bob": BOB, "new": STRANGER}, absent="bob")
            seen = await ann.view(lambda changed: len(changed.view.members) == 2)
            assert len(addresses(seen.view)) == 1, "who is out is out; who is new has no address yet"
            with pytest.raises(LocalError, match="is its disk full"):
                await asyncio.to_thread(ask_mediator, site.state, r.Revoke("new"))

    async def afterwards() -> None:
        async with Member(ANN, site.entry()) as ann:
            await ann.view(lambda changed: len(addresses(changed.view)) == 2)
            assert await admitted(10, invite, "early") == "early"

    with full(small_disk):
        process = serving(site, log)
        process.__enter__()
        try:
            assert "starts all the same" in log.read_text()
            asyncio.run(asyncio.wait_for(meanwhile(), BUSY_S))
            assert "disk full" in str(ask_mediator(site.state, r.ServerStatusRequest()).reply.store)
            assert main(["status", "--state", str(site.state)]) == 0
        except BaseException:
            process.__exit__(None, None, None)
            raise
    try:
        asyncio.run(asyncio.wait_for(afterwards(), BUSY_S))
        assert ask_mediator(site.state, r.ServerStatusRequest()).reply.store is None
    finally:
        process.__exit__(None, None, None)
    assert "Traceback" not in log.read_text()
    with closing(open_store(site.state)) as store:
        assert store.check() == []
        assert IPv4Address("10.1.0.0") < min(store.leases().values())


def test_it_starts_with_the_last_good_document(site: Site, tmp_path: Path, capsys: Said) -> None:
    log, kept = tmp_path / "log", site.state / KEPT_FILE
    good = site.document.read_text()
    with serving(site, log):
        wait_for("the document is kept", lambda: kept.exists() and kept.read_text() == good)
        site.document.write_text("members: {")
        wait_for("it is refused", lambda: "is refused" in log.read_text())
    assert kept.read_text() == good
    for broken in ("members: {", None, good.replace(str(site.identity.public), str(ANN.identity))):
        if broken is None:
            site.document.unlink()
        else:
            site.document.write_text(broken)
        entry = parse_entry(site, good)
        with serving(site, log):
            assert f"starting with the last good document, {kept}" in log.read_text()
            asyncio.run(asyncio.wait_for(logged_in(entry), BUSY_S))
            assert main(["status", "--state", str(site.state)]) == 1
            site.document.write_text(good.replace('"bob"', '"rob"'))
            wait_for("the mended one is taken", lambda: main(["status", "--state", str(site.state)]) == 0)
            wait_for("and kept", lambda: '"rob"' in kept.read_text())
            site.document.write_text(good)
            wait_for("and this one", lambda: kept.read_text() == good)
        site.document.write_text("members: {")
        code, told = check(site, capsys)
        assert (code, f"starts with the last good one, {kept}" in told) == (1, True)
    kept.unlink()
    assert "members: {" not in fails(site)


def parse_entry(site: Site, good: str) -> Site:
    """A site whose document, for members, is the good one."""
    other = Site.__new__(Site)
    other.__dict__.update(site.__dict__)
    other.document = site.state.parent / "members.yaml"
    other.document.write_text(good)
    return other


def test_a_relay_of_another_user_is_given_it_too(site: Site, tmp_path: Path) -> None:
    relay = tmp_path / "relay"
    relay.mkdir()
    open_store(site.state).close()
    texts = ["one: document"]
    place = RelayPlace(
        relay, site.identity, bytes(32), PairReader(site.state / STORE_FILE), lambda: texts[-1]
    )
    with closing(place):
        assert place.keep() is None
        assert (relay / KEPT_FILE).read_text() == "one: document"
        texts.append("another: document")
        assert place.keep() is None
        assert (relay / KEPT_FILE).read_text() == "another: document"
