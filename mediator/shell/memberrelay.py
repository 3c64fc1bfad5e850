"""The relay of a member: `netctl agent` starts it as a child where the document says `relay` of its member.

The relay has no key and no document. The agent tells it its ports and the secrets by which grants are checked
(`netctl.wire.relayorders`), by the standard input. When that ends, the relay ends: it does not outlive its agent.
Before it handles the first datagram it gives up all capabilities, files, programs and connections
(`netctl.system.confine`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mediator.shell.relayapart import GrantClock, answer_stun
from mediator.shell.relayserver import RelayServer, run_relay
from mediator.shell.steadyclock import SteadyClock
from netctl.model.errors import NetctlError, RemoteError
from netctl.model.portspans import spans
from netctl.system import logs
from netctl.system.confine import confine
from netctl.wire.relayorders import MAX_LINE, MAX_UNHELD, RelayOrder, RelayReport, read_line, write_line

_LOG = logging.getLogger("mediator.relay")
IN, OUT = 0, 1
REPORT_S = 2.0
"""Interval of reports: `netctl status` shows the last one."""


class Lines:
    """The agent's lines, from a pipe. One that is too long, or wrong, ends the relay: only a fault can write it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def first(self) -> RelayOrder | None:
        """Wait for the first line; None: the pipe has ended before. Raises RemoteError."""
        while b"\n" not in self._rest:
            if not self._more():
                return None
        return self._taken()[0]

    def next(self) -> list[RelayOrder] | None:
        """The lines that have come, without waiting; None: the pipe has ended. Raises RemoteError."""
        try:
            if not self._more():
                return None
        except BlockingIOError:
            return []
        return self._taken()

    def _more(self) -> bool:
        found = os.read(self._descriptor, MAX_LINE)
        self._rest += found
        if len(self._rest) > 2 * MAX_LINE:
            raise RemoteError("a line of the agent is too long", "relay.line")
        return bool(found)

    def _taken(self) -> list[RelayOrder]:
        *lines, self._rest = self._rest.split(b"\n")
        return [read_line(line, RelayOrder) for line in lines]


class Reports:
    """Writes the relay's state to the agent. A report that does not fit into the pipe is left out."""

    def __init__(self, relay: RelayServer) -> None:
        self._relay = relay
        self._at = float("-inf")

    def look(self, now: float) -> None:
        """Beside the relay's work: write a report if one is due."""
        if now < self._at + REPORT_S:
            return
        self._at = now
        relay = self._relay
        behind = round(max(relay.table.clock_behind_s, 0.0), 1)
        unheld = spans(relay.unheld, MAX_UNHELD)
        _tell(RelayReport(len(relay.table), relay.counters.forwarded_bytes, behind, unheld))


def _tell(report: RelayReport) -> None:
    with contextlib.suppress(OSError):
        os.write(OUT, write_line(report))


def _trusted(order: RelayOrder) -> list[bytes]:
    return [bytes.fromhex(text) for text in order.secrets]


def any_address() -> str:
    """All addresses of this host, of both families if it has IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return "0.0.0.0"  # noqa: S104 - a relay is for everybody's packets
    return "::"


def serve(order: RelayOrder, lines: Lines) -> None:
    """Relay until the agent's pipe ends. Raises LocalError if a port cannot be had."""
    clock, address = SteadyClock(None), any_address()

    def obey(relay: RelayServer) -> None:
        try:
            found = lines.next()
        except RemoteError as error:
            _LOG.warning(f"this member's relay ends: {error}")
            found = None
        if found is None:
            relay.stop()
            return
        for one in found:
            relay.table.trust(_trusted(one))

    @contextmanager
    def also(relay: RelayServer) -> Iterator[None]:
        relay.table.trust(_trusted(order))
        os.set_blocking(IN, False)
        os.set_blocking(OUT, False)
        relay.listen(IN, lambda: obey(relay))
        relay.watch(GrantClock(clock, relay.table).look)
        relay.watch(Reports(relay).look)
        with answer_stun(relay, address, order.stun):
            for missing in confine(None, kept=0):
                _LOG.debug(f"not given up, {missing}")
            yield

    first, last = order.relay_ports
    run_relay(
        address,
        order.relay_ports,
        _trusted(order)[0],
        secrets.token_bytes(32),
        unix=clock.unix,
        ready=lambda: _LOG.info(f"this member relays for its networks at UDP {first}-{last}"),
        also=also,
    )


def main() -> int:
    """Run as the agent's child. 1: it could not begin, and has told the agent why."""
    logs.start(logging.INFO, prefix="netctl: ")
    time.strftime("%H")  # reads the time zone's file, which cannot be opened later
    lines = Lines(IN)
    try:
        order = lines.first()
        if order is not None:
            serve(order, lines)
    except NetctlError as error:
        _tell(RelayReport(error=str(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
