"""The mediator's page on its machine: how it is, who is kept waiting, and the audit log; none of it for viewers."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netctl.ui.mediatorpages import MAX_LINES
from netctl.ui.relayedpairs import SOCKET_NAME
from netctl.wire import operatorrequests as m
from tests.support.patience import BUSY_S
from tests.ui.uikit import Browser, Host, host, page, peer, words

NOW_S = int(time.time())
PAGE = 1000
"""Lines that a mediator answers at once."""


def state(**more: Any) -> m.ServerStatus:
    known: dict[str, Any] = {
        "online": 4, "members": 6, "networks": 1, "relay_state": "/run/relay", "relay_ports": {"40000": "nas, phone"},
        "without_address": [], "without_port": 0,
        "document": m.ServedDocument("/etc/netctl/networks.yaml", "ab" * 32, 7300.0),
    }  # fmt: skip
    return m.ServerStatus(**{**known, **more})


def entry(number: int, ago_s: int, **more: str) -> m.AuditRow:
    known = {"who": "alice", "what": "approved", "subject": f"host-{number}", "detail": ""}
    return m.AuditRow(number, NOW_S - ago_s, **{**known, **more})


def answers(rows: list[m.AuditRow]) -> dict[Any, Any]:
    def audit(asked: m.ListAudit) -> list[m.AuditRow]:
        return [one for one in rows if one.number > asked.after and one.at_s >= asked.since_s][:PAGE]

    return {
        m.ServerStatusRequest: lambda _: state(),
        m.ListBans: lambda _: m.BansReply([m.Ban("198.51.100.9", 600.0, 12)], [m.Slowed("nas", 3)], 2),
        m.ListAudit: audit,
        m.LiftBan: lambda asked: m.LiftedReply(asked.source),
    }


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host(tmp_path_factory.mktemp("host"), peer("nas", "10.9.0.2")) as made:
        yield made


@pytest.fixture
def known(there: Host) -> Host:
    """The same host, that has not been asked anything yet."""
    there.asked.clear()
    there.answers = answers([])
    return there


@pytest.fixture(scope="module")
def browser(there: Host) -> Iterator[Browser]:
    with page(there) as one:
        yield one.signed_in()


TOLD = {
    "carried": [{"ports": [40000, 40001], "passed": 5_000_000}, {"ports": [40000, 40002], "passed": 9}],
    "carried_in_all": 7,
    "pairs": [
        {"port": 9, "sides": [{"member": 40001, "at": "1.2.3.4:5", "sent": 70, "stock": False},
                              {"member": 40003, "at": at, "sent": 7, "stock": True}]}
        for at in ("5.6.7.8:9", None)
    ],
    "and": "what a later relay says besides",
}  # fmt: skip


@pytest.mark.parametrize("said", [json.dumps(TOLD).encode(), b"", b"{}", b"[1", b'{"carried": 3}'])
def test_the_pairs_over_the_relay_are_shown_and_why_no_others(
    known: Host, browser: Browser, tmp_path: Path, said: bytes
) -> None:
    names = {"40000": "nas", "40001": "tv", "40002": "<b>"}
    known.answers[m.ServerStatusRequest] = lambda _: state(relay_state=str(tmp_path), relay_ports=names)
    with socket.socket(socket.AF_UNIX) as relay:
        relay.bind(str(tmp_path / SOCKET_NAME))
        relay.listen()

        def tell() -> None:
            with relay.accept()[0] as asking:
                asking.sendall(said + b"\n")

        telling = threading.Thread(target=tell)
        telling.start()
        text = browser.get("/mediator").text
        telling.join(BUSY_S)
    if not said.startswith(b'{"carried": ['):
        assert "No relay runs on this machine" in text
        return
    shown = words(text)
    assert "8 pairs whose packets it carries" in shown
    assert "report them to nobody" in shown
    order = ["nas and tv 5.0 MB passed", "tv and port 40003 77 B passed", "nas and &lt;b&gt; 9 B passed"]
    places = [shown.index(one) for one in order]
    assert places == sorted(places)
    assert "5 more have less traffic" in shown
    assert text.count('data-edge="relay-udp"') == 3
    assert "<b>" not in text


def test_how_the_mediator_is(known: Host, browser: Browser) -> None:
    said = words(browser.get("/mediator").text)
    assert "4 online of 6, in 1 network (" in said
    assert (
        "/etc/netctl/networks.yaml , abababab ab , in force for 2 h".replace("abababab ab", "ab" * 5) in said
    )
    assert "Store in order" in said
    assert "Relay ports 1 member has one" in said
    assert "No relay runs on this machine" in said
    assert "Nobody was let in or shut out" in said
    bad = state(
        store="the disk is full.", without_address=["no address is left for <tv>"], without_port=1,
        document=m.ServedDocument("n.yaml", "ab" * 32, 1.0, "line 3: <b>"),
    )  # fmt: skip
    known.answers[m.ServerStatusRequest] = lambda _: bad
    text = browser.get("/mediator").text
    assert '<span class="bad">the disk is full.</span> Nobody can join' in text
    assert "refused: line 3: &lt;b&gt;" in text
    assert "no address is left for &lt;tv&gt;" in text
    assert "1 pair with a WireGuard app</span>: widen" in text


def test_the_audit_log_is_read_from_its_newest_line(known: Host, browser: Browser) -> None:
    rows = [entry(1, 40 * 86_400, subject="long-ago"), entry(2, 10 * 86_400, subject="<b>week-before</b>")]
    rows += [entry(number, 9000 - number) for number in range(3, 2 * PAGE)]
    rows += [entry(2 * PAGE, 5, who="bob", what="revoked", subject="nas", detail="key k")]
    known.answers = answers(rows)
    text = browser.get("/mediator").text
    shown = re.findall(r'<span class="tag">(\w+)</span> <strong>(\w+)</strong>: <span[^>]*>([^<]+)<', text)
    assert shown[0] == ("revoked", "bob", "nas")
    assert shown[1][2] == f"host-{2 * PAGE - 1}", "the newest first, over the end of what is answered at once"
    assert len(shown) == MAX_LINES
    assert "There are more" in text
    assert "week-before" not in text
    found = browser.get("/mediator?q=WEEK-before&since=31").text
    assert "&lt;b&gt;week-before&lt;/b&gt;" in found
    assert "There are more" not in found
    assert "long-ago" not in browser.get("/mediator?q=long&since=31").text
    assert "Nothing of that kind" in browser.get("/mediator?q=long&since=1e9").text


def test_who_is_kept_waiting_is_let_go(known: Host, browser: Browser) -> None:
    text = browser.get("/mediator").text
    assert "may not connect for 10 min" in words(text)
    assert "logs in too often: 3 refused" in text
    done = browser.post("/mediator/lift", {"source": "198.51.100.9"})
    assert "Nothing is held against 198.51.100.9 any more" in done.text
    assert m.LiftBan("198.51.100.9") in known.asked
    bad = browser.post("/mediator/lift", {"source": ""})
    assert bad.status == 422


def test_it_is_for_operators_on_its_machine(known: Host) -> None:
    with page(known, "--viewer") as one:
        viewer = one.signed_in()
        assert viewer.get("/mediator").status == 404
        assert 'href="/mediator"' not in viewer.get("/").text
        assert viewer.post("/mediator/lift", {"source": "x"}).status == 403
    assert not any(one.operation() in ("audit.list", "bans.list", "bans.lift") for one in known.asked)
