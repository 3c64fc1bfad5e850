"""The operator's requests, and what is answered to those that make no sense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core.enrollment import Left, Redeem
from mediator.core.membershipservice import MembershipService
from mediator.core.relay_grants import GRANT_TTL_S
from mediator.shell.admin import AdminServer, life_s
from mediator.shell.membershiprunner import MembershipRunner, unix_now
from mediator.shell.store import Store
from mediator.shell.storethread import StoreThread
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey
from netctl.wire.invite import parse_invite
from netctl.wire.operatorrequests import OPERATIONS
from tests.mediator.test_admissions import document, host, identity, key

PRIVATE = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)


class Desk:
    """A roster with a store and a hub, and no sockets."""

    def __init__(self, store: Store, state: Path) -> None:
        self.store = store
        pin = IdentityKey(PRIVATE.public_key().public_bytes_raw())
        self.hub = h.Hub(pin, PRIVATE.sign, bytes(32), generation=1)
        self.unix_s = 0
        self.loop = asyncio.Runner()
        self.service = MembershipService(self.hub)
        self.membership = MembershipRunner(
            self.service, StoreThread(store), lambda seconds, call: call(), self.perform, lambda: self.unix_s
        )
        self.admin = AdminServer(self.membership, state, state / "networks.yaml")
        self.load("10.1.0.0/28")

    def load(self, pool: str, **join: Any) -> None:
        loaded = document(pool, **join)
        self.perform(self.service.set_document(loaded, loaded.mediators[0], self.unix_s))

    def perform(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, fx.Store):
                self.store.add(effect.leases, effect.ports, effect.pairs)
                self.perform(
                    self.hub.stored(effect.leases, effect.ports, effect.pairs, effect.resting, self.unix_s)
                )

    def answer(self, line: bytes) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.loop.run(self.admin.service.answer(line, print)))
        return answer

    def close(self) -> None:
        self.loop.run(self.membership.store.close())
        self.loop.close()

    def ask(self, op: str, **more: Any) -> Any:
        answer = self.answer(json.dumps({"op": op, **more}).encode())
        assert "error" not in answer, answer
        return answer["result"]

    def refused(self, op: str, **more: Any) -> str:
        answer = self.answer(json.dumps({"op": op, **more}).encode())
        return str(answer["error"]["message"])

    def join(self, number: int, name: str, text: str) -> None:
        who = host(number, name)
        token = parse_invite(text).token
        request = Redeem(number, type(who)(who.key, who.identity, name, False, token))
        self.perform(self.loop.run(self.membership.carry(self.service.redeem(request, unix_now()))))

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.ask("members.list")}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(Store(tmp_path / "m.db"), tmp_path)) as made:
        yield made


def test_from_the_invite_to_the_member_to_the_export(desk: Desk) -> None:
    made = desk.ask("invite.create", network="lan", uses=2, expires="7d")
    assert parse_invite(made["invite"]).network == "lan"
    desk.join(10, "newbie", made["invite"])
    row = desk.rows()["newbie"]
    assert (row["from"], row["state"], list(row["networks"])) == ("invite", "offline", ["lan"])
    (listed,) = desk.ask("invite.list")
    assert (listed["used"], listed["uses"], listed["state"]) == (1, 2, "open")
    assert "invite" not in listed, "the string is nowhere but where it was printed"
    (guest,) = desk.ask("export")["guests"]
    assert (guest["name"], guest["networks"]) == ("newbie", ["lan"])
    desk.ask("members.rekey", who="newbie", wireguard=str(key(30)), identity=str(identity(30)))
    after = desk.rows()["newbie"]
    assert after["wireguard"] == str(key(30))
    assert after["networks"]["lan"][0] == row["networks"]["lan"][0]
    desk.ask("members.revoke", who="newbie")
    assert desk.rows()["newbie"]["state"] == "revoked"


@pytest.mark.parametrize("end", ["revoke", "leave", "rekey"])
def test_nobody_gets_a_relay_port_while_a_grant_for_it_lives(desk: Desk, end: str) -> None:
    """Who is a member no longer can bind its port at the relay, which knows no members, for hours."""
    desk.unix_s = 1_000_000
    text = desk.ask("invite.create", network="lan", uses=9, expires="7d")["invite"]
    desk.join(10, "thief", text)
    port = desk.hub.relay_port(key(10))
    assert port is not None
    if end == "revoke":
        desk.ask("members.revoke", who="thief")
    elif end == "leave":
        left = desk.service.leave(Left(10, key(10)), unix_now())
        desk.perform(desk.loop.run(desk.membership.carry(left)))
    else:
        desk.ask("members.rekey", who="thief", wireguard=str(key(30)), identity=str(identity(30)))
        assert desk.hub.relay_port(key(30)) not in (None, port)
    rests = {port: desk.unix_s + GRANT_TTL_S}
    assert desk.store.resting_ports() == rests, (
        "by the clock that the relay judges grants by, for the next run too"
    )
    desk.join(11, "next", text)
    assert desk.hub.relay_port(key(11)) not in (None, port)
    desk.unix_s += GRANT_TTL_S
    desk.join(12, "later", text)
    assert desk.hub.relay_port(key(12)) == port, "its grants are over"


def test_who_waits_is_approved_or_rejected(desk: Desk) -> None:
    desk.load("10.1.0.0/28", approve="manual")
    text = desk.ask("invite.create", network="lan", uses=2)["invite"]
    desk.join(10, "one", text)
    desk.join(11, "two", text)
    assert {row["state"] for name, row in desk.rows().items() if name in ("one", "two")} == {"pending"}
    assert "does not wait" in desk.refused("members.reject", who="home")
    desk.ask("members.approve", who="one")
    desk.ask("members.reject", who=str(key(11)))
    assert list(desk.rows()["one"]["networks"]) == ["lan"]
    assert desk.rows()["one"]["networks"]["lan"]
    assert desk.rows()["two"]["state"] == "revoked"
    assert "does not wait" in desk.refused("members.approve", who="one")


def test_a_document_member_is_shut_out_and_let_in_again(desk: Desk) -> None:
    desk.ask("members.revoke", who="home")
    assert desk.rows()["home"]["state"] == "revoked"
    assert "revoked" not in desk.ask("members.restore", who="home")
    assert desk.rows()["home"]["state"] == "offline"


def test_who_gets_no_address_is_seen_with_the_reason(desk: Desk) -> None:
    desk.load("10.1.0.0/30", approve="manual")
    text = desk.ask("invite.create", network="lan", uses=5)["invite"]
    for number, name in ((10, "one"), (11, "two")):
        desk.join(number, name, text)
        desk.ask("members.approve", who=name)
    assert desk.rows()["one"]["condition"] is None
    assert "10.1.0.0/30 of network 'lan' is full" in desk.rows()["two"]["condition"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"op": "dance"}, "does not know 'dance'"),
        ({"op": "invite.create"}, "does not say 'network'"),
        ({"op": "invite.create", "network": "nowhere"}, "there are: lan, all"),
        ({"op": "invite.create", "network": "all"}, "lets nobody in by invite"),
        ({"op": "invite.create", "network": "lan", "uses": 0}, "1 to 10000 uses"),
        ({"op": "invite.create", "network": "lan", "uses": "many"}, "does not say 'uses' as it should"),
        ({"op": "invite.create", "network": "lan", "expires": "soon"}, "30m, 24h or 7d"),
        ({"op": "invite.create", "network": "lan", "name": "A B"}, "a host name"),
        ({"op": "invite.create", "network": "lan", "name": "x", "uses": 2}, "one use"),
        ({"op": "invite.create", "network": "lan", "name": "home"}, "is taken"),
        ({"op": "invite.revoke", "id": "zzz"}, "no invite 'zzz'"),
        ({"op": "members.revoke", "who": "nobody"}, "no member 'nobody'"),
        ({"op": "members.rekey", "who": "home", "wireguard": "x", "identity": "y"}, "netctl keys"),
        (
            {"op": "members.rekey", "who": "home", "wireguard": str(key(30)), "identity": str(identity(30))},
            "previousKeys",
        ),
    ],
    ids=lambda value: None,
)
def test_requests_that_make_no_sense(desk: Desk, request_: dict[str, Any], says: str) -> None:
    assert says in desk.refused(**request_)


@pytest.mark.parametrize("line", [b"", b"[]", b"null", b"{", b'{"op": []}', b'"op"'])
def test_lines_that_are_no_requests(desk: Desk, line: bytes) -> None:
    assert list(desk.answer(line)) == ["error"]


def test_times_to_live() -> None:
    assert (life_s("90s"), life_s("24h"), life_s("366d")) == (90, 86400, 366 * 86400)
    for text in ("", "0h", "367d", "1w", "-1h", "1h ", "9999999s"):
        with pytest.raises(LocalError):
            life_s(text)


STRANGE = ["null", "true", "[]", "{}", "0", "-1", "1e999", '""', '"\\ud800"', '"\\u0000"', '["x"]', "9" * 400]
"""Values of JSON that are none of what is asked for."""


@pytest.mark.parametrize("value", STRANGE)
def test_whatever_a_request_says_it_is_understood_or_refused_in_words(desk: Desk, value: str) -> None:
    fields = ("network", "uses", "expires", "name", "id", "who", "member", "wireguard", "identity", "source")
    lines = [value, f'{{"op": {value}}}', f'[{{"op": "members.list", "x": {value}}}]']
    for op in OPERATIONS:
        lines += [f'{{"op": "{op}", "{field}": {value}}}' for field in fields]
        lines.append(f'{{"op": "{op}", ' + ", ".join(f'"{field}": {value}' for field in fields) + "}")
    for line in [
        *lines,
        "",
        "{",
        "[" * 100_000,
        '{"op": "' + "x" * 60_000 + '"}',
        '{"op": ' + "9" * 5000 + "}",
    ]:
        answer = desk.answer(line.encode())
        json.dumps(answer).encode()
        assert not str(answer.get("error", {}).get("message")).startswith("the mediator itself"), (
            line[:80],
            answer,
        )
