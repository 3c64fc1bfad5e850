"""What the path manager wants is done for each peer, and the engine is told again what it was not told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.agent.storage.keyfiles import Keys
from netctl.agent.transport.pathrunner import PathRunner
from netctl.engine.filter.rewrites import Rewrites
from netctl.model.addresses import SocketAddress
from netctl.model.document import Mediator
from netctl.model.errors import EngineError
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.paths.effects import Fold, OpenTunnel, PathChanged, PathStatus, SetEndpoint, StandIn
from netctl.paths.mapping import PortEffect
from netctl.paths.portmap import PortMapper
from netctl.paths.relaylink import stand_in
from netctl.system.guard import Guard
from netctl.wire.control import RelayGrant
from netctl.wire.relay import Allocation
from tests.support.patience import BUSY_S

ONE, OTHER = WireGuardKey(bytes([9]) * 32), WireGuardKey(bytes([8]) * 32)
PIN = IdentityKey(bytes([7]) * 32)
PLACE = SocketAddress("192.0.2.7", 7)
ELSEWHERE = SocketAddress("192.0.2.8", 8)
Endpoints = Mapping[WireGuardKey, SocketAddress]


class Runner:
    """A path runner and its engine, some of whose first calls fail."""

    def __init__(self, state: Path, fails: int = 0, error: Exception | None = None) -> None:
        self.steered: asyncio.Queue[Endpoints] = asyncio.Queue()
        self.looks: list[float] = []
        self.told_open: asyncio.Queue[frozenset[WireGuardKey]] = asyncio.Queue()
        """The open pairs, each time they were told."""
        self._fails, self._error = fails, error or TimeoutError("the engine does not answer")
        self.anew: list[WireGuardKey] = []
        """With whom the engine began handshakes anew."""
        self.opened: list[tuple[WireGuardKey, int]] = []
        """Whose tunnel was opened, and how many calls of the engine were made by then."""
        self.lines: list[str] = []
        self.guard = Guard(self.lines.append)
        keys = Keys(X25519PrivateKey.generate(), Ed25519PrivateKey.generate())
        self.paths = PathRunner(
            keys,
            self.steer,
            lambda _: None,
            self.changed,
            Rewrites(state / "rewrites.json"),
            self.guard,
            through=self.through,
            look_soon=self.looks.append,
            on_open=self.told_open.put_nowait,
        )

    def through(self, key: WireGuardKey) -> None:
        self.opened.append((key, self.steered.qsize()))

    async def steer(self, endpoints: Endpoints, anew: frozenset[WireGuardKey]) -> None:
        self.anew += sorted(anew)
        if self._fails:
            self._fails -= 1
            await self.steered.put({})
            raise self._error
        await self.steered.put(endpoints)

    def changed(self, key: WireGuardKey, _: PathStatus) -> None:
        raise KeyError(key)

    def seen(self, endpoints: Mapping[WireGuardKey, SocketAddress | None]) -> None:
        self.paths.observe({key: PeerStatus(place, 0, 0, 0) for key, place in endpoints.items()})

    def fold(self, *keys: WireGuardKey) -> None:
        self.paths.peers(frozenset(keys), lazy=frozenset(keys))


def run(runner: Callable[[], Runner], story: Callable[[Runner], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        made = runner()
        try:
            async with asyncio.timeout(BUSY_S):
                await story(made)
        finally:
            made.paths.close()

    asyncio.run(main())


def test_many_endpoints_are_one_call_of_the_engine(tmp_path: Path) -> None:
    async def story(runner: Runner) -> None:
        keys = [WireGuardKey(number.to_bytes(32)) for number in range(1, 1001)]
        runner.paths._perform([SetEndpoint(key, PLACE) for key in keys])
        runner.paths._perform([SetEndpoint(keys[0], ELSEWHERE)])
        assert await runner.steered.get() == {**dict.fromkeys(keys, PLACE), keys[0]: ELSEWHERE}
        assert runner.steered.empty()

    run(lambda: Runner(tmp_path), story)


def test_pairs_that_open_or_go_at_once_are_told_once(tmp_path: Path) -> None:
    async def story(runner: Runner) -> None:
        for count in range(1, 6):
            runner.paths.peers(frozenset(WireGuardKey(bytes([number]) * 32) for number in range(1, count)))
        runner.paths.peers(frozenset({ONE, OTHER}))
        assert await runner.told_open.get() == {ONE, OTHER}
        runner.paths.peers(frozenset({ONE}))
        assert await runner.told_open.get() == {ONE}
        assert runner.told_open.empty()

    run(lambda: Runner(tmp_path), story)


def test_the_mediator_is_asked_for_an_unknown_peer_before_anything_else_is_wanted(tmp_path: Path) -> None:
    async def story(runner: Runner) -> None:
        runner.fold(ONE, OTHER)
        runner.paths.logged_in((), None)
        runner.paths.presence({ONE: None, OTHER: True})
        runner.paths._ring(ONE, b"first packet")
        assert runner.told_open.get_nowait() == {ONE}
        runner.paths._ring(OTHER, b"first packet")
        assert runner.told_open.empty(), "whose presence is known is told with whoever opens next"
        assert await runner.told_open.get() == {ONE, OTHER}

    run(lambda: Runner(tmp_path), story)


def test_a_grant_keeps_the_relay_that_it_is_for_when_the_host_changes_its_mediator(tmp_path: Path) -> None:
    """Without a name it is for the relay beside the mediator that gave it."""
    one, two = (Mediator(f"192.0.2.{number}", 8443, (PIN,)) for number in (1, 2))
    given = RelayGrant(str(ONE), "192.0.2.1:40001", Allocation(40000, 40001, 1).pack().hex(), "00" * 32, 1)

    async def story(runner: Runner) -> None:
        paths = runner.paths
        paths.relays((), {}, (one, two))
        paths.logged_in((), one)
        paths.message(given, (PLACE,))
        assert set(paths._grants) == {(str(ONE), "")}, "no mediator has said that it knows names"
        paths.logged_in((), two, names=True)
        assert set(paths._grants) == {(str(ONE), one.relay_name)}
        paths.message(given, (ELSEWHERE,))
        assert {name: servers for (_, name), (_, servers) in paths._grants.items()} == {
            one.relay_name: (PLACE,),
            two.relay_name: (ELSEWHERE,),
        }
        assert paths._manager._home == two.relay_name
        assert set(paths._manager._relays) == {one.relay_name, two.relay_name}
        paths.relays((), {}, ())
        assert paths._manager._home == ""
        assert {name for _, name in paths._grants} == {one.relay_name, ""}

    run(lambda: Runner(tmp_path), story)


@pytest.mark.parametrize("proxied", [True, False])
def test_a_grant_at_a_named_relay_counts_though_only_the_proxy_can_resolve_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxied: bool
) -> None:
    """Without a proxy it waits for the name: no other relay is asked in the place of that one."""
    monkeypatch.setenv("https_proxy", "http://192.0.2.7:3128" if proxied else "")
    one, two = (Mediator(f"m{number}.invalid", 8443, (PIN,)) for number in (1, 2))
    allocation = Allocation(40000, 40001, 1)
    given = RelayGrant(str(ONE), "0.0.0.0:40001", allocation.pack().hex(), "00" * 32, 1, one.relay_name)

    async def story(runner: Runner) -> None:
        paths = runner.paths
        paths.relays((), {}, (one, two))
        paths.peers(frozenset({ONE}))
        paths.logged_in((PLACE,), two, names=True)
        paths.message(given)
        links = paths._manager._pairs[ONE].relay._links
        assert links[one.relay_name].servers == ((SocketAddress(PLACE.host, 40001),) if proxied else ())

    run(lambda: Runner(tmp_path), story)


class Looked(dict[WireGuardKey, PeerStatus]):
    """Statuses that count how many of them are looked at."""

    looks = 0

    def __getitem__(self, key: WireGuardKey) -> PeerStatus:
        self.looks += 1
        return super().__getitem__(key)


def test_a_look_costs_nothing_for_folded_peers_that_have_not_changed(tmp_path: Path) -> None:
    keys = [WireGuardKey(number.to_bytes(32)) for number in range(1, 101)]

    async def story(runner: Runner) -> None:
        runner.fold(*keys)
        bells = await runner.steered.get()
        there = Looked({key: PeerStatus(bells[key], 0.0, 0, 0) for key in keys})
        runner.paths.observe(there)
        assert there.looks >= len(keys), "the first look is what later ones are compared with"
        there.looks = 0
        runner.paths.observe(there)
        assert there.looks == 0
        then = Looked({**there, keys[7]: PeerStatus(bells[keys[7]], 1.0, 92, 0)})
        runner.paths.observe(then)
        assert then.looks == 2, "by the path manager, and for the endpoint"
        assert [key for key, path in runner.paths.status().items() if path.kind != "idle"] == [keys[7]]
        then.looks = 0
        runner.paths.observe(then)
        assert then.looks == 1, "an open pair is looked at each time"

    run(lambda: Runner(tmp_path), story)


@pytest.mark.parametrize("error", [TimeoutError("no answer"), EngineError("gone")])
def test_an_engine_that_does_not_answer_once_is_told_at_the_next_look(
    tmp_path: Path, error: Exception
) -> None:
    async def story(runner: Runner) -> None:
        runner.fold(ONE, OTHER)
        assert await runner.steered.get() == {}
        await asyncio.sleep(0)
        assert runner.looks, "and the next look is soon, although all peers are folded up"
        assert runner.guard.dropped == isinstance(error, TimeoutError)
        runner.seen({ONE: None, OTHER: PLACE})
        told = await runner.steered.get()
        assert {place.host for place in told.values()} == {"127.128.0.1", "127.128.0.2"}
        runner.seen(told)
        runner.paths._perform([SetEndpoint(ONE, PLACE)])
        assert await runner.steered.get() == {ONE: PLACE}, "what the engine has is not set again"

    run(lambda: Runner(tmp_path, 1, error), story)


def test_an_open_pair_is_not_left_at_its_doorbell_nor_without_an_endpoint(tmp_path: Path) -> None:
    async def story(runner: Runner) -> None:
        runner.fold(ONE)
        bell = (await runner.steered.get())[ONE]
        runner.paths._ring(ONE, b"first packet")
        runner.paths._perform([SetEndpoint(ONE, PLACE)])
        assert await runner.steered.get() == {ONE: PLACE}
        for seen in (bell, None):
            runner.seen({ONE: seen})
            assert await runner.steered.get() == {ONE: PLACE}
        runner.seen({ONE: ELSEWHERE})  # WireGuard roamed: the path manager judges that
        assert runner.steered.empty()

    run(lambda: Runner(tmp_path), story)


def test_the_doorbells_leave_a_port_that_a_stand_in_needs(tmp_path: Path) -> None:
    async def story(runner: Runner) -> None:
        runner.fold(ONE, OTHER)
        before = await runner.steered.get()
        port = before[ONE].port
        runner.paths._tls.engine(7)
        needed = stand_in(Allocation(40_000, port, 0))
        runner.paths._perform([StandIn(needed, wanted=True)])
        after = await runner.steered.get()
        assert [place.host for place in after.values()] == [place.host for place in before.values()]
        assert {place.port for place in after.values()}.isdisjoint({port})
        assert runner.paths._tls._peers.keys() == {port}, "and the stand-in has the port"

    run(lambda: Runner(tmp_path), story)


def test_what_fails_for_one_pair_is_done_for_the_others(tmp_path: Path) -> None:
    async def story(runner: Runner) -> None:
        runner.paths._perform([PathChanged(ONE, PathStatus("none")), SetEndpoint(OTHER, PLACE), Fold(ONE)])
        assert await runner.steered.get() == {OTHER: PLACE}
        assert runner.guard.dropped == 1

    run(lambda: Runner(tmp_path), story)


def test_an_engine_that_starts_anew_is_told_all_endpoints_again(tmp_path: Path) -> None:
    async def story(runner: Runner) -> None:
        runner.paths._perform([SetEndpoint(ONE, PLACE), SetEndpoint(OTHER, PLACE)])
        both = {ONE: PLACE, OTHER: PLACE}
        assert await runner.steered.get() == both
        runner.paths.engine_gone()
        assert await runner.steered.get() == both
        runner.paths.peers(frozenset({OTHER}))
        runner.paths.engine_gone()
        assert await runner.steered.get() == {OTHER: PLACE}, "who is no peer any more is not told of"

    run(lambda: Runner(tmp_path), story)


def test_a_tunnel_is_opened_to_the_endpoint_that_was_set_before(tmp_path: Path) -> None:
    async def story(runner: Runner) -> None:
        runner.paths._perform([SetEndpoint(ONE, PLACE), OpenTunnel(ONE)])
        assert await runner.steered.get() == {ONE: PLACE}
        runner.paths._perform([OpenTunnel(OTHER), SetEndpoint(OTHER, PLACE)])
        assert await runner.steered.get() == {OTHER: PLACE}
        assert runner.opened == [(ONE, 1), (OTHER, 1)]
        assert runner.anew == []

    run(lambda: Runner(tmp_path), story)


def test_a_handshake_is_begun_anew_before_the_tunnel_is_opened(tmp_path: Path) -> None:
    async def story(runner: Runner) -> None:
        runner.paths._perform([OpenTunnel(ONE, anew=True), OpenTunnel(ONE), OpenTunnel(OTHER)])
        assert await runner.steered.get() == {}, "no endpoint has changed"
        assert runner.opened == [(ONE, 1), (OTHER, 1)]
        assert runner.anew == [ONE]

    run(lambda: Runner(tmp_path), story)


def test_after_suspend_the_port_that_the_router_mapped_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease went on while this host slept."""

    async def story(runner: Runner) -> None:
        checked: list[float] = []

        def check(_: PortMapper, now: float) -> list[PortEffect]:
            checked.append(now)
            return []

        monkeypatch.setattr(PortMapper, "check", check)
        runner.paths.woke(7200.0)
        assert len(checked) == 1

    run(lambda: Runner(tmp_path), story)
