"""The real client against the real server, over TLS on loopback, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mediator.core import admissionlimiter as limiter
from mediator.shell.asking import ask_mediator
from mediator.shell.credentials import Identity
from netctl.model.errors import LocalError
from netctl.session import KeyShared, LoggedIn, PresenceChanged
from netctl.session.login import make_login
from netctl.wire import control as w
from netctl.wire import operatorrequests as r
from netctl.wire.frame import LIMIT_AFTER_LOGIN, LIMIT_BEFORE_LOGIN, FrameDecoder, encode_frame
from tests.mediator.loopbackkit import (
    ANN,
    BOB,
    HOST,
    PATIENCE_S,
    STRANGER,
    Member,
    Raw,
    Run,
    Site,
    client_context,
    impostor,
)


def test_members_log_in_and_hear_of_each_other_and_of_a_new_document(run: Run, site: Site) -> None:
    async def main() -> None:
        async with site.serving() as (_, mediator), Member(ANN, mediator) as ann:
            assert isinstance(await ann.heard.get(), LoggedIn)
            first = (await ann.view()).view
            assert {member.name for member in first.members.values()} == {"ann", "bob"}
            addresses = {lease.addresses for lease in first.leases.values()}
            assert len(addresses) == 2
            async with Member(BOB, mediator) as bob:
                await ann.until(lambda effect: effect == PresenceChanged(BOB.wireguard, online=True))
                assert (await bob.view()).view.leases == first.leases
            await ann.until(lambda effect: effect == PresenceChanged(BOB.wireguard, online=False))
            site.write({"ann": ANN})
            await ann.view(lambda changed: set(changed.view.members) == {ANN.wireguard})

    run(main())


def test_a_login_is_answered_in_one_record_of_tls(run: Run, site: Site) -> None:
    """Each one would cost the mediator a system call and the network a packet."""

    async def main() -> None:
        async with site.serving() as (_, mediator):
            reader, writer = await asyncio.open_connection(mediator.host, mediator.port)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls, decoder = client_context().wrap_bio(incoming, outgoing), FrameDecoder(LIMIT_AFTER_LOGIN)
            got, records = list[w.Message](), list[int]()

            async def until(count: int) -> None:
                """Read whole records, one after the other, until there are so many messages."""
                while len(got) < count:
                    header = await reader.readexactly(5)
                    incoming.write(header + await reader.readexactly(int.from_bytes(header[3:], "big")))
                    before = len(got)
                    try:
                        got.extend(w.decode_any(payload) for payload in decoder.feed(tls.read(65_536)))
                    except ssl.SSLWantReadError:
                        continue
                    records.append(len(got) - before)

            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    header = await reader.readexactly(5)
                    incoming.write(header + await reader.readexactly(int.from_bytes(header[3:], "big")))
            writer.write(outgoing.read())
            await until(1)
            (hello,) = got
            assert isinstance(hello, w.Hello)
            nonce, pin = bytes.fromhex(hello.nonce), site.identity.public
            login = make_login(pin, nonce, bytes(32), ANN.identity, ANN.wireguard, ANN.identity_private.sign)
            tls.write(encode_frame(w.encode(msgspec.structs.replace(login, minor=w.MINOR_VERSION))))
            writer.write(outgoing.read())
            await until(4)
            assert [type(message) for message in got[1:]] == [w.Welcome, w.ViewRows, w.Sealed]
            assert records == [1, 3]
            writer.close()

    run(main())


def test_a_bad_document_changes_nothing_and_a_restart_gives_the_same_leases(run: Run, site: Site) -> None:
    async def main() -> None:
        async with site.serving() as (server, mediator), Member(ANN, mediator) as ann:
            first = (await ann.view()).view
            site.document.write_text("members: [")
            while server.status()["document"]["refused"] is None:
                await asyncio.sleep(0.01)
            assert server._hub.online == 1
            ann.client.send(w.Refresh())
            assert (await ann.view()).view.members == first.members
        site.write({"bob": BOB, "ann": ANN})
        async with site.serving() as (_, mediator), Member(ANN, mediator) as ann:
            assert (await ann.view()).view.leases == first.leases

    run(main())


def test_while_a_long_document_is_read_members_are_served(run: Run, site: Site) -> None:
    """The document is a pipe, which ends when the test ends it."""
    text = site.document.read_text()
    site.write({"ann": ANN})
    shorter = site.document.read_text()
    site.document.write_text(text)

    async def main() -> None:
        async with site.serving() as (_, mediator), Member(ANN, mediator) as ann:
            await ann.view()
            pipe, after = site.document.with_name("pipe"), site.document.with_name("after")
            os.mkfifo(pipe)
            pipe.rename(site.document)
            end = await asyncio.to_thread(
                site.document.open, "w"
            )  # returns when the mediator has begun to read
            ann.client.send(w.Refresh())
            assert len((await ann.view()).view.members) == 2
            after.write_text(shorter)
            after.rename(site.document)
            end.write(shorter)
            end.close()
            await ann.view(lambda changed: set(changed.view.members) == {ANN.wireguard})

    run(main())


def test_who_is_no_member_is_told_so_and_the_newer_of_two_hosts_with_one_key_waits(
    run: Run, site: Site
) -> None:
    async def main() -> None:
        async with site.serving() as (server, mediator):
            async with Member(STRANGER, mediator) as stranger:
                state = await stranger.refused()
                assert state.final
                assert "no member" in str(state.error)
            async with Member(ANN, mediator) as older:
                await older.view()
                async with Member(ANN, mediator) as newer:
                    refused = await newer.refused()
                    assert refused.waits
                    assert "another host with this key is connected" in str(refused.error)
                    assert isinstance(await older.until(lambda one: isinstance(one, KeyShared)), KeyShared)
                    assert server._hub.online == 1
                older.client.hold(0.1)  # the same process comes back
                await older.until(lambda one: isinstance(one, LoggedIn))

    run(main())


def test_a_server_without_the_pinned_key_is_told_nothing(run: Run, site: Site, tmp_path: Path) -> None:
    async def main() -> None:
        mediator = site.entry()
        other = Identity.create(tmp_path / "other")
        async with impostor(site.port, other.server_context()) as recorder:
            async with Member(ANN, mediator) as ann:
                state = await ann.refused()
            assert state.final
            assert str(other.public) in str(state.error)
            # Whoever pins the other key does speak to it: the recorder works, and had heard nothing before.
            async with Member(BOB, replace(mediator, identity=(other.public,))):
                await recorder.spoken_to.wait()
            (login,) = FrameDecoder().feed(recorder.got)
            sent = w.decode(login)
            assert isinstance(sent, w.Login)
            assert sent.wireguard == str(BOB.wireguard)

    run(main())


def test_an_older_tls_is_refused_though_the_key_is_right(run: Run, site: Site) -> None:
    """OpenSSL takes no Ed25519 certificate below TLS 1.2, so 1.2 is the only downgrade there is."""

    async def main() -> None:
        mediator = site.entry()
        context = site.identity.server_context()
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        async with impostor(site.port, context) as recorder:
            async with Member(ANN, mediator) as ann:
                assert "hangs up during the TLS 1.3 handshake" in str((await ann.refused()).error)
            assert recorder.got == b""
        async with site.serving():
            old = client_context()
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await Raw.connect(site.port, old)

    run(main())


def test_a_recorded_login_does_not_open_a_second_connection(run: Run, site: Site) -> None:
    async def main() -> None:
        async with site.serving() as (server, _):
            first, second = await Raw.connect(site.port), await Raw.connect(site.port)
            hello, again = await first.message(), await second.message()
            assert isinstance(hello, w.Hello)
            assert isinstance(again, w.Hello)
            assert hello.nonce != again.nonce
            pin = site.identity.public
            nonce = bytes.fromhex(hello.nonce)
            login = make_login(pin, nonce, bytes(32), ANN.identity, ANN.wireguard, ANN.identity_private.sign)
            for raw in (first, second):
                raw.writer.write(encode_frame(w.encode(login)))
            assert isinstance(await first.message(), w.Welcome)
            refusal = await second.message()
            assert isinstance(refusal, w.Error)
            assert refusal.code == "login.signature"
            assert server._hub.online == 1
            await first.close()
            await second.close()

    run(main())


def test_an_unauthenticated_connection_may_not_send_much_nor_speak_another_protocol(
    run: Run, site: Site
) -> None:
    async def main() -> None:
        async with site.serving():
            raw = await Raw.connect(site.port)
            await raw.message()
            raw.writer.write((LIMIT_BEFORE_LOGIN + 1).to_bytes(4, "big"))
            refusal = await raw.message()
            assert isinstance(refusal, w.Error)
            assert refusal.code == "frame.too-long"
            assert await raw.ended() == b""
            await raw.close()
            other = client_context("http/1.1")
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                raw = await Raw.connect(site.port, other)
                assert await raw.ended() == b""
                await raw.close()

    run(main())


def test_connections_count_from_their_first_packet_and_are_given_back(run: Run, site: Site) -> None:
    """Neither TLS nor a login is needed to be counted: whoever only opens connections reaches a limit, and waits."""

    async def main() -> None:
        async with site.serving() as (server, mediator):
            silent = [
                await asyncio.open_connection(HOST, site.port)
                for _ in range(limiter.MAX_UNAUTHENTICATED_PER_PREFIX)
            ]
            async with Member(ANN, mediator) as ann:
                while not server._limiter.waiting:
                    await asyncio.sleep(0.01)
                assert server._limiter.unauthenticated == limiter.MAX_UNAUTHENTICATED_PER_PREFIX
                silent[0][1].close()
                await ann.view()
            for _, held in silent:
                held.close()
                with contextlib.suppress(ConnectionError):
                    await held.wait_closed()
            while server._limiter.unauthenticated:
                await asyncio.sleep(0.01)
            assert server._limiter.bans(time.monotonic()) == []  # whoever only closes has done nothing wrong
            async with Member(ANN, mediator) as ann:
                await ann.view()
            assert server._limiter.unauthenticated == 0

    run(main())


def test_connections_that_only_open_and_close_are_held_against_nobody(run: Run, site: Site) -> None:
    """So do health checks. Without that an address was banned after thirty of them."""

    async def main() -> None:
        async with site.serving() as (server, mediator):
            for _ in range(2 * round(limiter.BAN_AT)):
                _, writer = await asyncio.open_connection(HOST, site.port)
                writer.close()
                await writer.wait_closed()
            async with Member(ANN, mediator) as ann:
                await ann.view()
            assert server._limiter.bans(time.monotonic()) == []

    run(main())


def test_many_behind_one_address_are_let_in_at_their_first_try(run: Run, site: Site) -> None:
    """Half as many again as may be before their login: none is refused, none has to come again."""

    async def main() -> None:
        async with site.serving() as (server, _):

            async def come() -> None:
                raw = await Raw.connect(site.port)
                assert isinstance(await raw.message(), w.Hello)
                await raw.close()

            await asyncio.gather(*(come() for _ in range(3 * limiter.MAX_UNAUTHENTICATED_PER_PREFIX // 2)))
            given_up = [
                await asyncio.open_connection(HOST, site.port, local_addr=("127.0.1.1", 0))
                for _ in range(limiter.MAX_UNAUTHENTICATED_PER_PREFIX + 5)
            ]
            while not server._limiter.waiting:
                await asyncio.sleep(0.01)
            for _, writer in reversed(given_up):
                writer.close()
            while server._limiter.waiting or server._limiter.unauthenticated:
                await asyncio.sleep(0.01)

    run(main())


def test_an_address_that_only_does_wrong_is_banned_and_pardoned(run: Run, site: Site) -> None:
    async def main() -> None:
        async with site.serving() as (server, mediator), Member(ANN, mediator) as ann:
            await ann.view()
            tries = 0
            while not server._limiter.bans(time.monotonic()):
                tries += 1
                raw = await Raw.connect(site.port)
                await raw.message()
                raw.writer.write((LIMIT_BEFORE_LOGIN + 1).to_bytes(4, "big"))
                assert isinstance(await raw.message(), w.Error)
                await raw.close()
            assert (
                0 <= tries - limiter.BAN_AT / limiter.POINTS["garbage"] <= 2
            )  # it fades while the test runs
            with pytest.raises(OSError):
                await Raw.connect(site.port)
            said = await asyncio.to_thread(ask_mediator, site.state, r.ListBans())
            assert [(ban.source, ban.refused) for ban in said.reply.bans] == [(HOST, 1)]
            ann.client.send(w.Refresh())
            await ann.view()  # what is logged in feels nothing
            await asyncio.to_thread(ask_mediator, site.state, r.LiftBan(HOST))
            async with Member(BOB, mediator) as bob:
                await bob.view()
            with pytest.raises(LocalError, match="nothing is held against"):
                await asyncio.to_thread(ask_mediator, site.state, r.LiftBan("203.0.113.9"))

    run(main())


def test_a_member_that_logs_in_without_end_waits_and_its_neighbours_do_not(run: Run, site: Site) -> None:
    async def main() -> None:
        async with site.serving() as (server, mediator):
            while server._hub.pace.login(ANN.wireguard, time.monotonic()):
                pass
            async with Member(ANN, mediator) as ann:
                refused = await ann.refused()
            assert "logs in too often and has to wait: is its key on two machines?" in str(refused.error)
            assert not refused.final
            said = await asyncio.to_thread(ask_mediator, site.state, r.ListBans())
            assert said.reply.bans == []
            assert [row.member for row in said.reply.slowed] == ["ann"]
            async with Member(BOB, mediator) as bob:  # from the same address
                await bob.view()
            await asyncio.to_thread(ask_mediator, site.state, r.LiftBan("ann"))
            async with Member(ANN, mediator) as ann:
                await ann.view()

    run(main())


def test_slow_connections_and_a_flood_leave_members_alone(run: Run, site: Site) -> None:
    """One byte at a time at each stage, and connections as fast as they go; ANN's questions are answered."""

    async def main() -> None:
        async with site.serving() as (server, mediator), Member(ANN, mediator) as ann:
            await ann.view()
            held = [await asyncio.open_connection(HOST, site.port) for _ in range(10)]  # before TLS
            slow = [await Raw.connect(site.port) for _ in range(10)]  # before login
            loop = asyncio.get_running_loop()
            waits = []
            for turn in range(40):
                for _, writer in held:
                    if not writer.is_closing():
                        writer.write(b"\x16")
                for raw in slow if turn < 3 else ():  # never a whole header
                    raw.writer.write(b"\0")
                for _ in range(25):
                    with contextlib.suppress(OSError), socket.create_connection((HOST, site.port), 1):
                        pass
                asked = loop.time()
                ann.client.send(w.Refresh())
                await ann.view()
                waits.append(loop.time() - asked)
                assert server._limiter.unauthenticated <= limiter.MAX_UNAUTHENTICATED_PER_PREFIX, turn
            assert sorted(waits)[len(waits) * 3 // 4] < 1.0, "a busy machine holds up one or the other"
            for _, writer in held:
                writer.close()
            for raw in slow:
                await raw.close()

    run(main())


def test_a_full_listener_makes_room_for_a_member(run: Run, site: Site) -> None:
    """Silent connections from as many networks as a flood has: the oldest of them are hung up on."""

    def from_elsewhere(number: int) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((f"127.{number % 8 + 1}.{number // 8 % 16}.1", 0))
        opened.connect((HOST, site.port))
        return opened

    async def main() -> None:
        async with site.serving() as (server, mediator):
            held: list[socket.socket] = []
            try:
                for number in range(limiter.MAX_UNAUTHENTICATED + 50):
                    held.append(from_elsewhere(number))
                    if number % 50 == 0:
                        await asyncio.sleep(0)
                while server._limiter.unauthenticated < limiter.MAX_OF_A_FAMILY:
                    await asyncio.sleep(0.01)
                async with Member(ANN, mediator) as ann:
                    await asyncio.wait_for(ann.view(), PATIENCE_S)
                assert server._limiter.unauthenticated <= limiter.MAX_OF_A_FAMILY
            finally:
                for opened in held:
                    opened.close()

    run(main())
