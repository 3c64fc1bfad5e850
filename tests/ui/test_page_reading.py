"""What the page shows, read without a script: the networks of a host, its members, and what is wrong."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from netctl.model.errors import LocalError
from netctl.ui.webapp import HERE, MAX_GRAPH
from netctl.wire import agentrequests as a
from tests.support.patience import BUSY_S, wait_for
from tests.ui.uikit import Browser, Host, Served, command, host, page, peer, words

PEERS = (
    peer("nas", "10.9.0.2", path="lan", rtt_ms=0.71),
    peer("laptop", "10.9.0.3", path="relay-udp", online=False, rtt_ms=None, last_handshake_s=7300.0),
)
MAX_ASSETS = 150_000


@pytest.fixture
def known(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path, *PEERS) as made:
        yield made


@pytest.fixture
def served(known: Host) -> Iterator[Served]:
    with page(known) as one:
        yield one


def events(browser: Browser, path: str = "/live") -> Generator[tuple[str, dict[str, Any]], None, None]:
    """The live stream of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", browser.port, timeout=BUSY_S)
    connection.request("GET", browser.root + path, headers={"Cookie": browser.cookie})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    try:
        while True:
            event = answer.readline().decode().removeprefix("event: ").strip()
            if not event:
                return
            data = answer.readline().decode().removeprefix("data: ")
            answer.readline()
            yield event, json.loads(data)
    finally:
        connection.close()


def test_members_are_shown_as_they_are(served: Served) -> None:
    browser = served.signed_in()
    text = re.sub(r"\s+", " ", browser.get("/").text)
    assert "1 of 2 others online" in words(text)
    assert 'data-copy="10.9.0.2"' in text
    assert "same LAN" in text
    assert "0.7 ms" in text
    assert "2 h ago" in text
    assert "servers" in text
    one = browser.get("/members/laptop").text
    assert "10.9.0.3" in one
    assert "nas" not in one
    assert browser.get("/members/nobody").status == 404


def test_a_peer_that_does_not_answer_is_said_to_be_so(known: Host, served: Served) -> None:
    """What it answers to this host goes before what the mediator has of it, either way."""
    known.status = msgspec.structs.replace(
        known.status,
        peers=[
            peer("nas", "10.9.0.2", answers=False),
            peer("laptop", "10.9.0.3", answers=True, online=False),
            peer("tv", "10.9.0.4", answers=False, online=False),
        ],
    )
    text = served.signed_in().get("/").text
    assert re.findall(r'data-cell="dot" data-on="(\w+)"', text) == ["silent", "online", "offline"]
    assert re.findall(r'data-cell="online">([a-z ]+)<', text) == ["not answering", "online", "offline"]
    assert re.findall(r'data-edge="(\w+)"', text) == ["silent", "direct", "none"]
    assert 'data-path="silent">not answering<' in text
    assert "1 of 3 others online" in words(text)
    assert "members report it to nobody" in text, "what the picture shows, and why no more"


def test_a_page_that_nobody_sees_has_the_agent_ask_the_mediator_of_nobody(known: Host) -> None:
    """The presence of all members of a large network is asked for while somebody looks, and not by the page itself."""

    def looks() -> list[bool]:
        return [one.look for one in known.asked if isinstance(one, a.Status)]

    with page(known) as served:
        wait_for("the page asks by itself", looks)
        assert looks()[-1] is False
        browser = served.signed_in()
        browser.get("/")
        assert True in looks(), "who reads a page looks"
        wait_for("nobody looks any more", lambda: looks()[-1] is False)
        stream = events(browser)
        next(stream)
        wait_for("who has a page open looks all the time", lambda: looks()[-1] is True)
        stream.close()


def test_peers_are_asked_only_while_a_browser_looks(known: Host, served: Served) -> None:
    browser = served.signed_in()
    browser.get("/")
    elsewhere = events(browser, "/live?rows=0")
    assert [next(elsewhere)[0], next(elsewhere)[0]] == ["all", "changes"]
    elsewhere.close()
    assert not any(isinstance(one, a.Watch) for one in known.asked), "a page without peers asks for none"
    stream = events(browser)
    assert next(stream)[0] == "all"
    wait_for("it looks", lambda: any(isinstance(one, a.Watch) for one in known.asked))
    stream.close()
    wait_for("it has left", lambda: all(isinstance(one, a.Status) for one in known.asked[-2:]))


def test_finding_works_without_a_script(served: Served) -> None:
    browser = served.signed_in()
    assert 'data-peer="laptop"' not in browser.get("/?q=nas").text.partition("<details")[0]
    assert 'data-peer="nas"' in browser.get("/?group=servers").text
    assert "Nobody here matches" in browser.get("/?q=zzz").text


def test_what_is_wrong_stands_on_every_page(known: Host, served: Served) -> None:
    browser = served.signed_in()
    known.status = msgspec.structs.replace(known.status, conditions=["the disk is full"])
    live = (told for _, told in islice(events(browser), 100))
    assert any("the disk is full" in told.get("banner", []) for told in live)
    for path in ("/", "/doctor", "/members/nas"):
        assert "the disk is full" in browser.get(path).text
    assert "do this" in browser.get("/doctor").text


def test_changes_come_by_themselves_and_alone(known: Host, served: Served) -> None:
    browser = served.signed_in()
    stream = events(browser)
    kind, first = next(stream)
    assert kind == "all"
    assert set(first["rows"]) == set(first["past"]) == {"nas", "laptop"}
    cut = msgspec.structs.replace(PEERS[0], online=False, path="none")
    known.status = msgspec.structs.replace(known.status, peers=[cut, PEERS[1]])
    for kind, told in islice(stream, 100):
        assert kind == "changes"
        if told["rows"]:
            assert set(told["rows"]) == {"nas"}
            assert told["rows"]["nas"][:3] == ["offline", "none", "no path"]
            return
    raise AssertionError("nothing came")


def version_of(text: str) -> str:
    found = re.search(r'data-version="([^"]*)"', text)
    assert found is not None
    return found[1]


def stream_of(text: str) -> str:
    found = re.search(r'data-stream="([^"]*)"', text)
    assert found is not None
    return f"/live?{found[1]}"


def test_who_is_online_is_counted_anew(known: Host, served: Served) -> None:
    stream = events(served.signed_in())
    _, first = next(stream)
    assert first["online"] == {"home": 1}
    back = msgspec.structs.replace(PEERS[1], online=True)
    known.status = msgspec.structs.replace(known.status, peers=[PEERS[0], back])
    assert next(told["online"] for _, told in stream if "online" in told) == {"home": 2}
    known.status = msgspec.structs.replace(known.status, peers=[back])
    assert next(told["online"] for _, told in stream if "online" in told) == {"home": 1}


@pytest.mark.parametrize(
    "path", ["/", "/members/nas", "/reach", "/why?from=here&to=nas", "/document", "/doctor", "/timeline"]
)
def test_a_page_and_its_stream_are_of_one_version(served: Served, path: str) -> None:
    """Else a browser would ask for the page again without end, or never."""
    browser = served.signed_in()
    text = browser.get(path).text
    assert version_of(text)
    _, told = next(events(browser, stream_of(text)))
    assert told["version"] == version_of(text)


CHANGES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "one is gone": (("/",), {"peers": [PEERS[0]]}),
    "one has come": (("/",), {"peers": [*PEERS, peer("new", "10.9.0.4")]}),
    "an address": (
        ("/", "/members/nas"),
        {"peers": [msgspec.structs.replace(PEERS[0], addresses={"home": ["10.9.0.9"]}), PEERS[1]]},
    ),
    "an endpoint": (
        ("/members/nas", "/why?from=here&to=nas"),
        {"peers": [msgspec.structs.replace(PEERS[0], endpoint="198.51.100.1:1"), PEERS[1]]},
    ),
    "this host's address": (("/", "/reach"), {"networks": {"home": a.NetworkState("routed", [], False)}}),
    "the document": (("/", "/reach", "/document"), {"document": a.DocumentState(None)}),
    "a trial": (("/document",), {"armed": a.ArmedState("d", 60.0)}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_events_do_not_tell_makes_another_version(known: Host, served: Served, what: str) -> None:
    browser = served.signed_in()
    paths, changed = CHANGES[what]
    before = {path: version_of(browser.get(path).text) for path in paths}
    streams = {path: events(browser, stream_of(browser.get(path).text)) for path in paths}
    for stream in streams.values():
        next(stream)
    known.status = msgspec.structs.replace(known.status, **changed)
    for path, stream in streams.items():
        # Of another document the stream ends, and the browser opens it again.
        told = next((told for _, told in stream if told.get("version", before[path]) != before[path]), None)
        assert told is not None or what == "the document"
        assert version_of(browser.get(path).text) != before[path]


def test_what_moves_all_the_time_makes_no_other_version(known: Host, served: Served) -> None:
    browser = served.signed_in()
    before = {path: version_of(browser.get(path).text) for path in ("/", "/members/nas")}
    moved = [
        msgspec.structs.replace(
            one, rx_bytes=10**9, tx_bytes=10**9, rtt_ms=3.0, since_s=90.0, last_handshake_s=1.0, answers=True
        )
        for one in PEERS
    ]
    known.status = msgspec.structs.replace(known.status, peers=moved)
    stream = events(browser, "/live?peer=nas")
    assert any(
        told.get("totals") == {"nas": "1.0 GB received, 1.0 GB sent"} for _, told in islice(stream, 100)
    )
    assert {path: version_of(browser.get(path).text) for path in before} == before


def test_a_stream_of_one_member_is_of_it_alone(served: Served) -> None:
    _, told = next(events(served.signed_in(), "/live?peer=nas"))
    assert set(told["rows"]) == set(told["past"]) == {"nas"}


def test_an_agent_that_has_gone_is_said_with_what_it_left(known: Host, served: Served) -> None:
    browser = served.signed_in()
    assert "is from before" not in browser.get("/").text

    def gone(_: Any) -> Any:
        raise LocalError("the agent is ill")

    known.answers[a.Status] = gone
    live = (told for _, told in events(browser))
    said = next(told["banner"] for told in live if told.get("banner"))
    assert said == ["the agent is ill; what is shown of members is from before"]


def test_a_host_without_an_agent_says_the_next_step(tmp_path: Path) -> None:
    with host(tmp_path, *PEERS) as made:
        pass
    with page(made) as one:
        text = one.signed_in().get("/").text
        assert "sudo netctl up" in text
        assert "no agent runs on this host" in text


def test_a_host_without_a_document_says_the_next_step(tmp_path: Path) -> None:
    with host(tmp_path) as made:
        made.status = msgspec.structs.replace(
            made.status,
            document=msgspec.structs.replace(made.status.document, digest=None),
            networks={},
            member=None,
        )
        with page(made) as one:
            assert "netctl init" in one.signed_in().get("/").text


def test_many_members_are_a_field_of_tiles(known: Host, served: Served) -> None:
    crowd = [peer(f"m{n}", f"10.9.1.{n}") for n in range(MAX_GRAPH + 1)]
    known.status = msgspec.structs.replace(known.status, peers=crowd)
    browser = served.signed_in()
    text = browser.get("/").text
    while "m60" not in text:
        text = browser.get("/").text
    assert 'class="tiles"' in text
    assert 'class="self"' not in text


def test_all_that_a_browser_loads_is_small_and_ours() -> None:
    files = list((HERE / "static").iterdir())
    assert sum(path.stat().st_size for path in files) < MAX_ASSETS
    for path in files:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"^\s*//.*$", "", text, flags=re.M), f"{path.name} names another server"


def test_without_the_extra_it_says_how_to_get_it(known: Host) -> None:
    code = (
        "import sys\nsys.modules['starlette'] = None\n"
        "from netctl.cli.main import main\n"
        f"sys.exit(main({command(known)[1:]!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'netctl[ui]'" in done.stderr


def test_the_time_line_says_what_happened(known: Host, served: Served) -> None:
    browser = served.signed_in()
    assert "Nothing has happened" in browser.get("/timeline").text
    now = time.time()
    known.happened = [
        a.Happening(now + 100, "host", "of a clock that was set back"),
        a.Happening(now - 65, "path", "nas: direct at <b>"),
        a.Happening(now - 7300, "odd", "of another version"),
        a.Happening(1e300, "host", "of no calendar"),
    ]
    text = browser.get("/timeline").text
    assert "nas: direct at &lt;b&gt;" in text
    assert re.search(r'<time datetime="20\d\d-[^"]+Z"', text)
    assert re.search(r"6\d s ago", words(text))
    assert "of another version" in text
    assert "of no calendar" in text
    found = browser.get("/timeline?q=NAS&kind=path").text
    assert "nas: direct" in found
    assert "another version" not in found
    assert "Nothing of that kind" in browser.get("/timeline?kind=none").text
