"""A real NATS server of the tests' own, on loopback."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.freeports import free_port
from tests.support.lifeline import tether
from tests.support.patience import BUSY_S, wait_for


class Nats:
    """One server. `words`: what it is told besides."""

    def __init__(self, log: Path, *words: str) -> None:
        self._log, self._words = log, words
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """And wait until it answers."""
        command = ["nats-server", "-a", "127.0.0.1", "-p", str(self.port), *self._words]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        tether(self.process.pid)

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as one:
                return one.recv(5) == b"INFO "
            return False

        wait_for("nats-server answers", answers)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """`kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(BUSY_S)


@contextlib.contextmanager
def nats(log: Path, *words: str) -> Iterator[Nats]:
    """A server for the block."""
    if shutil.which("nats-server") is None:
        pytest.skip("no nats-server here: scripts/setup installs it")
    server = Nats(log, *words)
    server.start()
    try:
        yield server
    finally:
        server.kill()
