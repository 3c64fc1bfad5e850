"""A program on a lab host that takes one network up, sends packets to the other member, and reports events with times.

`python -m netctl.lab.meet` reads orders from standard input, one JSON object per line, and writes events so too:

    {"op": "up", "network": N, "own": ADDRESS, "peer": ADDRESS, "name": MEMBER}
    {"op": "count"}   count packets received since the last such order, and lost between the first and the last
    {"op": "down"}    take the network down; the last event of this meeting follows

Events carry `at`, seconds of the machine's monotonic clock, which all hosts of a lab share: `up` (this host has the
network's address and sends its first packet), `heard` (the first packet of the peer arrived), `path` (the agent
changed the path), `count`, `down`, and `failed`.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

PORT = 9
"""The discard port (RFC 863): nothing answers."""
SEND_EVERY_S = 0.02
"""Seconds between two packets to the peer."""
POLL_S = 0.005
AGENT_S = 60.0
"""Longest wait for an answer of the agent, in seconds."""


class Meeting:
    """One meeting of two hosts. All work runs in one thread, except the request to take the network up."""

    def __init__(self, order: dict[str, Any], agent: str, log: Path) -> None:
        self._order = order
        self._agent = agent
        self._log = log.open("rb")
        self._log.seek(0, os.SEEK_END)
        self._rest = b""
        self._socket: socket.socket | None = None
        self._send_at = 0.0
        self._heard = False
        self._sent = 0
        self._numbers: set[int] = set()
        """Numbers of the packets received since the last count."""
        threading.Thread(target=self._ask, args=("up",), daemon=True).start()

    def step(self, now: float) -> None:
        """Receive, send and report what is due at `now`."""
        if self._socket is None:
            self._bind(now)
        if self._socket is not None:
            self._receive(self._socket, now)
            if now >= self._send_at:
                self._send_at = max(self._send_at + SEND_EVERY_S, now)
                self._send(self._socket)
        self._paths(now)

    def count(self, now: float) -> None:
        """Report the packets since the last count, and start a new count."""
        numbers, self._numbers = self._numbers, set()
        span = max(numbers) - min(numbers) + 1 if numbers else 0
        say(now, "count", received=len(numbers), lost=span - len(numbers))

    def down(self) -> None:
        """Take the network down and report it."""
        if self._socket is not None:
            self._socket.close()
        self._log.close()
        if self._ask("down"):
            say(time.monotonic(), "down")

    def _bind(self, now: float) -> None:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            made.bind((self._order["own"], PORT))
        except OSError:  # the host does not have the address yet
            made.close()
            return
        made.setblocking(False)
        self._socket, self._send_at = made, now
        say(now, "up")

    def _send(self, made: socket.socket) -> None:
        try:
            made.sendto(self._sent.to_bytes(8), (self._order["peer"], PORT))
            self._sent += 1
        except OSError:
            pass  # the link is not up yet, or its queue is full: send the next packet later

    def _receive(self, made: socket.socket, now: float) -> None:
        while True:
            try:
                data, source = made.recvfrom(64)
            except OSError:
                return
            if source[0] != self._order["peer"]:
                continue
            self._numbers.add(int.from_bytes(data))
            if not self._heard:
                self._heard = True
                say(now, "heard")

    def _paths(self, now: float) -> None:
        """Report changes of the path from the agent's log, whose lines are `NAME: KIND[ at ENDPOINT]`."""
        self._rest += self._log.read()
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            name, _, said = line.decode(errors="replace").partition(": ")
            if name == self._order["name"]:
                say(now, "path", kind=said.split(" ")[0])

    def _ask(self, op: str) -> bool:
        request = {"op": op, "network": self._order["network"]}
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.settimeout(AGENT_S)
                link.connect(self._agent)
                link.sendall(json.dumps(request).encode() + b"\n")
                with link.makefile("rb") as answers:
                    for raw in answers:
                        answer = json.loads(raw)
                        problem = answer.get("error") or (answer.get("result") or {}).get("error")
                        if problem:
                            say(time.monotonic(), "failed", why=str(problem))
                            return False
                        if "result" in answer:
                            return True
        except (OSError, ValueError) as error:
            say(time.monotonic(), "failed", why=f"{op}: {error}")
        return False


def say(at: float, event: str, **more: Any) -> None:
    """Write one event."""
    print(json.dumps({"at": at, "event": event, **more}), flush=True)


def main(agent: str, log: str) -> int:
    """Perform orders until standard input ends. `agent`: its socket; `log`: its log file."""
    meeting: Meeting | None = None
    rest = b""
    while True:
        readable, _, _ = select.select([0], [], [], POLL_S if meeting is not None else None)
        now = time.monotonic()
        if readable:
            data = os.read(0, 65536)
            if not data:
                return 0
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                if order["op"] == "up":
                    meeting = Meeting(order, agent, Path(log))
                elif meeting is not None and order["op"] == "count":
                    meeting.count(now)
                elif meeting is not None:
                    meeting.down()
                    meeting = None
        if meeting is not None:
            meeting.step(now)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
