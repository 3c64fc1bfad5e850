"""Thousands of members of one network at one mediator: logins, a restart, changes; the mediator has a core of its own.

Run: python bench/returning.py [N …] [--processes P] [--at-once A]. The mediator runs on the first of this process's
cores, the members on the others, in P processes without asyncio: they read no row of a view, only count its bytes.
What is printed of each side is its processor time, and how long it was ready and waited for a core (Linux,
/proc/PID/task/*/schedstat): what is left of the wall time, a side spent waiting for the other one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import selectors
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import control
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core.audience import INTEREST_ABOVE
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.session.login import make_login
from netctl.wire import control as w
from netctl.wire.frame import HEADER_LEN, encode_frame

AT_ONCE = 64
"""Logins under way at a time, of all processes together."""
CHANGES = 100
"""At most: each of half as many members logs out and in, and each member once."""
CHANGE_S = 0.08
"""After a change: longer than the mediator gathers news."""
IDLE_S = 5.0
SMALL = 4096
"""Bytes of the longest message that a member reads. Longer ones are parts of views."""
AGAIN_S = 0.2
"""Wait after a refused or reset connection."""
LIMIT_S = 600.0
CHANGED_S = 10.0
"""The mediator reads and takes a changed document within this."""
SETTLE_S = 2.0
"""What is gathered or due within a second is done by then."""


@dataclass(slots=True)
class _Peer:
    """A member in a process of members."""

    number: int
    identity: Ed25519PrivateKey
    own: IdentityKey
    key: WireGuardKey
    interest: list[str]
    view: str = ""
    """The digest of the view that it keeps."""


@dataclass(slots=True)
class _Line:
    """Its connection."""

    peer: _Peer
    tls: ssl.SSLSocket
    began: float
    ready: bool = False
    greeted: bool = False
    skip: int = 0
    """Bytes of a long message that are still to come."""
    rest: bytes = b""
    got: int = 0


@dataclass(slots=True)
class _Process:
    """The members of one process. Commands are lines of JSON on stdin, answers lines on stdout."""

    port: int
    pin: IdentityKey
    peers: list[_Peer]
    at_once: int
    tls: ssl.SSLContext = field(default_factory=control.context)
    selector: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)
    lines: dict[int, _Line] = field(default_factory=dict)
    """By member."""
    due: deque[_Peer] = field(default_factory=deque)
    later: deque[tuple[float, _Peer]] = field(default_factory=deque)
    under_way: int = 0
    retries: int = 0
    heard: int = 0
    took: list[float] = field(default_factory=list)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(1 << 16)))

    def log_in(self, peers: list[_Peer]) -> dict[str, Any]:
        """Log all of them in, a few at a time."""
        began, spent = time.monotonic(), time.process_time()
        pinged = began
        before, self.retries, self.took = sum(line.got for line in self.lines.values()), 0, []
        self.due.extend(peers)
        while self.due or self.later or self.under_way:
            now = time.monotonic()
            if now - began > LIMIT_S:
                raise RuntimeError("not all get in")
            if now - pinged > control.PING_S:
                pinged = now
                self.ping()
            while self.later and self.later[0][0] <= now:
                self.due.append(self.later.popleft()[1])
            while self.due and self.under_way < self.at_once:
                self._begin(self.due.popleft())
            self._turn(0.05)
        return {
            "wall_s": time.monotonic() - began,
            "processor_s": time.process_time() - spent,
            "retries": self.retries,
            "bytes": sum(line.got for line in self.lines.values()) - before,
            "took": self.took,
        }

    def listen(self, seconds: float) -> dict[str, Any]:
        """Read for a while what comes; the count of messages about others so far."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._turn(left)
        return {"heard": self.heard}

    def ping(self) -> dict[str, Any]:
        """Send a ping for each member. Only while many log in they send some by themselves."""
        for line in self.lines.values():
            with contextlib.suppress(OSError):  # it has ended, which the next turn finds
                line.tls.send(encode_frame(w.encode(w.Ping(0))))
        return {}

    def close(self, peers: list[_Peer]) -> dict[str, Any]:
        """End the connections of these."""
        for peer in peers:
            if (line := self.lines.pop(peer.number, None)) is not None:
                self._end(line)
        return {}

    def _begin(self, peer: _Peer) -> None:
        raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        raw.bind((control.source_of(peer.number), 0))
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.connect_ex((control.HOST, self.port))
        try:
            tls = self.tls.wrap_socket(raw, do_handshake_on_connect=False)
        except OSError:  # refused already
            raw.close()
            self._again(peer)
            return
        line = _Line(peer, tls, time.monotonic())
        self.under_way += 1
        self.selector.register(tls, selectors.EVENT_WRITE, line)

    def _turn(self, seconds: float) -> None:
        for found, _ in self.selector.select(seconds):
            line: _Line = found.data
            try:
                if line.greeted:
                    self._read(line)
                else:
                    line.tls.do_handshake()
                    line.greeted = True
                    self.selector.modify(line.tls, selectors.EVENT_READ, line)
                    self._read(line)
            except ssl.SSLWantReadError:
                if found.events != selectors.EVENT_READ:
                    self.selector.modify(line.tls, selectors.EVENT_READ, line)
            except (OSError, EOFError):
                self._end(line)
                if line.ready:
                    self.lines.pop(line.peer.number, None)
                else:
                    self.under_way -= 1
                    self._again(line.peer)

    def _again(self, peer: _Peer) -> None:
        self.retries += 1
        self.later.append((time.monotonic() + AGAIN_S, peer))

    def _end(self, line: _Line) -> None:
        self.selector.unregister(line.tls)
        line.tls.close()

    def _read(self, line: _Line) -> None:
        while count := line.tls.recv_into(self.buffer):
            line.got += count
            skipped = min(line.skip, count)
            line.skip -= skipped
            if skipped < count:
                self._frames(line, line.rest + bytes(self.buffer[skipped:count]))
        raise EOFError

    def _frames(self, line: _Line, data: bytes) -> None:
        at = 0
        while len(data) - at >= HEADER_LEN:
            length = int.from_bytes(data[at : at + HEADER_LEN], "big")
            end = at + HEADER_LEN + length
            if length > SMALL:
                line.skip, line.rest = max(0, end - len(data)), data[end:]
                at = min(end, len(data))
                continue
            if end > len(data):
                break
            self._take(line, data[at + HEADER_LEN : end])
            at = end
        line.rest = data[at:]

    def _take(self, line: _Line, payload: bytes) -> None:
        if payload.startswith(w.COMPRESSED):
            return
        message, peer = w.decode(payload), line.peer
        match message:
            case w.Hello(nonce=nonce):
                login = make_login(
                    self.pin, bytes.fromhex(nonce), os.urandom(32), peer.own, peer.key, peer.identity.sign
                )
                login = msgspec.structs.replace(login, minor=w.MINOR_VERSION, view=peer.view)
                line.tls.send(encode_frame(w.encode(login)))
            case w.Sealed():
                peer.view = message.digest
                if not line.ready and peer.interest and not message.online:
                    line.tls.send(encode_frame(w.encode(w.Interest(peer.interest))))
                elif not line.ready:
                    self._ready(line)
            case w.Presences():
                if not line.ready:
                    self._ready(line)
            case w.Presence():
                self.heard += 1
            case w.Error():
                raise ConnectionResetError(message.message)
            case _:
                pass

    def _ready(self, line: _Line) -> None:
        line.ready = True
        self.lines[line.peer.number] = line
        self.under_way -= 1
        self.took.append(time.monotonic() - line.began)


def members(path: str) -> None:
    """A process of members."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    told = json.loads(Path(path).read_text())
    Path(path).unlink()
    peers = []
    for number, identity, key, interest in told["members"]:
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(identity))
        own = IdentityKey(private.public_key().public_bytes_raw())
        peers.append(_Peer(number, private, own, WireGuardKey.parse(key), interest))
    process = _Process(told["port"], IdentityKey.parse(told["pin"]), peers, told["at_once"])
    for text in sys.stdin:
        command = json.loads(text)
        some = peers[command.get("first", 0) : command.get("last", len(peers))]
        match command["do"]:
            case "forget":
                for peer in some:
                    peer.view = command.get("view", "")
                answer: dict[str, Any] = {}
            case "log in":
                answer = process.log_in(some)
            case "close":
                answer = process.close(some)
            case "ping":
                answer = process.ping()
            case _:
                answer = process.listen(command["seconds"])
        print(json.dumps(answer), flush=True)


class Crowd:
    """The processes of members."""

    def __init__(
        self, made: list[list[Any]], pin: str, processes: int, at_once: int, cores: set[int]
    ) -> None:
        self.processes = []
        self.size = -(-len(made) // processes)
        for start in range(0, len(made), self.size):
            with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
                part = {"members": made[start : start + self.size], "pin": pin, "port": control.PORT}
                json.dump({**part, "at_once": max(1, at_once // processes)}, file)
            child = subprocess.Popen(
                [sys.executable, __file__, "--members-of", file.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
            self.processes.append(child)

    def ask(self, **command: Any) -> list[dict[str, Any]]:
        """Give all processes a command; their answers."""
        return self.ask_some(self.processes, **command)

    def ask_some(self, some: list[subprocess.Popen[str]], **command: Any) -> list[dict[str, Any]]:
        """The same for some of them."""
        for child in some:
            assert child.stdin is not None
            child.stdin.write(json.dumps(command) + "\n")
            child.stdin.flush()
        answers = []
        for child in some:
            assert child.stdout is not None
            answers.append(json.loads(child.stdout.readline()))
        return answers

    def end(self) -> None:
        """End the processes."""
        for child in self.processes:
            child.communicate()


@dataclass(frozen=True, slots=True)
class _Spent:
    wall_s: float
    processor_s: float
    waited_s: float
    """Ready to run, while other programs had the core."""

    def since(self, before: _Spent) -> _Spent:
        """What was spent after an earlier look."""
        return _Spent(
            self.wall_s - before.wall_s,
            self.processor_s - before.processor_s,
            self.waited_s - before.waited_s,
        )

    def __str__(self) -> str:
        return f"{self.processor_s:.2f} s of processor time, {self.waited_s:.1f} s of waiting for a core"


def spent(*processes: subprocess.Popen[Any]) -> _Spent:
    """What these processes have spent so far."""
    ran, waited = 0, 0
    for process in processes:
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            fields = (task / "schedstat").read_text().split()
            ran, waited = ran + int(fields[0]), waited + int(fields[1])
    return _Spent(time.monotonic(), ran / 1e9, waited / 1e9)


def started(mediator: control.Mediator) -> subprocess.Popen[bytes]:
    """Start a mediator."""
    mediator.start()
    assert mediator.process is not None
    return mediator.process


def measure(count: int, processes: int, at_once: int, command: Sequence[str]) -> None:
    """Measure one network of `count` members."""
    cores = sorted(os.sched_getaffinity(0))
    own, others = {cores[0]}, set(cores[1:]) or set(cores)
    chance = random.Random(1)
    plain = control.make_members(count)
    keys = [str(member.key) for member in plain]
    interest = [chance.sample(keys, min(control.INTEREST, count)) for _ in plain]
    with tempfile.TemporaryDirectory() as name:
        mediator = control.Mediator(Path(name), command=command)
        mediator.write(plain, count)
        os.sched_setaffinity(0, own)  # for the mediator, all its threads, and this process, which waits
        process = started(mediator)
        made = [
            [member.number, member.identity.private_bytes_raw().hex(), str(member.key), asked]
            for member, asked in zip(plain, interest, strict=True)
        ]
        crowd = Crowd(made, mediator.pin, processes, at_once, others)
        crowd.ask(do="listen", seconds=0)

        def logins(what: str, last: int = count) -> None:
            before, theirs = spent(process), spent(*crowd.processes)
            answers = crowd.ask(do="log in", last=last)
            took = spent(process).since(before)
            members = spent(*crowd.processes).since(theirs)
            waits = sorted(one for answer in answers for one in answer["took"])
            sent = sum(answer["bytes"] for answer in answers)
            done = len(waits)
            print(
                f"{count} {what}: {done / took.processor_s:.0f} logins a second, "
                f"{took.processor_s / done * 1e3:.2f} ms each; {took.wall_s:.1f} s in all: the mediator {took}; the "
                f"members {members}; a login took {statistics.median(waits) * 1e3:.0f} ms, the longest "
                f"{waits[-1] * 1e3:.0f} ms; {sum(answer['retries'] for answer in answers)} tried again; "
                f"{sent / done:.0f} bytes each",
                flush=True,
            )

        try:
            empty = mediator.resident_kb()
            logins("with the whole view")
            print(f"memory: {(mediator.resident_kb() - empty) / count:.1f} KB a member", flush=True)
            crowd.ask(do="close")
            time.sleep(SETTLE_S)
            crowd.ask(do="forget")
            logins("with the whole view, which others have had")
            crowd.ask(do="listen", seconds=SETTLE_S)
            before = spent(process)
            crowd.ask(do="ping")
            heard = sum(answer["heard"] for answer in crowd.ask(do="listen", seconds=SETTLE_S))
            pinged = spent(process).since(before)
            before = spent(process)
            crowd.ask(do="listen", seconds=IDLE_S)
            idle = spent(process).since(before)
            idle_share = idle.processor_s / idle.wall_s
            pings = pinged.processor_s - idle_share * pinged.wall_s
            leaving = chance.sample(
                range(count), min(CHANGES // 2, count)
            )  # a member alone would log in too often
            before = spent(process)
            for number in leaving:
                one, place = [crowd.processes[number // crowd.size]], number % crowd.size
                for what in ("close", "log in"):
                    crowd.ask_some(one, do=what, first=place, last=place + 1)
                    crowd.ask(do="listen", seconds=CHANGE_S)
            took = spent(process).since(before)
            heard = sum(answer["heard"] for answer in crowd.ask(do="listen", seconds=0.5)) - heard
            changing = took.processor_s - idle_share * took.wall_s
            changes = 2 * len(leaving)
            told = 2 * sum(
                other != number and (count <= INTEREST_ABOVE or keys[number] in asked)
                for number in leaving
                for other, asked in enumerate(interest)
            )
            print(
                f"{count}: a change {took.processor_s / changes * 1e3:.2f} ms, {changing / changes * 1e3:.2f} without "
                f"what it takes idle ({idle_share * 1e3:.1f} ms a second; a ping {pings / count * 1e6:.0f} us); "
                f"{len(leaving)} log-outs and as many log-ins in {took.wall_s:.0f} s, {heard} of {told} "
                "notices came",
                flush=True,
            )
            crowd.ask(do="close")
            mediator.stop()
            at = time.monotonic()
            process = started(mediator)
            listening = time.monotonic()
            logins("after a restart, with the kept view")
            print(
                f"{count} whole again {time.monotonic() - at:.1f} s after the restart, {listening - at:.1f} s until it "
                f"listened; {spent(process)} with the start",
                flush=True,
            )
            crowd.ask(do="close")
            time.sleep(SETTLE_S)
            before = spent(process)
            mediator.write(plain[:-1], count)
            crowd.ask(do="listen", seconds=CHANGED_S)
            print(
                f"{count}: a change of the document {spent(process).since(before).processor_s:.2f} s",
                flush=True,
            )
            logins("with the view of before the change", -1)
        finally:
            crowd.end()
            mediator.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("counts", type=int, nargs="*", default=[5_000, 10_000], metavar="N")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--command", nargs="+", default=control.COMMAND, help="of python, for a profile")
    parser.add_argument("--members-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.members_of:
        members(arguments.members_of)
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for count in arguments.counts:
        measure(count, arguments.processes, arguments.at_once, arguments.command)


if __name__ == "__main__":
    main()
