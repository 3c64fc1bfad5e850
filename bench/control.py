"""The mediator with members as real TLS connections over loopback: memory, logins a second, presence, a restart.

Run: python bench/control.py [--members N] [--quick]. The members (raw clients that speak the real login)
live in this process, the mediator in one of its own; what is printed is the mediator's processor time and memory, so
that the clients' share of the machine does not count. Each /24 of 127.0.0.0/8 has a few members: strangers are limited.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mediator.core.audience import INTEREST_ABOVE
from mediator.shell.credentials import ALPN
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.session.login import make_login
from netctl.wire import control as w
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame

HOST, PORT = "127.0.0.1", 8443
COMMAND = ("-P", "-m", "mediator.shell.main")
"""Python's arguments for a mediator."""
AT_ONCE = 48
"""Concurrent logins: below the limit of unauthenticated connections of one neighbourhood."""
TICKS = os.sysconf("SC_CLK_TCK")
CHANGES = 60
CHURN_S = 60.0
CHURN = 0.1
"""Share of the members that leaves and returns within CHURN_S."""
AWAY_S = 3.0
IDLE_S = 20.0
INTEREST = 10
"""Others that a member talks to."""
VIEW = (w.COMPRESSED, b'{"type":"rows"', b'{"type":"view"')
"""How the parts of a view begin."""
PING_S = 20.0
"""The interval of real members; the mediator drops a member after 50 s of silence."""


@dataclass
class Member:
    """One member; counts the messages that it receives."""

    number: int
    identity: Ed25519PrivateKey
    key: WireGuardKey
    protocol: Client | None = None
    heard: dict[str, tuple[bool, float]] = field(default_factory=dict)
    interest: list[str] = field(default_factory=list)
    """Declared after login where the mediator does not tell of everybody."""
    view: str = ""
    """The digest of its view, as a member keeps it."""


class Client(asyncio.Protocol):
    """A minimal client that logs in and stays connected."""

    def __init__(self, member: Member, pin: IdentityKey) -> None:
        self._member, self._pin = member, pin
        self._decoder = FrameDecoder(LIMIT_AFTER_LOGIN)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.view_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for payload in self._decoder.feed(data):
            if payload.startswith(
                VIEW
            ):  # to read thousands of rows would take this process more than all else
                self.view_bytes += len(payload)
            else:
                self._take(payload)

    def _ping(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(encode_frame(w.encode(w.Ping(0))))  # type: ignore[attr-defined]
            asyncio.get_running_loop().call_later(PING_S, self._ping)

    def _done(self) -> None:
        self.ready.set_result(None)
        asyncio.get_running_loop().call_later(PING_S, self._ping)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionResetError("the mediator hung up"))

    def _take(self, payload: bytes) -> None:
        message = w.decode(payload)
        member = self._member
        match message:
            case w.Hello(nonce=nonce):
                own = IdentityKey(member.identity.public_key().public_bytes_raw())
                ours = os.urandom(32)
                login = make_login(
                    self._pin, bytes.fromhex(nonce), ours, own, member.key, member.identity.sign
                )
                login = msgspec.structs.replace(login, minor=w.MINOR_VERSION, view=member.view)
                self.transport.write(encode_frame(w.encode(login)))  # type: ignore[attr-defined]
            case w.Sealed():
                member.view = message.digest
                if not message.online and member.interest and not self.ready.done():
                    asked = w.encode(w.Interest(member.interest))
                    self.transport.write(encode_frame(asked))  # type: ignore[attr-defined]
                elif not self.ready.done():
                    self._done()
            case w.Presences():
                if not self.ready.done():
                    self._done()
            case w.Presence(peer=peer, online=online):
                member.heard[peer] = (online, time.monotonic())
            case w.Error(message=text):
                if not self.ready.done():
                    self.ready.set_exception(RuntimeError(text))


class Mediator:
    """The process under test."""

    def __init__(self, directory: Path, host: str = HOST, command: Sequence[str] = COMMAND) -> None:
        """`command`: python's arguments, others for a profile."""
        self.directory, self.host, self._command = directory, host, list(command)
        made = subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "mediator.shell.main",
                "init",
                "--state",
                str(directory),
                "--host",
                host,
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        self.pin = made.stdout.split('"')[1]
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, members: list[Member], network: int) -> None:
        """Write a document in which each network has `network` members."""
        names = [f"m{member.number}" for member in members]
        groups = [names[start : start + network] for start in range(0, len(names), network)]
        document = {
            "apiVersion": "netctl/v1",
            "mediators": [{"url": f"netctl://{HOST}:{PORT}", "identity": [self.pin], "stun": [8444]}],
            "members": {
                f"m{member.number}": {
                    "wireguard": str(member.key),
                    "identity": str(IdentityKey(member.identity.public_key().public_bytes_raw())),
                }
                for member in members
            },
            "networks": {
                f"n{number}": {"mode": "routed", "ipv4": f"10.{number}.0.0/16", "members": group}
                for number, group in enumerate(groups)
            },
        }
        (self.directory / "networks.yaml").write_text(json.dumps(document))

    def start(self, *more: str) -> None:
        """Start the mediator; returns once it listens. `more`: options."""
        command = [sys.executable, *self._command, "serve", "--no-relay", *more]
        command += ["--listen", self.host]
        command += ["--document", str(self.directory / "networks.yaml"), "--state", str(self.directory)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        while b"listening" not in (line := self.process.stderr.readline()):
            if not line:
                raise RuntimeError("the mediator did not start")

    def stop(self) -> None:
        """Stop the mediator."""
        if self.process is not None:
            self.process.terminate()
            self.process.communicate(timeout=60)

    def cpu_s(self) -> float:
        """Processor seconds of the mediator so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_kb(self) -> int:
        """Resident memory of the mediator now."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0


def context() -> ssl.SSLContext:
    """A client's TLS context, without a check of the pin, as only the server is measured."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.set_alpn_protocols([ALPN])
    return made


def source_of(number: int) -> str:
    """The address that a member connects from; 20 members have neighbouring ones."""
    return f"127.{1 + number // 5000}.{number // 20 % 250}.{1 + number % 20}"


async def log_in(members: list[Member], pin: IdentityKey, host: str = HOST) -> None:
    """Log in all members, a few at a time. Retries refused logins, as a member does."""
    tls, slots = context(), asyncio.Semaphore(AT_ONCE)

    async def one(member: Member) -> None:
        for _ in range(50):
            try:
                async with slots:
                    _, protocol = await asyncio.get_running_loop().create_connection(
                        lambda: Client(member, pin),
                        host,
                        PORT,
                        ssl=tls,
                        local_addr=(source_of(member.number), 0),
                    )
                    await asyncio.wait_for(protocol.ready, 30)
                member.protocol = protocol
                return
            except (OSError, TimeoutError):
                await asyncio.sleep(0.2)
        raise RuntimeError(f"member {member.number} does not get in")

    await asyncio.gather(*(one(member) for member in members))


def make_members(count: int) -> list[Member]:
    """Members, each with its own keys."""
    return [
        Member(
            number,
            Ed25519PrivateKey.generate(),
            WireGuardKey(X25519PrivateKey.generate().public_key().public_bytes_raw()),
        )
        for number in range(count)
    ]


async def crowd(mediator: Mediator, count: int, pin: IdentityKey) -> None:
    """Measure many members in networks of 20: logins, memory, idle time."""
    members = make_members(count)
    mediator.write(members, 20 if count <= 5000 else 50)
    mediator.start()
    empty, before, began = mediator.resident_kb(), mediator.cpu_s(), time.monotonic()
    await log_in(members, pin)
    spent, took = mediator.cpu_s() - before, time.monotonic() - began
    print(
        f"{count} logins: {count / spent:.0f} a second of the mediator's processor time ({took:.1f} s in all)"
    )
    print(f"memory: {(mediator.resident_kb() - empty) / count:.1f} KB a member")
    await asyncio.sleep(3)
    before = mediator.cpu_s()
    await asyncio.sleep(IDLE_S)
    print(f"idle, everybody's pings answered: {(mediator.cpu_s() - before) / IDLE_S * 100:.1f} % of a core")
    close(members)
    mediator.stop()


def close(members: list[Member]) -> None:
    """Close the members' connections."""
    for member in members:
        if member.protocol is not None:
            member.protocol.transport.abort()  # type: ignore[attr-defined]
            member.protocol = None


async def churn(mediator: Mediator, members: list[Member], pin: IdentityKey) -> None:
    """A tenth of the members leaves and returns within a minute; the others record when they receive the news."""
    going = members[: int(len(members) * CHURN)]
    staying = members[len(going) :]
    watching = {
        str(member.key): [other for other in staying if str(member.key) in other.interest] for member in going
    }
    before, delays, missed = mediator.cpu_s(), list[float](), 0

    async def leave_and_return(number: int, member: Member) -> None:
        nonlocal missed
        await asyncio.sleep(number * (CHURN_S - AWAY_S) / len(going))
        for online in (False, True):
            at = time.monotonic()
            if online:
                await log_in([member], pin)
            else:
                close([member])
            await asyncio.sleep(AWAY_S)
            for other in staying if len(members) <= INTEREST_ABOVE else watching[str(member.key)]:
                state, heard = other.heard.get(str(member.key), (None, 0.0))
                if state is online:
                    delays.append(heard - at)
                else:
                    missed += 1

    await asyncio.gather(*(leave_and_return(number, member) for number, member in enumerate(going)))
    p99 = statistics.quantiles(delays, n=100)[98]
    print(
        f"{len(going)} of {len(members)} leave and return in a minute: 99 % of {len(delays)} notices within "
        f"{p99 * 1e3:.0f} ms, the last after {max(delays) * 1e3:.0f} ms, {missed} missed; "
        f"{(mediator.cpu_s() - before) / CHURN_S * 100:.1f} % of a core"
    )


async def one_network(mediator: Mediator, count: int, pin: IdentityKey, *, churns: bool) -> None:
    """Measure all members in one network: cost and delay of a change, churn, and a restart.

    Above `INTEREST_ABOVE` each member is interested in `INTEREST` others, and so many in the one that changes.
    """
    members = make_members(count)
    leaver, told = members[-1], members[:-1]
    if count > INTEREST_ABOVE:
        chance = random.Random(1)
        for member in members:
            member.interest = [str(other.key) for other in chance.sample(members, INTEREST)]
        told = chance.sample(told, INTEREST)
        for member in told:
            member.interest = [*member.interest[1:], str(leaver.key)]
    mediator.write(members, count)
    mediator.start()
    empty, before = mediator.resident_kb(), mediator.cpu_s()
    await log_in(members, pin)
    print(
        f"{count} in one network: {count / (mediator.cpu_s() - before):.0f} logins a second of processor time, each "
        "with the whole view"
    )
    await asyncio.sleep(2)
    whole = (
        leaver.protocol.view_bytes if leaver.protocol is not None else 0
    )  # the first is sent it uncompressed
    before, delays = mediator.cpu_s(), []
    changes = CHANGES if count <= 1000 else CHANGES // 3
    for _ in range(changes // 2):
        assert leaver.protocol is not None
        for online in (False, True):
            for member in told:
                member.heard.pop(str(leaver.key), None)
            at = time.monotonic()
            if online:
                await log_in([leaver], pin)
            else:
                close([leaver])
            while not all(str(leaver.key) in member.heard for member in told):
                await asyncio.sleep(0.005)
                if time.monotonic() - at > 10:
                    raise RuntimeError("a change does not reach everybody")
            delays += [member.heard[str(leaver.key)][1] - at for member in told]
    spent = (mediator.cpu_s() - before) / changes
    p99 = statistics.quantiles(delays, n=100)[98]
    print(
        f"{count} in one network: a change costs {spent * 1e3:.1f} ms and reaches 99 % of {len(told)} within "
        f"{p99 * 1e3:.0f} ms; "
        f"the whole view is {whole} bytes"
    )
    print(f"memory with {count} in one network: {(mediator.resident_kb() - empty) / count:.1f} KB a member")
    if churns:
        await churn(mediator, members, pin)
    if count >= 1000:
        mediator.stop()
        close(members)
        at = time.monotonic()
        mediator.start()
        before, listening = mediator.cpu_s(), time.monotonic()
        await log_in(members, pin)
        spent = mediator.cpu_s() - before
        print(
            f"{count} members whole again {time.monotonic() - at:.1f} s after a restart "
            f"({listening - at:.1f} s until it listened), {mediator.cpu_s():.1f} s of processor time with the start: "
            f"{count / spent:.0f} logins a second, each with the view that it has"
        )
    close(members)
    mediator.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument(
        "--one",
        type=int,
        nargs="+",
        metavar="N",
        help="nothing but networks of N members each, one after the other",
    )
    arguments = parser.parse_args()
    count = arguments.members // 10 if arguments.quick else arguments.members
    count = max(arguments.one or [count])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < count + 100:
        parser.error(f"{hard} open files are allowed here: raise the hard limit, or take fewer --members")

    async def all_of_it(mediator: Mediator) -> None:
        pin = IdentityKey.parse(mediator.pin)
        try:
            if not arguments.one:
                await crowd(mediator, count, pin)
            for size in arguments.one or ((100, 1000) if arguments.quick else (100, 1000, 5000)):
                await one_network(mediator, size, pin, churns=size == 1000 and not arguments.one)
        finally:
            mediator.stop()

    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_of_it(Mediator(Path(name))))


if __name__ == "__main__":
    main()
