"""Every login that must not be: refused, and the member's side has the reason in words."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from mediator.shell.credentials import Identity
from mediator.shell.membershiprunner import unix_now
from netctl.model.document import Mediator
from netctl.model.keys import IdentityKey
from netctl.session.login import make_login
from netctl.wire import control as w
from netctl.wire.frame import encode_frame
from tests.mediator.loopbackkit import ANN, BOB, HOST, Member, Raw, Run, Site, client_context
from tests.support.freeports import free_port

WEAK = str(IdentityKey(bytes([1]) + bytes(31)))
"""The identity point: anything is signed by it."""


class Proxy:
    """A TLS-terminating proxy: its own certificate in front, a TLS connection to the mediator behind."""

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self.from_member = b""
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far, out = await asyncio.open_connection(HOST, self._behind, ssl=client_context())
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, out, heard=True))
                both.create_task(self._pump(far, writer, heard=False))
        finally:
            out.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, heard: bool) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(4096):
                self.from_member += data if heard else b""
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def proxied(site: Site, identity: Identity) -> AsyncIterator[tuple[Proxy, int]]:
    """The proxy, and its port."""
    proxy, port = Proxy(site.port), free_port()
    server = await asyncio.start_server(proxy.accept, HOST, port, ssl=identity.server_context())
    try:
        yield proxy, port
    finally:
        server.close()
        await server.wait_closed()


def test_a_proxy_that_ends_tls_is_told_nothing_and_named(run: Run, site: Site, tmp_path: Path) -> None:
    async def main() -> None:
        other = Identity.create(tmp_path / "proxy")
        async with site.serving() as (server, mediator), proxied(site, other) as (proxy, port):
            async with Member(ANN, replace(mediator, port=port)) as ann:
                state = await ann.refused()
            assert state.final
            assert f"{HOST}:{port} is not the mediator that the document pins" in str(state.error)
            assert str(other.public) in str(state.error)
            assert proxy.from_member == b""
            assert server._hub.online == 0

    run(main())


def test_a_login_for_another_mediator_is_worth_nothing_here(run: Run, site: Site, tmp_path: Path) -> None:
    """A member that pins the man in the middle, too, gives it a signature; the mediator does not take it."""

    async def main() -> None:
        other = Identity.create(tmp_path / "proxy")
        async with site.serving() as (server, mediator), proxied(site, other) as (proxy, port):
            duped = replace(mediator, port=port, identity=(*mediator.identity, other.public))
            async with Member(ANN, duped) as ann:
                state = await ann.refused()
            assert state.final
            assert "the signature does not prove this identity to this mediator" in str(state.error)
            assert proxy.from_member != b""
            assert server._hub.online == 0

    run(main())


def test_a_revoked_key_is_out_at_once_and_stays_out(run: Run, site: Site) -> None:
    async def main() -> None:
        async with site.serving() as (server, mediator):
            async with Member(BOB, mediator) as bob:
                await bob.view()
                job = server.membership.service.revoke("bob", "amy", unix_now())
                await server.membership.done(job)
                first = await bob.refused()
                assert "no member any more" in str(first.error)
            async with Member(BOB, mediator) as bob:
                state = await bob.refused()
            assert state.final
            assert "no member of the mediator's document has this WireGuard key" in str(state.error)

    run(main())


async def refusal(site: Site, mediator: Mediator, login: w.Login | None, text: str) -> None:
    """What a client that obeys nothing is told; `None`: a login as it should be, for another nonce."""
    raw = await Raw.connect(site.port)
    hello = await raw.message()
    assert isinstance(hello, w.Hello)
    raw.writer.write(encode_frame(w.encode(login or signed(mediator, bytes(32)))))
    said = await raw.message()
    assert isinstance(said, w.Error)
    assert text in said.message
    assert await raw.ended() == b""
    await raw.close()


def signed(mediator: Mediator, nonce: bytes) -> w.Login:
    (pin,) = mediator.identity
    return make_login(pin, nonce, bytes(32), ANN.identity, ANN.wireguard, ANN.identity_private.sign)


def test_a_small_order_identity_a_replay_and_another_version_are_told_why(run: Run, site: Site) -> None:
    site.document.write_text(site.document.read_text().replace(str(BOB.identity), WEAK))

    async def main() -> None:
        async with site.serving() as (server, mediator):
            forged = w.Login(1, WEAK, str(BOB.wireguard), "00" * 32, "01" + "00" * 63)
            await refusal(site, mediator, forged, "this identity key is weak")
            await refusal(site, mediator, None, "does not prove this identity")
            older = msgspec.structs.replace(signed(mediator, bytes(32)), version=0)
            await refusal(site, mediator, older, "this mediator speaks version 1, the member 0")
            assert server._hub.online == 0

    run(main())


ALERT = bytes.fromhex("15030300020246")
"""A TLS record (RFC 8446 §6): fatal, protocol_version."""


def test_who_offers_an_older_tls_alone_is_left_and_the_member_says_so(run: Run, site: Site) -> None:
    async def downgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(ALERT)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(downgrade, HOST, site.port)
        async with server, Member(ANN, site.entry()) as ann:
            said = str((await ann.refused()).error)
        assert said.startswith(f"{HOST}:{site.port} does not speak TLS 1.3 as a mediator does: ")

    run(main())
