"""A member's machine: engine and WireGuard in the kernel, files on the disk, and an agent that comes and goes.

The agent's own code is a shell around asyncio; what it wires together is here wired the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec.structs import replace as replace_struct
from world_clock import UNIX_EPOCH, Clock, Timer
from world_mediator import SimMediator
from world_net import CONNECT_TIMEOUT_S, End, Internet, Site, stream
from world_wireguard import SimWireGuard

from netctl.config import Pins
from netctl.engine import FakeEngine, apply_plan
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document
from netctl.model.foreign import Foreign
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import View
from netctl.node.evaluate import Evaluation, evaluate
from netctl.paths import effects as p
from netctl.paths.manager import PathManager
from netctl.session import (
    Backoff,
    ClientSession,
    Closed,
    Effect,
    Kept,
    LoggedIn,
    PathMessage,
    PresenceChanged,
    SendFrame,
    State,
    ViewChanged,
    open_view,
)
from netctl.session.views import pack_view
from netctl.wire.control import Candidate, Message
from netctl.wire.datagram import DatagramKind, classify
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame

PORT = 51820
OBSERVE_S = 1.0
SESSION_S = 180.0
LOGIN_TIMEOUT_S = 10.0


class _Agent:
    """One life of the agent: what is gone when it ends."""

    def __init__(self, manager: PathManager) -> None:
        self.manager = manager
        self.backoff = Backoff()
        self.session: ClientSession | None = None
        self.end: End | None = None
        self.view: View | None = None
        self.live: frozenset[WireGuardKey] = frozenset()
        self.desired: Evaluation | None = None


class SimMember:
    """A host of somebody."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        net: Internet,
        site: Site,
        inner: str,
        mediator: SimMediator,
        on_change: Callable[[], None],
    ) -> None:
        self.name, self.site, self.address, self.powered = name, site, SocketAddress(inner, PORT), True
        self._clock, self._net, self._mediator, self._changed = clock, net, mediator, on_change
        self._private = net.chance.randbytes(32)
        public = X25519PrivateKey.from_private_bytes(self._private).public_key().public_bytes_raw()
        self.key = WireGuardKey(public)
        self._login = Ed25519PrivateKey.from_private_bytes(net.chance.randbytes(32))
        self.identity = IdentityKey(self._login.public_key().public_bytes_raw())
        self.document: Document | None = None
        self.skew_s = 0
        self._disk: Kept | None = None
        self.pins: Pins = {}
        self._new_kernel()
        self.agent: _Agent | None = None
        self._path_timer = Timer(clock, self._paths_due)
        self._session_timer = Timer(clock, self._session_due)
        net.stations.append(self)

    def _new_kernel(self) -> None:
        self.engine = FakeEngine()
        self.wireguard = SimWireGuard(self.key, self.engine, self._send)

    # -- lives ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The agent starts, from what the disk and the kernel have."""
        if self.agent is not None or not self.powered:
            return
        self._clock.say(f"{self.name} starts")
        rng, epoch_s = self._net.chance.randbytes, float(UNIX_EPOCH + self.skew_s)
        self.agent = agent = _Agent(PathManager(self.key, self._private, rng, epoch_s=epoch_s))
        if self._disk is not None and self.document is not None:
            pins, view = self.document.mediators[0].identity, self._disk.view
            agent.view = open_view(
                pack_view(view), replace_struct(self._disk.seal, online=""), pins, self.key
            )
        self._observe()
        self.reconcile()
        self._tick(agent)
        self._connect(agent)

    def stop(self) -> None:
        """The agent dies; tunnels live on, the kernel closes its connection."""
        if self.agent is not None:
            self._clock.say(f"{self.name} stops")
            if self.agent.end is not None:
                self.agent.end.close()
            self.agent = None

    def power_off(self) -> None:
        """Everything that is not on the disk is gone, and nobody is told."""
        if self.agent is not None and self.agent.end is not None:
            self.agent.end.vanish()
            self.agent.end = None
        self.stop()
        self.powered = False
        self._new_kernel()
        self._changed()

    def power_on(self) -> None:
        """Boot."""
        self.powered = True
        self.start()

    def apply(self, document: Document) -> None:
        """`netctl apply`: a document without this host is refused and the old one stays."""
        if document.member_by_key(self.key) is not None:
            self.document = document
            self.reconcile()

    # -- agent ----------------------------------------------------------------------------------------------

    def evaluation(self) -> Evaluation | None:
        """What this host should have by all that its agent knows; None before it knows enough."""
        if self.agent is None or self.document is None or self.agent.view is None:
            return None
        agent = self.agent
        return evaluate(self.document, agent.view, self.pins, Foreign(), agent.live, {}, key=self.key)

    def reconcile(self) -> None:
        """Bring the host to the present document and view."""
        wanted, agent = self.evaluation(), self.agent
        if wanted is None or agent is None:
            return
        assert self.document is not None
        outcome = apply_plan(self.engine, wanted.desired)
        assert outcome.error is None, f"{self.name}: {outcome.error}"
        agent.desired = wanted
        self.pins = wanted.pins if wanted.pins is not None else self.pins
        self._changed()
        now, manager = self._clock.now, agent.manager
        link = wanted.desired.wireguard
        self._paths(manager.set_local([Candidate("host", str(self.address))], now))
        self._paths(manager.set_peers(link.peers if link is not None else (), now))
        for key, status in self.engine.status.items():
            self._paths(manager.observe(key, status, now))
        assert agent.view is not None
        for key, member in agent.view.members.items():
            self._paths(manager.peer_online(key, member.online, now))

    def _tick(self, agent: _Agent) -> None:
        if self.agent is agent:
            self._observe()
            self._clock.after(OBSERVE_S, lambda: self._tick(agent))

    def _observe(self) -> None:
        assert self.agent is not None
        now, unix = self._clock.now, self._clock.unix + self.skew_s
        self.wireguard.tick(now, unix)
        status = self.engine.observe()
        for key, seen in status.items():
            self._paths(self.agent.manager.observe(key, seen, now))
        recent = unix - SESSION_S
        live = frozenset(key for key, seen in status.items() if seen.last_handshake_s > recent)
        if live != self.agent.live:
            self.agent.live = live
            self.reconcile()

    # -- the control connection -------------------------------------------------------------------------------

    def _connect(self, agent: _Agent) -> None:
        if self.agent is not agent:
            return
        if self._net.cut(self.site, self._mediator.site):
            self._clock.after(CONNECT_TIMEOUT_S, lambda: self._again(agent))
            return
        way = self._net.delay(self.site, self._mediator.site)
        self._clock.after(2 * way, lambda: self._arrived(agent))

    def _arrived(self, agent: _Agent) -> None:
        if self.agent is not agent:
            return
        if self._mediator.life is None:
            self._again(agent)
            return
        agent.end, theirs = stream(self._net, self.site, self._mediator.site)
        end, decoder = agent.end, FrameDecoder(LIMIT_AFTER_LOGIN)
        session = agent.session = ClientSession(
            identity=self.identity,
            key=self.key,
            sign=self._login.sign,
            pin=self._mediator.identity,
            pins=(self._mediator.identity,),
            mediator=(self._mediator.address,),
            nonce=self._net.chance.randbytes(32),
            now=self._clock.now,
            kept=self._disk,
        )

        def came(data: bytes) -> None:
            for payload in decoder.feed(data):
                if agent.session is session:
                    self._session(session.receive_frame(payload, self._clock.now))

        def slow() -> None:
            if agent.session is session and session.state in (State.NEW, State.LOGGING_IN):
                self._lost("login timeout")

        end.on_bytes = came
        end.on_lost = lambda: self._lost("lost") if agent.session is session else None
        self._mediator.accept(theirs, SocketAddress(self.site.public, 40000))
        self._clock.after(LOGIN_TIMEOUT_S, slow)

    def _again(self, agent: _Agent) -> None:
        delay = agent.backoff.next_delay(self._net.chance.random())
        self._clock.after(delay, lambda: self._connect(agent))

    def forget_connection(self) -> None:
        """The member's end of its connection dies in silence."""
        if self.agent is not None and self.agent.end is not None:
            self.agent.end.vanish()
            self._lost("vanished")

    def _lost(self, why: str) -> None:
        agent = self.agent
        if agent is None or agent.session is None:
            return
        self._clock.say(f"{self.name}: no mediator ({why})")
        if agent.end is not None:
            agent.end.close()
        agent.session = agent.end = None
        self._paths(agent.manager.control_down(self._clock.now))
        self._again(agent)

    def tell(self, message: Message) -> None:
        """To the mediator, if there is one."""
        if self.agent is not None and self.agent.session is not None:
            self._session(self.agent.session.send(message))

    def _session_due(self) -> None:
        if self.agent is not None and self.agent.session is not None:
            self._session(self.agent.session.handle_timer(self._clock.now))

    def _session(self, effects: list[Effect]) -> None:
        agent, now = self.agent, self._clock.now
        for effect in effects:
            if agent is None or self.agent is not agent:
                return
            match effect:
                case SendFrame(payload):
                    if agent.end is not None:
                        agent.end.write(encode_frame(payload))
                case LoggedIn(_, servers):
                    agent.backoff.reset()
                    self._paths(agent.manager.set_stun(list(servers), now))
                    self._paths(agent.manager.control_up(now))
                case ViewChanged(view, kept):
                    agent.view, self._disk = view, kept
                    self.reconcile()
                case PresenceChanged(key, online):
                    if agent.view is not None and key in agent.view.members:
                        seen = replace(agent.view.members[key], online=online)
                        agent.view = replace(agent.view, members={**agent.view.members, key: seen})
                    self._paths(agent.manager.peer_online(key, online, now))
                case PathMessage(message, servers):
                    self._paths(agent.manager.handle_message(message, now, servers))
                case Closed(error):
                    self._lost(f"{error.code}: {error}")
        if agent is not None and agent.session is not None:
            self._session_timer.set(agent.session.next_timer())

    # -- paths ------------------------------------------------------------------------------------------------

    def _send(self, destination: SocketAddress, data: bytes) -> None:
        self._net.send(self, PORT, destination, data)

    def datagram(self, data: bytes, source: SocketAddress, port: int) -> None:
        """Something came to the WireGuard port."""
        if port != PORT or self.engine.state.wireguard is None:
            return
        if classify(data) is DatagramKind.WIREGUARD:
            self.wireguard.receive(data, source, self._clock.now)
        elif self.agent is not None:
            self._paths(self.agent.manager.handle_datagram(data, source, self._clock.now))

    def _paths_due(self) -> None:
        if self.agent is not None:
            self._paths(self.agent.manager.handle_timer(self._clock.now))

    def _paths(self, effects: list[p.Effect]) -> None:
        for effect in effects:
            match effect:
                case p.SendDatagram(destination, data, _):
                    if self.engine.state.wireguard is not None:
                        self._send(destination, data)
                case p.SendControl(message):
                    self.tell(message)
                case p.SetEndpoint(key, endpoint):
                    self.engine.steer(key, endpoint)
                case p.PathChanged(key, status):
                    self._clock.say(f"{self.name} → {key.short}: {status.kind} {status.endpoint}")
        if self.agent is not None:
            self._path_timer.set(self.agent.manager.next_timer())
