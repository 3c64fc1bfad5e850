"""The broker believes nothing of its server, which may have been taken over: garbage ends the service, no more."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from netctl.agent.storage.locations import Locations
from netctl.system.asker import asker
from netctl.ui.broker import MAX_BY, MEDIATOR_MISSING, Broker, Rights, signature
from tests.support.patience import BUSY_S


def answered(tmp_path: Path, line: bytes, *, operators: bool = True) -> dict[str, Any] | None:
    """What a server that sends this line is told; None: the broker has ended its service."""
    ours, theirs = socket.socketpair()
    locations = Locations(tmp_path / "networks.yaml", tmp_path, tmp_path, tmp_path / "hosts")
    broker = Broker(theirs, Rights(locations, tmp_path / "no.sock", operators))

    def serve() -> None:
        with theirs:
            broker.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    with ours, ours.makefile("rb") as told:
        ours.settimeout(BUSY_S)
        ours.sendall(line)
        said = told.readline()
        ours.shutdown(socket.SHUT_WR)
        thread.join(BUSY_S)
    assert not thread.is_alive()
    return json.loads(said) if said else None


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"id": "x", "to": "agent", "request": {}}\n',
        b'{"id": 1, "to": 2, "request": {}}\n',
        b'{"id": 1, "to": "agent", "request": ' + b"[" * 200_000 + b"\n",
    ],
)
def test_what_is_no_question_ends_the_service(tmp_path: Path, line: bytes) -> None:
    assert answered(tmp_path, line) is None


@pytest.mark.parametrize(
    ("to", "asked", "words"),
    [
        ("nobody", "{}", "nobody of that name"),
        ("agent", "[]", "not a request"),
        ("agent", "1" * 5000, "not a request"),
        ("agent", '{"op": "apply", "text": "x"}', "does not know 'apply'"),
        ("agent", '{"op": "down"}', "does not know 'down'"),
        ("broker", '{"op": "redeem", "token": "' + "x" * 100_000 + '"}', "never made"),
        ("broker", '{"op": "redeem", "token": null}', "token"),
        ("broker", '{"op": "read", "file": "/etc/shadow"}', "does not know 'read'"),
        ("mediator", '{"op": "export"}', "does not know 'export'"),
    ],
)
def test_what_it_may_not_ask_is_refused(tmp_path: Path, to: str, asked: str, words: str) -> None:
    told = answered(tmp_path, f'{{"id": 7, "to": "{to}", "request": {asked}}}\n'.encode())
    assert told is not None
    assert (told["id"], told["final"]) == (7, True)
    assert words in json.dumps(told)


@pytest.mark.parametrize(("operators", "words"), [(True, MEDIATOR_MISSING), (False, "does not know")])
@pytest.mark.parametrize(
    ("to", "asked"),
    [("mediator", '{"op": "invite.create", "network": "n"}'), ("broker", '{"op": "relay.carried"}')],
)
def test_only_an_operators_broker_asks_the_mediator_and_its_relay(
    tmp_path: Path, to: str, asked: str, operators: bool, words: str
) -> None:
    line = f'{{"id": 1, "to": "{to}", "request": {asked}}}\n'.encode()
    told = answered(tmp_path, line, operators=operators)
    assert told is not None
    assert words in json.dumps(told)


@pytest.mark.parametrize("by", ["", "alice", "x" * 500])
def test_who_asks_is_named_with_whoever_runs_the_page(by: str) -> None:
    said = signature(by)
    assert said.startswith(by[:MAX_BY])
    assert ", by the page" in said
    assert asker()[:4] in said
    assert len(said) <= 64, "the audit log takes no more"
