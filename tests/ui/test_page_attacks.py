"""What other users of this machine, members without rights and web sites try on whoever has the page open."""

from __future__ import annotations

import http.server
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.patience import wait_for
from tests.ui.uikit import Browser, Host, Served, command, host, page, peer
from tests.ui.webdriver import chromium


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host(tmp_path_factory.mktemp("host"), peer("nas", "10.9.0.2"), peer("laptop", "10.9.0.3")) as made:
        yield made


@pytest.fixture(scope="module")
def served(known: Host) -> Iterator[Served]:
    with page(known) as one:
        yield one


def test_guesses_keep_nobody_out(known: Host) -> None:
    """Any user of this machine can guess, and any web site can let this machine's browser guess."""
    with page(known) as one:
        for number in range(30):
            assert Browser(one.port).get(f"/login?token=guess{number}").status == 401
        assert Browser(one.port).get(one.path).status == 200


def cookie_line(served: Served) -> str:
    return Browser(served.port).get(served.path).all("set-cookie")[0]


def test_a_cookie_is_of_a_path_that_nobody_guesses(known: Host) -> None:
    """Browsers send a cookie to every port of a host. To a path that another port does not know, they do not."""
    with page(known) as one, page(known) as two:
        paths = [re.findall(r"Path=(/[^;]*)", cookie_line(served)) for served in (one, two)]
    assert paths[0] != paths[1]
    assert all(re.fullmatch(r"/[A-Za-z0-9_-]{22,}/", path) for found in paths for path in found)


def test_a_cookie_is_good_at_its_path_alone(known: Host) -> None:
    with page(known) as one:
        browser = one.signed_in()
        thief = Browser(one.port)
        thief.cookie = browser.cookie
        for path in ("/", "/doctor", "/live", "/guess/doctor"):
            assert thief.get(path).status == 401
        assert thief.ask("POST", "/logout", {"csrf": browser.csrf()}).status == 401
        assert browser.get("/doctor").status == 200


def test_a_cookie_of_another_port_signs_nobody_out(known: Host) -> None:
    """Whoever serves another port can set a cookie of this name for the whole host."""
    with page(known) as one:
        browser = one.signed_in()
        own = browser.cookie
        for both in (f"netctl=x; {own}", f"{own}; netctl=x", f"netctl=x; {own}; netctl=y; a=b"):
            browser.cookie = both
            assert browser.get("/doctor").status == 200


@contextmanager
def another_port() -> Iterator[tuple[int, list[str]]]:
    """A server of another user of this machine, and the cookies that it is sent."""
    got: list[str] = []

    class Thief(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(self.headers.get("Cookie", ""))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Set-Cookie", "netctl=x; Path=/; HttpOnly")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>other</title>")

        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Thief) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], got
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.browser
def test_a_browser_tells_another_port_nothing(known: Host) -> None:
    """Though a web site can send it there: a page of that port may load what it likes from itself."""
    with page(known) as one, another_port() as (port, got), chromium() as browser:
        browser.sign_in(one.link)
        for path in ("/", "/login", "/live", "/static/page.js"):
            browser.go(f"http://127.0.0.1:{port}{path}")
            browser.run("location.reload()")
        wait_for("it was asked", lambda: len(got) > 4)
        browser.see("/")
        assert browser.text(".network h2") == "home", "still signed in"
        token = next(one for one in re.findall(r"netctl=([^;]*)", "; ".join([*got, "netctl=x"])) if one)
        assert token == "x", "its own, and no other"
        assert set(re.findall(r"netctl=([^;]*)", "; ".join(got))) <= {"x"}


def test_a_port_that_somebody_holds_on_the_other_loopback_address_is_not_taken(known: Host) -> None:
    """Browsers take `localhost` for ::1 first: whoever listens there would be taken for the page."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as other:
        try:
            other.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no ::1")
        other.listen()
        port = str(other.getsockname()[1])
        asked = command(known, "--port", port)
        done = subprocess.run(
            asked, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False
        )
        assert done.returncode == 1
        assert f"cannot listen on ::1 port {port}" in done.stderr


SITES = [
    ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, 403),
    ({"sec_fetch_site": "same-site", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}, 403),
    ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, 403),
    ({"sec_fetch_site": "odd", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, 403),
    ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 200),
    ({"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}, 200),
    ({"sec_fetch_site": "none", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 200),
    ({}, 200),
]


@pytest.mark.parametrize(("heads", "status"), SITES)
def test_other_sites_load_nothing_of_the_page(
    served: Served, known: Host, heads: dict[str, str], status: int
) -> None:
    """A link leads here; a picture, a frame or a script of another site does not (Fetch Metadata)."""
    with page(known) as one:
        browser = one.signed_in()
        for path in ("/doctor", "/static/page.css", "/reach"):
            assert browser.get(path, **heads).status == status
        wanted = status if status == 403 else 401
        assert browser.get("/login?token=x", **heads).status in (wanted, 404)


@pytest.mark.parametrize(
    "target", ["http://evil.example/doctor", "/static/../doctor", "/static/%2e%2e/doctor", "/login/../doctor",
               "/loginx", "/static/x/../../doctor", "//doctor", "/%2fdoctor", "*", "/doctor/"],
)  # fmt: skip
def test_no_way_of_writing_a_path_avoids_the_checks(served: Served, target: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port), 60) as connection:
        heads = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n\r\n"
        connection.sendall(heads.encode())
        answer = connection.makefile("rb").read()
    assert answer.split()[1] in (b"400", b"401", b"404")
    assert b"do this" not in answer, "what `doctor` says"
    assert b"nas" not in answer


def test_programs_are_given_no_secret_as_an_argument(served: Served) -> None:
    """Every user of a machine reads the arguments of its programs (proc(5))."""
    browser = served.signed_in()
    parent = served.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    seen = b"".join(Path("/proc", pid, "cmdline").read_bytes() for pid in (str(parent), *children))
    assert browser.root.strip("/")
    assert browser.root.strip("/").encode() not in seen
    assert served.link.partition("token=")[2].encode() not in seen
