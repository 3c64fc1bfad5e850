"""The agent: keeps one host as its document and its mediator say, and its tunnels on their best paths."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netctl.agent.armed import Armory, Watchman, start_watchman
from netctl.agent.changes import Changes
from netctl.agent.commit import Commit
from netctl.agent.control_client import ControlClient, LinkState
from netctl.agent.host import Host, look_up
from netctl.agent.joining import Joining
from netctl.agent.keys import Keys
from netctl.agent.leases import LeaseBook
from netctl.agent.memory import Memory, identities
from netctl.agent.paths import PathRunner
from netctl.agent.patrol import DRIFT_S, Patrol
from netctl.agent.revival import Revival
from netctl.agent.status import status_of
from netctl.agent.surroundings import Surroundings, tunnelled
from netctl.agent.talk import Progress, quiet, reason_of, say
from netctl.agent.tunnels import Tunnels
from netctl.agent.verify import HANDSHAKE_WAIT_S
from netctl.agent.watch import DocumentWatch
from netctl.config import Condition, Loaded, clear_of, resolve
from netctl.config.called import called_elsewhere
from netctl.config.consent import within_consent
from netctl.engine import ApplyOutcome
from netctl.engine.rewrites import REWRITES_FILE, Rewrites
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState, insisting
from netctl.model.keys import WireGuardKey
from netctl.model.view import View
from netctl.paths.effects import PathStatus
from netctl.session import Effect, Kept, LoggedIn, PathMessage, PresenceChanged, ViewChanged
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks

if TYPE_CHECKING:
    from netctl.agent.metrics import Meters


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
        self.guard = Guard(say)
        """Counts what could not be handled, wherever it came from."""
        self.tasks = Tasks(self.guard)
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
        self.conditions: tuple[Condition, ...] = ()
        self.engine_kind = ""
        self.data_path = ""
        """What moves the engine's packets, for people."""
        self.meters: Meters | None = None
        """Only where somebody reads them: the library alone takes two megabytes."""
        self.obstacles = Foreign()
        """What of others stood in the way of networks when the host was resolved last."""
        self.desired = HostState()
        self._said: str | None = None
        self.trouble: str | None = None
        """Why paths do not follow the host's present state; tried again by the observer."""
        self._called = self.loaded.document if self.loaded is not None else None
        """The document whose fixed endpoints the tunnels were told last."""
        self.settled = False
        """Whether `desired` is what this life has worked out: before that nothing may be taken for drift."""
        self.lock = asyncio.Lock()
        """Held by whoever changes the host or what it lives by."""
        self.tunnels = Tunnels(self)
        self.surroundings = Surroundings(self)
        self.patrol = Patrol(self, drift_s)
        self.revival = Revival(self)
        self.changes = Changes(self)
        self.joining = Joining(self)
        self.commit = Commit(self, Armory(memory.places), watchman)
        self.watch = DocumentWatch(self, watch) if watch is not None else None
        self.wanted = asyncio.Event()
        """Set by whoever wants the host to be reconciled."""
        self.view_came = asyncio.Event()
        self.handshake_wait_s = HANDSHAKE_WAIT_S
        self.client = ControlClient(keys, self._on_control, self._on_link, self.guard)
        rewrites = Rewrites(memory.places.state / REWRITES_FILE)
        self.paths = PathRunner(keys, self._steer, self.client.send, self._on_path, rewrites, self.guard)

    # -- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Tunnels are left as they are: only `down` takes them away."""
        async with self.lock:
            await self.commit.recover()
        if self.loaded is not None:
            document = self.loaded.document
            self.use(self.memory.view(identities(document), self.keys.wireguard))
            self.client.set_mediators(document.mediators)
            self.wanted.set()
        for name, work in {
            "the control connection": self.client.run,
            "reconciling": self._reconciler,
            "watching the tunnels": self.tunnels.run,
            "watching the surroundings": self.surroundings.run,
            "watching for drift": self.patrol.run,
            "watching the engine": self.revival.run,
            "watching what is armed": self.commit.run,
            **({"watching the document": self.watch.run} if self.watch is not None else {}),
        }.items():
            self.tasks.keep(name, work)
        try:
            await self.tasks.wait()
        finally:
            await self.tasks.end()
            await self.paths.release()
            self.paths.close()
            await self.host.close()

    def use(self, kept: Kept | None) -> None:
        """Live by a view that was kept; the mediator is asked for what has changed since."""
        self.view = kept.view if kept is not None else None
        self.client.kept = kept

    async def _reconciler(self) -> None:
        if self.loaded is not None:  # a new life: sessions that live on keep their broadcast
            await self.tunnels.observe()
        while True:
            await self.wanted.wait()
            self.wanted.clear()
            try:
                async with self.lock:
                    outcome = await self.reconcile(quiet)
                if outcome.error is not None:
                    say(f"could not bring the host to its document: {outcome.error}")
            except Exception as error:  # one failure is one line: the agent lives on
                say(reason_of(error))

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

    async def resolve(self, document: Document) -> HostState:
        """What a document wants of this host, with the present view. Raises LocalError, EngineError."""
        name = self.member_name(document)
        fixed = {} if document.mediators else await look_up(document)
        self.obstacles = await self.host.foreign()
        fitting, refused = clear_of(self.down.of(document), name, self.obstacles)
        if self.joined is not None and not self.memory.allows_routes():
            fitting, unasked = within_consent(fitting, name, self.obstacles)
            # Of two words about one place the stricter holds.
            places = {condition.peer for condition in unasked}
            refused = (*(one for one in refused if one.peer not in places), *unasked)
        self.leases.judged = judged = self.leases.judge(document, self.view, trusting=self.joined is not None)
        resolution = resolve(fitting, name, judged.view, live=self.tunnels.live, resolved=fixed)
        self.conditions = (*refused, *judged.conditions, *resolution.conditions)
        if document.networks_of(name) and not self.down.of(document).networks_of(name):
            self.conditions = ()  # it belongs to networks: they are down, because somebody wanted that
        return insisting(resolution.state, called_elsewhere(self._called, document))

    async def reconcile(self, progress: Progress = quiet) -> ApplyOutcome:
        """Bring the host to the present document and view. Call with the lock held."""
        if self.loaded is None or (self.loaded.document.mediators and self.view is None):
            return ApplyOutcome(0)  # nothing is known yet: what the host has stays
        desired, self._called = await self.resolve(self.loaded.document), self.loaded.document
        return await self.settle(desired, progress)

    async def settle(self, desired: HostState, progress: Progress = quiet) -> ApplyOutcome:
        """Bring the host to this state, and all that follows it. Call with the lock held."""
        outcome = await self.host.apply(desired, progress)
        if outcome.error is None:
            self.desired, self.settled = insisting(desired, frozenset()), True
            self.leases.keep(trusting=self.joined is not None)
            if desired.wireguard is None:
                self.tunnels.gone()
            try:
                await self._follow()
                self.trouble = None
            except Exception as error:  # the host is as the document says: that stands, this is tried again
                if self.trouble != (reason := f"paths between members wait: {reason_of(error)}"):
                    say(reason)
                self.trouble = reason
        return outcome

    async def _follow(self) -> None:
        """Tell the path manager what there is now."""
        peers = self.desired.wireguard.peers if self.desired.wireguard is not None else {}
        self.engine_kind, port = await self.host.port()
        self.data_path = await self.host.data_path()
        document = self.loaded.document if self.loaded is not None else None
        mediated = document is not None and bool(document.mediators)
        self.paths.use_port(self.engine_kind, port if mediated else 0)
        if mediated:
            self.paths.inside(tunnelled(self.desired, document))
            await self.surroundings.look()
            self.paths.peers(frozenset(peers), document.stock_keys() if document is not None else frozenset())
            self.paths.observe(self.tunnels.statuses)  # an endpoint that already works is where a path begins
            if self.view is not None:
                for key, member in self.view.members.items():
                    self.paths.presence(key, member.online)
        else:
            self.paths.peers(frozenset())

    async def status(self) -> dict[str, Any]:
        """For `netctl status -o json`, with counts and handshakes of now."""
        await self.tunnels.refresh()
        return status_of(self)

    # -- what the mediator and the paths say --------------------------------------------------------------------

    def _on_control(self, effect: Effect) -> None:
        match effect:
            case LoggedIn(_, stun):
                self.paths.logged_in(stun, self.client.mediator)
            case ViewChanged(view, kept):
                self.view, self.client.kept = view, kept
                if self.joined is not None and view.document:
                    self.joining.excerpt(view)
                try:
                    self.memory.keep_view(kept)
                except OSError as error:  # a full disk stops no network
                    say(f"cannot keep the view for the next start: {error.strerror}")
                self.view_came.set()
                self.wanted.set()
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
        self.view_came.set()

    async def _steer(self, key: WireGuardKey, endpoint: Any) -> None:
        await self.host.steer(key, endpoint)

    def _on_path(self, key: WireGuardKey, status: PathStatus) -> None:
        if self.meters is not None:
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
