"""How loaded a relay says to be: coarse steps that do not change to and fro."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from mediator.core.relay_table import MAX_BINDINGS, RelayTable
from mediator.core.relayload import BACK, EVERY_S, STEPS, RelayLoad
from mediator.shell.relayapart import answer_stun
from mediator.shell.relayserver import RelayServer
from netctl.wire import stun
from netctl.wire.stun import MAX_LOAD
from tests.support.freeports import free_port, free_ports
from tests.support.patience import BUSY_S, wait_for


class Bench:
    """A relay whose thread is busy for a share of the time."""

    def __init__(self) -> None:
        self.load, self.now, self.used_s = RelayLoad(), 1000.0, 50.0
        self.load.look(self.now, self.used_s, 0)

    def step(self, share: float, bindings: int = 0) -> int:
        """After the next interval."""
        self.now += EVERY_S
        self.used_s += share * EVERY_S
        self.load.look(self.now, self.used_s, bindings)
        return self.load.step


@pytest.mark.parametrize(("share", "step"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.8, 2), (0.92, MAX_LOAD)])
def test_the_step_follows_from_the_share_of_the_time(share: float, step: int) -> None:
    assert Bench().step(share) == step


def test_bindings_fill_a_relay_too() -> None:
    assert Bench().step(0.0, bindings=int(0.95 * MAX_BINDINGS)) == MAX_LOAD


def test_a_load_near_a_limit_does_not_change_the_step_again_and_again() -> None:
    bench = Bench()
    for limit, step in zip(STEPS, range(1, MAX_LOAD + 1), strict=True):
        assert bench.step(limit + 0.01) == step
        assert [bench.step(limit + change) for change in (-0.02, 0.02, 0.01 - BACK)] == [step] * 3
    assert bench.step(STEPS[1] - BACK + 0.01) == MAX_LOAD - 1
    assert bench.step(0.0) == 0


def test_a_burst_within_the_interval_is_no_load() -> None:
    bench = Bench()
    bench.load.look(bench.now + 1.0, bench.used_s + 1.0, 0)
    assert bench.load.step == 0


FAST = 200.0
"""How much faster the relay's clock runs than ours."""
HOST = "127.0.0.1"


def test_a_relay_that_works_tells_it_with_its_stun_answers() -> None:
    ports, port = free_ports(2), free_port(socket.SOCK_DGRAM)
    relay = RelayServer(HOST, ports, RelayTable(bytes(32), bytes(32), ports))

    def clock() -> float:
        return time.monotonic() * FAST

    def told() -> int:
        with contextlib.suppress(OSError):
            client.sendto(stun.binding_request(bytes(stun.TRANSACTION_LEN)), (HOST, port))
            return stun.decode(client.recv(2000)).load
        return 0

    with (
        answer_stun(relay, HOST, [port], lambda: 0.8 * clock()),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(BUSY_S)
        thread = threading.Thread(target=relay.serve, args=(clock,))
        thread.start()
        try:
            wait_for("the relay says that it is loaded", lambda: told() == 2)
        finally:
            relay.stop()
            thread.join()
    relay.close()
