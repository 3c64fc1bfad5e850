"""`netctl-mediator relay` on a machine of its own, as a process: what it takes, what it is silent to, what it shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mediator.core.relay_grants import Grant, grant
from mediator.shell.commands.relay import run
from mediator.shell.credentials import RELAY_SECRET_FILE, Identity
from mediator.shell.main import command_line, main
from mediator.shell.stateroles import APART_FILE
from mediator.shell.store import STORE_FILE
from netctl.agent.transport.relaytls import RelayTls
from netctl.model.document import Mediator
from netctl.model.errors import LocalError
from netctl.wire import relay, stun
from tests.mediator.loopbackkit import ANN, BOB, HOST
from tests.support.freeports import free_port, free_ports
from tests.support.patience import BUSY_S, wait_for

SILENCE_S = 0.3
"""An answer on loopback takes a millisecond; what is asked after a hostile question shows that the relay lives."""
DASHBOARD = Path(__file__).parents[2] / "packaging/grafana/relay.json"
DATA = b"\4\0\0\0".ljust(100, b"x")


@dataclass
class Place:
    """The files of two mediators and of the relay apart."""

    directory: Path
    mediators: list[Identity] = field(init=False)
    apart: Identity = field(init=False)
    first: int = field(init=False)
    tls: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mediators = [Identity.create(self.directory / name) for name in ("one", "other")]
        self.state = self.directory / "relay"
        self.apart = Identity.create(self.state)
        self.document = self.directory / "networks.yaml"
        self.log = self.directory / "log"
        self.first, self.port = free_ports(4)[0], free_port()
        self.stun, self.metrics = free_port(socket.SOCK_DGRAM), f"{HOST}:{free_port()}"
        self.write(self.mediators)

    def write(self, mediators: list[Identity], role: str = "relay") -> None:
        entries = [
            {"url": f"netctl://192.0.2.{number}:8443", "identity": [str(one.public)]}
            for number, one in enumerate(mediators, 1)
        ]
        own = {
            "url": f"netctl://{HOST}:{self.port}",
            "identity": [str(self.apart.public)],
            "role": role,
            "stun": [self.stun],
            "relayPorts": f"{self.first}-{self.first + 3}",
            **({"tls": self.tls} if self.tls else {}),
        }
        text = {
            "apiVersion": "netctl/v1",
            "mediators": [*entries, own],
            "members": {
                name: {"wireguard": str(pair.wireguard), "identity": str(pair.identity)}
                for name, pair in {"ann": ANN, "bob": BOB}.items()
            },
            "networks": {"lan": {"mode": "routed", "ipv4": "10.1.0.0/28", "members": ["*"]}},
        }
        self.document.write_text(json.dumps(text))

    def said(self) -> str:
        return self.log.read_text()

    def granted(
        self, own: int, peer: int, by: Identity, *, at: Identity | None = None, ttl_s: int = 3600
    ) -> Grant:
        secret = by.agree((at or self.apart).public)
        return grant(secret, self.first + own, self.first + peer, int(time.time()) + ttl_s)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@contextlib.contextmanager
def relaying(place: Place) -> Iterator[None]:
    command = [sys.executable, "-P", "-m", "mediator.shell.main", "relay", "--listen", HOST]
    command += ["--document", str(place.document), "--state", str(place.state)]
    command += ["--metrics", place.metrics, "--log-level", "info"]
    with place.log.open("ab") as out:
        process = subprocess.Popen(command, stderr=out)
    try:
        wait_for("it relays", lambda: "relaying for" in place.said())
        yield
        assert process.poll() is None, place.said()
    finally:
        process.terminate()
        assert process.wait(BUSY_S) == 0


@pytest.fixture
def running(place: Place) -> Iterator[Place]:
    with relaying(place):
        yield place


class Member:
    """A socket with a grant."""

    def __init__(self, given: Grant) -> None:
        self.allocation = relay.Allocation.unpack(bytes.fromhex(given.allocation))
        self.key = bytes.fromhex(given.key)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((HOST, 0))
        self.socket.settimeout(BUSY_S)

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes, port: int | None = None) -> None:
        self.socket.sendto(data, (HOST, port or self.allocation.peer_port))

    def ask(self, message: relay.RelayMessage) -> relay.RelayMessage:
        self.send(relay.seal(message, self.key))
        return relay.open_message(self.socket.recv(2000), self.key)

    def cookie(self) -> bytes:
        answer = self.ask(relay.Bind(self.allocation, b"t" * 8))
        assert isinstance(answer, relay.Cookie)
        return answer.cookie

    def bind(self) -> relay.Bound:
        answer = self.ask(relay.Confirm(self.allocation, b"u" * 8, self.cookie()))
        assert isinstance(answer, relay.Bound)
        return answer

    def hears_nothing(self) -> bool:
        self.socket.settimeout(SILENCE_S)
        try:
            return not self.socket.recv(2000)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(BUSY_S)

    def is_answered(self) -> bool:
        """Whether the relay answers, at all. Closes the socket."""
        try:
            self.send(relay.seal(relay.Bind(self.allocation, b"t" * 8), self.key))
            return not self.hears_nothing()
        except ConnectionRefusedError:
            return False
        finally:
            self.close()


def page(where: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{where}{path}", timeout=BUSY_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def counted(place: Place) -> dict[str, float]:
    status, text = page(place.metrics, "/metrics")
    assert status == 200
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_it_relays_for_members_of_two_mediators_and_says_what(running: Place) -> None:
    ann = Member(running.granted(0, 1, running.mediators[0]))
    bob = Member(running.granted(1, 0, running.mediators[1]))
    ann.bind()
    assert bob.bind().flags is relay.BoundFlag.PEER_BOUND
    told = relay.open_message(ann.socket.recv(2000), ann.key)
    assert isinstance(told, relay.Bound)
    assert told.flags is relay.BoundFlag.PEER_BOUND
    for one, other in ((ann, bob), (bob, ann)):
        one.send(DATA)
        data, source = other.socket.recvfrom(2000)
        assert (data, source) == (DATA, (HOST, other.allocation.peer_port))
    wait_for(
        "both are counted: the relay sends first",
        lambda: counted(running)["netctl_relay_bytes_total agent-agent"] >= 2 * len(DATA),
    )
    now = counted(running)
    assert now["netctl_relay_bytes_total agent-agent"] == 2 * len(DATA)
    assert now["netctl_relay_bytes_total agent-app"] == now["netctl_relay_bytes_total app-app"] == 0
    assert now["netctl_relay_bindings"] == now["netctl_relay_members"] == 2
    wanted = {
        name
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
        for name in re.findall(r"netctl_\w+", target["expr"])
    }
    assert wanted == {name.partition(" ")[0] for name in now if not name.endswith("_created")}
    assert [page(running.metrics, path)[0] for path in ("/healthz", "/readyz", "/other")] == [200, 200, 404]
    assert not (running.state / RELAY_SECRET_FILE).exists()
    assert not (running.state / STORE_FILE).exists()
    ann.close()
    bob.close()


def test_hostile_grants_get_silence(running: Place, tmp_path: Path) -> None:
    stranger, elsewhere = (Identity.create(tmp_path / name) for name in ("stranger", "elsewhere"))
    one = running.mediators[0]
    hostile = {
        "another signer's": running.granted(0, 1, stranger),
        "the relay's own": grant(bytes(32), running.first, running.first + 1, int(time.time()) + 3600),
        "another relay's": running.granted(0, 1, one, at=elsewhere),
        "one that is over": running.granted(0, 1, one, ttl_s=-5),
        "a port outside": running.granted(2000, 1, one),
    }
    for name, given in hostile.items():
        member = Member(given)
        member.send(relay.seal(relay.Bind(member.allocation, b"t" * 8), member.key))
        member.send(relay.seal(relay.Confirm(member.allocation, b"t" * 8, bytes(16)), member.key))
        member.send(DATA)
        assert member.hears_nothing(), name
        member.close()
    good = Member(running.granted(0, 1, one))
    forged = relay.Allocation(
        good.allocation.own_port + 2, good.allocation.peer_port, good.allocation.expires_s
    )
    good.send(relay.seal(relay.Bind(forged, b"t" * 8), good.key))
    good.send(relay.seal(relay.Bind(good.allocation, b"t" * 8), good.key), running.first + 2)
    assert good.hears_nothing(), "the key is of those two ports and no others"
    confirm = relay.seal(relay.Confirm(good.allocation, b"u" * 8, good.cookie()), good.key)
    thief = Member(running.granted(0, 1, one))
    thief.send(confirm)
    answer = relay.open_message(thief.socket.recv(2000), good.key)
    assert isinstance(answer, relay.Cookie), "a copy from elsewhere proves nothing, and binds nobody"
    assert counted(running)["netctl_relay_bindings"] == 0
    assert good.bind()
    wait_for("the pages show it", lambda: counted(running)["netctl_relay_bindings"] == 1)
    assert counted(running)["netctl_relay_expired_grants_total"] == 2
    good.close()
    thief.close()


def test_it_answers_stun_where_the_document_says(running: Place) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(BUSY_S)
        asking.sendto(stun.binding_request(b"t" * 12), (HOST, running.stun))
        answer = stun.decode(asking.recv(2000))
        assert answer.mapped is not None
        assert answer.mapped.port == asking.getsockname()[1]


def test_it_opens_no_tcp_port(running: Place) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, running.port), BUSY_S).close()


def test_it_takes_members_over_tls_at_the_ports_that_the_document_names(place: Place) -> None:
    """One of them is another program's: that is said, and the other one is open. Strangers are told nothing."""
    with socket.create_server((HOST, 0)) as taken:
        place.tls = [free_port(), taken.getsockname()[1]]
        place.write(place.mediators)
        command = [sys.executable, "-P", "-m", "mediator.shell.main", "relay", "--listen", HOST]
        command += ["--document", str(place.document), "--state", str(place.state)]
        with place.log.open("ab") as out:
            process = subprocess.Popen(command, stderr=out)
        try:
            wait_for(
                "it says which it cannot have",
                lambda: f"TCP port {place.tls[1]} cannot be had" in place.said(),
            )
            wait_for("it listens", lambda: _connects(place.tls[0]))
            asyncio.run(_over_tls(place))
        finally:
            process.terminate()
            assert process.wait(BUSY_S) == 0
    assert "Traceback" not in place.said()


def _connects(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), BUSY_S) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    except ConnectionRefusedError:
        return False
    return True


async def _over_tls(place: Place) -> None:
    entry = Mediator(HOST, 1, (place.apart.public,), tls=(place.tls[0],), relay_only=True)
    states: asyncio.Queue[tuple[bool, str]] = asyncio.Queue()
    heard: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
    tls = RelayTls(lambda up, name: states.put_nowait((up, name)), lambda *said: heard.put_nowait(said))
    given = place.granted(0, 1, place.mediators[0])
    allocation, key = relay.Allocation.unpack(bytes.fromhex(given.allocation)), bytes.fromhex(given.key)
    tls.also((entry,))
    tls.want(True)
    try:
        async with asyncio.timeout(BUSY_S):
            assert await states.get() == (True, str(place.apart.public))
            tls.send(given.port, relay.seal(relay.Bind(allocation, b"t" * 8), key))
            cookie = relay.open_message((await heard.get())[1], key)
            assert isinstance(cookie, relay.Cookie)
            tls.send(given.port, relay.seal(relay.Confirm(allocation, b"u" * 8, cookie.cookie), key))
            assert isinstance(relay.open_message((await heard.get())[1], key), relay.Bound)
    finally:
        tls.close()


def test_a_mediator_that_leaves_the_document_is_trusted_no_more(running: Place) -> None:
    ann, bob = (Member(running.granted(n, 1 - n, running.mediators[n])) for n in (0, 1))
    ann.bind()
    bob.bind()
    running.write([running.mediators[1]])
    wait_for("the document is read", lambda: "is in force" in running.said())
    ann.socket.recv(2000)  # that bob had come
    ann.send(DATA)
    ann.send(relay.seal(relay.Bind(ann.allocation, b"t" * 8), ann.key))
    assert ann.hears_nothing()
    assert bob.hears_nothing()
    assert bob.bind()
    running.write([])
    wait_for("a document without mediators is refused", lambda: "names no mediator" in running.said())
    assert bob.bind()
    ann.close()
    bob.close()


def test_what_it_cannot_be_is_said(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--document", str(place.document), "--state", str(place.state)]
    place.write([])
    with pytest.raises(LocalError, match="names no mediator whose grants"):
        run(command_line().parse_args(["relay", *words]))
    place.write(place.mediators)
    assert main(["serve", *words]) == 1
    assert "run `netctl-mediator relay` here" in capsys.readouterr().err
    assert main(["serve", *words, "--no-relay", "--relay-metrics", "127.0.0.1:1"]) == 1
    assert "give its own command --metrics" in capsys.readouterr().err


def test_its_identity_is_made_without_any_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    assert main(["init", "--relay", "--state", str(state), "--host", "r1.example.net"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "  - url: netctl://r1.example.net:8443",
        f'    identity: ["{Identity.load(state).public}"]',
        "    role: relay",
    ]
    assert {path.name for path in state.iterdir()} == {"identity.key", APART_FILE}
