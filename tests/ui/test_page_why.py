"""Why two members reach each other or do not, and asking a peer now: what is said, and how often it may be asked."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import msgspec
import pytest

from netctl.model.errors import LocalError
from netctl.ui.pathcheck import CHECKS_S, MAX_CHECKS, Budget, nearest
from netctl.wire import agentrequests as a
from tests.ui.uikit import DOCUMENT, Browser, Host, host, page, peer, words

RULES = DOCUMENT.replace(
    'members: ["*"],',
    'members: ["*"], acls: [{name: web, src: [here], dst: [nas], proto: tcp, ports: [80]}],',
)
NAS = peer(
    "nas", "10.9.0.2", path="relay-udp", nat="another port for <each> destination", rtt_ms=None, mtu=1280,
    hindrance="both NATs give every destination another port", tried=["8 rounds of punching"],
)  # fmt: skip


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host(tmp_path_factory.mktemp("host"), NAS, peer("laptop", "10.9.0.3"), document=RULES) as made:
        nat = a.NatState("open", "address-and-port-dependent")
        mapped = a.PortMappingState("198.51.100.7:4000", "PCP")
        made.doctor = msgspec.structs.replace(
            made.doctor, nat=a.NatStates(nat, nat), port_mapping=mapped, allocation=a.AllocationState("block")
        )
        yield made


@pytest.fixture(scope="module")
def browser(known: Host) -> Iterator[Browser]:
    with page(known) as one:
        yield one.signed_in()


def test_the_line_the_path_both_nats_and_what_was_tried(browser: Browser) -> None:
    page = browser.get("/why?from=here&to=nas&on=80").text
    said = words(page)
    line = next(number for number, text in enumerate(RULES.splitlines(), 1) if "acls:" in text)
    assert f'href="/document#L{line}"' in page
    assert "allowed by networks.home.acls[0] (web)" in said
    assert "NAT of here address-and-port-dependent mapping (symmetric), random ports of a block" in said
    assert "its router keeps 198.51.100.7:4000 open for it (PCP)" in said
    assert "NAT of nas another port for &lt;each&gt; destination" in said
    assert "8 rounds of punching" in said
    assert "both NATs give every destination another port" in said
    assert "of up to 1280 bytes pass" in said
    assert 'action="/why/check"' in page
    assert "denied" in words(browser.get("/why?from=nas&to=here&on=icmp").text)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("", "Name two members. This host is here"),
        ("from=here", "Name two members"),
        ("from=here&to=here", "A host reaches itself"),
        ("from=here&to=<b>", "There is no member &#39;&lt;b&gt;&#39;"),
        ("from=here&to=nas&on=65536", "&#39;65536&#39; is no port"),
        ("from=laptop&to=nas", "run <code>netctl why laptop nas</code> there"),
    ],
)
def test_what_has_no_answer_is_said(browser: Browser, asked: str, said: str) -> None:
    text = browser.get(f"/why?{asked}").text
    assert said in text
    assert 'action="/why/check"' not in text


def test_who_looks_alone_cannot_ask(known: Host) -> None:
    with page(known, "--viewer") as one:
        viewer = one.signed_in()
        text = viewer.get("/why?from=here&to=nas").text
        assert 'action="/why/check"' not in text
        assert "Operators of this page can" in text
        answer = viewer.post("/why/check", {"peer": "nas", "from": "here", "to": "nas"})
        assert answer.status == 403


def test_a_host_without_a_document_knows_its_own_paths(
    known: Host, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with host(tmp_path_factory.mktemp("joined"), NAS, peer("laptop", "10.9.0.3")) as made:
        made.status = msgspec.structs.replace(made.status, joined="home")
        with page(made) as one:
            joined = one.signed_in()
            said = words(joined.get("/why?from=here&to=nas").text)
            assert "its mediator says who reaches whom" in said
            assert "8 rounds of punching" in said
            assert "knows only its own way" in joined.get("/why?from=here&to=nobody").text


def test_checks_are_few_and_of_peers_alone(known: Host) -> None:
    """Here no tunnel is, so each ends at once: what is counted is that it began."""
    with page(known) as one:
        asking = one.signed_in()
        form = {"from": "here", "to": "nas", "on": "80"}
        answer = asking.post("/why/check", {**form, "peer": "nobody"})
        assert answer.status == 422
        assert "has no peer of that name" in answer.text
        said = [asking.post("/why/check", {**form, "peer": "nas"}).text for _ in range(MAX_CHECKS)]
        assert "Cannot ask 10.9.0.2" in said[0]
        assert 'name="on" value="80"' in said[0], "what was asked stands there still"
        assert "within a minute are enough" in said[-1]
        assert "within a minute are enough" not in said[-2]


def test_a_budget_lets_one_at_a_time_and_some_a_minute() -> None:
    budget = Budget()
    for turn in range(MAX_CHECKS):
        budget.take(float(turn))
        if turn == 0:
            with pytest.raises(LocalError, match="somebody checks"):
                budget.take(0.5)
        budget.give_back()
    with pytest.raises(LocalError, match="within a minute"):
        budget.take(CHECKS_S - 1)
    budget.take(CHECKS_S)


def test_ipv4_is_asked_first() -> None:
    assert nearest(["fd00::1", "10.9.0.2"]) == ip_address("10.9.0.2")
    assert nearest(["fd00::1"]) == ip_address("fd00::1")
    assert nearest([]) is None
