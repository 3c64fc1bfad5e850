"""A real nginx in front of the page, with the configurations of docs/ui.md: at a name of its own, and below a path."""

from __future__ import annotations

import base64
import datetime
import http.client
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from netctl.wire import operatorrequests as m
from tests.support.freeports import free_port
from tests.support.patience import wait_for
from tests.ui.test_page_mediator import answers
from tests.ui.test_page_safe import POSTS
from tests.ui.uikit import START_S, Host, Served, host, page, peer
from tests.ui.webdriver import chromium

REPOSITORY = Path(__file__).parents[2]
UNPACKED = REPOSITORY / ".cache/nginx/usr/sbin/nginx"
NGINX = shutil.which("nginx") or (str(UNPACKED) if UNPACKED.exists() else None)
NAME = "net.example.org"
EVENT_S = 10.0
"""Less than the silence after which the page ends a stream: what a proxy keeps back comes with that end."""
CONF = """
pid {place}/nginx.pid;
daemon off;
master_process off;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    server_name {name};
    ssl_certificate {place}/cert.pem;
    ssl_certificate_key {place}/key.pem;
    {location}
  }}
}}
"""
PAGES = (
    "/",
    "/?q=nas",
    "/members/nas",
    "/reach?from=here&to=nas",
    "/why?from=here&to=nas",
    "/document",
    "/document/edit",
    "/doctor",
    "/timeline",
    "/invites",
    "/mediator",
    "/nonsense",
)

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx here: `scripts/setup nginx` fetches it")


def locations() -> list[str]:
    """What docs/ui.md tells people to write."""
    return re.findall(r"```nginx\n(.*?)```", (REPOSITORY / "docs/ui.md").read_text(), re.S)


def certificate(place: Path) -> None:
    """For NAME, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (place / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (place / "key.pem").write_bytes(private)


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str


@dataclass
class Site:
    """The page as the world sees it. `path`: below which, or empty."""

    known: Host
    served: Served
    place: Path
    port: int
    path: str

    @property
    def origin(self) -> str:
        return f"https://{NAME}:{self.port}"

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        context = ssl.create_default_context(cafile=str(self.place / "cert.pem"))
        plain = socket.create_connection(("127.0.0.1", self.port), EVENT_S)
        with context.wrap_socket(plain, server_hostname=NAME) as channel:
            made = http.client.HTTPConnection(NAME, self.port)
            made.sock = channel
            yield made

    def ask(
        self,
        path: str,
        user: str = "alice",
        form: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """What a browser that has logged in as `user` gets; `path`: as browsers see it."""
        with self.connection() as made:
            sent = {**login(user), **(headers or {})}
            if form is not None:
                sent |= {"Origin": self.origin, "Content-Type": "application/x-www-form-urlencoded"}
            made.request("GET" if form is None else "POST", path, urlencode(form) if form else None, sent)
            got = made.getresponse()
            return Answer(got.status, got.headers, got.read().decode())


def login(user: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:secret".encode()).decode()} if user else {}


@pytest.fixture(scope="module", params=["", "/netctl"], ids=["name", "path"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place, path = tmp_path_factory.mktemp("nginx"), str(request.param)
    certificate(place)
    (place / "netctl.users").write_text("alice:{PLAIN}secret\nbob:{PLAIN}secret\n")
    port = free_port()
    origin = f"https://{NAME}:{port}{path}"
    options = ("--trusted-proxy", "127.0.0.1", "--public-origin", origin, "--proxy-operator", "alice")
    with (
        host(tmp_path_factory.mktemp("host"), peer("nas", "10.9.0.2"), peer("laptop", "10.9.0.3")) as known,
        page(known, *options) as served,
    ):
        known.answers = answers([]) | {m.ListMembers: lambda _: [], m.ListInvites: lambda _: []}
        location = locations()[1 if path else 0].replace(":8642", f":{served.port}")
        conf = CONF.format(place=place, port=port, name=NAME, location=location)
        (place / "nginx.conf").write_text(conf)
        argv = [str(NGINX), "-e", "stderr", "-p", str(place), "-c", "nginx.conf"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
            try:
                wait_for("nginx listens", lambda: listens(port))
                yield Site(known, served, place, port, path)
            finally:
                process.terminate()
                process.wait(START_S)


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_nginx_says_who_it_is_and_a_browser_cannot(site: Site) -> None:
    root = f"{site.path}/"
    assert site.ask(root, user="").status == 401
    assert "alice: operator" in site.ask(root).text
    assert "bob: viewer" in site.ask(root, user="bob").text
    assert "bob: viewer" in site.ask(root, user="bob", headers={"X-Forwarded-User": "alice"}).text


def test_everything_on_every_page_leads_to_where_the_proxy_shows_it(site: Site) -> None:
    led, actions = set(), set()
    for path in PAGES:
        answer = site.ask(site.path + path)
        assert answer.status == (404 if path == "/nonsense" else 200)
        for kind, target in re.findall(r'(href|src|action|formaction)="([^"#][^"]*)"', answer.text):
            url = urlsplit(urljoin(f"{site.origin}{site.path}{path}", target.replace("&amp;", "&")))
            assert f"{url.scheme}://{url.netloc}" == site.origin
            assert url.path.startswith(f"{site.path}/"), target
            if kind in ("href", "src"):
                led.add(f"{url.path}?{url.query}")
            elif "?" not in target:
                actions.add(url.path.removeprefix(site.path))
        assert f'data-root-path="{site.path}"' in answer.text
    assert len(led) > 10
    assert {target: status for target in led if (status := site.ask(target).status) != 200} == {}
    assert actions <= {*POSTS, "/", "/reach", "/why", "/timeline", "/mediator"}


def test_cookie_and_policy_are_of_the_place(site: Site) -> None:
    headers = site.ask(f"{site.path}/").headers
    assert f"; Path={site.path}/; HttpOnly; SameSite=Strict; Secure" in headers["set-cookie"]
    own = f"{site.origin}{site.path}/" if site.path else "'self'"
    policy = headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; script-src {own}; style-src {own}; ")
    assert f"form-action {own}; " in policy
    linked = site.served.signed_in()
    assert 'data-root-path=""' in linked.get("/").text, "who has a link sees it without the path"


def test_a_change_passes_and_only_from_there(site: Site) -> None:
    first = site.ask(f"{site.path}/doctor")
    cookie = {"Cookie": first.headers["set-cookie"].partition(";")[0]}
    token = re.search(r'name="csrf" value="([^"]+)"', first.text)
    assert token is not None
    form = {"csrf": token[1], "peer": "nobody", "from": "here", "to": "nas"}
    assert "has no peer of that name" in site.ask(f"{site.path}/why/check", form=form, headers=cookie).text
    refused = site.ask(f"{site.path}/why/check", form={**form, "csrf": "guess"}, headers=cookie)
    assert refused.status == 403


def test_events_come_as_they_happen(site: Site) -> None:
    with site.connection() as made:
        made.request("GET", f"{site.path}/live", headers=login("bob"))
        answer = made.getresponse()
        assert answer.readline() == b"event: all\n"
        known = site.known
        known.status = msgspec.structs.replace(known.status, conditions=["the disk is full"])
        known.changes += 1
        lines = iter(answer.readline, b"")
        assert any(b"the disk is full" in line for line in lines)


@pytest.mark.browser
def test_a_browser_lives_there(site: Site) -> None:
    """With its scripts: live rows, and errors of the document at their lines."""
    with chromium(f"--host-resolver-rules=MAP {NAME} 127.0.0.1") as browser:
        browser.go(f"https://alice:secret@{NAME}:{site.port}{site.path}/")
        wait_for("it is there", lambda: browser.text('tr[data-peer="nas"] [data-cell=online]') == "online")
        site.known.status = msgspec.structs.replace(
            site.known.status,
            peers=[
                msgspec.structs.replace(one, answers=one.name != "nas") for one in site.known.status.peers
            ],
        )
        site.known.changes += 1
        wait_for(
            "it is live",
            lambda: browser.text('tr[data-peer="nas"] [data-cell=online]') == "not answering",
        )
        browser.click('nav a[href$="/document"]')
        wait_for("a link leads on", lambda: browser.url().endswith(f"{site.path}/document"))
        browser.go(f"{site.origin}{site.path}/document/edit")
        wait_for("it is judged", lambda: "error" not in (browser.text("#verdict") or "error"))
        assert browser.complaints() == []
        browser.click("#edit button.go")  # the agent of this test plans nothing, and the page says so
        wait_for("a form leads on", lambda: browser.url().endswith(f"{site.path}/document/plan"))
