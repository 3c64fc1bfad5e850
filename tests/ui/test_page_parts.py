"""The parts of the page that are pure: links, sessions, roles, plots, words."""

from __future__ import annotations

import msgspec
import pytest

from netctl.config import load_document
from netctl.model.errors import ConfigError
from netctl.ui.logintokens import (
    MAX_TOKENS,
    TOKEN_S,
    TokenRefusedError,
    Tokens,
)
from netctl.ui.pageaccess import Caller, Sight, address_of, callers, host_of, part_of, same_origin, sight
from netctl.ui.peerhistory import WINDOW_S, PeerHistory
from netctl.ui.peerview import handshake, matches, rate, round_trip, troubles
from netctl.ui.plots import braille, svg_path
from netctl.ui.websessions import MAX_NAMED, MAX_SESSIONS, SESSION_S, Session, Sessions
from tests.ui.uikit import DOCUMENT, peer, status


def test_a_token_opens_once_and_not_late() -> None:
    tokens = Tokens()
    tokens.issue("a", 0.0)
    tokens.issue("b", 0.0)
    tokens.redeem("a", TOKEN_S)
    with pytest.raises(TokenRefusedError, match="used up"):
        tokens.redeem("a", TOKEN_S)
    with pytest.raises(TokenRefusedError, match="too old"):
        tokens.redeem("b", TOKEN_S + 1)


def test_links_that_nobody_uses_do_not_pile_up() -> None:
    tokens = Tokens()
    for number in range(MAX_TOKENS + 1):
        tokens.issue(str(number), 0.0)
    with pytest.raises(TokenRefusedError):
        tokens.redeem("0", 0.0)
    tokens.redeem("1", 0.0)


def test_a_session_ends_and_there_are_not_too_many() -> None:
    sessions = Sessions()
    sessions.begin("c", "t", 0.0, operator=True)
    assert sessions.find("c", SESSION_S - 1) is not None
    assert sessions.find("c", SESSION_S) is None
    for number in range(MAX_SESSIONS):
        sessions.begin(f"n{number}", "t", 1.0, operator=False)
    assert sessions.find("c", 2.0) is None
    assert sessions.find("n0", 2.0) is not None


def test_members_put_out_nobody_who_has_a_link() -> None:
    sessions = Sessions()
    sessions.begin("link", "t", 0.0, operator=True)
    for number in range(MAX_NAMED + 1):
        sessions.begin(f"m{number}", "t", 1.0, operator=False, member=f"phone{number}")
    assert sessions.find("link", 2.0) is not None
    assert sessions.find("m0", 2.0) is None, "there is a bound of all"
    assert sessions.find("m1", 2.0) is not None


@pytest.mark.parametrize("kind", ["member", "user"])
def test_nobody_puts_out_another(kind: str) -> None:
    """A browser without a cookie begins a session with every request: one member can send as many as it likes."""
    sessions = Sessions()
    sessions.begin("other", "t", 0.0, operator=True, **{kind: "boss"})
    for number in range(MAX_SESSIONS + 1):
        sessions.begin(f"m{number}", "t", 1.0, operator=False, **{kind: "phone"})
    assert sessions.find("other", 2.0) is not None
    assert sessions.find(f"m{MAX_SESSIONS}", 2.0) is not None
    assert sessions.find("m0", 2.0) is None


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("127.0.0.1:8642", "127.0.0.1"),
        ("LocalHost", "localhost"),
        ("[::1]:1", "::1"),
        ("", None),
        ("a@b", None),
        ("a/b", None),
        ("a b", None),
        ("a:b", None),
        ("a,b", None),
        ("[::1", None),
    ],
)
def test_the_name_in_a_host_header(header: str, name: str | None) -> None:
    assert host_of(header) == name


def test_an_origin_is_ours_only_whole() -> None:
    assert same_origin("http://127.0.0.1:8642", "127.0.0.1:8642")
    for other in (None, "null", "http://127.0.0.1", "https://127.0.0.1:8642", "http://127.0.0.1:86420"):
        assert not same_origin(other, "127.0.0.1:8642")


UI = DOCUMENT + "ui: {viewers: ['*'], operators: ['group:servers']}\n"


def test_a_member_is_known_by_its_overlay_address() -> None:
    document = load_document(UI).document
    known = callers(document, status(peer("nas", "10.9.0.2"), peer("laptop", "10.9.0.3")))
    assert known == {"10.9.0.2": Caller("nas", True), "10.9.0.3": Caller("laptop", False)}


def test_nobody_is_let_in_unless_the_document_says_so() -> None:
    assert callers(load_document(DOCUMENT).document, status(peer("nas", "10.9.0.2"))) == {}


def test_whoever_is_at_this_host_is_nobody() -> None:
    """Every user of this machine can connect from its own address; a guest is in no selector."""
    document = load_document(UI).document
    assert callers(document, status(peer("nas", "10.9.0.1"))) == {}
    assert callers(document, status(peer("guest", "10.9.0.9"))) == {}


def test_an_address_of_two_is_nobodys() -> None:
    document = load_document(UI).document
    assert callers(document, status(peer("nas", "10.9.0.2"), peer("laptop", "10.9.0.2"))) == {}


OFFICE = """  office: {mode: routed, ipv4: 10.8.0.0/24, members: [here, nas],
    addresses: {here: 10.8.0.1, nas: 10.8.0.2},
    acls: [{name: secret, src: [here], dst: [nas], proto: tcp, ports: [22]}]}
"""


def test_a_member_sees_its_own_networks_alone() -> None:
    document = load_document(DOCUMENT + OFFICE).document
    state = status(peer("nas", "10.9.0.2"), peer("laptop", "10.9.0.3"))
    both = {**state.networks, "office": state.networks["home"]}
    state = msgspec.structs.replace(state, networks=both)

    def seen(member: str | None, *, operator: bool = False) -> Sight:
        part = part_of(document, member) if member is not None else None
        return sight(state, Session("", operator, 0.0, member), part)

    assert seen(None) == Sight(frozenset({"home", "office"})), "whoever has a link"
    assert seen("laptop", operator=True) == seen(None)
    assert seen("nas") == Sight(frozenset({"home", "office"}), frozenset({"here", "nas", "laptop"}))
    assert seen("laptop").networks == {"home"}
    assert not seen("laptop").whole
    assert seen("nobody") == Sight(frozenset(), frozenset())
    assert sight(None, Session("", False, 0.0, "laptop"), None) == Sight(frozenset(), frozenset())


def test_a_members_part_of_the_document_names_nobody_else() -> None:
    more = (
        '  other: {wireguard: "1Zh5TM9e5uxZ0UHVvY3LoJcyF3tdXfpNgyyx4Q9AoUc=", groups: [hidden]}\nnetworks:\n'
    )
    text = DOCUMENT.replace("networks:\n", more).replace('members: ["*"]', "members: [here, nas, laptop]")
    document = load_document(
        text.replace("  home:", OFFICE + "  home:") + "ui: {viewers: [other]}\n"
    ).document
    part = part_of(document, "laptop")
    assert part is not None
    assert set(part.document.networks) == {"home"}
    for word in ("other", "hidden", "office", "secret", "viewers"):
        assert word not in part.source.text
    assert part_of(document, "other") is None, "a member of no network"


def test_an_address_is_compared_as_it_is_written() -> None:
    assert address_of("::ffff:10.9.0.2") == "10.9.0.2"
    assert address_of("fd00:0:0::1%nctl0") == "fd00::1"
    assert address_of("nonsense") == "nonsense"


@pytest.mark.parametrize(
    ("ui", "code", "path"),
    [
        ("{viewers: [nobody]}", "NC201", "ui.viewers[0]"),
        ("{operators: ['group:none']}", "NC202", "ui.operators[0]"),
        ("{editors: []}", "NC011", "ui.editors"),
        ("{viewers: nas}", "NC013", "ui.viewers"),
    ],
)
def test_whom_the_document_lets_in_must_be_there(ui: str, code: str, path: str) -> None:
    with pytest.raises(ConfigError) as found:
        load_document(f"{DOCUMENT}ui: {ui}\n")
    assert [(one.code, one.path) for one in found.value.findings if one.severity == "error"] == [(code, path)]


def test_rates_come_from_counters() -> None:
    history = PeerHistory()
    for at, rx in ((0.0, 1000), (1.0, 3000), (2.0, 500)):
        history.observe([peer("nas", "10.9.0.2", rx_bytes=rx, tx_bytes=0)], at)
    assert [one.rx_rate for one in history.of("nas", 2.0)] == [0.0, 2000.0, 500.0], "a new engine counts anew"
    assert len(history.of("nas", WINDOW_S + 1.5)) == 1
    history.observe([], 3.0)
    assert history.last("nas") is None


def test_a_plot_has_gaps_where_nothing_is_known() -> None:
    points = [(0.0, 1.0), (1.0, None), (2.0, 2.0), (3.0, 0.0)]
    path = svg_path(points, now=3.0, window_s=3.0, width=30, height=12)
    assert path == "M0.0 6.0M20.0 1.0L30.0 11.0"
    assert svg_path([(0.0, None)], now=0.0, window_s=3.0, width=30, height=12) == ""


def test_braille_columns() -> None:
    assert braille([], 2) == "\u2800\u2800"
    assert braille([4.0, 4.0], 1) == "\u28ff"
    assert braille([1.0, 4.0], 1) == "\u28f8"
    assert braille([None, 0.0], 2) == "\u2800\u2880"


def test_words_for_people() -> None:
    assert (round_trip(3.21), round_trip(48.2), round_trip(None)) == ("3.2 ms", "48 ms", "")
    assert (rate(0.4), rate(1500.0)) == ("", "1.5 kB/s")
    assert (handshake(None), handshake(3.0), handshake(61.0), handshake(7300.0)) == (
        "never",
        "under a minute ago",
        "2 min ago",
        "2 h ago",
    )


def test_finding() -> None:
    nas = peer("nas", "10.9.0.2", path="relay-udp")
    assert matches(nas, "", [], "")
    assert matches(nas, "NAS relay", ["servers"], "servers")
    assert matches(nas, "0.2", [], "")
    assert not matches(nas, "nas direct", [], "")
    assert not matches(nas, "", ["servers"], "others")


def test_troubles_say_what_is_wrong() -> None:
    from netctl.wire.agentrequests import Departure, DownState, MediatorState

    fine = status(peer("nas", "10.9.0.2"))
    assert troubles(fine) == []
    bad = status(
        down=DownState(True, []),
        mediator=MediatorState("connecting", 200.0, "no route"),
        drift=[Departure("the route is gone", "route", []), Departure("x", "route", [])],
        conditions=["disk full"],
    )
    said = troubles(bad)
    assert said[0] == "disk full"
    assert any("this host is down" in line for line in said)
    assert any("not reached for 3 min: no route" in line for line in said)
    assert said[-1] == "this host departs from the document: the route is gone, and in 1 more way"
