"""`netctl export --wg`: from the mediator's own answer to the file that a stock app reads, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import configparser
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
import segno
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core.membershipservice import MembershipService
from mediator.shell.admin import SOCKET_NAME, AdminServer
from mediator.shell.membershiprunner import MembershipRunner
from mediator.shell.store import Store
from mediator.shell.storethread import StoreThread
from netctl.cli.main import main
from netctl.config import load_document
from netctl.model import derive
from netctl.model.keys import WireGuardKey
from tests.mediator.test_hub import PIN, Shell, identity, key
from tests.support.patience import BUSY_S

PRIVATE = X25519PrivateKey.from_private_bytes(b"\x21" * 32)
PUBLIC = WireGuardKey(PRIVATE.public_key().public_bytes_raw())
SECRET_TEXT = base64.b64encode(PRIVATE.private_bytes_raw()).decode()
MEDIATOR = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
Run = Callable[..., tuple[int, str, str]]


def document(host: str = "mediator.example.net", ports: str = "40000-40019", phones: int = 0) -> str:
    agents = ["ann", "bob", "cid", "dan"]
    members: dict[str, Any] = {
        name: {"wireguard": str(key(name)), "identity": str(identity(name))} for name in agents
    }
    members["bob"]["routes"] = ["192.168.50.0/24"]
    members["phone"] = {"wireguard": str(PUBLIC), "mtu": 1380}
    members["lonely"] = {"wireguard": str(key("lonely"))}
    members["old"] = {"wireguard": str(key("old")), "state": "absent"}
    more = [f"x{number}" for number in range(phones)]
    members |= {name: {"wireguard": str(key(name)), "identity": str(identity(name))} for name in more}
    text = {
        "apiVersion": "netctl/v1",
        "mediators": [{"url": f"netctl://{host}:8443", "identity": [str(PIN)], "relayPorts": ports}],
        "members": members,
        "networks": {
            "party": {"mode": "lan", "ipv4": "10.1.0.0/24", "members": ["ann", "phone", *more]},
            "work": {"mode": "routed", "ipv4": "10.2.0.0/24", "members": ["ann", "bob", "phone"]},
            "far": {
                "mode": "routed",
                "ipv4": "10.3.0.0/24",
                "ipv6": "none",
                "members": ["cid", "dan", "phone"],
                "topology": {"hub": "cid"},
            },
        },
    }
    return json.dumps(text)


class Site:
    """A mediator that answers its operator, and no more."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.store = Store(state / "mediator.db")
        self.hub = h.Hub(PIN, MEDIATOR.sign, bytes(32), generation=1)
        self.unix_s = 0
        self.service = MembershipService(self.hub)
        self.membership = MembershipRunner(
            self.service,
            StoreThread(self.store),
            lambda seconds, call: call(),
            self.perform,
            lambda: self.unix_s,
        )
        self.admin = AdminServer(self.membership, state, state / "networks.yaml")
        self.load(document())
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(state / SOCKET_NAME))
        self.socket.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def load(self, text: str) -> None:
        loaded = load_document(text).document
        self.perform(self.service.set_document(loaded, loaded.mediators[0], self.unix_s))

    def perform(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, fx.Store):
                self.store.add(effect.leases, effect.ports, effect.pairs)
                self.perform(
                    self.hub.stored(effect.leases, effect.ports, effect.pairs, effect.resting, self.unix_s)
                )

    def serve(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            with connection, connection.makefile("rb") as lines:
                line = lines.readline()
                if not line:
                    return
                connection.sendall(asyncio.run(self.admin.service.answer(line, print)))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.state / SOCKET_NAME))
        self.thread.join(BUSY_S)
        self.socket.close()
        self.store.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def run(site: Site, capsys: pytest.CaptureFixture[str]) -> Run:
    def export(*words: str) -> tuple[int, str, str]:
        code = main(["export", "--mediator-state", str(site.state), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return export


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "phone.key"
    path.write_text(SECRET_TEXT + "\n")
    return str(path)


def sections(text: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """([Interface], [Peer]s by public key), as any reader of such files sees them."""
    parts = text.split("[Peer]")
    parsed = []
    for number, part in enumerate(parts):
        reader = configparser.ConfigParser(interpolation=None)
        reader.read_string(part if number == 0 else "[Peer]" + part)
        parsed.append(dict(reader["Interface" if number == 0 else "Peer"]))
    return parsed[0], {peer["publickey"]: peer for peer in parsed[1:]}


def test_the_file_has_every_peer_at_the_port_of_its_pair(site: Site, run: Run, secret: str) -> None:
    code, text, _ = run("--wg", "phone", "--private-key", secret)
    assert code == 0
    own, peers = sections(text)
    assert own["privatekey"] == SECRET_TEXT
    assert own["mtu"] == "1380"
    mine = {ip_interface(address) for address in own["address"].split(", ")}
    # Its pool's length: so each network is spoken to from the address in it.
    assert {str(address.network) for address in mine if address.version == 4} == {
        "10.1.0.0/24",
        "10.2.0.0/24",
        "10.3.0.0/24",
    }
    assert {address.network.prefixlen for address in mine if address.version == 6} == {64}
    leased = {a for n in ("party", "work", "far") for a in site.hub.addresses(n, "phone", PUBLIC)}
    assert {address.ip for address in mine} == leased
    assert set(peers) == {str(key(name)) for name in ("ann", "bob", "cid")}  # dan is behind the hub
    for name in ("ann", "bob", "cid"):
        peer = peers[str(key(name))]
        assert peer["endpoint"] == f"mediator.example.net:{site.hub.pair_port(PUBLIC, key(name))}"
        assert peer["persistentkeepalive"] == "25"
        assert f"# {name}\n[Peer]" in text
    allowed = {name: set(peers[str(key(name))]["allowedips"].split(", ")) for name in ("ann", "bob", "cid")}
    theirs = {
        f"{a}/{a.max_prefixlen}" for n in ("party", "work") for a in site.hub.addresses(n, "ann", key("ann"))
    }
    assert allowed["ann"] == theirs
    assert "192.168.50.0/24" in allowed["bob"]
    assert "10.3.0.0/24" in allowed["cid"]
    prefixes = [ip_network(prefix) for found in allowed.values() for prefix in found]
    assert not [p for p in prefixes if p.version == 6 and p.subnet_of(derive.underlay_prefix())]
    assert len({peer["endpoint"] for peer in peers.values()}) == 3


def test_without_a_key_the_app_keeps_its_own_and_a_program_gets_the_data(run: Run) -> None:
    code, text, said = run("--wg", "phone")
    assert code == 0
    assert "privatekey" not in sections(text)[0]
    assert f"# PrivateKey = the one that belongs to {PUBLIC}" in text
    assert "keep the one" in said
    data = json.loads(run("--wg", "phone", "-o", "json")[1])
    assert (data["wireguard"], len(data["peers"]), data["without_port"]) == (str(PUBLIC), 3, [])


def test_an_ipv6_mediator_is_in_brackets(site: Site, run: Run) -> None:
    site.load(document("[2001:db8::1]"))
    assert f"Endpoint = [2001:db8::1]:{site.hub.pair_port(PUBLIC, key('ann'))}\n" in run("--wg", "phone")[1]


def test_a_new_key_then_the_file_for_its_owner_alone(site: Site, run: Run, tmp_path: Path) -> None:
    made, out = tmp_path / "new.key", tmp_path / "phone.conf"
    code, line, said = run("--wg", "phone", "--new-key", str(made))
    assert code == 0
    assert made.stat().st_mode & 0o777 == 0o600
    assert made.read_text().strip() not in line + said
    public = line.split('"')[1]
    private = X25519PrivateKey.from_private_bytes(base64.b64decode(made.read_text()))
    assert str(WireGuardKey(private.public_key().public_bytes_raw())) == public
    code, _, said = run("--wg", "phone", "--private-key", str(made))
    assert code == 1
    assert f'write `wireguard: "{public}"` there first' in said
    site.load(document().replace(str(PUBLIC), public))
    assert run("--wg", "phone", "--private-key", str(made), "--out", str(out))[0] == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert sections(out.read_text())[0]["privatekey"] == made.read_text().strip()
    before = made.read_text()
    code, _, said = run("--wg", "phone", "--new-key", str(made))
    assert (code, made.read_text()) == (1, before)
    assert "never written over" in said


def test_the_qr_code_is_the_file_without_its_comments(site: Site, run: Run, secret: str) -> None:
    whole = run("--wg", "phone", "--private-key", secret)[1]
    plain = "".join(line + "\n" for line in whole.splitlines() if line and not line.startswith("#"))
    code, drawn, said = run("--wg", "phone", "--private-key", secret, "--qr")
    assert code == 0
    expected = io.StringIO()
    segno.make_qr(plain, error="l", boost_error=False).terminal(out=expected, compact=True)
    assert drawn == expected.getvalue()
    assert SECRET_TEXT not in drawn
    assert "Who sees it" in said


def test_peers_beyond_a_qr_code_or_the_range_are_said(site: Site, run: Run, secret: str) -> None:
    site.load(document(ports="40000-40099", phones=30))
    code, drawn, said = run("--wg", "phone", "--private-key", secret, "--qr")
    assert (code, drawn) == (1, "")
    assert "too many peers" in said
    site.load(document(ports="41000-41007"))
    code, text, said = run("--wg", "phone")
    assert code == 0
    assert len(sections(text)[1]) == 3 - said.count("no relay port is left for")
    assert site.hub.without_port == said.count("no relay port is left for") > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--wg", "nobody"], "no present member 'nobody'"),
        (["--wg", "old"], "no present member 'old'"),
        (["--wg", "ann"], "has an agent"),
        (["--wg", "lonely"], "belongs to no network"),
        (["--wg", "phone", "--qr"], "name the key's file with --private-key"),
        (["--wg", "phone", "--private-key", "/nonexistent"], "cannot read /nonexistent"),
        (["--wg", "phone", "--private-key", "/dev/null"], "is no WireGuard private key"),
        (["--wg", "phone", "--new-key", "/nonexistent/key"], "cannot write /nonexistent/key"),
        (["--wg", "phone", "--new-key", "/tmp/x", "--qr"], "--new-key only makes the key"),
        (["--wg", "phone", "--write"], "goes with no FILE, --write or --document"),
        (["--wg", "phone", "--out", "/proc/none"], "cannot write /proc/none"),
        (["--qr"], "go with --wg MEMBER"),
    ],
)
def test_what_makes_no_sense_is_one_line(run: Run, words: list[str], says: str) -> None:
    code, out, said = run(*words)
    assert (code, out) == (1, "")
    assert says in said
    assert said.count("\n") == 1


def test_a_lease_is_there_before_any_login() -> None:
    shell = Shell(load_document(document()).document)
    assert [address.version for address in shell.hub.addresses("work", "phone", PUBLIC)] == [4, 6]
