"""`netctl top` and `netctl status --watch`, on a real terminal whose screen is read back."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyte
import pytest

from netctl.ui.liveview import ORDERS, Choice, listed, pressed
from netctl.ui.peerhistory import PeerHistory
from netctl.wire import agentrequests as a
from tests.support.patience import wait_for
from tests.ui.uikit import NETCTL, Host, command, host, peer, status

COLUMNS, LINES = 110, 14
PEERS = (
    peer("nas", "10.9.0.2", path="lan", rtt_ms=0.7),
    peer("laptop", "10.9.0.3", path="relay-udp", rtt_ms=48.0),
    peer("printer", "10.9.0.4", path="none", online=False, rtt_ms=None, last_handshake_s=None),
)


class Terminal:
    """A program on a terminal, and what stands on its screen."""

    def __init__(self, argv: list[str]) -> None:
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "40", "LINES": "50"}
        environment.pop("NO_COLOR", None)
        argv = ["setsid", "--ctty", *argv]  # so that Ctrl-C is a signal
        self.process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)

    def read(self) -> str:
        while select.select([self.ours], [], [], 0.05)[0]:
            try:
                self._stream.feed(os.read(self.ours, 65536))
            except OSError:  # EIO: whoever had the other end is gone
                break
        return "\n".join(self.screen.display)

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def order(self) -> list[str]:
        names = [one.name for one in PEERS]
        return [name for line in self.read().splitlines() for name in names if f" {name} " in line]


@contextmanager
def terminal(known: Host, *arguments: str) -> Iterator[Terminal]:
    places = command(known)[1:7]
    one = Terminal([NETCTL, *places, *arguments])
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        os.close(one.ours)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host(tmp_path_factory.mktemp("host"), *PEERS) as made:
        yield made


def test_top_shows_sorts_filters_and_leaves(known: Host) -> None:
    with terminal(known, "top") as screen:
        wait_for("the peers stand there", lambda: "48 ms" in screen.read())
        assert "here" in screen.screen.display[0]
        assert "2 of 3 others online" in screen.screen.display[0]
        assert screen.order() == ["laptop", "nas", "printer"]
        signs = ("●  laptop", "○  printer", "same LAN", "relay", "no path", "name ▼")
        assert [sign for sign in signs if sign not in screen.read()] == []
        screen.type("r")
        wait_for("it is turned", lambda: screen.order() == ["printer", "nas", "laptop"])
        screen.type("rss")
        wait_for(
            "by round trip",
            lambda: "rtt ▼" in screen.read() and screen.order() == ["nas", "laptop", "printer"],
        )
        screen.type("/")
        wait_for("it asks", lambda: "filter:" in screen.read())
        screen.type("lap")
        wait_for("one is left", lambda: screen.order() == ["laptop"])
        screen.type("q")
        wait_for("q is a letter of the filter", lambda: "lapq" in screen.read())
        screen.type("\x1b")
        wait_for("all are back", lambda: len(screen.order()) == 3)
        gone = msgspec.structs.replace(PEERS[0], online=False)
        known.status = status(gone, *PEERS[1:], conditions=["disk full\x1b[2J"])
        wait_for("it is live", lambda: "○  nas" in screen.read())
        assert r"! disk full\x1b[2J" in screen.read(), "what others wrote is text"
        screen.type("q")
        wait_for("it leaves", lambda: screen.read() is not None and screen.process.poll() is not None)
        assert screen.process.returncode == 0
    known.status = status(*PEERS)


@pytest.mark.parametrize("arguments", [["top"], ["status", "--watch"]])
def test_a_peer_that_ceases_to_answer_is_seen(known: Host, arguments: list[str]) -> None:
    """While somebody looks here the agent is told so: that is why it knows."""
    known.asked.clear()
    with terminal(known, *arguments) as screen:
        wait_for("the peers stand there", lambda: "laptop" in screen.read())
        wait_for("it looks", lambda: any(isinstance(one, a.Watch) for one in known.asked))
        assert "not answering" not in screen.read()
        silent = [msgspec.structs.replace(one, answers=one.name != "nas") for one in PEERS]
        known.status = status(*silent)
        known.changes += 1
        wait_for("it is seen", lambda: "not answering" in screen.read(), every_s=0.02)
    known.status = status(*PEERS)


def test_keys_that_come_at_once_are_keys(known: Host) -> None:
    with terminal(known, "top", "--filter", "lap") as screen:
        wait_for("one is left", lambda: screen.order() == ["laptop"])
        screen.type("\x1b[B\x1b[B\x1b[A\x1b[Ar")
        wait_for("the last one is heard", lambda: "name ▲" in screen.read())
        assert screen.order() == ["laptop"], "arrows leave the filter"
        screen.type("/x")
        wait_for("it asks", lambda: "filter: x" in screen.read() or "filter:" in screen.read())
        screen.type("\x1bq")
        wait_for("it leaves", lambda: screen.read() is not None and screen.process.poll() is not None)


def test_top_has_plots_of_what_moves(known: Host) -> None:
    with terminal(known, "top", "--sort", "traffic") as screen:
        for turn in range(3):
            wait_for("peers", lambda: "nas" in screen.read())
            moved = [
                msgspec.structs.replace(one, rx_bytes=one.rx_bytes + 10**6 * (turn + 1)) for one in PEERS[:1]
            ]
            known.status = status(*moved, *PEERS[1:])
            wait_for("it is seen", lambda: "MB/s" in screen.read() or "kB/s" in screen.read())
        wait_for("a plot", lambda: any("\u2801" <= sign <= "\u28ff" for sign in screen.read()))
        assert screen.order()[0] == "nas"
    known.status = status(*PEERS)


def test_top_without_an_agent_says_so_and_waits(tmp_path: Path) -> None:
    with host(tmp_path) as made:
        pass
    with terminal(made, "top") as screen:
        wait_for("it is said", lambda: "no agent runs on this host" in screen.read())
        screen.type("q")
        wait_for("it leaves", lambda: screen.read() is not None and screen.process.poll() is not None)


def test_top_is_for_a_terminal(known: Host) -> None:
    argv = [*command(known)[:7], "top"]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 1
    assert "this is none" in done.stderr


def test_status_watch_goes_on(known: Host) -> None:
    with terminal(known, "status", "--watch") as screen:
        wait_for("the peers stand there", lambda: "laptop" in screen.read())
        known.status = status(*PEERS[:1])
        wait_for("it is shown anew", lambda: "laptop" not in screen.read() and "nas" in screen.read())
        screen.type("\x03")
        wait_for("Ctrl-C ends it", lambda: screen.read() is not None and screen.process.poll() is not None)
        assert screen.process.returncode == 130
    known.status = status(*PEERS)


def test_status_watch_is_not_for_programs(known: Host) -> None:
    argv = [*command(known)[:7], "status", "--watch", "-o", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--watch is for people" in done.stderr


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_takes_every_peer(order: str) -> None:
    history, state = PeerHistory(), status(*PEERS)
    for turned in (False, True):
        names = [one.name for one in listed(state, history, Choice(order=order, turned=turned))]
        assert sorted(names) == ["laptop", "nas", "printer"]


def test_keys_are_bounded_and_harmless() -> None:
    choice = pressed(Choice(), "/")
    for _ in range(200):
        choice = pressed(choice, "x")
    assert len(choice.words) == 64
    assert pressed(choice, "\x07") == choice
    assert pressed(pressed(choice, "enter"), "up").top == 0
    assert pressed(Choice(), "z") == Choice()
