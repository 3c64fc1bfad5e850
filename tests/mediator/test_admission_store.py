"""The register on disk: forty at once, a dump without a token, a process that is killed at any moment."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mediator.core.leasegrants import GrantLease
from mediator.core.relay_grants import GRANT_TTL_S
from mediator.shell.store import Store
from mediator.shell.storeschema import LEASES
from netctl.model.errors import LocalError, RemoteError
from tests.mediator.registerkit import AdmissionStore
from tests.mediator.test_admissions import DOCUMENT, LAN, NOW, host, identity, key

HOSTS = 40
USES = 5


def invited(register: AdmissionStore, uses: int = 1) -> bytes:
    token: bytes
    _, token = register.invite(
        LAN, called="lan", uses=uses, made_s=NOW, expires_s=NOW + 100, name="", by="amy"
    )
    return token


def redeem(register: AdmissionStore, token: bytes, number: int, name: str = "newbie") -> str:
    """The name it got; or the code of the refusal."""
    who = host(number, name)
    try:
        verdict, _ = register.redeem(
            DOCUMENT, type(who)(who.key, who.identity, who.name, who.exact, token), NOW
        )
    except RemoteError as error:
        return error.code
    name = verdict.admission.name
    assert isinstance(name, str)
    return name


def test_of_forty_at_once_exactly_as_many_win_as_there_are_uses(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with closing(Store(path)) as store:
        token = invited(AdmissionStore(store), USES)
    answers: list[str] = []
    together = threading.Barrier(HOSTS)

    def one(number: int) -> None:
        with closing(Store(path)) as store:  # each with a connection of its own, as replicas would have
            together.wait()
            answers.append(redeem(AdmissionStore(store), token, number, f"host-{number}"))

    threads = [threading.Thread(target=one, args=(100 + n,)) for n in range(HOSTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count("invite.used-up") == HOSTS - USES
    with closing(Store(path)) as store:
        book = AdmissionStore(store).book()
        (invite,) = AdmissionStore(store).invites()
        assert len(book.admissions) == invite.used == USES
        assert len(set(store.leases().values())) == len(store.leases()) == USES


def test_a_made_up_invite_costs_one_look(tmp_path: Path) -> None:
    """Anybody can send one: it must not make the mediator read all that it has."""
    asked: list[str] = []
    with closing(Store(tmp_path / "m.db")) as store:
        register = AdmissionStore(store)
        token, spent = invited(register), invited(register)
        assert redeem(register, spent, 10) == "newbie"
        store._db.set_trace_callback(asked.append)
        assert redeem(register, b"\x01" * 32, 11) == "invite.unknown"
        assert redeem(register, spent, 12) == "invite.used-up"
        assert not [text for text in asked if "admission" in text or "lease" in text]
        assert redeem(register, spent, 10) == "newbie", "who is in already is told so again"
        assert redeem(register, token, 13) == "newbie-2"
        assert [text for text in asked if "admission" in text], "an open one is held against the book"


def test_who_comes_twice_takes_one_use(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "m.db")) as store:
        register = AdmissionStore(store)
        token = invited(register, 2)
        assert [redeem(register, token, 10), redeem(register, token, 10, "again")] == ["newbie", "newbie"]
        assert register.invites()[0].used == 1
        assert redeem(register, token, 11) == "newbie-2"
        assert redeem(register, token, 12) == "invite.used-up"
        assert redeem(register, b"\0" * 16, 12) == "invite.unknown"


def test_nothing_on_disk_holds_a_token(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "m.db")) as store:
        token = invited(AdmissionStore(store))
        redeem(AdmissionStore(store), token, 10)
        with closing(sqlite3.connect(tmp_path / "m.db")) as raw:
            dump = "\n".join(raw.iterdump())
        files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert "newbie" in dump
    assert token not in files
    assert token.hex() not in dump.lower()
    assert token.hex().encode() not in files


def test_a_revoked_invite_lets_nobody_in_and_throws_nobody_out(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "m.db")) as store:
        register = AdmissionStore(store)
        token = invited(register, 2)
        redeem(register, token, 10)
        register.revoke_invite(register.invites()[0].id, NOW, by="amy")
        assert redeem(register, token, 11) == "invite.unknown"
        assert len(register.book().admissions) == 1
        with pytest.raises(LocalError, match="no invite"):
            register.revoke_invite("zzzzzz", NOW, by="amy")


def test_a_new_key_takes_name_and_address_along_and_leaves_the_relay_port(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "m.db")) as store:
        register = AdmissionStore(store)
        redeem(register, invited(register), 10)
        store.add([], [(key(10), 40000)])
        before = store.leases()[LAN, key(10)]
        register.rekey(key(10), key(30), identity(30), NOW, by="amy", unix_s=NOW)
        assert store.leases() == {(LAN, key(30)): before}
        assert store.relay_ports() == {}
        assert store.resting_ports() == {40000: NOW + GRANT_TTL_S}, "the old key may have a grant for it"
        (entry,) = register.book().admissions
        assert (entry.key, entry.identity, entry.name) == (key(30), identity(30), "newbie")
        assert register.book().revoked == {key(10): "newbie"}, "the old key is of no use to a thief"
        with pytest.raises(RemoteError):
            register.rekey(key(10), key(31), identity(31), NOW, by="amy", unix_s=NOW)


@pytest.mark.parametrize("end", ["revoke", "leave"])
def test_a_relay_port_rests_as_long_as_a_grant_for_it_can_live(end: str, tmp_path: Path) -> None:
    with closing(Store(tmp_path / "m.db")) as store:
        register = AdmissionStore(store)
        redeem(register, invited(register), 10)
        store.add([], [(key(10), 40000)])
        if end == "revoke":
            register.revoke(key(10), "newbie", NOW, by="amy", unix_s=NOW)
        else:
            register.leave(key(10), NOW, unix_s=NOW)
        assert (store.relay_ports(), store.resting_ports()) == ({}, {40000: NOW + GRANT_TTL_S})
    with closing(Store(tmp_path / "m.db")) as store:  # another run knows it, too
        assert store.resting_ports() == {40000: NOW + GRANT_TTL_S}
        AdmissionStore(store).leave(key(11), NOW + GRANT_TTL_S, unix_s=NOW + GRANT_TTL_S)
        assert store.resting_ports() == {}


def test_who_is_shut_out_stays_out_until_restored(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "m.db")) as store:
        register = AdmissionStore(store)
        token = invited(register, 3)
        redeem(register, token, 10)
        register.revoke(key(10), "newbie", NOW, by="amy", unix_s=NOW)
        assert register.book().admissions == ()
        assert redeem(register, token, 10) == "enrol.revoked"
        register.restore(key(10), NOW, by="amy")
        assert redeem(register, token, 10) == "newbie"
        with pytest.raises(LocalError, match="was not revoked"):
            register.restore(key(11), NOW, by="amy")


def test_a_store_of_the_version_before_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(f"{LEASES}PRAGMA user_version=1;")
        raw.execute("INSERT INTO lease VALUES ('n', ?, ?)", (int(IPv4Address("10.0.0.1")), key(1).raw))
        raw.commit()
    with closing(Store(path)) as store:
        assert store.leases() == {("n", key(1)): IPv4Address("10.0.0.1")}
        assert redeem(AdmissionStore(store), invited(AdmissionStore(store)), 10) == "newbie"
        store.add([GrantLease("n", key(2), IPv4Address("10.0.0.2"))], [])


ENROL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.mediator.test_admission_store import AdmissionStore, Store, redeem
register = AdmissionStore(Store(Path(sys.argv[1])))
for number in range(100, 10_000):
    print(number, redeem(register, bytes.fromhex(sys.argv[2]), number, f"host-{number}"), flush=True)
    print(number, redeem(register, bytes.fromhex(sys.argv[2]), number, "again"), flush=True)
"""
"""Says who is in, which must be true whenever it is killed."""


@pytest.mark.parametrize("lines", [1, 4, 7, 10])
def test_killed_anywhere_a_membership_is_whole_or_not_there(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "m.db"
    with closing(Store(path)) as store:
        token = invited(AdmissionStore(store), 10_000)
    argv = [sys.executable, "-c", ENROL, str(path), token.hex(), str(Path(__file__).parents[2])]
    enrolling = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert enrolling.stdout is not None
    with enrolling.stdout:
        said = [enrolling.stdout.readline() for _ in range(lines)]
        os.kill(enrolling.pid, signal.SIGKILL)
        said += enrolling.stdout.readlines()
    enrolling.wait()
    told = {int(line.split()[0]) for line in said if line.endswith("host-" + line.split()[0] + "\n")}
    with closing(Store(path)) as store:
        register = AdmissionStore(store)
        book = register.book()
        numbers = {int.from_bytes(entry.key.raw, "big") for entry in book.admissions}
        leased = {int.from_bytes(member.raw, "big") for _, member in store.leases()}
        assert told <= numbers
        assert len(numbers - told) <= 1, "at most the one whose answer was cut off"
        assert register.invites()[0].used == len(numbers), "no use without a member"
        assert numbers == leased, "no member without its address, and no address without a member"
        addresses = store.leases()
        for number in numbers:  # the next life, and the one after it, say the same
            assert redeem(register, token, number, "again") == f"host-{number}"
        assert store.leases() == addresses
