"""Nobody gets at the page who should not: other hosts, other sites, viewers, old links, strangers on the machine."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from netctl.ui.brokerclient import BrokerClient
from netctl.ui.connections import HEAD_S, MAX_OF_LOOPBACK
from netctl.ui.middleware import MAX_FORM, Refusal, read_body
from netctl.ui.webapp import Pages
from tests.support.patience import BUSY_S, wait_for
from tests.ui.uikit import DOCUMENT, Browser, Host, Served, command, host, page, peer

HOSTILE = "<script>alert(1)</script>\"'&"
POSTS = sorted(
    route.path
    for route in Pages(BrokerClient(None)).routes  # type: ignore[arg-type]  # nothing is asked
    if "POST" in (route.methods or ())
)
"""Every place that takes a change: a new one is tested here by itself."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    nas = peer("nas", "10.9.0.2", condition=HOSTILE, nat=HOSTILE)
    with host(tmp_path_factory.mktemp("host"), nas, peer("laptop", "10.9.0.3")) as made:
        yield made


@pytest.fixture(scope="module")
def served(known: Host) -> Iterator[Served]:
    with page(known) as one:
        yield one


@pytest.fixture(scope="module")
def browser(served: Served) -> Browser:
    return served.signed_in()


@pytest.fixture(scope="module")
def viewer(known: Host) -> Iterator[Browser]:
    with page(known, "--viewer") as one:
        yield one.signed_in()


def test_without_the_link_nothing_is_seen(served: Served) -> None:
    stranger = Browser(served.port)
    for path in ("/", "/doctor", "/members/nas", "/live", "/nonsense"):
        answer = stranger.get(path)
        assert answer.status == 401
        assert "nas" not in answer.text
        assert "home" not in answer.text


def test_a_link_is_good_once(known: Host) -> None:
    with page(known) as one:
        assert Browser(one.port).get(one.path).status == 200
        again = Browser(one.port)
        assert again.get(one.path).status == 401
        assert not again.cookie


def test_the_cookie_stays_with_this_page(served: Served) -> None:
    with_link = Browser(served.port)
    bad = with_link.get("/login?token=none")
    assert not bad.all("set-cookie")


def test_the_cookie_is_strict(known: Host) -> None:
    with page(known) as one:
        line = Browser(one.port).get(one.path).all("set-cookie")[0]
        assert "HttpOnly" in line
        assert "SameSite=Strict" in line
        assert "Domain" not in line


@pytest.mark.parametrize(
    "name", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", None]
)
def test_another_host_is_told_nothing(browser: Browser, name: str | None) -> None:
    """A name of somebody else's that points here (DNS rebinding)."""
    asked: list[tuple[str, str, dict[str, str] | None]]
    asked = [("GET", "/", None), ("GET", "/live", None), ("POST", "/logout", {})]
    for method, path, form in asked:
        answer = browser.ask(method, path, form, host=name)
        assert answer.status in (400, 421)
        assert "nas" not in answer.text


def test_this_host_has_several_names(browser: Browser) -> None:
    for name in ("localhost", f"localhost:{browser.port}", "LocalHost:1", "[::1]:8642"):
        assert browser.get("/doctor", host=name).status == 200


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        None,
        "https://127.0.0.1:{port}",
        "http://127.0.0.1:1",
        "http://localhost:{port}",
    ],
)
def test_another_origin_changes_nothing(browser: Browser, path: str, origin: str | None) -> None:
    said = origin.format(port=browser.port) if origin else None
    answer = browser.post(path, {}, origin=said)
    assert answer.status == 403
    assert "must come from this page itself" in answer.text
    assert browser.get("/doctor").status == 200, "still signed in"


@pytest.mark.parametrize("path", POSTS)
def test_another_host_changes_nothing(browser: Browser, path: str) -> None:
    answer = browser.post(path, {}, host="evil.example", origin="http://evil.example")
    assert answer.status == 421


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("token", ["", "guess", "é"])
def test_a_change_without_its_token_changes_nothing(browser: Browser, path: str, token: str) -> None:
    answer = browser.ask("POST", path, {"csrf": token})
    assert answer.status == 403
    assert "form is too old" in answer.text


@pytest.mark.parametrize("path", POSTS)
def test_a_stranger_changes_nothing(served: Served, browser: Browser, path: str) -> None:
    stranger = Browser(served.port)
    assert stranger.ask("POST", path, {"csrf": browser.csrf()}).status == 401


@pytest.mark.parametrize("path", [path for path in POSTS if path != "/logout"])
def test_a_viewer_changes_nothing(known: Host, viewer: Browser, path: str) -> None:
    asked = len(known.asked)
    answer = viewer.post(path, {"network": "home", "who": "nas", "id": "x", "text": DOCUMENT})
    assert answer.status == 403
    assert "may not change anything" in answer.text
    harmless = ("status", "doctor")
    assert {one.operation() for one in known.asked[asked:]} <= set(harmless)


def test_a_change_is_a_post(browser: Browser) -> None:
    for path in POSTS:
        assert browser.get(path).status in (200, 404, 405)
    assert browser.get("/doctor").status == 200, "GET /logout signs nobody out"


@pytest.mark.parametrize(
    "path", ["/", "/doctor", "/members/nas", "/static/page.css", "/nonsense", "/login?token=x"]
)
def test_every_answer_forbids_scripts_of_others(browser: Browser, path: str) -> None:
    answer = browser.get(path)
    policy = answer.all("content-security-policy")
    assert len(policy) == 1
    assert policy[0].startswith("default-src 'none'")
    assert "unsafe" not in policy[0]
    assert not re.search(r"https?:|\*", policy[0]), "nothing from elsewhere"
    assert answer.all("x-content-type-options") == ["nosniff"]
    assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|\son[a-z]+=|<style", answer.text), "nothing inline"
    assert not re.search(r'(?:src|href|action)="(?!/|#)', answer.text), "nothing from other servers"


def test_what_others_wrote_is_text(browser: Browser) -> None:
    text = browser.get("/members/nas").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;" in text
    assert "<b>x" not in browser.get("/?q=%22%3E%3Cb%3Ex").text


def test_signing_out_ends_the_session(known: Host) -> None:
    with page(known) as one:
        leaving = one.signed_in()
        kept = leaving.cookie
        assert leaving.post("/logout", {}).status == 200
        leaving.cookie = kept
        assert leaving.get("/").status == 401


def test_a_form_has_a_bound(browser: Browser) -> None:
    many = {f"f{n}": "x" for n in range(100)}
    assert browser.post("/logout", many).status == 400
    assert browser.post("/logout", {"csrf": "x", "name": "x" * MAX_FORM}).status == 413
    assert browser.get("/doctor").status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="has rights to give up only as root")
def test_the_server_has_no_rights_and_no_files(served: Served, browser: Browser) -> None:
    assert browser.get("/doctor").status == 200
    parent = served.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    assert len(children) == 1
    server = Path("/proc", children[0])
    lines = dict(line.split(":", 1) for line in (server / "status").read_text().splitlines())
    assert set(lines["Uid"].split()) == set(lines["Gid"].split()) == {"65534"}
    assert not lines["Groups"].split()
    assert {int(lines[name], 16) for name in ("CapEff", "CapPrm", "CapInh")} == {0}
    assert lines["NoNewPrivs"].strip() == "1"
    assert (server / "root").readlink().name.endswith("(deleted)")


@pytest.mark.parametrize(
    "sent", [b"\x00\x01nothing\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a" * 70_000, b"\x16\x03\x01\x02"]
)
def test_what_is_no_request_ends_nothing(served: Served, browser: Browser, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert b"200 OK" not in connection.recv(65536)
    assert browser.get("/doctor").status == 200


def silent(address: str, port: int, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection((address, port), BUSY_S)
    connection.sendall(said)
    return connection


def ended(connection: socket.socket) -> bool:
    """Wait until the page has ended a connection."""
    with connection:
        connection.settimeout(BUSY_S)
        try:
            while connection.recv(65536):
                continue
        except ConnectionResetError:
            pass
    return True


def test_connections_of_one_place_have_a_bound(known: Host) -> None:
    with page(known) as one:
        browser = one.signed_in()
        many = [silent("127.0.0.1", one.port) for _ in range(MAX_OF_LOOPBACK)]
        began = time.monotonic()
        assert ended(silent("127.0.0.1", one.port))
        assert time.monotonic() - began < HEAD_S, "it is not waited for"
        for connection in many:
            connection.close()
        wait_for("there is room again", lambda: answers(browser))


def answers(browser: Browser) -> bool:
    try:
        return browser.get("/doctor").status == 200
    except OSError:
        return False


def test_who_says_nothing_is_not_waited_for(served: Served) -> None:
    """Neither for a first request, nor for its head, nor for a next one."""
    whole = b"GET /static/page.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
    began = time.monotonic()
    waiting = [silent("127.0.0.1", served.port, said) for said in (b"", whole[:20], whole + whole[:20])]
    assert all(ended(connection) for connection in waiting)
    assert time.monotonic() - began > HEAD_S / 2, "a slow one has some time"


@pytest.mark.parametrize(
    "cookie",
    [
        "netctl",
        "netctl=",
        "netctl=" + "x" * 8000,
        "netctl=a; netctl=b",
        "a=\x01; ;;=",
        "netctl=é",
        '"',
        "=" * 4000,
    ],
)
def test_a_cookie_that_is_none_lets_nobody_in(served: Served, cookie: str) -> None:
    stranger = Browser(served.port)
    stranger.cookie = cookie
    assert stranger.get("/").status in (400, 401, 431)


@pytest.mark.parametrize(
    ("heads", "status"),
    [
        (["Host: 127.0.0.1", "Host: evil.example"], 400),
        (["Host: 127.0.0.1", "Host: 127.0.0.1"], 400),
        ([], 400),
        (["Host: 127.0.0.1", "Cookie: a=b", "Cookie: netctl=c"], 401),
    ],
)
def test_a_request_that_says_it_twice_is_refused(served: Served, heads: list[str], status: int) -> None:
    with silent("127.0.0.1", served.port) as connection:
        connection.sendall("\r\n".join(["GET / HTTP/1.1", *heads, "Connection: close", "", ""]).encode())
        assert connection.makefile("rb").readline().split()[1] == str(status).encode()


@pytest.mark.parametrize(
    "body",
    [b"\xff\xfe", b"csrf=%ff%fe", b"csrf=%zz", b"=&&==&", b"csrf", b"csrf=" + b"%00" * 1000, b"\0" * 100],
)
def test_a_form_that_is_none_changes_nothing(served: Served, browser: Browser, body: bytes) -> None:
    heads = [
        f"POST {browser.root}/logout HTTP/1.1", f"Host: 127.0.0.1:{served.port}", f"Origin: http://127.0.0.1:{served.port}",
        f"Cookie: {browser.cookie}", f"Content-Length: {len(body)}", "Connection: close", "", "",
    ]  # fmt: skip
    with silent("127.0.0.1", served.port, "\r\n".join(heads).encode() + body) as connection:
        assert connection.makefile("rb").readline().split()[1] in (b"400", b"403")
    assert browser.get("/doctor").status == 200, "still signed in"


def test_a_form_that_breaks_off_changes_nothing(served: Served, browser: Browser) -> None:
    heads = [
        f"POST {browser.root}/logout HTTP/1.1", f"Host: 127.0.0.1:{served.port}", f"Origin: http://127.0.0.1:{served.port}",
        f"Cookie: {browser.cookie}", "Content-Length: 1000", "", "csrf=",
    ]  # fmt: skip
    silent("127.0.0.1", served.port, "\r\n".join(heads).encode()).close()
    assert browser.get("/doctor").status == 200, "still signed in"


def test_a_form_that_comes_slowly_is_not_waited_for() -> None:
    """Byte by byte, without end: the whole form has a time, not each part of it."""

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    with pytest.raises(Refusal) as refused:
        asyncio.run(read_body(receive, MAX_FORM, 0.2))
    assert refused.value.status == 408


@pytest.mark.parametrize("name", ["Cookie", "Origin", "Host", "X-Forwarded-User", "Content-Type", "Accept"])
@pytest.mark.parametrize("value", [b"\xff\xfe", b"netctl=\xc3\x28", b"\xe9" * 5000])
def test_a_header_that_is_no_text_lets_nobody_in(
    served: Served, browser: Browser, name: str, value: bytes
) -> None:
    own = {"Host": f"127.0.0.1:{served.port}".encode(), "Content-Length": b"0", "Connection": b"close"}
    heads = b"".join(key.encode() + b": " + text + b"\r\n" for key, text in {**own, name: value}.items())
    for method in (b"GET", b"POST"):
        with silent("127.0.0.1", served.port, method + b" / HTTP/1.1\r\n" + heads + b"\r\n") as connection:
            status = connection.makefile("rb").readline().split()[1]
        assert status in (b"400", b"401", b"403", b"421", b"431")
    assert browser.get("/doctor").status == 200, "whoever is signed in is served"


@pytest.mark.parametrize(
    "path",
    [
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/..%2f..%2fetc%2fpasswd",
        "/static/%00",
        "/members/%ff",
        "/%",
        "//doctor",
    ],
)
def test_no_path_leads_to_a_file(browser: Browser, path: str) -> None:
    answer = browser.get(path)
    assert answer.status in (400, 404)
    assert "root:" not in answer.text


def test_a_token_that_is_none_opens_nothing(known: Host) -> None:
    with page(known) as one:
        for token in ("", "%00", "%ff%fe", "x" * 10_000, "a&token=b", "é", "%25" * 100):
            assert Browser(one.port).get(f"/login?token={quote(token, safe='%&=')}").status in (400, 401)
        assert Browser(one.port).get(one.path).status == 200


@pytest.mark.parametrize("port", ["-1", "65536", "x", "", "1e3", "٣"])
def test_a_port_that_is_none_is_said(known: Host, port: str) -> None:
    asked = [*command(known, f"--port={port}")]
    done = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 2
    assert "is no port" in done.stderr


def test_it_ends_with_its_other_half(known: Host) -> None:
    with page(known) as one:
        parent = one.process.pid
        child = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
        one.process.kill()
        one.process.wait()
        wait_for("the server ends", lambda: not Path("/proc", child, "exe").exists())


def test_a_page_for_members_wants_an_address_of_the_overlay(known: Host) -> None:
    done = subprocess.run(
        command(known, "--listen", "127.0.0.2"),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 1
    assert "127.0.0.2 is no address of this host in a network" in done.stderr
    assert "Traceback" not in done.stderr
