"""Six members behind NATs and a mediator, seen and changed from a real Chromium: `make test-ui`.

One world, in the order of the tests: each begins where the one before has left it.
"""

from __future__ import annotations

import base64
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from netctl.lab.guest import NAME as GUEST
from netctl.lab.guest import machine
from netctl.lab.internet import STATE_PATH, Lab, status_of
from netctl.lab.namespaces import Node
from tests.netns.onehost import NETCTL
from tests.support.lablife import connected_lab
from tests.support.patience import wait_for
from tests.ui.test_page_browser import caret_after, line_of
from tests.ui.webdriver import Chromium, chromium_inside

pytestmark = [pytest.mark.browser, pytest.mark.lab]

MEMBERS = ("laptop", "desktop", "nas", "console", "tv", "office")
SEEN_S = 2.0
TRIED_S = 20


def a_key() -> str:
    """The lab puts true ones in the place of these."""
    return base64.b64encode(os.urandom(32)).decode()


def an_identity() -> str:
    return (
        "ed25519:" + base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    )


def document() -> str:
    members = "".join(
        f'  {name}: {{wireguard: "{a_key()}", identity: "{an_identity()}"}}\n' for name in MEMBERS
    )
    return f"""apiVersion: netctl/v1
mediators:
  - {{url: "netctl://m1.example.net:8443", identity: ["{an_identity()}"]}}
members:
{members}networks:
  party:
    mode: routed
    ipv4: 10.9.0.0/24
    members: ["*"]
    join: {{invites: true, approve: manual}}
apply: {{confirm: {TRIED_S}s}}
"""


class World:
    """The lab, and a browser beside each of two pages: laptop's, and that of the mediator's machine."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.lab = lab
        self.laptop = self.browse(lab.node("laptop"), stack)
        self.mediator = self.browse(next(iter(lab.network.mediators.values())), stack)

    def browse(self, node: Node, stack: ExitStack) -> Chromium:
        """Start the page on a host, and open its link in a browser there."""
        argv = ["sh", "-c", 'echo $$; exec "$@"', "sh", NETCTL, "ui", "--mediator-state", STATE_PATH]
        shell = node.popen(argv)
        stack.callback(shell.communicate)
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        stack.callback(node.kill, pid, 15)
        link = next(line.strip() for line in shell.stdout if "/login?token=" in line)
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        browser = stack.enter_context(chromium_inside(node.command, place))
        browser.look(1280, 900)
        browser.sign_in(link)
        return browser

    def see(self, path: str = "/") -> None:
        self.laptop.see(path)

    def cell(self, member: str, kind: str) -> str | None:
        return self.laptop.text(f'tr[data-peer="{member}"] [data-cell={kind}]')

    def online(self, member: str) -> bool:
        return self.cell(member, "online") == "online"

    def pings(self, source: str, name: str) -> bool:
        argv = ["ping", "-n", "-c1", "-W1", f"{name}.party.netctl"]
        return self.lab.node(source).attempt(argv).returncode == 0

    def cable(self, member: str, state: str) -> float:
        """Pull a member's cable out of its router, or put it in; when."""
        box = next(box for box in self.lab.topology.boxes if any(node.name == member for node in box.members))
        port = [node.name for node in box.members].index(member)
        began = time.monotonic()
        self.lab.network.boxes[box.name].run(["ip", "link", "set", f"l{port}", state])
        return began

    def box_of(self, member: str) -> tuple[Node, str]:
        """The NAT that a member is behind, and its public address."""
        box = next(box for box in self.lab.topology.boxes if any(node.name == member for node in box.members))
        return self.lab.network.boxes[box.name], str(box.wan)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with connected_lab(document()) as lab, ExitStack() as stack:
        yield World(lab, stack)


def test_all_six_are_seen(world: World) -> None:
    world.see()
    for name in MEMBERS[1:]:
        wait_for(f"{name} is there", lambda one=name: world.online(one))  # type: ignore[misc]
    assert world.laptop.text(".brand .at") == "laptop"
    assert "5 of 5 others online" in (world.laptop.text(".facts") or "")
    assert world.laptop.axe() == []


def test_a_path_goes_from_relay_to_direct(world: World) -> None:
    box, _ = world.box_of("nas")
    _, other = world.box_of("laptop")
    drop = f"ip saddr {other} meta l4proto udp drop"
    rules = f"table ip cut {{ chain in {{ type filter hook prerouting priority -300; {drop}; }}; }}"
    world.see()
    box.run(["nft", rules])
    wait_for("it goes over the relay", lambda: (world.cell("nas", "path") or "").startswith("relay"))
    box.run(["nft", "delete table ip cut"])
    wait_for("it is direct again", lambda: world.cell("nas", "path") == "direct")
    assert world.laptop.complaints() == []


def test_an_error_is_seen_at_its_line(world: World) -> None:
    world.see("/document/edit")
    wait_for("it is judged first", lambda: "error" not in (world.laptop.text("#verdict") or "error"))
    caret_after(world.laptop, "mode: routed")
    world.laptop.type("d")
    wait_for("it is judged", lambda: "1 error" in (world.laptop.text("#verdict") or ""))
    line = f"#under > .l:nth-child({line_of(world.lab.text, 'mode: routed')})"
    assert world.laptop.run(f"return document.querySelector('{line}').dataset.severity") == "error"
    world.laptop.type("\ue003")  # Backspace
    wait_for("it is mended", lambda: "error" not in (world.laptop.text("#verdict") or "error"))


def test_a_change_that_cuts_off_comes_back_by_itself(world: World) -> None:
    assert world.pings("nas", "laptop")
    world.see("/document/edit")
    wait_for("it is judged first", lambda: "error" not in (world.laptop.text("#verdict") or "error"))
    world.laptop.run(
        "const field = document.getElementById('text');"
        "field.value = field.value.replace('members: [\"*\"]', 'members: [laptop]')"
    )
    world.laptop.click("#edit button.go")
    wait_for("the plan is there", lambda: world.laptop.text("h1") == "What it changes")
    assert "leave party" in (world.laptop.text("#people + ul") or "")
    world.laptop.click("#try ~ form button.go")
    wait_for("it is tried", lambda: world.laptop.run("return !document.getElementById('armed')?.hidden"))
    assert not world.pings("nas", "laptop"), "it is cut off"
    wait_for("it went back", lambda: world.laptop.run("return document.getElementById('armed').hidden"))
    wait_for("packets flow again", lambda: world.pings("nas", "laptop"))
    world.see()
    wait_for("they are back", lambda: all(world.online(name) for name in MEMBERS[1:]))


def test_a_seventh_joins_is_approved_and_is_shut_out(world: World) -> None:
    page = world.mediator
    page.see("/invites")
    page.run("document.querySelector('[name=network]').value = 'party'")
    page.click(".fields button.go")
    wait_for("the invite is there", lambda: page.text(".made .address"))
    string = page.run("return document.querySelector('.made .address').dataset.copy")
    guest = machine(world.lab)
    said = guest.run([NETCTL, "join", "--name", GUEST], string)
    assert "waits until the operator lets it into party" in said
    page.see("/invites")
    page.click(f'[aria-label="Let in {GUEST}"]')
    wait_for("it is in", lambda: f"{GUEST} is in" in (page.text("[role=status] .good") or ""))
    world.see()
    wait_for("all see it", lambda: world.online(GUEST))
    wait_for("packets flow", lambda: world.pings("laptop", GUEST))
    page.click(f'[aria-label="Shut out {GUEST}"]')
    wait_for("it is out", lambda: f"{GUEST} is shut out" in (page.text("[role=status] .good") or ""))
    wait_for("packets do not", lambda: not world.pings("laptop", GUEST))
    page.see("/mediator")
    log = page.text(".happened") or ""
    assert [word for word in ("revoked", "approved", "joined", "invited") if word not in log] == []
    assert page.axe() == []


def test_a_cut_link_is_seen_within_two_seconds(world: World) -> None:
    """From the cut itself, and from when it is mended: seconds later, and once the mediator has noticed."""
    world.see()
    wait_for("it is asked", lambda: asked(world, "tv"))
    for how, gone in {"seconds later": "not answering", "once the mediator has noticed": "offline"}.items():
        began = world.cable("tv", "down")
        wait_for("its dot is empty", lambda: world.cell("tv", "online") == "not answering", every_s=0.02)
        cut_s = time.monotonic() - began
        wait_for(how, lambda said=gone: world.cell("tv", "online") == said)  # type: ignore[misc]
        time.sleep(3)
        began = world.cable("tv", "up")
        wait_for("it is back", lambda: world.online("tv"), every_s=0.02)
        back_s = time.monotonic() - began
        print(f"{how}: cut seen after {cut_s:.2f} s, back after {back_s:.2f} s")
        assert cut_s < SEEN_S
        assert back_s < SEEN_S
        wait_for("it is asked", lambda: asked(world, "tv"))
    assert world.laptop.complaints() == []


def asked(world: World, name: str) -> bool:
    """Whether laptop's agent asks this peer, since somebody looks, and is answered."""
    peers = status_of(world.lab.node("laptop"))["peers"]
    return next(peer["answers"] for peer in peers if peer["name"] == name) is True
