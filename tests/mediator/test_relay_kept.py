"""The relay that `serve` starts: it outlives a mediator that is killed, the next one takes it over and ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mediator.core.relay_grants import GRANT_TTL_S, grant
from mediator.shell.credentials import relay_secret
from mediator.shell.main import main
from mediator.shell.relaykeeper import STABLE_S, Pauses
from mediator.shell.relaylock import RunningRelay, only_relay, running_relay
from netctl.wire import relay
from tests.mediator.loopbackkit import HOST, Site
from tests.support.freeports import free_port
from tests.support.patience import BUSY_S, wait_for


def serve(site: Site, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "mediator.shell.main", "serve", "--listen", HOST]
    command += ["--document", str(site.document), "--state", str(site.state)]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stderr=out)
    wait_for("it listens", lambda: "listening" in log.read_text())
    return process


def test_a_killed_mediators_relay_goes_on_and_the_next_one_has_it(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port(socket.SOCK_DGRAM)
    site.document.write_text(site.document.read_text().replace("20000-20001", f"{port}-{port}"))
    first, second = tmp_path / "first", tmp_path / "second"
    mediator = serve(site, first)
    kept: RunningRelay | None = None
    try:
        wait_for("the relay runs", lambda: running_relay(site.state) is not None)
        kept = running_relay(site.state)
        assert kept is not None
        assert kept.kept
        os.kill(mediator.pid, signal.SIGKILL)
        mediator.wait(BUSY_S)
        assert main(["relay", "--document", str(site.document), "--state", str(site.state)]) == 1
        assert f"already (process {kept.pid}); stop it first" in capsys.readouterr().err
        mediator = serve(site, second)
        wait_for(
            "the next one has it",
            lambda: f"(process {kept.pid}) goes on with its tunnels" in second.read_text(),
        )
        time.sleep(1.5)  # longer than it waits between two looks
        assert running_relay(site.state) == kept
        assert "the relay ended" not in first.read_text() + second.read_text()
        assert second.read_text().count("goes on") == 1
        mediator.terminate()
        assert mediator.wait(BUSY_S) == 0
        wait_for("the relay is gone", lambda: running_relay(site.state) is None)
    finally:
        mediator.kill()
        mediator.wait(BUSY_S)
        if kept is not None and running_relay(site.state) == kept:
            os.kill(kept.pid, signal.SIGTERM)


def test_it_says_that_another_mediators_grants_show_a_wrong_clock(site: Site, tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    site.document.write_text(site.document.read_text().replace("20000-20001", f"{port}-{port + 1}"))
    log = tmp_path / "log"
    mediator = serve(site, log)
    try:
        wait_for("the relay runs", lambda: "relaying at UDP" in log.read_text())
        made_at = int(time.time()) + 3 * 3600
        given = grant(relay_secret(site.state), port + 1, port, made_at + GRANT_TTL_S)
        allocation = relay.Allocation.unpack(bytes.fromhex(given.allocation))
        asked = relay.seal(relay.Bind(allocation, bytes(relay.TRANSACTION_LEN)), bytes.fromhex(given.key))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:

            def said() -> bool:
                member.sendto(asked, (HOST, port))
                return "by them this machine's clock is at least 3.0 hours behind" in log.read_text()

            wait_for("the relay says so", said)
    finally:
        mediator.terminate()
        mediator.wait(BUSY_S)


def test_a_relay_that_cannot_start_is_started_ever_more_rarely() -> None:
    pauses = Pauses()
    assert [pauses.after(0.5) for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert pauses.after(STABLE_S + 1) == 1
    assert pauses.after(0.5) == 2


def test_a_relay_of_its_own_is_nobodys_to_end(tmp_path: Path) -> None:
    assert running_relay(tmp_path) is None
    with only_relay(tmp_path):
        assert running_relay(tmp_path) == RunningRelay(os.getpid(), kept=False)
    assert running_relay(tmp_path) is None
