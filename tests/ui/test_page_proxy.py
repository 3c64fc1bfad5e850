"""Behind a reverse proxy with a login of its own: its word about who somebody is counts, and nobody else's."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Iterator

import pytest

from netctl.ui.proxylogin import MAX_USER, ProxyLogin, ProxyRefusedError, parse_header, parse_public_url
from netctl.wire import operatorrequests as m
from tests.ui.test_page_safe import POSTS
from tests.ui.uikit import DOCUMENT, START_S, Answer, Browser, Host, Served, command, host, page, peer

PROXY, OTHER = "127.0.0.9", "127.0.0.10"
ORIGIN, NAME = "https://net.example.org", "net.example.org"
OPTIONS = ("--trusted-proxy", PROXY, "--public-origin", f"{ORIGIN}/", "--proxy-operator", "alice")
LOGIN = ProxyLogin("10.9.0.7", "x-forwarded-user", ORIGIN)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host(tmp_path_factory.mktemp("host"), peer("nas", "10.9.0.2")) as made:
        yield made


@pytest.fixture(scope="module")
def served(known: Host) -> Iterator[Served]:
    with page(known, *OPTIONS) as one:
        yield one


class Proxied(Browser):
    """What a proxy passes on for one of its users."""

    user: str | None = "alice"

    def ask(
        self, method: str, path: str, form: dict[str, str] | None = None, **headers: str | None
    ) -> Answer:
        said = {
            "host": NAME,
            "x_forwarded_user": self.user,
            **({"origin": ORIGIN} if form is not None else {}),
        }
        return super().ask(method, path, form, **{**said, **headers})


def of(served: Served, user: str | None, source: str = PROXY) -> Proxied:
    browser = Proxied(served.port, source=source)
    browser.user = user
    return browser


def test_the_proxys_word_lets_in_and_says_what_somebody_may(served: Served) -> None:
    alice, bob = of(served, "alice"), of(served, "bob")
    answer = alice.get("/")
    assert answer.status == 200
    assert "alice: operator" in answer.text
    assert "nas" in answer.text
    (cookie,) = answer.all("set-cookie")
    assert "Secure" in cookie
    assert "HttpOnly" in cookie
    assert not alice.get("/").all("set-cookie"), "one session is enough"
    assert "bob: viewer" in bob.get("/").text
    assert alice.post("/why/check", {"peer": "nobody"}).status == 422, "it was asked"
    assert of(served, "ÄÖ").get("/", x_forwarded_user="Jos\xc3\xa9").text.count("José: viewer") == 1


@pytest.mark.parametrize("path", POSTS)
def test_of_another_address_the_header_is_nothing(served: Served, path: str) -> None:
    for source in (OTHER, "127.0.0.1"):
        stranger = of(served, "alice", source)
        for name in (NAME, f"127.0.0.1:{served.port}"):
            answer = stranger.get("/", host=name)
            assert answer.status == (421 if name == NAME else 401)
            assert "nas" not in answer.text
        assert stranger.ask("POST", path, {"csrf": ""}).status == 421
        assert (
            stranger.ask("POST", path, {"csrf": ""}, host="localhost", origin="http://localhost").status
            == 401
        )


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://net.example.org", f"{ORIGIN}:8443", "null", None]
)
def test_another_origin_changes_nothing(served: Served, path: str, origin: str | None) -> None:
    assert of(served, "alice").post(path, {}, origin=origin).status == 403


@pytest.mark.parametrize("path", POSTS)
def test_another_host_changes_nothing(served: Served, path: str) -> None:
    answer = of(served, "alice").ask("POST", path, {"csrf": ""}, host="evil.example", origin=ORIGIN)
    assert answer.status == 421


@pytest.mark.parametrize("path", [path for path in POSTS if path != "/logout"])
def test_a_viewer_changes_nothing(served: Served, path: str) -> None:
    answer = of(served, "bob").post(path, {"text": DOCUMENT, "peer": "nas"})
    assert answer.status == 403
    assert "may not change anything" in answer.text


def test_a_session_is_of_one_user_by_the_proxy_alone(served: Served) -> None:
    alice = of(served, "alice")
    alice.get("/")
    bob = of(served, "bob")
    bob.cookie = alice.cookie
    assert "bob: viewer" in bob.get("/").text, "who logs in as another is that other"
    here = Browser(served.port, source=PROXY)
    here.cookie = alice.cookie
    assert here.get("/").status == 401, "without the proxy's word the cookie is nothing"
    linked = served.signed_in()
    carol = of(served, "carol")
    carol.cookie = linked.cookie
    assert "carol: viewer" in carol.get("/").text, "nor is the proxy's user whoever had a link"
    assert linked.get("/").status == 200


def test_the_audit_log_is_told_which_user_it_was(known: Host, served: Served) -> None:
    known.answers[m.ListMembers] = known.answers[m.ListInvites] = lambda _: []
    known.answers[m.Revoke] = lambda asked: asked.who
    assert of(served, "alice").post("/invites/members", {"action": "revoke", "who": "nas"}).status == 200
    (asked,) = (one for one in known.asked if isinstance(one, m.Revoke))
    assert asked.by.startswith("alice, by the page of ")


def test_a_stream_is_opened_again(served: Served) -> None:
    """That nothing on the way keeps it back is asked of proxies by a header (nginx's X-Accel-Buffering)."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, START_S, source_address=(PROXY, 0))
    try:
        connection.request("GET", "/live", headers={"Host": NAME, "X-Forwarded-User": "alice"})
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.getheader("x-accel-buffering") == "no"
        assert answer.readline() == b"event: all\n"
    finally:
        connection.close()


def test_nobody_is_an_operator_of_a_viewers_page(known: Host) -> None:
    with page(known, "--viewer", *OPTIONS) as one:
        assert "alice: viewer" in of(one, "alice").get("/").text


@pytest.mark.parametrize("value", ["", " ", "x" * (MAX_USER + 1), "a\tb", "\xff", "\x00".join("ab")])
def test_a_name_that_is_none_lets_nobody_in(served: Served, value: str) -> None:
    assert of(served, value).get("/").status in (400, 401)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"X-Forwarded-User", b"a"), (b"x-forwarded-user", b"b")],
        [(b"x-forwarded-user", b"")],
        [(b"x-forwarded-user", b"\xff\xfe")],
        [(b"x-forwarded-user", b"a\x1b[2J")],
        [(b"x-forwarded-users", b"a")],
    ],
)
def test_a_proxy_elsewhere_must_say_once_who_it_is(headers: list[tuple[bytes, bytes]]) -> None:
    """Its address may be a member's, and nobody who is not logged in there is that member."""
    with pytest.raises(ProxyRefusedError):
        LOGIN.user(headers)


def test_at_loopback_there_is_also_who_has_a_link() -> None:
    assert ProxyLogin("127.0.0.1", "x-forwarded-user", ORIGIN).user([]) is None
    assert LOGIN.user([(b"X-Forwarded-User", b" alice ")]) == "alice"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("https://Net.Example.org", ("https://net.example.org", "")),
        ("https://net.example.org:443/", ("https://net.example.org", "")),
        ("http://net.example.org:8080", ("http://net.example.org:8080", "")),
        ("https://[FD00::1]:8443", ("https://[fd00::1]:8443", "")),
        ("https://example.org/netctl/", ("https://example.org", "/netctl")),
        ("https://example.org/~a/b-c_d.e", ("https://example.org", "/~a/b-c_d.e")),
    ],
)
def test_an_origin_is_written_as_browsers_do(text: str, seen: tuple[str, str]) -> None:
    assert parse_public_url(text) == seen


@pytest.mark.parametrize(
    "text",
    [
        "",
        "net.example.org",
        "ftp://a",
        "https://",
        "https://a//b",
        "https://a/../b",
        "https://a/.",
        "https://a/b;c",
        "https://a/b c",
        "https://a/%2e",
        "https://a/'b",
        "https://a/" + "b" * 129,
        "https://u@a",
        "https://a?b",
        "https://a:x",
        "https://ä.de",
    ],
)
def test_an_origin_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_public_url(text)


@pytest.mark.parametrize("text", ["", "a b", "Cookie", "host", "Origin", "ä", "x:", "x" * 65])
def test_a_header_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_header(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trusted-proxy", PROXY), "where do browsers see the page"),
        (("--public-origin", ORIGIN), "who is believed"),
        (("--trusted-proxy", "x", "--public-origin", ORIGIN), "--trusted-proxy wants an address"),
        (("--trusted-proxy", "10.9.0.7", "--public-origin", ORIGIN), "with --listen alone"),
        (("--trusted-proxy", PROXY, "--public-origin", "net.example.org"), "wants https://NAME or"),
        ((*OPTIONS, "--proxy-user-header", "Cookie"), "is no header for a user's name"),
    ],
)
def test_what_does_not_go_together_is_said(known: Host, options: tuple[str, ...], said: str) -> None:
    asked = command(known, *options)
    done = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 1
    assert said in done.stderr
