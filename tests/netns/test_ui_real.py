"""The page of a real host, over the overlay: WireGuard says who is who, and the document what each may."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from netctl.lab.internet import RUN_PATH, Lab, status_of
from tests.netns.onehost import NETCTL
from tests.support.lablife import PARTY, addresses, connected_lab
from tests.support.patience import wait_for
from tests.ui.uikit import words
from tests.ui.webdriver import chromium_inside

pytestmark = [pytest.mark.netns, pytest.mark.lab]

PORT = 8642
FETCH = """
import http.client, json, sys
address, host, method, path, cookie, origin = json.loads(sys.argv[1])
connection = http.client.HTTPConnection(address, 8642, timeout=200)
headers = {"Host": host, "Cookie": cookie, "Origin": origin, "X-Forwarded-For": "10.9.0.99"}
connection.request(method, path, "csrf=guess", {name: text for name, text in headers.items() if text})
answer = connection.getresponse()
print(json.dumps([answer.status, answer.getheader("set-cookie") or "", answer.read().decode()]))
"""
ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(b'{"op": "timeline"}\\n')
    print(connection.makefile().readline())
"""

DROPS = "table ip own { chain i { type filter hook input priority 10; tcp dport 4444 drop; }; }"
EDIT = r"""
import html, http.client, json, os, re, sys
from urllib.parse import urlencode

link, more, end = json.loads(sys.argv[1])
cookie = root = ""

def ask(method, path, **form):
    connection = http.client.HTTPConnection("127.0.0.1", 8642, timeout=200)
    headers = {"Cookie": cookie, "Origin": "http://127.0.0.1:8642"}
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    connection.request(method, root + path, urlencode(form) if form else None, headers)
    answer = connection.getresponse()
    return answer.getheader("set-cookie"), answer.read().decode()

def hidden(text):
    return dict(re.findall(r'name="(csrf|base|document|observed|desired)" value="([^"]*)"', text))

said = ask("GET", link)[0]
cookie, root = said.partition(";")[0], re.search("Path=(/[^;]*)/;", said)[1]
into = ask("GET", "/why?from=laptop&to=desktop&on=4444")[1], ask("GET", "/why?from=laptop&to=desktop&on=22")[1]
asked = {"from": "desktop", "to": "laptop", "peer": "laptop"}
why = ask("GET", "/why?" + urlencode(asked))[1]
checked = ask("POST", "/why/check", **hidden(why), **asked)[1]
page = ask("GET", "/document/edit")[1]
text = html.unescape(re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.S)[1]) + more
plan = ask("POST", "/document/plan", **hidden(page), text=text)[1]
tried = ask("POST", "/document/apply", **hidden(plan), text=text)[1]
file = open(os.environ["NETCTL_CONFIG"]).read()
ended = ask("POST", end, csrf=hidden(plan)["csrf"])[1]
after = open(os.environ["NETCTL_CONFIG"]).read()
print(json.dumps([into, why, checked, plan, tried, file == text, ended, after == text]))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with connected_lab(PARTY + "ui: {viewers: [laptop]}\n") as lab:
        yield lab


@pytest.fixture(scope="module")
def link(lab: Lab) -> Iterator[str]:
    """The page of `desktop` is served, on loopback and over the overlay: its link's path."""
    found = addresses(lab)["desktop"]["party"]
    address = next(text for text in found if "." in text)
    shell = lab.node("desktop").popen(
        ["sh", "-c", 'echo $$; exec "$@"', "sh", NETCTL, "ui", "--listen", address]
    )
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    said = [shell.stdout.readline(), shell.stdout.readline()]
    start = "http://127.0.0.1:8642"
    links = [line.strip().removeprefix(start) for line in said if line.startswith(f"{start}/login?token=")]
    assert links, said
    try:
        yield links[0]
    finally:
        lab.node("desktop").kill(pid, 15)
        shell.communicate()


@pytest.fixture(scope="module")
def address(lab: Lab, link: str) -> str:
    """Where the page of `desktop` is served over the overlay."""
    assert link
    return next(text for text in addresses(lab)["desktop"]["party"] if "." in text)


def fetch(
    lab: Lab,
    who: str,
    address: str,
    path: str = "/",
    *,
    host: str = "",
    method: str = "GET",
    cookie: str = "",
) -> tuple[int, str, str]:
    """What a browser of `who` gets: status, cookie, text."""
    name = host or f"{address}:{PORT}"
    origin = f"http://{name}" if method == "POST" else ""
    asked = json.dumps([address, name, method, path, cookie, origin])
    done = lab.node(who).attempt([sys.executable, "-c", FETCH, asked])
    assert done.returncode == 0, done.stderr
    status, cookie, text = json.loads(done.stdout)
    return status, cookie.partition(";")[0], text


def test_a_member_sees_what_the_agent_says_and_changes_nothing(lab: Lab, address: str) -> None:
    wait_for("the document lets it in", lambda: fetch(lab, "laptop", address)[0] == 200)
    _, cookie, text = fetch(lab, "laptop", address)
    assert "laptop: viewer" in text
    own = next(held for held in addresses(lab)["laptop"]["party"] if "." in held)
    assert f'data-copy="{own}"' in text
    assert re.search(r'data-path="(lan|direct|relay-udp)"', text)
    assert "/invites" not in text
    assert fetch(lab, "laptop", address, "/document", cookie=cookie)[0] == 200
    assert fetch(lab, "laptop", address, "/doctor", cookie=cookie)[0] == 403, "it is for operators"
    assert fetch(lab, "laptop", address, "/invites/new", method="POST", cookie=cookie)[0] == 403


def test_what_happened_is_remembered(lab: Lab) -> None:
    """Paths, applies and the agent itself, as the agent of a real host tells it at its socket."""
    done = lab.node("desktop").attempt([sys.executable, "-c", ASK, f"{RUN_PATH}/agent.sock"])
    assert done.returncode == 0, done.stderr
    happened = json.loads(done.stdout)["result"]
    assert happened[-1]["text"] == "the agent began"
    assert any(one["kind"] == "path" and one["text"].startswith("laptop: ") for one in happened)
    assert any("logged in to the mediator" in one["text"] for one in happened)
    times = [one["at_s"] for one in happened]
    assert times == sorted(times, reverse=True)


def test_the_page_goes_by_the_hosts_name_and_by_no_other(lab: Lab, address: str) -> None:
    name = f"desktop.party.netctl:{PORT}"
    assert fetch(lab, "laptop", address, host=name)[0] == 200
    assert fetch(lab, "laptop", address, host="evil.example")[0] == 421


def test_whoever_is_on_the_host_itself_needs_a_link(lab: Lab, address: str) -> None:
    """Also with the cookie of a member, and with a header that claims another address."""
    _, cookie, _ = fetch(lab, "laptop", address)
    assert fetch(lab, "desktop", address)[0] == 401
    assert fetch(lab, "desktop", address, cookie=cookie)[0] == 401
    assert fetch(lab, "desktop", "127.0.0.1", cookie=cookie)[0] == 401


@pytest.mark.skipif(
    not (shutil.which("chromedriver") and shutil.which("chromium")),
    reason="no Chromium here: `scripts/setup ui` installs it",
)
def test_a_real_browser_sees_a_member_go_and_come(lab: Lab) -> None:
    """The slice of `tests/ui/test_lab_browser.py` that every run has."""
    node, dot = lab.node("laptop"), 'tr[data-peer="desktop"] [data-cell=online]'
    shell = node.popen(["sh", "-c", 'echo $$; exec "$@"', "sh", NETCTL, "ui"])
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    try:
        link = next(line.strip() for line in shell.stdout if "/login?token=" in line)
        with TemporaryDirectory() as place, chromium_inside(node.command, Path(place)) as browser:
            browser.go(link)
            wait_for("it is there", lambda: browser.text(dot) == "online")
            lab.stop("desktop")
            wait_for("its dot is empty", lambda: browser.text(dot) == "offline")
            lab.start_agent("desktop")
            wait_for("it is back", lambda: browser.text(dot) == "online")
            assert browser.complaints() == []
    finally:
        node.kill(pid, 15)
        shell.communicate()


def test_a_peer_is_asked_and_an_edit_is_planned_tried_and_kept(lab: Lab, link: str) -> None:
    """Last of all: it changes the document of one host, which the others do not know."""
    more = "# an edit\napply: {confirm: 60s}\n"
    lab.node("desktop").run(["nft", "-f", "-"], DROPS)
    done = lab.node("desktop").attempt(
        [sys.executable, "-c", EDIT, json.dumps([link, more, "/document/confirm"])]
    )
    lab.node("desktop").run(["nft", "delete", "table", "ip", "own"])
    assert done.returncode == 0, done.stderr
    into, why, checked, plan, tried, written_before, kept, written = json.loads(done.stdout)
    assert re.search(r"drops tcp/4444 on nctl0", words(into[0])), "of the receiving host's own firewall"
    assert "The firewall of desktop lets it through" in into[1]
    assert "known there alone: ask the page of laptop, or run netctl why desktop laptop there" in words(why)
    assert re.search(r"[1-8] of 8 answered", checked), "laptop is asked through the tunnel"
    assert "1420 bytes pass both ways" in checked
    assert "NAT of desktop" in checked
    assert "What it changes" in plan
    assert "+# an edit" in plan
    assert "Keep this?" in tried
    assert re.search(r'data-left="[3-6][0-9]"', tried)
    assert not written_before, "a trial changes no file"
    assert "It stays, and" in kept
    assert written
    wait_for("it is in force", lambda: status_of(lab.node("desktop"))["armed"] is None)
    wait_for(
        "the file says what is in force", lambda: status_of(lab.node("desktop"))["watch"]["error"] is None
    )
