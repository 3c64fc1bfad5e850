"""What the relay says of itself, its limits as people set them, and a reader that never reads."""

from __future__ import annotations

import argparse
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mediator.core.relay_limits import Limits
from mediator.core.relay_pairs import PairMember, PairPort
from mediator.core.relay_table import RelayTable
from mediator.shell.main import main
from mediator.shell.relayserver import RelayServer
from mediator.shell.relaystatus import SOCKET_NAME, ask_relay, tell_status
from mediator.shell.relaywords import add_limits, limits_of, say_relay
from mediator.shell.stateroles import mark_apart
from netctl.model.keys import WireGuardKey
from tests.mediator.loopbackkit import HOST
from tests.support.freeports import free_port
from tests.support.patience import BUSY_S

AGENT, PHONE = WireGuardKey(b"\1" * 32), WireGuardKey(b"\2" * 32)


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayServer]:
    port = free_port(socket.SOCK_DGRAM)
    ports = range(port, port + 1)
    made = RelayServer(HOST, ports, RelayTable(bytes(32), bytes(32), ports, Limits(quota=1000)))
    pair = PairPort(port, (PairMember(AGENT, 7, False), PairMember(PHONE, 8, True)))
    made.pairs.load([pair], 0.0)
    with tell_status(made, tmp_path):
        thread = threading.Thread(target=made.serve)
        thread.start()
        yield made
        made.stop()
        thread.join(BUSY_S)
    made.close()


def test_it_says_who_sends_and_what_was_refused(
    relay: RelayServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toll = relay.table.ledger.toll(7, 8, 0.0)
    assert toll.take(600, 0.0)
    assert not toll.take(600, 0.0)
    found = ask_relay(tmp_path)
    assert found is not None
    assert found["limits"]["quota"] == 1000
    accounts = {row["port"]: row for row in found["accounts"]}
    assert (accounts[7]["sent"], accounts[8]["received"], accounts[7]["refused"]) == (600, 600, 600)
    (pair,) = found["pairs"]
    assert [(side["stock"], side["at"]) for side in pair["sides"]] == [(False, None), (True, None)]
    say_relay(found, {7: "nas"})
    said = capsys.readouterr().out
    assert "nas: 600 B sent" in said
    assert "of 1.0 kB today, 600 B refused" in said
    assert "stock apps heard: 0 of 1 pair\n" in said
    assert (tmp_path / SOCKET_NAME).stat().st_mode & 0o777 == 0o600


def test_a_relay_apart_has_a_status_that_says_that_its_clock_is_off(
    relay: RelayServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["status", "--state", str(tmp_path)]
    assert main(words) == 1
    assert "no mediator runs here" in capsys.readouterr().err, "a relay beside a mediator is no answer for it"
    mark_apart(tmp_path)
    assert main(words) == 0
    said = capsys.readouterr()
    assert "relay: 0 bindings" in said.out
    assert said.err == ""
    relay.table.clock_behind_s, relay.table.ahead = 1260.0, 3
    assert main(words) == 0
    said = capsys.readouterr()
    assert "this machine's clock is at least 21 minutes behind a mediator's" in said.err
    assert "0 messages with a grant that is over, 3 with one that ends too late" in said.err
    relay.table.clock_behind_s, relay.table.ahead, relay.table.expired = 1260.0, 0, 9
    assert main(words) == 0
    assert "with a grant that is over" not in capsys.readouterr().err, "members that slept send such"
    assert main([*words, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["relay"]["clock_behind_s"] == 1260.0


def test_a_reader_that_never_reads_holds_up_nobody(relay: RelayServer, tmp_path: Path) -> None:
    idle = []
    try:
        for _ in range(20):
            idle.append(socket.socket(socket.AF_UNIX))
            idle[-1].connect(str(tmp_path / SOCKET_NAME))
        assert ask_relay(tmp_path) is not None
    finally:
        for one in idle:
            one.close()


def test_where_no_relay_runs_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask_relay(tmp_path) is None
    say_relay(None, {})
    assert capsys.readouterr().out == "no relay runs here\n"


def test_limits_are_said_in_the_units_that_people_buy() -> None:
    parser = argparse.ArgumentParser()
    add_limits(parser)
    assert limits_of(parser.parse_args([])) == Limits()
    chosen = parser.parse_args(["--pair-rate", "8", "--member-rate", "0.5", "--quota", "2"])
    assert limits_of(chosen) == Limits(1_000_000, 62_500, 2_000_000_000)


@pytest.mark.parametrize("wrong", ["-1", "much", "nan", "1e9"])
def test_a_limit_that_is_none_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_limits(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--quota={wrong}"])
    assert f"'{wrong}' is no number from 0" in capsys.readouterr().err
