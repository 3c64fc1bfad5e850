"""A real `netctl ui` beside a socket that speaks the agent's protocol, and what a browser sends."""

from __future__ import annotations

import asyncio
import http.client
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from netctl.config import load_document
from netctl.model.errors import LocalError
from netctl.system.lineserver import LineServer, Service
from netctl.wire import agentrequests as a
from netctl.wire import operatorrequests as m
from netctl.wire.jsonline import Request
from tests.support.patience import BUSY_S

NETCTL = str(Path(sys.executable).with_name("netctl"))
START_S = BUSY_S
KEY = "oN9b+VcZct4Fqc0LWGekk0FboKkwHmJhBGo/bJHOfQo="
KEYS = (
    KEY,
    "DeMKT2R8ZOJrCOp8qkolzZHJGxVkha9f0qGa531v9gM=",
    "9m0vYlTVFpDkqcEuZ4hHLnWGoPdTBgGx0nPmJXW6K0c=",
)
DOCUMENT = f"""apiVersion: netctl/v1
mediators: []
members:
  here: {{wireguard: "{KEYS[0]}"}}
  nas: {{wireguard: "{KEYS[1]}", groups: [servers]}}
  laptop: {{wireguard: "{KEYS[2]}"}}
networks:
  home: {{mode: routed, ipv4: 10.9.0.0/24, members: ["*"],
    addresses: {{here: 10.9.0.1, nas: 10.9.0.2, laptop: 10.9.0.3}}}}
"""


def words(text: str) -> str:
    """What a page says, without its tags, with single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def peer(name: str, address: str, **more: Any) -> a.PeerState:
    """A peer that is there."""
    known: dict[str, Any] = {
        "key": KEY,
        "online": True,
        "addresses": {"home": [address]},
        "path": "direct",
        "endpoint": "203.0.113.9:51820",
        "rtt_ms": 12.34,
        "since_s": 60.0,
        "last_handshake_s": 30.0,
        "rx_bytes": 1000,
        "tx_bytes": 2000,
    }
    return a.PeerState(name, **{**known, **more})


def status(*peers: a.PeerState, document: str = DOCUMENT, **more: Any) -> a.StatusReply:
    """A host with these peers."""
    known: dict[str, Any] = {
        "member": "here",
        "joined": None,
        "key": KEY,
        "mediator": a.MediatorState("none", 0.0),
        "document": a.DocumentState(load_document(document).document.digest),
        "down": a.DownState(False, []),
        "networks": {"home": a.NetworkState("routed", ["10.9.0.1"], False)},
        "conditions": [],
        "drift": [],
        "engine": "kernel",
    }
    return a.StatusReply(**{**known, "peers": list(peers), **more})


@dataclass
class Host:
    """What agent and mediator of a host would say, and what they were asked."""

    directory: Path
    status: a.StatusReply
    doctor: a.DoctorReply
    asked: list[Request[Any]] = field(default_factory=list)
    answers: dict[type[Request[Any]], Callable[[Any], Any]] = field(default_factory=dict)
    happened: list[a.Happening] = field(default_factory=list)
    changes: int = 0
    """As often as a test has made something change."""
    moving: bool = True
    """Whether what the agent says changes by itself, where it can."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def perform(self, request: Request[Any], _: Any) -> Any:
        self.asked.append(request)
        if isinstance(request, a.Status) and a.Status not in self.answers:
            return self.status
        if isinstance(request, a.Watch):
            return a.WatchReply(self.changes)
        if isinstance(request, a.Doctor):
            return self.doctor
        if isinstance(request, a.Timeline):
            return self.happened
        answer = self.answers.get(type(request))
        if answer is None:
            raise LocalError(f"nobody expects '{request.operation()}' here")
        return answer(request)


def _doctor() -> a.DoctorReply:
    nat = a.NatState("open", "endpoint-independent")
    return a.DoctorReply(
        [a.Check("ok", "nat", "a NAT that keeps its mapping"), a.Check("problem", "x", "no way", "do this")],
        a.NatStates(nat, nat),
        a.PortMappingState(),
    )


async def answered() -> None:
    """Until nobody is being answered."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=START_S)


@contextmanager
def host(directory: Path, *peers: a.PeerState, document: str = DOCUMENT) -> Iterator[Host]:
    """A host whose agent says what a test wants, at a real socket."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "networks.yaml").write_text(document)
    (directory / "accepted.yaml").write_text(document)
    made = Host(directory, status(*peers, document=document), _doctor())

    async def perform(request: Request[Any], progress: Any) -> Any:
        end = made.loop.time() + (request.wait_s if isinstance(request, a.Watch) else 0.0)
        while isinstance(request, a.Watch) and made.changes == request.seen and made.loop.time() < end:
            await asyncio.sleep(0.02)
        return made.perform(request, progress)

    mediator = LineServer(directory / "admin.sock", Service("mediator", m.OPERATIONS, perform, 2**24))
    server = LineServer(directory / "agent.sock", Service("agent", a.OPERATIONS, perform, 2**24))
    thread = threading.Thread(target=made.loop.run_forever)
    thread.start()
    for one in (server, mediator):
        asyncio.run_coroutine_threadsafe(one.start(), made.loop).result(START_S)
    try:
        yield made
    finally:
        made.changes += (
            1  # who waits for a change is answered: a loop that is closed under an answer complains
        )
        asyncio.run_coroutine_threadsafe(answered(), made.loop).result(START_S)
        for one in (server, mediator):
            asyncio.run_coroutine_threadsafe(one.close(), made.loop).result(START_S)
        made.loop.call_soon_threadsafe(made.loop.stop)
        thread.join(START_S)
        made.loop.close()


@dataclass
class Answer:
    """What a browser would get."""

    status: int
    headers: list[tuple[str, str]]
    text: str

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


class Browser:
    """Keeps a cookie, says what a browser says, and can say something else."""

    def __init__(self, port: int, address: str = "127.0.0.1", source: str | None = None) -> None:
        self.port, self.address, self.source = port, address, source
        self.cookie = ""
        self.root = ""
        """The path below which this browser is signed in: it is put before each path, and taken out of what comes."""

    def ask(
        self, method: str, path: str, form: dict[str, str] | None = None, **headers: str | None
    ) -> Answer:
        """One request. A header that is None is left out."""
        host = f"{self.address}:{self.port}"
        sent: dict[str, str | None] = {"Host": host, "Cookie": self.cookie or None}
        if form is not None:
            sent |= {"Origin": f"http://{host}", "Content-Type": "application/x-www-form-urlencoded"}
        sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        source = (self.source, 0) if self.source else None
        connection = http.client.HTTPConnection(
            self.address, self.port, timeout=START_S, source_address=source
        )
        try:
            body = urlencode(form) if form is not None else ""
            connection.putrequest(method, self.root + path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body.encode())
            got = connection.getresponse()
            text = got.read().decode()
            answer = Answer(got.status, got.getheaders(), text.replace(self.root, "") if self.root else text)
        finally:
            connection.close()
        for line in answer.all("set-cookie"):
            self.cookie = line.partition(";")[0]
            if path.startswith("/login"):
                self.root = line.partition("Path=")[2].partition(";")[0].rstrip("/")
        return answer

    def get(self, path: str, **headers: str | None) -> Answer:
        return self.ask("GET", path, None, **headers)

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/doctor").text)
        assert found is not None
        return found.group(1)

    def post(self, path: str, form: dict[str, str], **headers: str | None) -> Answer:
        return self.ask("POST", path, {"csrf": self.csrf(), **form}, **headers)


@dataclass
class Served:
    """A running `netctl ui`."""

    process: subprocess.Popen[str]
    link: str

    @property
    def port(self) -> int:
        found = re.search(r":([0-9]+)/", self.link)
        assert found is not None
        return int(found.group(1))

    @property
    def path(self) -> str:
        return "/" + self.link.split("/", 3)[3]

    def signed_in(self) -> Browser:
        browser = Browser(self.port)
        assert browser.get(self.path).status == 200
        return browser


def command(host: Host, *arguments: str) -> list[str]:
    directory = str(host.directory)
    places = ["--config", "networks.yaml", "--state", directory, "--run", directory]
    return [NETCTL, *places, "ui", "--port", "0", "--mediator-state", directory, *arguments]


@contextmanager
def page(host: Host, *arguments: str) -> Iterator[Served]:
    """The real command, as its own processes."""
    process = subprocess.Popen(
        command(host, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd=host.directory,  # pictures show the document's name, and no place of this machine
    )
    try:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        assert link.startswith("http://"), link
        yield Served(process, link)
    finally:
        process.terminate()
        process.communicate(timeout=START_S)
