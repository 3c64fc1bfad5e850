"""A member's machine: engine and WireGuard in the kernel, files on the disk, and an agent that comes and goes.

The agent's decisions are made by the very `Node` that a real agent runs; what it wants is done here with a fake
engine and a fake disk, a moment later, so that views and crashes come in between.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec.structs import replace as replace_struct

from netctl.config import Loaded, Pins, load_document
from netctl.engine import FakeEngine, apply_plan
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document, Mediator
from netctl.model.foreign import Foreign
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import View
from netctl.node import confirming, requests
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.commit import PendingCommit, Terms
from netctl.node.context import Context
from netctl.node.evaluate import Evaluation, evaluate
from netctl.node.linkstate import LinkState
from netctl.node.node import Node
from netctl.node.state import NodeState
from netctl.paths import effects as p
from netctl.paths.manager import PathManager
from netctl.paths.relaymeter import RelayMeter
from netctl.plan import diff
from netctl.session import (
    Backoff,
    ClientSession,
    Closed,
    Effect,
    Kept,
    KnownStores,
    LoggedIn,
    PathMessage,
    PresenceChanged,
    PresenceKnown,
    SendFrame,
    State,
    ViewChanged,
    open_view,
)
from netctl.session.mediatorchoice import MediatorChoice, name_of
from netctl.session.views import pack_view
from netctl.wire.control import Candidate, Message, RelayGrant
from netctl.wire.datagram import DatagramKind, classify
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame
from tests.world.world_clock import UNIX_EPOCH, Clock, Timer
from tests.world.world_disk import SimDisk
from tests.world.world_mediator import SimMediator
from tests.world.world_net import End, Internet, Site, stream
from tests.world.world_wireguard import SimWireGuard

PORT = 51820
METER_PORT = 40001
METER_FIRST_S = 0.4
OBSERVE_S = 1.0
SESSION_S = 180.0
LOGIN_TIMEOUT_S = 10.0
STEP_S = 0.01
"""What an engine or a disk takes at most for one step of a job."""
AGAIN_S = 3.0
"""How soon a person tries again what was refused, and the watchdog what it could not do."""


class _Agent:
    """One life of the agent: what is gone when it ends."""

    def __init__(self, manager: PathManager, node: Node) -> None:
        self.manager, self.node = manager, node
        self.backoff = Backoff()
        self.choice = MediatorChoice()
        self.stores = KnownStores()
        self.meter: RelayMeter | None = None
        """Of the mediators; None: their round trips do not matter."""
        self.session: ClientSession | None = None
        self.at: SimMediator | None = None
        """The mediator of this session."""
        self.shown = 0
        """The newest generation that this life has taken."""
        self.end: End | None = None
        self.kept: Kept | None = None
        self.hello = ""
        self.mediators: tuple[Mediator, ...] = ()
        """Those of the document, with relays apart."""
        self.named_at = 0.0
        """When the document last named other mediators, or none any more."""
        self.relays: dict[str, Mediator] = {}
        """The relays apart, and once `names` is true those beside mediators too, by name."""
        self.names = False
        """Whether a mediator has said that it gives grants at the relays beside others."""
        self.tried: Mediator | None = None
        self.entry: Mediator | None = None
        """The document's entries for the mediator that was tried last, and for that of the last session."""
        self.tries = 0
        """To connect, so far: the newest one counts."""
        self.live: frozenset[WireGuardKey] = frozenset()
        self.requests = 0
        self.open_change = 0
        """The manager's, when the session was last told of the open pairs."""

    @property
    def context(self) -> Context:
        """What its node knows."""
        return self.node.context

    @property
    def view(self) -> View | None:
        """The newest word of the mediator."""
        return self.context.state.view


class _WayBack(NamedTuple):
    """What a host had when it armed."""

    armed: PendingCommit
    accepted: Loaded | None
    had: Document | None
    """Of a first apply that crashed: its checkpoint has the peers of that document, and nobody has the document."""


class SimMember:
    """A host of somebody."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        net: Internet,
        site: Site,
        inner: str,
        mediators: Sequence[SimMediator],
        on_change: Callable[[], None],
    ) -> None:
        self.name, self.site, self.address, self.powered = name, site, SocketAddress(inner, PORT), True
        self._clock, self._net, self._changed = clock, net, on_change
        self._mediators = {one.address.host: one for one in mediators}
        self._private = net.chance.randbytes(32)
        public = X25519PrivateKey.from_private_bytes(self._private).public_key().public_bytes_raw()
        self.key = WireGuardKey(public)
        self._login = Ed25519PrivateKey.from_private_bytes(net.chance.randbytes(32))
        self.identity = IdentityKey(self._login.public_key().public_bytes_raw())
        self._chance = random.Random(net.chance.randbytes(8))
        self.disk = SimDisk()
        self.skew_s = 0
        self.boots = 0
        self.older = False
        """Whether its agent is of a release in which relays beside mediators had no names."""
        self.crash_in: int | None = None
        """So many steps from now the host crashes."""
        self.crashed: Callable[[], None] = lambda: None
        """Called when it has."""
        self.linked: Callable[[SimMediator | None], None] = lambda at: None
        """Called when a mediator has let this host in, and with None when it is lost; this host may end it unheard."""
        self.path_changed: Callable[[WireGuardKey, p.PathStatus], None] = lambda key, status: None
        self.tried: Loaded | None = None
        """The document of the last apply, whatever became of it."""
        self.brought: Document | None = None
        """The document that the kernel was last brought to, or was being brought to when the host crashed."""
        self.had: Document | None = None
        """The document that the peers in the kernel are of. It may be no longer on disk: its apply crashed."""
        self._way_back: _WayBack | None = None
        """What was armed last, and the document that it must lead back to unless somebody confirms."""
        self.tally: Counter[str] = Counter()
        """What befell it: a world in which nothing happens would prove nothing."""
        self._evaluated: tuple[tuple[object, ...], Evaluation] | None = None
        """The last `evaluation`, and what it follows from."""
        self._new_kernel()
        self.agent: _Agent | None = None
        self._path_timer = Timer(clock, self._paths_due)
        self._session_timer = Timer(clock, self._session_due)
        self._meter_timer = Timer(clock, self._meter_due)
        self._node_timer = Timer(clock, lambda: self._post(on.TimePassed()))
        net.stations.append(self)

    def _new_kernel(self) -> None:
        self.engine = FakeEngine()
        self.wireguard = SimWireGuard(self.key, self.engine, self._send)
        self.boots += 1

    @property
    def document(self) -> Document | None:
        """The accepted document, as the next life would find it."""
        accepted = self.disk.accepted.read()
        return accepted.document if accepted is not None else None

    @property
    def lives_by(self) -> Document | None:
        """The document of this life; on a full disk another one may be there."""
        return self.agent.context.state.document if self.agent is not None else self.document

    @property
    def pins(self) -> Pins:
        """The leases that this host holds its mediator to."""
        return self.agent.context.state.pins if self.agent is not None else (self.disk.pins.read() or {})

    @property
    def quiet(self) -> bool:
        """Nothing is under way: the host is as its agent has brought it."""
        agent = self.agent
        return agent is None or (not agent.node.busy and agent.context.unmet is None)

    # -- lives ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The agent starts, from what the disk and the kernel have."""
        if self.agent is not None or not self.powered:
            return
        self._clock.say(f"{self.name} starts")
        rng, epoch_s = self._net.chance.randbytes, float(UNIX_EPOCH + self.skew_s)
        manager = PathManager(self.key, self._private, rng, epoch_s=epoch_s)
        loaded = self.disk.accepted.read()
        state = NodeState(
            loaded=loaded,
            joined=self.disk.joined.read(),
            pins=self.disk.pins.read() or {},
            told=loaded.document if loaded is not None else None,
        )
        context = Context(self.key, self.boot_id, state, handshake_wait_s=2.0)
        self.agent = agent = _Agent(manager, Node(context))
        self._post(on.Started())
        self._tick(agent)

    @property
    def boot_id(self) -> str:
        """Of this boot."""
        return f"{self.name}/{self.boots}"

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

    # -- people -----------------------------------------------------------------------------------------------

    def apply(self, loaded: Loaded, terms: Terms | None = None) -> None:
        """`netctl apply`: a document without this host is refused and the old one stays."""
        self.tried = loaded
        self._ask(requests.Apply(loaded, terms or Terms()))

    def confirm(self) -> None:
        """`netctl confirm`."""
        self._ask(requests.Confirm())

    def forget_leases(self) -> None:
        """`netctl leases forget --all`."""
        self._ask(requests.ForgetLeases())

    def persist(self, loaded: Loaded) -> None:
        """Somebody applies a document until it is in force."""
        if loaded.document.member_by_key(self.key) is None:
            return
        armed = self.disk.armed.read()
        if armed is None and self.disk.accepted.read() is loaded:
            return
        if armed is None:
            self.apply(loaded, Terms(force=True))
        self._clock.after(AGAIN_S, lambda: self.persist(loaded))

    def _ask(self, body: requests.Request) -> None:
        if self.agent is not None:
            self.agent.requests += 1
            self._post(on.Requested(self.agent.requests, body))

    # -- the node -----------------------------------------------------------------------------------------------

    def evaluation(self) -> Evaluation | None:
        """What this host should have by all that its agent knows; None before it knows enough."""
        agent, document = self.agent, self.document
        if agent is None or document is None or agent.view is None:
            return None
        known = (document, agent.view, self.pins, agent.live)
        before = self._evaluated
        if before is None or any(one is not other for one, other in zip(before[0], known, strict=True)):
            found = evaluate(document, agent.view, self.pins, Foreign(), agent.live, {}, key=self.key)
            before = self._evaluated = known, found
        return before[1]

    def _post(self, event: on.Happening) -> None:
        agent = self.agent
        if agent is None:
            return
        for effect in agent.node.handle(event, self._clock.now):
            if self.agent is not agent:
                return
            match effect:
                case do.Perform(token, step):
                    delay = self._chance.uniform(0, STEP_S)
                    self._clock.after(delay, partial(self._due, agent, token, step))
                case do.Log(text):
                    self._clock.say(f"{self.name}: {text}")
                case do.Reply(_, _, error) if error is not None:
                    self._clock.say(f"{self.name}: {error}")
                case do.UseMediators(mediators, kept):
                    agent.kept = kept
                    self._use_mediators(agent, mediators)
                case do.ConnectNow():
                    agent.backoff.reset()
                    agent.choice.retry()
                    self._connect(agent)
                case do.ForgetMediator():
                    agent.kept = None
                    agent.shown = 0
                    self._lost("the view was forgotten on demand", ours=True)
        if self.agent is agent:
            self._node_timer.set(agent.node.next_timer())

    def _use_mediators(self, agent: _Agent, mediators: tuple[Mediator, ...]) -> None:
        """As a real agent: another list ends the connection."""
        if mediators == agent.mediators:
            return
        agent.mediators, agent.named_at = mediators, self._clock.now
        agent.choice.use(mediators)
        named = {name_of(one): one for one in mediators if not one.relay_only}
        self._tell_relays(agent)
        agent.stores.use(named)
        agent.meter = None
        if agent.choice.measures:
            agent.meter = RelayMeter(self._net.chance.randbytes)
            places = {name: [SocketAddress(one.host, one.stun[0])] for name, one in named.items()}
            agent.meter.use(places, self._clock.now)
            self._meter_timer.set(agent.meter.next_timer())
        if agent.session is not None:
            self._lost("the document names other mediators now", ours=True)
        elif agent.meter is not None:
            self._clock.after(METER_FIRST_S, lambda: self._connect(agent))
        else:
            self._connect(agent)

    def _tell_relays(self, agent: _Agent) -> None:
        """As `netctl.agent.transport.pathrunner`: of several mediators, those beside them have names."""
        full = [one for one in agent.mediators if not one.relay_only]
        named = agent.names and len(full) > 1
        apart = (one for one in agent.mediators if one.relay_only)
        agent.relays = {one.relay_name: one for one in (*(full if named else ()), *apart)}
        home = agent.entry.relay_name if named and agent.entry is not None else ""
        self._paths(agent.manager.set_home(home, self._clock.now))
        places = {name: [SocketAddress(one.host, one.stun[0])] for name, one in agent.relays.items()}
        self._paths(agent.manager.set_relays(places, self._clock.now))

    def _meter_due(self) -> None:
        agent = self.agent
        if agent is None or agent.meter is None:
            return
        for sent in agent.meter.handle_timer(self._clock.now):
            self._net.send(self, METER_PORT, sent.destination, sent.data)
        self._measured(agent)
        self._meter_timer.set(agent.meter.next_timer())

    def _measured(self, agent: _Agent) -> None:
        if agent.meter is not None:
            agent.choice.measured(agent.meter.rtt_ms, () if self.older else agent.meter.spread)

    def _due(self, agent: _Agent, token: int, step: do.Effect) -> None:
        """Do one step of the present job, or crash at it."""
        if self.agent is not agent:
            return
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0:
                self.crash_in = None
                self._crash(agent, step)
                return
        try:
            answer = self._perform(step)
        except Exception as error:
            answer = on.Failed(error)
        self._post(on.Answered(token, answer))

    def _crash(self, agent: _Agent, step: do.Effect) -> None:
        """Before a step, in the middle of it, or after it; of the agent alone or of the whole host."""
        self.tally["crash while armed" if self.disk.armed.read() is not None else "crash"] += 1
        self.tally[f"crash at {type(step).__name__}"] += 1
        where, power = self._chance.choice(("before", "middle", "after")), self._chance.random() < 0.5
        self._clock.say(f"{self.name} crashes {where} {type(step).__name__}{', all of it' if power else ''}")
        if where == "middle" and isinstance(step, do.ApplyHost):
            self._bring(step.document)
            steps = diff(step.desired, self.engine.read()).changes
            for change in steps[: self._chance.randrange(len(steps) + 1)]:
                self.engine.apply(change)
        elif where != "before":
            self.disk.written = None
            try:
                self._perform(step)
            except Exception as error:
                self._clock.say(f"{self.name}: {error}")
            if power and where == "middle" and self.disk.tear():
                self.tally["torn write"] += 1
        if power:
            self.power_off()
        else:
            self.stop()
        self._changed()
        self.crashed()

    def _bring(self, document: Document | None) -> None:
        """The kernel is being brought to a document, or to what it had before there was one."""
        if document is not None:
            self.had = document
        elif self._way_back is not None:
            self.had = self._way_back.had
        self.brought = document

    def _perform(self, step: do.Effect, *, alone: bool = False) -> on.Event:
        """What a step comes to. Raises what it raises."""
        match step:
            case do.ReadHost(_, actual):
                agent = self.agent
                return on.HostRead(
                    Foreign(),
                    agent.live if agent is not None else frozenset(),
                    {},
                    agent.view if agent is not None else None,
                    self.engine.read() if actual else None,
                )
            case do.ApplyHost(desired, document, seen):
                self._bring(document)
                outcome = apply_plan(self.engine, desired, seen=seen)
                self._changed()
                return on.Applied(outcome)
            case do.FollowHost():
                if not alone:
                    self._follow()
                return on.Followed()
            case do.Observe():
                self._observe()
                status = self.engine.observe()
                assert self.agent is not None
                return on.Observed(self.agent.live, {key: seen.rx_bytes for key, seen in status.items()})
            case do.RetryHost():
                return on.Stored()
            case do.LookForLink():
                return on.LinkSeen(self.engine.link_stands())
            case do.RecallView(document):
                return on.ViewKept(self._recalled(document))
            case do.ReadCommit():
                return on.CommitRead(self.disk.armed.read(), tuple(sorted(self.disk.newest)))
        try:
            return self._write(step)
        except OSError as error:
            self.tally["full disk"] += 1
            if isinstance(step, do.Arm | do.FinishCommit):  # the agent lets these two raise
                return on.Failed(error)
            return on.StoreFailed(str(error.strerror))

    def _write(self, step: do.Effect) -> on.Event:
        """Raises OSError."""
        disk = self.disk
        match step:
            case do.Arm(seconds, text, back):
                nonce, boot = str(self._chance.random()), self.boot_id
                digest = load_document(text).document.digest
                record = PendingCommit(
                    nonce, boot, self._clock.now + seconds, digest, back.before, back.checkpoint
                )
                disk.write(disk.armed, record)
                self._way_back = _WayBack(record, disk.accepted.read(), self.had)
                self._clock.after(seconds, lambda: self._watchdog(record))
                return on.WatchdogReady(record)
            case do.FinishCommit(record):
                finished = PendingCommit(
                    record.nonce,
                    record.boot_id,
                    record.deadline_s,
                    record.digest,
                    record.before,
                    record.checkpoint,
                    finished=True,
                )
                disk.write(disk.armed, finished)
            case do.Disarm():
                disk.write(disk.armed, None)
                self.tally["confirmed or undone by itself"] += 1
                self._way_back = None
            case do.RestoreDocument(record):
                restored = load_document(record.before) if record.before is not None else None
                try:
                    disk.write(disk.accepted, restored)
                except OSError as error:
                    return on.DocumentRead(restored, disk.joined.read(), error.strerror)
                return on.DocumentRead(restored, disk.joined.read())
            case do.CloseCommit(record):
                disk.write(disk.refused, disk.newest | {record.digest})
                disk.write(disk.armed, None)
                self._check_way_back(record)
            case do.AdmitAgain(digest):
                disk.write(disk.refused, disk.newest - {digest})
            case do.Persist(text):
                assert self.tried is not None
                assert self.tried.source.text == text
                before = disk.accepted.read()
                if before is None or before.source.text != text:
                    disk.write(disk.accepted, self.tried)
                disk.write(disk.joined, None)
            case do.KeepView(kept):
                disk.write(disk.view, kept)
            case do.KeepPins(pins):
                disk.write(disk.pins, pins)
            case _:
                raise RuntimeError(f"nobody in this world does {type(step).__name__}")
        return on.Stored()

    def _check_way_back(self, record: PendingCommit) -> None:
        """A roll-back says that it is done: then it is."""
        assert self._way_back is not None
        before = self._way_back.accepted
        assert self._way_back.armed.nonce == record.nonce
        accepted = self.disk.accepted.read()
        was = before.source.text if before is not None else None
        assert (accepted.source.text if accepted is not None else None) == was, (
            f"{self.name}: an unconfirmed document stands"
        )
        self._way_back = None
        self.tally["went back"] += 1

    def overdue(self) -> bool:
        """Whether something armed is over for long and the host has not gone back."""
        record = self.disk.armed.read()
        if record is None or record.remaining_s(self._clock.now, self.boot_id) >= -5 * AGAIN_S:
            return False
        # On a full disk the record stays, for whoever lives next; the kernel has what it had before all the same.
        before = self._way_back.accepted if self._way_back is not None else None
        stays = before is not None and before.document.digest == record.digest
        return not stays and self.brought is not None and self.brought.digest == record.digest

    def _watchdog(self, record: PendingCommit) -> None:
        """The process that waits for the deadline; it outlives the agent, not the boot."""
        armed = self.disk.armed.read()
        if not self.powered or record.boot_id != self.boot_id or armed is None or armed.nonce != record.nonce:
            return
        if self.agent is not None:
            self._ask(requests.RollBack(record.nonce))
        else:
            self._clock.say(f"{self.name}: the watchdog goes back")
            self.tally["went back without an agent"] += 1
            self._alone()
        self._clock.after(AGAIN_S, lambda: self._watchdog(record))

    def _alone(self) -> None:
        """A roll-back where no agent runs: the same job, done step by step."""
        context = Context(self.key, self.boot_id, alone=True, now=self._clock.now)
        job = confirming.roll_back(context)
        try:
            step = next(job)
            while True:
                step = job.send(self._perform(step, alone=True))
        except StopIteration:
            return

    def _recalled(self, document: Document) -> Kept | None:
        kept = self.disk.view.read()
        if kept is None:
            return None
        pins = [pin for mediator in document.mediators for pin in mediator.identity]
        view = open_view(pack_view(kept.view), replace_struct(kept.seal, online=""), pins, self.key)
        return Kept(view, kept.seal, kept.newest, kept.stores)

    def _follow(self) -> None:
        agent, now = self.agent, self._clock.now
        assert agent is not None
        link, manager = agent.context.state.desired.wireguard, agent.manager
        self._paths(manager.set_local([Candidate("host", str(self.address))], now))
        self._paths(manager.set_peers(link.peers if link is not None else (), now))
        for key, status in self.engine.status.items():
            self._paths(manager.observe(key, status, now))
        if agent.view is not None:
            there = {key: member.online for key, member in agent.view.members.items()}
            self._paths(manager.presence_in_view(there, now))

    def _tick(self, agent: _Agent) -> None:
        if self.agent is agent:
            self._observe()
            self._clock.after(OBSERVE_S, lambda: self._tick(agent))

    def _look(self, agent: _Agent | None) -> None:
        if agent is not None and self.agent is agent:
            self._observe()

    def _observe(self) -> None:
        agent = self.agent
        assert agent is not None
        now, unix = self._clock.now, self._clock.unix + self.skew_s
        self.wireguard.tick(now, unix)
        status = self.engine.observe()
        for key, seen in status.items():
            self._paths(agent.manager.observe(key, seen, now))
        recent = unix - SESSION_S
        live = frozenset(key for key, seen in status.items() if seen.last_handshake_s > recent)
        if live != agent.live:
            agent.live = live
            self._post(on.SessionsChanged(live))

    # -- the control connection -------------------------------------------------------------------------------

    def _connect(self, agent: _Agent) -> None:
        """Begin a try; one that was under way is over."""
        if self.agent is not agent or not agent.mediators or agent.session is not None:
            return
        agent.tries += 1
        this = agent.tries
        chosen = agent.choice.next(self._net.chance.random() if len(self._mediators) > 1 else 0.0)
        there = self._mediators[chosen.mediator.host]
        if self._net.cut(self.site, there.site) or not there.powered:
            self._clock.after(chosen.limit_s, lambda: self._failed(agent, this))
            return
        way = self._net.delay(self.site, there.site)
        self._clock.after(2 * way, lambda: self._arrived(agent, this, chosen.mediator, there))

    def _failed(self, agent: _Agent, this: int) -> None:
        if self.agent is agent and agent.tries == this:
            agent.choice.over(lost=True)
            self._again(agent, this)

    def _arrived(self, agent: _Agent, this: int, entry: Mediator, there: SimMediator) -> None:
        if self.agent is not agent or entry not in agent.mediators or agent.tries != this:
            return
        if not there.serves:
            self._failed(agent, this)
            return
        agent.at, agent.tried = there, entry
        agent.end, theirs = stream(self._net, self.site, there.site)
        end, decoder = agent.end, FrameDecoder(LIMIT_AFTER_LOGIN)
        session = agent.session = ClientSession(
            identity=self.identity,
            key=self.key,
            sign=self._login.sign,
            pin=there.identity,
            pins=entry.identity,
            mediator=(there.address,),
            nonce=self._net.chance.randbytes(32),
            now=self._clock.now,
            kept=agent.kept,
            previous=agent.hello,
            check_store=partial(agent.stores.check, name_of(entry)),
            interest=agent.manager.open_peers,
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
        there.accept(theirs, SocketAddress(self.site.public, 40000))
        self._clock.after(LOGIN_TIMEOUT_S, slow)

    def _again(self, agent: _Agent, this: int) -> None:
        if agent.choice.others_left:
            delay = 0.0
        else:
            several = len(self._mediators) > 1
            delay = agent.backoff.next_delay(self._net.chance.random(), elsewhere=several)
        self._clock.after(delay, lambda: self._connect(agent) if agent.tries == this else None)

    def forget_connection(self) -> None:
        """The member's end of its connection dies in silence."""
        if self.agent is not None and self.agent.end is not None:
            self.agent.end.vanish()
            self._lost("vanished")

    def _lost(self, why: str, *, ours: bool = False) -> None:
        """`ours`: this host ends the connection, and its mediator may work."""
        agent = self.agent
        if agent is None or agent.session is None:
            return
        self._clock.say(f"{self.name}: no mediator ({why})")
        if agent.end is not None:
            agent.end.close()
        if not ours:
            self.linked(None)
        agent.session = agent.end = agent.at = None
        agent.choice.over(lost=not ours)
        self._paths(agent.manager.control_down(self._clock.now))
        self._post(on.LinkChanged(LinkState("unreachable", self._clock.now, why)))
        self._again(agent, agent.tries)

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
                case LoggedIn(welcome, servers, hello):
                    agent.hello = hello
                    if welcome.spread and not agent.names and not self.older:
                        agent.names = True
                        self._tell_relays(agent)
                    agent.entry = agent.tried
                    self._tell_relays(agent)
                    self._post(on.LinkChanged(LinkState("connected", now)))
                    self._paths(agent.manager.set_stun(list(servers), now))
                    self._paths(agent.manager.control_up(now))
                case ViewChanged(view, kept):
                    agent.backoff.reset()
                    agent.backoff.spread(len(view.members))
                    agent.choice.works()
                    self._shown(agent, view.generation)
                    agent.kept = kept
                    self.linked(agent.at)
                    self._post(on.ViewReceived(view, kept))
                case PresenceChanged(key, online):
                    self._presence({key: online})
                case PresenceKnown(told, later):
                    if later is not None:
                        self._shown(agent, later.view.generation)
                        agent.kept = later
                        self._post(on.ViewConfirmed(later))
                    self._presence(told)
                case PathMessage(message, servers):
                    if isinstance(message, RelayGrant) and message.relay:
                        servers = self._at_relay(agent, message)
                    self._paths(agent.manager.handle_message(message, now, servers))
                case Closed(error):
                    self._lost(f"{error.code}: {error}")
        if agent is not None and agent.session is not None:
            self._session_timer.set(agent.session.next_timer())

    @staticmethod
    def _at_relay(agent: _Agent, grant: RelayGrant) -> tuple[SocketAddress, ...]:
        """As a real agent: the grant's port, at the address that the document gives the relay."""
        relay = agent.relays.get(grant.relay)
        return () if relay is None else (SocketAddress(relay.host, SocketAddress.parse(grant.address).port),)

    def _shown(self, agent: _Agent, generation: int) -> None:
        """Generations never go back, whoever signs."""
        assert generation >= agent.shown, f"{self.name} was shown {generation} after {agent.shown}"
        agent.shown = generation

    def _presence(self, online: Mapping[WireGuardKey, bool | None]) -> None:
        agent = self.agent
        assert agent is not None
        self._post(on.PresenceReceived(online))
        self._paths(agent.manager.peers_online(online, self._clock.now))

    # -- paths ------------------------------------------------------------------------------------------------

    def _send(self, destination: SocketAddress, data: bytes) -> None:
        self._net.send(self, PORT, destination, data)

    def datagram(self, data: bytes, source: SocketAddress, port: int) -> None:
        """Something came to the WireGuard port, or to that of the meter."""
        if port == METER_PORT:
            if self.agent is not None and self.agent.meter is not None:
                self.agent.meter.handle_answer(data, source, self._clock.now)
                self._measured(self.agent)
            return
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
                case p.SendDatagram(destination, data):
                    if self.engine.state.wireguard is not None:
                        self._send(destination, data)
                case p.SendControl(message):
                    self.tell(message)
                case p.SendThrough(key, count):
                    for _ in range(count):
                        self.wireguard.send_data(key)
                case p.OpenTunnel(key, anew):
                    if anew:
                        self.wireguard.begin_anew(key)
                    self.wireguard.send_data(key)
                case p.LookSoon(after_s):
                    self._clock.after(after_s, partial(self._look, self.agent))
                case p.SetEndpoint(key, endpoint):
                    self.engine.steer({key: endpoint})
                case p.PathChanged(key, status):
                    self._clock.say(f"{self.name} → {key.short}: {status.kind} {status.endpoint}")
                    self.path_changed(key, status)
        agent = self.agent
        if agent is None:
            return
        self._path_timer.set(agent.manager.next_timer())
        if agent.session is not None and agent.open_change != agent.manager.open_change:
            agent.open_change = agent.manager.open_change
            self._session(agent.session.interested(agent.manager.open_peers, self._clock.now))
