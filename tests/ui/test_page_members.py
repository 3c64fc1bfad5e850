"""A member that looks over the overlay sees its own part, and nothing of what is others'."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import msgspec
import pytest

from netctl.config import load_document
from netctl.wire import agentrequests as a
from tests.support.patience import wait_for
from tests.ui.uikit import KEYS, START_S, Browser, Host, Served, host, page, peer

OWN = "127.0.0.77"
"""Played: what the agent says is this host's overlay address is one that any machine has."""
ADDRESSES = {"laptop": "127.0.0.12", "nas": "127.0.0.11", "boss": "127.0.0.13"}
HIDDEN = ("boss", "vault", "10.8.0", "the-rule", "group-of-boss", "SECRET TROUBLE")
"""Of the network that `laptop` is not in, of the member that it does not see, and of what is wrong with the host."""
DOCUMENT = f"""apiVersion: netctl/v1
mediators: []
members:
  here: {{wireguard: "{KEYS[0]}"}}
  nas: {{wireguard: "{KEYS[1]}", groups: [servers]}}
  laptop: {{wireguard: "{KEYS[2]}"}}
  boss: {{wireguard: "1Zh5TM9e5uxZ0UHVvY3LoJcyF3tdXfpNgyyx4Q9AoUc=", groups: [group-of-boss]}}  # SECRET TROUBLE
networks:
  home: {{mode: routed, ipv4: 10.9.0.0/24, members: [here, nas, laptop],
    addresses: {{here: 10.9.0.1, nas: 10.9.0.2, laptop: 10.9.0.3}}}}
  vault: {{mode: routed, ipv4: 10.8.0.0/24, members: [here, boss, nas],
    addresses: {{here: 10.8.0.1, boss: 10.8.0.2, nas: 10.8.0.3}},
    acls: [{{name: the-rule, src: [boss], dst: [here], proto: tcp, ports: [22]}}]}}
ui: {{viewers: ["*"], operators: [boss]}}
"""
PAGES = (
    "/",
    "/members/nas",
    "/members/boss",
    "/reach",
    "/reach?from=boss&to=here",
    "/why",
    "/why?from=boss&to=here",
    "/why?from=here&to=nas",
    "/document",
    "/doctor",
    "/nonsense",
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    peers = (
        peer("nas", "x", addresses={"home": [ADDRESSES["nas"]], "vault": ["10.8.0.3"]}),
        peer("laptop", "x", addresses={"home": [ADDRESSES["laptop"]]}),
        peer("boss", "x", addresses={"vault": [ADDRESSES["boss"]]}),
    )
    with host(tmp_path_factory.mktemp("host"), *peers, document=DOCUMENT) as made:
        networks = {
            "home": a.NetworkState("routed", [OWN], False),
            "vault": a.NetworkState("routed", ["10.8.0.1"], False),
        }
        made.status = msgspec.structs.replace(
            made.status, networks=networks, conditions=["SECRET TROUBLE in the vault of boss"]
        )
        made.happened = [a.Happening(1.0, "path", "SECRET TROUBLE of boss")]
        yield made


@pytest.fixture(scope="module")
def served(known: Host) -> Iterator[Served]:
    with page(known, "--listen", OWN) as one:
        yield one


def of(served: Served, name: str) -> Browser:
    browser = Browser(served.port, OWN, ADDRESSES[name])
    wait_for("the document lets it in", lambda: browser.get("/").status == 200)
    return browser


def stream(browser: Browser, path: str) -> str:
    """The first event of a live stream."""
    connection = http.client.HTTPConnection(
        browser.address, browser.port, timeout=START_S, source_address=(str(browser.source), 0)
    )
    try:
        host = f"{browser.address}:{browser.port}"
        connection.request("GET", path, headers={"Cookie": browser.cookie, "Host": host})
        answer = connection.getresponse()
        assert answer.status == 200
        answer.readline()
        return answer.readline().decode().removeprefix("data: ")
    finally:
        connection.close()


def test_a_member_sees_its_own_part_alone(served: Served) -> None:
    laptop = of(served, "laptop")
    for path in PAGES:
        text = laptop.get(path).text
        # What it asked for itself stands in the fields of the form.
        said = text.replace('name="from" value="boss"', "").replace("member &#39;boss&#39;", "")
        said = said.replace('data-from="/why?from=boss', "")
        for word in HIDDEN:
            assert word not in said, f"{path} says {word}"
    assert laptop.get("/members/boss").status == 404
    assert laptop.get("/doctor").status == 403
    assert laptop.get("/timeline").status == 403
    assert "nas" in laptop.get("/").text
    assert "10.9.0.2" in laptop.get("/document").text, "it reads its own part"
    assert 'data-allowed="yes"' in laptop.get("/reach").text
    assert "its operators see what" in laptop.get("/").text, "that something is wrong is no secret"


def test_the_hosts_firewall_is_its_operators_affair(served: Served) -> None:
    assert 'id="firewall"' in of(served, "boss").get("/why?from=boss&to=here&on=22").text
    answer = of(served, "laptop").get("/why?from=laptop&to=here&on=22")
    assert "allowed" in answer.text
    assert 'id="firewall"' not in answer.text


@pytest.mark.parametrize("path", ["/live", "/live?rows=0"])
def test_the_stream_says_no_more_than_the_pages(served: Served, path: str) -> None:
    told = stream(of(served, "laptop"), path)
    assert not any(word in told for word in HIDDEN)
    assert set(json.loads(told)["rows"]) == ({"nas", "laptop"} if path == "/live" else set())


def test_a_member_of_both_sees_whom_the_rules_let_it_see(served: Served) -> None:
    nas = of(served, "nas")
    text = nas.get("/").text
    assert "vault" in text
    assert 'href="/members/boss"' not in text, "no rule lets the two see each other"
    assert nas.get("/members/boss").status == 404


def test_an_operator_sees_all(served: Served) -> None:
    boss = of(served, "boss")
    seen = "".join(boss.get(path).text for path in PAGES)
    for word in HIDDEN:
        assert word in seen
    assert boss.get("/doctor").status == 200
    assert set(json.loads(stream(boss, "/live"))["rows"]) == set(ADDRESSES)


def test_a_search_finds_nothing_in_what_is_hidden(served: Served) -> None:
    """Else whoever may look could ask, digit by digit, for addresses of networks that it does not see."""
    laptop = of(served, "laptop")
    row = 'tr data-peer="nas"'
    assert row in laptop.get(f"/?q={ADDRESSES['nas']}").text
    assert row not in laptop.get("/?q=10.8.0.3").text
    assert row in of(served, "boss").get("/?q=10.8.0.3").text


def test_the_stream_is_silent_about_changes_of_what_is_hidden(known: Host, served: Served) -> None:
    laptop, before = of(served, "laptop"), known.status
    paths = ("/live", "/live?rows=0", "/live?peer=nas", "/live?peer=boss")
    versions = {path: json.loads(stream(laptop, path))["version"] for path in paths}
    vault = {"home": [ADDRESSES["nas"]], "vault": ["10.8.0.33"]}
    peers = [msgspec.structs.replace(one, addresses=vault) if one.name == "nas" else one
             for one in before.peers if one.name != "boss"]  # fmt: skip
    try:
        known.status = msgspec.structs.replace(before, peers=peers, armed=a.ArmedState("d", 60.0))
        wait_for("it is seen", lambda: "10.8.0.33" in of(served, "nas").get("/").text)
        assert {path: json.loads(stream(laptop, path))["version"] for path in paths} == versions
    finally:
        known.status = before


def test_who_becomes_a_viewer_sees_less_at_once(known: Host, served: Served) -> None:
    boss = of(served, "boss")
    host = f"{OWN}:{served.port}"
    connection = http.client.HTTPConnection(
        OWN, served.port, timeout=START_S, source_address=(ADDRESSES["boss"], 0)
    )
    changed = DOCUMENT.replace("operators: [boss]", "operators: []")
    before = known.status
    try:
        connection.request("GET", "/live", headers={"Cookie": boss.cookie, "Host": host})
        answer = connection.getresponse()
        answer.readline()
        (known.directory / "accepted.yaml").write_text(changed)
        digest = load_document(changed).document.digest
        known.status = msgspec.structs.replace(before, document=a.DocumentState(digest))
        assert answer.read(10**7) is not None, "the stream of the operator ends"
        assert boss.get("/doctor").status == 403
    finally:
        connection.close()
        (known.directory / "accepted.yaml").write_text(DOCUMENT)
        known.status = before
