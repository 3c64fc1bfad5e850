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
from netctl.agent.control_client import ControlClient
from netctl.agent.disk import Disk
from netctl.agent.host import Host, look_up
from netctl.agent.joining import Joining
from netctl.agent.keys import Keys
from netctl.agent.paths import PathRunner
from netctl.agent.patrol import DRIFT_S, Patrol
from netctl.agent.revival import Revival
from netctl.agent.routewatch import RouteWatch
from netctl.agent.rulesets import Rulesets
from netctl.agent.snapshot import take
from netctl.agent.store import StateStore, identities
from netctl.agent.surroundings import Surroundings, tunnelled
from netctl.agent.talk import Progress, quiet, reason_of, say, warn
from netctl.agent.tunnels import Tunnels
from netctl.agent.verify import HANDSHAKE_WAIT_S
from netctl.agent.watch import DocumentWatch
from netctl.config import Loaded
from netctl.engine import ApplyOutcome
from netctl.engine.rewrites import REWRITES_FILE, Rewrites
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.node.evaluate import Evaluation, evaluate, member_name
from netctl.node.events import HostRead
from netctl.node.snapshot import LinkState
from netctl.node.state import NodeState
from netctl.node.status import status_of
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
        store: StateStore,
        host: Host,
        *,
        drift_s: float = DRIFT_S,
        watchman: Watchman = start_watchman,
        watch: Path | None = None,
    ) -> None:
        self.guard = Guard(warn)
        """Counts what could not be handled, wherever it came from."""
        self.tasks = Tasks(self.guard)
        self.keys = keys
        self.store = store
        self.host = host
        self.disk = Disk()
        loaded = remembered(store)
        self.state = NodeState(
            loaded=loaded,
            joined=store.joined(),
            pins=store.pins(),
            down=store.down(),
            told=loaded.document if loaded is not None else None,
        )
        """What this host knows and has decided; replaced whole, by whoever holds the lock (views by whoever comes)."""
        self.engine_kind = ""
        self.data_path = ""
        """What moves the engine's packets, for people."""
        self.meters: Meters | None = None
        """Only where somebody reads them: the library alone takes two megabytes."""
        self._said: str | None = None
        self.trouble: str | None = None
        """Why paths do not follow the host's present state; tried again by the observer."""
        self.lock = asyncio.Lock()
        """Held by whoever changes the host or what it lives by."""
        self.tunnels = Tunnels(self)
        self.surroundings = Surroundings(self)
        self.patrol = Patrol(self, drift_s)
        self.revival = Revival(self)
        self.rulesets = Rulesets(self)
        self.routes = RouteWatch(self)
        self.changes = Changes(self)
        self.joining = Joining(self)
        self.commit = Commit(self, Armory(store.places), watchman)
        self.watch = DocumentWatch(self, watch) if watch is not None else None
        self.unmet: str | None = None
        """Why the last try to bring the host to its accepted document failed; tried again with each look for drift."""
        self.wanted = asyncio.Event()
        """Set by whoever wants the host to be reconciled."""
        self.view_came = asyncio.Event()
        self._unkept: Kept | None = None
        """The view that is not on disk yet."""
        self._keep = asyncio.Event()
        self.handshake_wait_s = HANDSHAKE_WAIT_S
        self.client = ControlClient(keys, self._on_control, self._on_link, self.guard)
        rewrites = Rewrites(store.places.state / REWRITES_FILE)
        self.paths = PathRunner(keys, self._steer, self.client.send, self._on_path, rewrites, self.guard)

    # -- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Tunnels are left as they are: only `down` takes them away."""
        async with self.lock:
            await self.commit.recover()
        if (document := self.state.document) is not None:
            self.use(await self.remembered_view(document))
            self.client.set_mediators(document.mediators)
            self.wanted.set()
        for name, work in {
            "the control connection": self.client.run,
            "reconciling": self._reconciler,
            "watching the tunnels": self.tunnels.run,
            "watching the surroundings": self.surroundings.run,
            "watching for drift": self.patrol.run,
            "watching the engine": self.revival.run,
            "watching the tables": self.rulesets.run,
            "watching the routes": self.routes.run,
            "watching what is armed": self.commit.run,
            "keeping views": self._keep_views,
            **({"watching the document": self.watch.run} if self.watch is not None else {}),
        }.items():
            self.tasks.keep(name, work)
        try:
            await self.tasks.wait()
        finally:
            await self.tasks.end()
            await self.keep_view()
            await self.close()

    async def close(self) -> None:
        """Let go of everything that this life has opened."""
        await self.paths.release()
        self.paths.close()
        await self.host.close()
        self.disk.close()

    def use(self, kept: Kept | None) -> None:
        """Live by a view that was kept; the mediator is asked for what has changed since."""
        self.state = replace(self.state, view=kept.view if kept is not None else None)
        self.client.kept = kept

    async def remembered_view(self, document: Document) -> Kept | None:
        """The view of one of a document's mediators that is on disk."""
        return await self.disk.run(self.store.view, identities(document), self.keys.wireguard)

    async def _keep_views(self) -> None:
        while True:
            await self._keep.wait()
            self._keep.clear()
            async with self.lock:  # the view of a mediator that is only tried is not kept
                await self.keep_view()

    async def keep_view(self) -> None:
        """Have the newest view on disk for the next life."""
        kept, self._unkept = self._unkept, None
        if kept is not None:
            try:
                await self.disk.run(self.store.keep_view, kept)
            except OSError as error:  # a full disk stops no network
                warn(f"cannot keep the view for the next start: {error.strerror}")

    def drop_view(self) -> None:
        """The view that came last is not for the next life."""
        self._unkept = None

    async def _reconciler(self) -> None:
        if self.state.loaded is not None:  # a new life: sessions that live on keep their broadcast
            await self.tunnels.observe()
        while True:
            await self.wanted.wait()
            self.wanted.clear()
            try:
                async with self.lock:
                    await self.joining.take_excerpt()
                    outcome = await self.reconcile(quiet)
                self._unmet(outcome.error)
            except Exception as error:  # one failure is one line: the agent lives on
                self._unmet(reason_of(error))

    def _unmet(self, reason: str | None) -> None:
        """Keep why the host is not as its document says, for `status`; say it once."""
        if reason is not None and reason != self.unmet:
            warn(f"could not bring the host to its document: {reason}")
        self.unmet = reason

    # -- reconciling ------------------------------------------------------------------------------------------

    async def evaluate(self, state: NodeState) -> Evaluation:
        """What a state's document wants of this host. Changes nothing. Raises LocalError, EngineError."""
        assert state.loaded is not None
        document = state.loaded.document
        member_name(document, self.keys.wireguard)  # before anything is looked up
        seen = await self.read_host(document)
        return evaluate(
            document,
            state.view,
            state.pins,
            seen.foreign,
            seen.live,
            seen.resolved,
            key=self.keys.wireguard,
            down=state.down,
            joined=state.joined,
            told=state.told,
        )

    async def read_host(self, document: Document, *, actual: bool = False) -> HostRead:
        """What an evaluation of this document needs. Raises EngineError."""
        return HostRead(
            foreign=await self.host.foreign(),
            live=self.tunnels.live,
            resolved={} if document.mediators else await look_up(document),
            view=self.state.view,
            actual=await self.host.read() if actual else None,
        )

    async def reconcile(self, progress: Progress = quiet) -> ApplyOutcome:
        """Bring the host to the accepted document and the newest view. Call with the lock held."""
        if not self.state.knows:
            return ApplyOutcome(0)  # nothing is known yet: what the host has stays
        evaluation = await self.evaluate(self.state)
        self.state = self.state.evaluated(evaluation)
        outcome = await self.bring(evaluation.desired, evaluation.document, progress)
        if outcome.error is None:
            await self.pin(evaluation)
        return outcome

    async def pin(self, evaluation: Evaluation) -> None:
        """The host lives by this evaluation: from now on only the document moves its leases."""
        if evaluation.pins is None or evaluation.pins == self.state.pins:
            return
        self.state = replace(self.state, pins=evaluation.pins)
        try:
            await self.disk.run(self.store.keep_pins, evaluation.pins)
        except OSError as error:  # a full disk stops no network
            warn(f"cannot keep the leases for the next start: {error.strerror}")

    async def bring(
        self, desired: HostState, document: Document | None, progress: Progress, seen: HostState | None = None
    ) -> ApplyOutcome:
        """Bring the host to this state, and all that follows it. Call with the lock held.

        `document`: what it was made from. `seen`: refuse when the host is not as it was seen.
        """
        outcome = await self.host.apply(desired, progress, seen)
        if outcome.error is None:
            self.state, self.unmet = self.state.brought(desired, document), None
            if desired.wireguard is None:
                self.tunnels.gone()
            try:
                await self._follow(document)
                self.trouble = None
            except Exception as error:  # the host is as the document says: that stands, this is tried again
                if self.trouble != (reason := f"paths between members wait: {reason_of(error)}"):
                    warn(reason)
                self.trouble = reason
        return outcome

    async def _follow(self, document: Document | None) -> None:
        """Tell the path manager what there is now."""
        desired, view = self.state.desired, self.state.view
        peers = desired.wireguard.peers if desired.wireguard is not None else {}
        self.engine_kind, port = await self.host.port()
        self.data_path = await self.host.data_path()
        mediated = document is not None and bool(document.mediators)
        self.paths.use_port(self.engine_kind, port if mediated else 0)
        if mediated:
            self.paths.inside(tunnelled(desired, document))
            await self.surroundings.look(document)
            self.paths.peers(frozenset(peers), document.stock_keys() if document is not None else frozenset())
            self.paths.observe(self.tunnels.statuses)  # an endpoint that already works is where a path begins
            if view is not None:
                for key, member in view.members.items():
                    self.paths.presence(key, member.online)
        else:
            self.paths.peers(frozenset())

    async def status(self) -> dict[str, Any]:
        """For `netctl status -o json`, with counts and handshakes of now."""
        await self.tunnels.refresh()
        return status_of(take(self))

    # -- what the mediator and the paths say --------------------------------------------------------------------

    def _on_control(self, effect: Effect) -> None:
        match effect:
            case LoggedIn(_, stun):
                self.paths.logged_in(stun, self.client.mediator)
            case ViewChanged(view, kept):
                self.state = replace(self.state, view=view)
                self.client.kept = self._unkept = kept
                self._keep.set()
                self.view_came.set()
                self.wanted.set()
            case PresenceChanged(key, online):
                self._presence(key, online)
            case PathMessage(message, servers):
                self.paths.message(message, servers)

    def _presence(self, key: WireGuardKey, online: bool) -> None:
        self.state = self.state.present(key, online)
        self.paths.presence(key, online)

    def _on_link(self, state: LinkState) -> None:
        if state.state == "connected":
            say("logged in to the mediator")
            self._said = None
        elif state.state == "unreachable":
            if state.error != self._said:  # not once a try
                warn(f"no mediator: {state.error}")
            self._said = state.error
            self.paths.mediator_gone()
        self.view_came.set()

    async def _steer(self, key: WireGuardKey, endpoint: Any) -> None:
        await self.host.steer(key, endpoint)

    def _on_path(self, key: WireGuardKey, status: PathStatus) -> None:
        if self.meters is not None:
            self.meters.path(key, status.kind, time.monotonic())
        view = self.state.view
        name = view.members[key].name if view is not None and key in view.members else key.short
        say(f"{name}: {status.kind}" + (f" at {status.endpoint}" if status.endpoint else ""))


def remembered(store: StateStore) -> Loaded | None:
    """The accepted document. A damaged one is said and not used: only an agent that runs can be given another."""
    try:
        return store.document()
    except LocalError as error:
        warn(str(error))
        return None
