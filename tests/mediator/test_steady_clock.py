"""The clock of grants: mediator and relay have the same, whatever is done to the wall clock between their starts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from mediator.core.relay_grants import GRANT_TTL_S, grant
from mediator.core.relay_table import RelayTable
from mediator.shell.steadyclock import CLOCK_FILE, SteadyClock
from netctl.model.addresses import SocketAddress
from netctl.wire import relay

WALL, DAY_S = 1_800_000_000.0, 86_400.0
SECRET, PORTS = bytes(range(32)), range(40000, 40010)


@dataclass
class Machine:
    """One boot."""

    directory: Path
    wall: float = WALL
    boot: float = 100.0
    boot_id: str = "one"

    def start(self) -> SteadyClock:
        """A process begins."""
        name = self.directory / "boot_id"
        name.write_text(self.boot_id)
        return SteadyClock(self.directory, boot=lambda: self.boot, wall=lambda: self.wall, boot_id=name)

    def passes(self, seconds: float) -> None:
        self.wall, self.boot = self.wall + seconds, self.boot + seconds


def answered(table: RelayTable, granted: str, key: str, unix: float) -> bool:
    """Whether the relay answers a bind by this grant at all."""
    allocation = relay.Allocation.unpack(bytes.fromhex(granted))
    message = relay.seal(relay.Bind(allocation, bytes(relay.TRANSACTION_LEN)), bytes.fromhex(key))
    return bool(table.handle_control(message, SocketAddress("192.0.2.1", 5), allocation.peer_port, 1.0, unix))


@pytest.mark.parametrize("step", [DAY_S, -DAY_S])
def test_grants_live_their_time_whatever_the_wall_clock_does(step: float, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    mediator, judging = machine.start(), machine.start()
    table = RelayTable(SECRET, b"c" * 32, PORTS)
    before = grant(SECRET, 40000, 40001, int(mediator.unix()) + GRANT_TTL_S)
    machine.wall += step
    machine.passes(60)
    assert answered(table, before.allocation, before.key, judging.unix()), "it goes on at once"
    anew = machine.start()  # the mediator has crashed, and begins under the other clock
    after = grant(SECRET, 40000, 40001, int(anew.unix()) + GRANT_TTL_S)
    assert answered(table, after.allocation, after.key, judging.unix())
    machine.passes(GRANT_TTL_S - 30)
    assert not answered(table, before.allocation, before.key, judging.unix()), "and ends when it should"
    machine.passes(60)
    assert not answered(table, after.allocation, after.key, judging.unix())


def test_a_boot_begins_anew(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.start()
    machine.wall += 3 * DAY_S
    machine.boot, machine.boot_id = 5.0, "two"
    assert machine.start().unix() == machine.wall


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"boot": "one"}', '{"boot": "one", "offset": "soon"}', "null"]
)
def test_a_damaged_file_is_as_good_as_none_and_is_mended(text: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / CLOCK_FILE).write_text(text)
    assert machine.start().unix() == WALL
    assert json.loads((tmp_path / CLOCK_FILE).read_text())["offset"] == WALL - 100


def test_where_nothing_can_be_kept_each_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    machine = Machine(tmp_path)
    clock = SteadyClock(
        tmp_path / "file", boot=lambda: machine.boot, wall=lambda: machine.wall, boot_id=tmp_path / "no"
    )
    machine.passes(5)
    assert clock.unix() == WALL + 5
