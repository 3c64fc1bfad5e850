"""A host as the pictures show it, and its pages."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from netctl.config.load.build import digest
from netctl.ui.relayedpairs import SOCKET_NAME
from netctl.wire import agentrequests as a
from netctl.wire import operatorrequests as m
from tests.ui.uikit import KEYS, Host, host, peer, status

DOCUMENT = f"""apiVersion: netctl/v1
id: kx3m-p9qd
mediators:
  - url: netctl://vps.example.org:8443
    identity: ["ed25519:{KEYS[0]}"]
members:
  here:    {{wireguard: "{KEYS[0]}", groups: [admins]}}
  nas:     {{wireguard: "{KEYS[1]}", groups: [servers]}}   # in the cellar
  laptop:  {{wireguard: "{KEYS[2]}", groups: [admins]}}
networks:
  home:
    mode: lan
    ipv4: 10.147.20.0/24
    members: ["*"]
    join: {{invites: true, approve: manual}}
    acls:
      - {{name: admins, src: ["group:admins"], dst: ["*"]}}
      - {{name: files, src: ["*"], dst: ["group:servers"], proto: tcp, ports: [445]}}
    tests:
      - {{src: laptop, accept: ["nas:tcp/22"]}}
      - {{src: nas, deny: ["laptop:tcp/22"]}}
ui: {{viewers: ["*"], operators: ["group:admins"]}}
"""
DAY_S = 80_000
PAGES = {
    "networks": "/",
    "member": "/members/laptop",
    "reach": "/reach?from=nas&to=laptop&on=22",
    "why": "/why?from=here&to=laptop&on=22",
    "document": "/document",
    "edit": "/document/edit",
    "doctor": "/doctor",
    "timeline": "/timeline",
    "invites": "/invites",
    "mediator": "/mediator",
}
PEERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("nas", "10.147.20.11", {"path": "lan", "rtt_ms": 0.7, "key": KEYS[1]}),
    (
        "laptop", "10.147.20.12",
        {"path": "relay-udp", "rtt_ms": 48.0, "key": KEYS[2], "nat": "another port for each destination",
         "hindrance": "both NATs give every destination another port", "tried": ["8 rounds of punching"]},
    ),
    ("phone", "10.147.20.13", {"path": "relay-udp", "rtt_ms": None, "stock": True}),
    ("desktop", "10.147.20.14", {"path": "direct", "rtt_ms": 12.3}),
    ("console", "10.147.20.15", {"path": "direct", "rtt_ms": 21.0, "answers": False}),
    ("printer", "10.147.20.16", {"path": "none", "online": False, "rtt_ms": None, "last_handshake_s": 7300.0}),
)  # fmt: skip
MOVED = (90_000, 12_000, 400, 1_800_000, 30_000, 0)
"""Bytes a look, at most, in the order of the peers."""


def state(turn: int) -> a.StatusReply:
    """The host at its look number `turn`: counters grow, round trips waver."""
    peers = []
    for number, ((name, address, more), step) in enumerate(zip(PEERS, MOVED, strict=True)):
        wave = (turn * (number + 3)) % 11 / 10
        rtt = more["rtt_ms"]
        trip = None if rtt is None else round(rtt * (1 + wave / 6), 1)
        total = sum(step * ((k * (number + 3)) % 11) // 10 for k in range(turn))
        peers.append(
            peer(name, address, **{**more, "rtt_ms": trip, "rx_bytes": total, "tx_bytes": total // 7})
        )
    network = a.NetworkState("lan", ["10.147.20.10"], False)
    link = a.MediatorState("connected", 7300.0)
    return status(*peers, document=DOCUMENT, networks={"home": network}, mediator=link)


PLAN = a.PlanReply(
    [a.ChangeRow("filter", "~ filter: 2 rules changed")],
    "1 to change",
    a.PeopleState(["laptop loses nas:tcp/22", "here loses nas:tcp/22"]),
    a.SessionState(False, None),
    a.BindingState("d", "o", "w"),
    [],
)
"""What the played agent says of every text."""
HAPPENED = (
    (70.0, "path", "desktop: direct at 203.0.113.9:51820"),
    (75.0, "path", "desktop: relay-udp at 198.51.100.7:40012"),
    (76.0, "member", "desktop: online"),
    (1900.0, "apply", "somebody confirmed the apply: it stays"),
    (1950.0, "apply", "a document was applied, for 90 s: 2 changes"),
    (7300.0, "member", "printer: offline"),
    (20_000.0, "host", "logged in to the mediator"),
    (20_002.0, "host", "the agent began"),
)
"""Seconds ago, kind, words."""


SERVER = m.ServerStatus(
    5, 7, 1, m.ServedDocument("/etc/netctl/networks.yaml", digest(DOCUMENT), 7300.0),
    "/var/lib/netctl-relay", {"40000": "here", "40001": "laptop", "40002": "nas", "40003": "phone"}, [], 0,
)  # fmt: skip
RELAY = {
    "carried": [{"ports": [40000, 40001], "passed": 412_000_000}, {"ports": [40001, 40002], "passed": 9_300_000}],
    "carried_in_all": 2,
    "pairs": [
        {"sides": [{"member": 40000, "at": "198.51.100.7:5", "sent": 70_000},
                   {"member": 40003, "at": "198.51.100.9:6", "sent": 20_000}]}
    ],
}  # fmt: skip
"""What the relay says of itself."""
AUDITED = (
    (70_000, "alice, by the page", "invited", "i7", "network 'home', 3 uses, until 2026-04-01"),
    (
        60_000,
        "tablet",
        "joined",
        "tablet",
        f"network 'home' with invite i7, key {KEYS[1]}, waits for approval",
    ),
    (7_300, "bob", "revoked", "old-phone", f"key {KEYS[2]}"),
    (1_900, "/etc/netctl/networks.yaml", "document", digest(DOCUMENT), "commit 3f9c2ab170"),
)
"""Seconds ago, who, what, of what, and more."""


def _audited() -> list[m.AuditRow]:
    now = int(time.time())
    return [m.AuditRow(number, now - ago_s, *rest) for number, (ago_s, *rest) in enumerate(AUDITED, 1)]


def _member(name: str, state: str) -> m.MemberRow:
    source = "invite" if state == "pending" else "document"
    return m.MemberRow(name, KEYS[1], None, state, {"home": []}, None, source)


def _made(asked: m.CreateInvite) -> m.NewInvite:
    row = ("i8", asked.network, asked.uses, 0, None, time.time() + DAY_S, "open")
    return m.NewInvite(*row, invite="netctl-invite-" + "k3x9" * 20, approve="manual")


@contextmanager
def _relay(directory: Path) -> Iterator[None]:
    """Says what a relay says to whoever connects."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(directory / SOCKET_NAME))
        listening.listen()

        def tell() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as asking:
                        asking.sendall(json.dumps(RELAY).encode() + b"\n")

        telling = threading.Thread(target=tell)
        telling.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            telling.join()


@contextmanager
def shown_host(directory: Path) -> Iterator[Host]:
    """A host with six peers, one of whom waits to be let in, and a relay."""
    with host(directory, document=DOCUMENT) as made, _relay(directory):
        made.status = state(0)
        looks = iter(range(1, 10**9))
        armed: list[a.ArmedState] = []
        until: list[float] = []

        def apply(asked: a.Apply) -> a.ApplyReply:
            armed[:] = [a.ArmedState(digest(asked.text), asked.confirm_s or 0.0)]
            until[:] = [time.monotonic() + (asked.confirm_s or 0.0)]
            return a.ApplyReply(1, False, None, armed=armed[0])

        def confirm(_: a.Confirm) -> a.ConfirmReply:
            return a.ConfirmReply(armed.pop().digest)

        def back(_: a.Rollback) -> a.OutcomeReply:
            armed.clear()
            return a.OutcomeReply(1, None)

        made.answers = {
            m.ListMembers: lambda _: [
                _member("tablet", "pending"),
                *(_member(one[0], "member") for one in PEERS),
            ],
            m.ListInvites: lambda _: [m.InviteRow("i7", "home", 3, 1, None, time.time() + DAY_S, "open")],
            m.CreateInvite: _made,
            m.ServerStatusRequest: lambda _: replace(SERVER, relay_state=str(directory)),
            m.ListBans: lambda _: m.BansReply([m.Ban("198.51.100.9", 640.0, 12)], [], 0),
            m.ListAudit: lambda asked: _audited() if not asked.after else [],
            a.Plan: lambda _: PLAN,
            a.Apply: apply,
            a.Confirm: confirm,
            a.Rollback: back,
        }
        now = time.time()
        made.happened = [a.Happening(now - ago_s, kind, text) for ago_s, kind, text in HAPPENED]
        answer = made.perform

        def moving(request: object, progress: object) -> object:
            if isinstance(request, a.Status) and made.moving:
                made.status = state(next(looks))
            if isinstance(request, a.Status):
                if armed and until[0] <= time.monotonic():
                    armed.clear()
                left = a.ArmedState(armed[0].digest, until[0] - time.monotonic()) if armed else None
                made.asked.append(request)
                return replace(made.status, armed=left)  # what a test sets meanwhile stays
            return answer(request, progress)  # type: ignore[arg-type]

        made.perform = moving  # type: ignore[method-assign, assignment]
        nat = a.NatState("open", "address-and-port-dependent")
        made.doctor = a.DoctorReply(
            [
                a.Check("note", "nat", "the NAT gives every destination another port (symmetric)",
                        "peers behind such a NAT are reached over the relay; open a port, or use IPv6"),
                a.Check("ok", "mediator", "the mediator answers in 18 ms"),
                a.Check("note", "portmap", "the router opens no port (no PCP, NAT-PMP or UPnP)",
                        "switch one of them on in the router, and more pairs are direct"),
            ],
            a.NatStates(nat, nat), made.doctor.port_mapping, a.AllocationState("random"),
        )  # fmt: skip
        yield made
