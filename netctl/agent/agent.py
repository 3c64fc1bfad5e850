"""The agent: keeps one host as its document and its mediator say, and its tunnels on their best paths."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from netctl.agent.armed import Armory, Terms, Watchman, start_watchman
from netctl.agent.commit import Commit
from netctl.agent.control_client import ControlClient, LinkState
from netctl.agent.drift import Counters, Departure, departures
from netctl.agent.host import Host, knock, look_up
from netctl.agent.keys import Keys
from netctl.agent.leases import LeaseBook
from netctl.agent.memory import Down, Memory
from netctl.agent.metrics import Meters
from netctl.agent.paths import PathRunner
from netctl.agent.planned import Planned, binding, make_plan, refuse_stale
from netctl.agent.status import status_of
from netctl.agent.talk import say
from netctl.agent.verify import HANDSHAKE_WAIT_S, Verified, verify
from netctl.agent.watch import DocumentWatch
from netctl.config import Condition, Loaded, clear_of, resolve
from netctl.config.origins import Origins
from netctl.engine import ApplyOutcome
from netctl.engine.events import moves
from netctl.model.document import Document, Drift
from netctl.model.errors import EngineError, LocalError, NetctlError
from netctl.model.foreign import Foreign
from netctl.model.hoststate import WIREGUARD_LINK, HostState, PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.model.view import View
from netctl.paths.effects import PathStatus
from netctl.plan import Binding, Plan, diff, prune
from netctl.session import Effect, Kept, LoggedIn, PathMessage, PresenceChanged, ViewChanged
from netctl.wire.control import Leave

SESSION_S = 180.0
"""WireGuard's Reject-After-Time: an older handshake is no session."""
OBSERVE_S = 1.0
FRESH_S = 0.3
"""Whoever asks for the status sees nothing older than this; asking more often costs the engine nothing."""
DRIFT_S = 30.0
"""How often the host is compared with what it should have."""
LOOK_AROUND_S = 10.0
"""How often own addresses are looked up."""
KNOCK_S = 5.0
"""WireGuard's own retry interval (Rekey-Timeout)."""
LEAVE_WAIT_S = 2.0
"""How long a host that leaves waits for its mediator to take note."""
VIEW_WAIT_S = 10.0
"""How long the first apply waits for a mediator that it has never seen."""

TURN_S = 60.0
"""How long a change waits for another that is under way: an apply of a large document takes seconds."""
TURN_SAID_S = 0.5
"""Waiting that is shorter than this is not worth a line."""

Progress = Callable[[str], None]


def _quiet(line: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What an apply came to. `waiting`: why the network is not whole yet though nothing failed."""

    outcome: ApplyOutcome
    warnings: tuple[str, ...] = ()
    waiting: str | None = None
    armed: dict[str, Any] | None = None
    """What `status` says of an apply that waits for its confirmation."""


class Agent:
    """Everything here runs in one event loop; the host is touched by one thread, one change at a time."""

    def __init__(
        self,
        keys: Keys,
        memory: Memory,
        host: Host,
        *,
        drift_s: float = DRIFT_S,
        watchman: Watchman = start_watchman,
        watch: Path | None = None,
    ) -> None:
        self.keys = keys
        self.memory = memory
        self.host = host
        self.loaded: Loaded | None = remembered(memory)
        self.joined = memory.joined()
        """The network that this host joined by invite: then its document comes with the mediator's views."""
        self.down = memory.down()
        self.view: View | None = None
        """As the mediator tells it; `leases.judged` is what of it this host believes."""
        self.leases = LeaseBook(memory)
        self.statuses: Mapping[WireGuardKey, PeerStatus] = {}
        self.conditions: tuple[Condition, ...] = ()
        self.drift: tuple[Departure, ...] = ()
        """Where the host departs from the document, as it was seen last."""
        self.engine_kind = ""
        self.counters = Counters()
        self.meters = Meters()
        self._foreign = Foreign()
        self._drift_s = drift_s
        self.live: frozenset[WireGuardKey] = frozenset()
        """The peers that a session with is up."""
        self._desired = HostState()
        self._said: str | None = None
        self.trouble: str | None = None
        """Why paths do not follow the host's present state; tried again by the observer."""
        self._observed_at = -FRESH_S
        self._settled = False
        """Whether `_desired` is what this life has worked out: before that nothing may be taken for drift."""
        self.lock = asyncio.Lock()
        """Held by whoever changes the host or what it lives by."""
        self.commit = Commit(self, Armory(memory.places), watchman)
        self.watch = DocumentWatch(self, watch) if watch is not None else None
        self._wanted = asyncio.Event()
        self._view_came = asyncio.Event()
        self.handshake_wait_s = HANDSHAKE_WAIT_S
        self._knocked: dict[WireGuardKey, float] = {}
        self.client = ControlClient(keys, self._on_control, self._on_link)
        self.paths = PathRunner(keys, self._steer, self.client.send, self._on_path)

    # -- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Tunnels are left as they are: only `down` takes them away."""
        async with self.lock:
            await self.commit.recover()
        if self.loaded is not None:
            document = self.loaded.document
            self._use(self.memory.view(_pins(document), self.keys.wireguard))
            self.client.set_mediators(document.mediators)
            self._wanted.set()
        tasks = [
            asyncio.create_task(work())
            for work in (
                self.client.run,
                self._reconciler,
                self._observer,
                self._roamer,
                self._patrol,
                self.commit.run,
                *((self.watch.run,) if self.watch is not None else ()),
            )
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.paths.close()
            await self.host.close()

    def _use(self, kept: Kept | None) -> None:
        """Live by a view that was kept; the mediator is asked for what has changed since."""
        self.view = kept.view if kept is not None else None
        self.client.kept = kept

    async def _reconciler(self) -> None:
        if self.loaded is not None:  # a new life: sessions that live on keep their broadcast
            await self.observe()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                async with self.lock:
                    outcome = await self.reconcile(_quiet)
                if outcome.error is not None:
                    say(f"could not bring the host to its document: {outcome.error}")
            except Exception as error:  # one failure is one line: the agent lives on
                say(_reason(error))

    async def _observer(self) -> None:
        looked = -LOOK_AROUND_S
        while True:
            await asyncio.sleep(OBSERVE_S)
            if self._desired.wireguard is None:
                continue
            try:
                await self.observe()
                now = time.monotonic()
                if now - looked >= LOOK_AROUND_S:
                    looked = now
                    if self.trouble is not None:
                        self._wanted.set()
                    await self._look_around()
                self._open_tunnels(now)
            except Exception as error:
                say(_reason(error))

    async def observe(self) -> None:
        """Look at what the tunnels do."""
        self.statuses = await self.host.observe()
        self._observed_at = time.monotonic()
        live = frozenset(key for key, status in self.statuses.items() if _has_session(status))
        if live != self.live:  # whoever looked first: broadcast follows the sessions
            self.live = live
            self._wanted.set()
        self.paths.observe(self.statuses)
        self.meters.observe(self.statuses, self.paths.status(), self._observed_at)

    def wanted_peers(self) -> frozenset[WireGuardKey]:
        """The peers that the host should have."""
        return frozenset(self._desired.wireguard.peers if self._desired.wireguard is not None else ())

    def _open_tunnels(self, now: float) -> None:
        """Knock at peers that have a path and no session."""
        if self.view is None or self.loaded is None:
            return
        for key, path in self.paths.status().items():
            if path.kind == "none" or key in self.live or now - self._knocked.get(key, 0.0) < KNOCK_S:
                continue
            self._knocked[key] = now
            self.knock_at(key)

    def knock_at(self, key: WireGuardKey) -> None:
        """Make a packet want to go to a peer."""
        peer = self._desired.wireguard.peers.get(key) if self._desired.wireguard is not None else None
        hosts = [p for p in peer.allowed_ips if p.prefixlen == p.max_prefixlen] if peer is not None else []
        if hosts:
            knock(min(hosts, key=lambda p: p.version).network_address, WIREGUARD_LINK)

    async def _patrol(self) -> None:
        while True:
            await asyncio.sleep(self._drift_s)
            try:
                await self.check_drift()
            except Exception as error:
                say(_reason(error))

    async def check_drift(self) -> None:
        """Compare the host with what it should have, and heal it if the document says so. Raises EngineError."""
        if self.loaded is None:
            return
        if not self._settled:  # no view yet, or the first try failed: try again, and remove nothing
            self._wanted.set()
            return
        async with self.lock:
            if self._foreign.differs(await self.host.foreign()):
                self._wanted.set()  # something came into the way of a network, or out of it
            actual = await self.host.read()
            plan = diff(self._desired, actual)
            document = self.loaded.document
            found = departures(plan, Origins(document, self.member_name(document)), actual)
            self.counters.found += len(set(found) - set(self.drift))
            self.drift = found
            if plan and document.drift is Drift.CORRECT:
                for departure in found:
                    say(f"drift: {departure}")
                outcome = await self.host.apply(self._desired, _quiet)
                self.counters.healed += outcome.changed if outcome.error is None else 0
                if outcome.error is None:
                    self.drift = ()
                else:
                    self.counters.failed += 1
                    say(f"drift could not be put right: {outcome.error}")

    # -- reconciling ------------------------------------------------------------------------------------------

    def member_name(self, document: Document) -> str:
        """Which member of a document this host is. Raises LocalError."""
        member = document.member_by_key(self.keys.wireguard)
        if member is None:
            raise LocalError(
                f"no member of the document has this host's key {self.keys.wireguard}: "
                "add the line that `netctl keys` prints under `members:`"
            )
        return member.name

    def refusals(self) -> tuple[str, ...]:
        """What of the document is not brought up on this host, and why."""
        said = (condition for condition in self.conditions if "." in condition.peer)
        return tuple(f"{condition.peer}: {condition.message}" for condition in said)

    async def _resolve(self, document: Document) -> HostState:
        name = self.member_name(document)
        fixed = {} if document.mediators else await look_up(document)
        self._foreign = await self.host.foreign()
        fitting, refused = clear_of(self.down.of(document), name, self._foreign)
        self.leases.judged = judged = self.leases.judge(document, self.view, trusting=self.joined is not None)
        resolution = resolve(fitting, name, judged.view, live=self.live, resolved=fixed)
        self.conditions = (*refused, *judged.conditions, *resolution.conditions)
        if document.networks_of(name) and not self.down.of(document).networks_of(name):
            self.conditions = ()  # it belongs to networks: they are down, because somebody wanted that
        return resolution.state

    async def reconcile(self, progress: Progress = _quiet) -> ApplyOutcome:
        """Bring the host to the present document and view. Call with the lock held."""
        if self.loaded is None or (self.loaded.document.mediators and self.view is None):
            return ApplyOutcome(0)  # nothing is known yet: what the host has stays
        return await self.settle(await self._resolve(self.loaded.document), progress)

    async def settle(self, desired: HostState, progress: Progress = _quiet) -> ApplyOutcome:
        """Bring the host to this state, and all that follows it. Call with the lock held."""
        outcome = await self.host.apply(desired, progress)
        if outcome.error is None:
            self._desired, self._settled = desired, True
            self.leases.keep(trusting=self.joined is not None)
            if desired.wireguard is None:  # nobody observes a link that is not there
                self.statuses, self.live = {}, frozenset()
            try:
                await self._follow()
                self.trouble = None
            except Exception as error:  # the host is as the document says: that stands, this is tried again
                if self.trouble != (reason := f"paths between members wait: {_reason(error)}"):
                    say(reason)
                self.trouble = reason
        return outcome

    async def forget_leases(self, who: str | None, progress: Progress) -> int:
        """Believe the mediator anew on a member's addresses; None: on all, and on its age. Raises LocalError."""
        async with self.turn(progress):
            count = self.leases.forget(who, self.loaded.document if self.loaded is not None else None)
            if who is None:
                self.client.forget()
            await self.reconcile(progress)
        return count

    async def _follow(self) -> None:
        """Tell the path manager what there is now."""
        peers = self._desired.wireguard.peers if self._desired.wireguard is not None else {}
        self.engine_kind, port = await self.host.port()
        mediated = self.loaded is not None and bool(self.loaded.document.mediators)
        self.paths.use_port(self.engine_kind, port if mediated else 0)
        if mediated:
            await self._look_around()
            self.paths.peers(frozenset(peers))
            self.paths.observe(self.statuses)  # an endpoint that already works is where a path begins
            if self.view is not None:
                for key, member in self.view.members.items():
                    self.paths.presence(key, member.online)
        else:
            self.paths.peers(frozenset())

    async def _look_around(self) -> None:
        if self.loaded is None or not self.loaded.document.mediators:
            return
        addresses = await self.host.addresses()
        member = self.loaded.document.member_by_key(self.keys.wireguard)
        named = replace(self.loaded.document, members={member.name: member} if member is not None else {})
        explicit = await look_up(named)
        self.paths.look_around(tuple(explicit.values()), addresses)

    async def _roamer(self) -> None:
        """Look around as soon as the kernel says that links or addresses have changed."""
        try:
            async for _ in moves():
                with contextlib.suppress(OSError, NetctlError):  # the observer looks again, and says so
                    await self._look_around()
        except EngineError as error:
            say(f"{error}; addresses are looked at every {LOOK_AROUND_S:.0f} s")

    # -- joined by invite: the mediator's excerpt is the document ---------------------------------------------

    async def adopt(self) -> None:
        """This host has joined just now: live by what was written down for it. Raises LocalError."""
        async with self.lock:
            loaded = self.memory.document()
            if loaded is None or self.memory.joined() is None:
                raise LocalError("this host has not joined any network: `netctl join INVITE`")
            self.loaded, self.joined = loaded, self.memory.joined()
            self.client.set_mediators(loaded.document.mediators)
        self.client.poke()

    async def leave(self, progress: Progress) -> ApplyOutcome:
        """Leave all networks that this host joined by invite. Raises LocalError."""
        if self.joined is None:
            raise LocalError(
                "this host has a document: take it out of `members:` there, or use `netctl down`"
            )
        async with self.turn(progress):
            self.commit.armory.must_be_free()
            outcome = await self.host.apply(HostState(), progress)
            if outcome.error is not None:
                return outcome
            self.client.send(Leave())
            deadline = time.monotonic() + LEAVE_WAIT_S
            while self.client.state.state == "connected" and time.monotonic() < deadline:
                await asyncio.sleep(0.05)  # the mediator hangs up when it has forgotten this host
            self.memory.forget()
            self.leases = LeaseBook(self.memory)
            self.down, self.conditions, self.statuses = Down(), (), {}
            self._desired, self._settled = HostState(), False
            self._go_back(None, None, None)
            self.paths.peers(frozenset())
            return outcome

    def _adopt_excerpt(self, view: View) -> None:
        """The mediator's word about this host's networks has changed."""
        if self.loaded is not None and view.document == self.loaded.source.text:
            return
        try:
            loaded = self.memory.load(view.document, "the mediator's excerpt")
            self.member_name(loaded.document)
            self.memory.accept(view.document)
        except (NetctlError, OSError) as error:
            say(f"what the mediator says about this host's networks is refused: {str(error).splitlines()[0]}")
            return
        self.loaded = loaded
        self.client.set_mediators(loaded.document.mediators)

    # -- what people ask for ----------------------------------------------------------------------------------

    async def plan(
        self, text: str, file: str, *, ssh_connection: str = "", everyone: bool = False
    ) -> Planned:
        """What an apply of this text would change. Raises NetctlError."""
        loaded = self.memory.load(text, file)
        async with self.lock:
            before = self.conditions, self.leases.judged
            try:
                desired, actual = await self._resolve(loaded.document), await self.host.read()
                refusals = self.refusals()
            finally:
                self.conditions, self.leases.judged = before
        return make_plan(
            self.member_name(loaded.document),
            loaded,
            self.down.of(self.loaded.document) if self.loaded is not None else None,
            self.down.of(loaded.document),
            desired,
            actual,
            view=self.view,
            ssh_connection=ssh_connection,
            everyone=everyone,
            refusals=refusals,
        )

    @contextlib.asynccontextmanager
    async def turn(self, progress: Progress) -> AsyncIterator[None]:
        """The lock, for somebody who waits: said, and bounded. Raises LocalError."""
        taken = False
        for seconds, word in (
            (TURN_SAID_S, "waiting: another change of this host is under way"),
            (TURN_S, ""),
        ):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.lock.acquire(), seconds)
                taken = True
                break
            if word:
                progress(word)
        if not taken:
            message = (
                f"another change of this host has been under way for {TURN_S:.0f} s; nothing was changed"
            )
            raise LocalError(f"{message}: try again")
        try:
            yield
        finally:
            self.lock.release()

    async def apply(
        self,
        text: str,
        file: str,
        progress: Progress,
        *,
        holds: Binding | None = None,
        terms: Terms | None = None,
    ) -> ApplyResult:
        """Make this text the host's document. Raises NetctlError, with nothing changed.

        `holds`: the binding of a plan; where it holds no more the apply is refused. `terms`: whether it is armed.
        """
        loaded, terms = self.memory.load(text, file), terms or Terms()
        self.member_name(loaded.document)
        armed, verified = None, Verified()
        async with self.turn(progress):
            self.commit.admit(loaded, terms)
            before = self.loaded, self.view, self.joined
            self.loaded, self.joined = loaded, None  # a document of its own comes before a mediator's excerpt
            try:
                waiting = await self._meet(loaded.document, progress)
                if holds is not None or terms.may_arm:
                    desired, actual = await self._resolve(loaded.document), await self.host.read()
                    if holds is not None:
                        refuse_stale(holds, binding(loaded, desired, actual))
                    armed = await self.commit.arm(terms, text, loaded, before[0], desired, actual)
                live = self.live
                outcome = await self.reconcile(progress)
            except BaseException as error:
                self._go_back(*before)
                if armed is not None and isinstance(error, NetctlError):
                    self.commit.armory.disarm()  # said before anything was changed
                raise
            if outcome.error is None and outcome.changed:
                verified = await verify(self, live)
            if outcome.error is not None:
                self._go_back(*before)
            elif verified.cut_off is not None:
                self._go_back(*before)
                outcome = await self._undo(verified.cut_off)
            else:
                try:
                    self.memory.accept(text)
                    self.memory.set_joined(None)
                except OSError as error:
                    self._go_back(*before)
                    outcome = await self._undo(f"cannot keep the document: {error.strerror}")
                self.drift = ()
            if armed is not None:
                self.commit.settle(armed, outcome)
        warnings = (*(str(finding) for finding in loaded.warnings), *self.refusals(), *verified.warnings)
        if outcome.error is None and self.trouble is not None:
            warnings = (*warnings, self.trouble)
        return ApplyResult(outcome, warnings, waiting, armed.plain() if armed is not None else None)

    async def _undo(self, why: str) -> ApplyOutcome:
        """Bring the host back to what is remembered, which is all that the next life will know."""
        if self.loaded is None:
            undone = await self.host.apply(HostState(), _quiet)
            self._desired, self._settled = HostState(), False
        else:
            undone = await self.reconcile(_quiet)
        if undone.error is not None:
            return ApplyOutcome(0, error=f"{why}; going back failed too: {undone.error}")
        return ApplyOutcome(undone.changed, rolled_back=True, error=why)

    def go_back_to(self, loaded: Loaded | None) -> None:
        """Live by this document from now on, with the present view, or the one that is remembered for it."""
        pins = _pins(loaded.document) if loaded is not None else ()
        if self.loaded is None or not set(pins) & set(_pins(self.loaded.document)):
            self.view = None
            self._use(self.memory.view(pins, self.keys.wireguard) if pins else None)
        self._go_back(loaded, self.view, self.memory.joined())

    def _go_back(self, loaded: Loaded | None, view: View | None, joined: str | None) -> None:
        self.loaded, self.view, self.joined = loaded, view, joined
        if view is None:
            self.client.kept = None
        self.client.set_mediators(loaded.document.mediators if loaded is not None else ())

    async def _meet(self, document: Document, progress: Progress) -> str | None:
        """Have a view before anything is changed; without one there is nothing to build a network from."""
        known = self.memory.view(_pins(document), self.keys.wireguard) if document.mediators else None
        if not document.mediators:
            self.view = None
        elif self.view is None or not set(_pins(document)) & set(_pins_of(self.loaded, document)):
            self._use(known)
        self.client.set_mediators(document.mediators)
        if not document.mediators:
            return None
        if self.client.state.state != "connected":
            self.client.poke()
        if self.view is None:
            progress("waiting for the mediator")
        deadline = time.monotonic() + VIEW_WAIT_S
        while self.view is None and time.monotonic() < deadline and not self.client.state.final:
            self._view_came.clear()
            try:
                await asyncio.wait_for(self._view_came.wait(), 0.1)
            except TimeoutError:
                continue
        if self.view is not None:
            state = self.client.state
            return None if state.state == "connected" else state.error
        reason = self.client.state.error or "it has not answered yet"
        raise LocalError(f"{reason}; nothing was changed")

    async def prune(self, at_most: int | None, progress: Progress) -> tuple[Plan, ApplyOutcome]:
        """Remove what is ours on the host and in no document; with `at_most` None only say what that is.

        Raises LocalError while it is not known what the host should have.
        """
        if self.loaded is not None and not self._settled:
            raise LocalError("it is not known yet what this host should have: the agent has not converged")
        async with self.lock:
            plan = prune(self._desired, await self.host.read())
            if at_most is None:
                return plan, ApplyOutcome(0)
            return plan, await self.host.prune(self._desired, at_most, progress)

    async def set_down(self, down: Down, progress: Progress) -> ApplyOutcome:
        """Take networks down or bring them up again, and remember it."""
        async with self.turn(progress):
            self.commit.armory.must_be_free()
            before, self.down = self.down, down
            outcome = await self.reconcile(progress)
            if outcome.error is not None:
                self.down = before
                return outcome
            try:
                self.memory.set_down(down)
            except OSError as error:
                self.down = before
                return await self._undo(f"cannot keep what is down: {error.strerror}")
            return outcome

    async def status(self) -> dict[str, Any]:
        """For `netctl status -o json`, with counts and handshakes of now."""
        old = time.monotonic() - self._observed_at > FRESH_S
        if old and self._desired.wireguard is not None and not self.lock.locked():  # never behind an apply
            await self.observe()
        return status_of(self)

    # -- what the mediator and the paths say --------------------------------------------------------------------

    def _on_control(self, effect: Effect) -> None:
        match effect:
            case LoggedIn(_, stun):
                self.paths.logged_in(stun)
            case ViewChanged(view, kept):
                self.view, self.client.kept = view, kept
                if self.joined is not None and view.document:
                    self._adopt_excerpt(view)
                try:
                    self.memory.keep_view(kept)
                except OSError as error:  # a full disk stops no network
                    say(f"cannot keep the view for the next start: {error.strerror}")
                self._view_came.set()
                self._wanted.set()
            case PresenceChanged(key, online):
                self._presence(key, online)
            case PathMessage(message):
                self.paths.message(message)

    def _presence(self, key: WireGuardKey, online: bool) -> None:
        if self.view is not None and key in self.view.members:
            member = replace(self.view.members[key], online=online)
            self.view = replace(self.view, members={**self.view.members, key: member})
        self.paths.presence(key, online)

    def _on_link(self, state: LinkState) -> None:
        if state.state == "connected":
            say("logged in to the mediator")
            self._said = None
        elif state.state == "unreachable":
            if state.error != self._said:  # not once a try
                say(f"no mediator: {state.error}")
            self._said = state.error
            self.paths.mediator_gone()
        self._view_came.set()

    async def _steer(self, key: WireGuardKey, endpoint: Any) -> None:
        await self.host.steer(key, endpoint)

    def _on_path(self, key: WireGuardKey, status: PathStatus) -> None:
        self.meters.path(key, status.kind, time.monotonic())
        name = key.short
        if self.view is not None and key in self.view.members:
            name = self.view.members[key].name
        say(f"{name}: {status.kind}" + (f" at {status.endpoint}" if status.endpoint else ""))


def remembered(memory: Memory) -> Loaded | None:
    """The accepted document. A damaged one is said and not used: only an agent that runs can be given another."""
    try:
        return memory.document()
    except LocalError as error:
        say(str(error))
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, NetctlError):
        return str(error)
    return f"netctl itself failed ({type(error).__name__}: {error}); it goes on"


def _pins(document: Document) -> tuple[Any, ...]:
    return tuple(pin for mediator in document.mediators for pin in mediator.identity)


def _pins_of(loaded: Loaded | None, default: Document) -> tuple[Any, ...]:
    return _pins(loaded.document if loaded is not None else default)


def _has_session(status: PeerStatus) -> bool:
    return status.last_handshake_s > 0 and time.time() - status.last_handshake_s < SESSION_S
