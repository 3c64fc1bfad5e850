"""The real client and the real server, over TLS on loopback, and clients and servers that obey nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mediator.core.acceptance import find_mediator
from mediator.shell.credentials import ALPN, Identity, relay_secret
from mediator.shell.server import Server
from netctl.agent.mediators.controlclient import ControlClient
from netctl.agent.storage.keyfiles import Keys
from netctl.config import load_document
from netctl.model.document import Mediator
from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from netctl.node.linkstate import LinkState
from netctl.session import Effect, PresenceChanged, ViewChanged
from netctl.wire import control as w
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame
from tests.support.freeports import free_port
from tests.support.patience import BUSY_S

HOST = "127.0.0.1"
PATIENCE_S = BUSY_S
"""Only a failure waits this long."""
Run = Callable[[Awaitable[None]], None]


@contextlib.contextmanager
def running_on(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Run]:
    """Run a coroutine to its end; a task or handler that fails unseen fails the test."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        unseen: list[dict[str, object]] = []
        runner.get_loop().set_exception_handler(lambda _, context: unseen.append(context))

        def until_done(main: Awaitable[None]) -> None:
            async def limited() -> None:
                async with asyncio.timeout(PATIENCE_S):
                    await main

            runner.run(limited())

        yield until_done
        assert unseen == []


def keys(number: int) -> Keys:
    return Keys(
        X25519PrivateKey.from_private_bytes(bytes([number]) * 32),
        Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32),
    )


ANN, BOB, STRANGER = keys(1), keys(2), keys(3)


class Site:
    """A mediator's files and the document, which a test may rewrite."""

    def __init__(self, directory: Path) -> None:
        self.state, self.document = directory / "state", directory / "networks.yaml"
        self.identity = Identity.create(self.state)
        self.port, self.stun = free_port(), free_port(socket.SOCK_DGRAM)
        self.write({"ann": ANN, "bob": BOB})

    def write(self, members: dict[str, Keys]) -> None:
        text = {
            "apiVersion": "netctl/v1",
            "mediators": [
                {
                    "url": f"netctl://{HOST}:{self.port}",
                    "identity": [str(self.identity.public)],
                    "stun": [self.stun],
                    "relayPorts": "20000-20001",
                }
            ],
            "members": {
                name: {"wireguard": str(pair.wireguard), "identity": str(pair.identity)}
                for name, pair in members.items()
            },
            "networks": {"lan": {"mode": "routed", "ipv4": "10.1.0.0/28", "members": ["*"]}},
        }
        self.document.write_text(json.dumps(text))

    def entry(self) -> Mediator:
        """What the document says about this mediator."""
        text = self.document.read_text()
        return find_mediator(load_document(text).document, self.identity.public)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[Server, Mediator]]:
        secret = relay_secret(self.state)
        server = Server(document=self.document, state=self.state, listen=HOST, secret=secret)
        mediator = await server.load()
        await server.start(mediator)
        task = asyncio.create_task(server.run())
        try:
            yield server, mediator
        finally:
            await end(task)


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class Member:
    """A client, and everything it has heard."""

    def __init__(self, pair: Keys, mediator: Mediator) -> None:
        self.heard: asyncio.Queue[Effect] = asyncio.Queue()
        self.states: asyncio.Queue[LinkState] = asyncio.Queue()
        self.present: dict[WireGuardKey, bool] = {}
        """What it was told last of each peer's presence."""
        self._told = asyncio.Event()
        self.client = ControlClient(pair, self._hear, self.states.put_nowait)
        self.client.set_mediators((mediator,))

    async def __aenter__(self) -> Member:
        self._task = asyncio.create_task(self.client.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        wire = self.client._wire
        await end(self._task)
        if wire is not None:
            wire.finish(RemoteError("the test is over", "test"))
        await asyncio.sleep(0)

    def lose(self) -> None:
        """Its connection breaks."""
        assert self.client._wire is not None
        self.client._wire.finish(RemoteError("the connection to the mediator was lost", "lost"))

    def _hear(self, effect: Effect) -> None:
        match effect:
            case ViewChanged(view):
                self.present = {key: bool(row.online) for key, row in view.members.items()}
            case PresenceChanged(key, there):
                self.present[key] = there
        self.heard.put_nowait(effect)
        self._told.set()

    async def shown(self, peer: Keys, *, online: bool) -> None:
        """Until its last news of the peer say so: one message may bring the news of several peers."""
        while self.present.get(peer.wireguard) is not online:
            self._told.clear()
            await self._told.wait()

    async def until(self, wanted: Callable[[Effect], bool]) -> Effect:
        while not wanted(effect := await self.heard.get()):
            pass
        return effect

    async def view(self, wanted: Callable[[ViewChanged], bool] = lambda _: True) -> ViewChanged:
        found = await self.until(lambda effect: isinstance(effect, ViewChanged) and wanted(effect))
        assert isinstance(found, ViewChanged)
        return found

    async def refused(self) -> LinkState:
        while (state := await self.states.get()).error is None:
            pass
        return state


class Recorder(asyncio.Protocol):
    """A server that says hello and keeps what it is sent."""

    def __init__(self) -> None:
        self.got = b""
        self.spoken_to = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(encode_frame(w.encode(w.Hello(1, "00" * 32))))

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.spoken_to.set()


@asynccontextmanager
async def impostor(port: int, context: ssl.SSLContext) -> AsyncIterator[Recorder]:
    """One recorder for all its connections."""
    recorder = Recorder()
    server = await asyncio.get_running_loop().create_server(lambda: recorder, HOST, port, ssl=context)
    try:
        yield recorder
    finally:
        server.close()
        await server.wait_closed()


def client_context(alpn: str = ALPN) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([alpn])
    return context


class Raw:
    """A client that obeys nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = FrameDecoder(LIMIT_AFTER_LOGIN)

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext | None = None) -> Raw:
        return cls(*await asyncio.open_connection(HOST, port, ssl=context or client_context()))

    async def message(self) -> w.Message:
        """The next one; a test asks for one at a time. Raises EOFError at the end."""
        header = await self.reader.readexactly(4)
        payload = await self.reader.readexactly(int.from_bytes(header, "big"))
        return w.decode_any(payload)

    async def ended(self) -> bytes:
        """What comes until the server hangs up."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()
