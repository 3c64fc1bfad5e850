"""The agent: keeps one host as its document and its mediator say, and its tunnels on their best paths.

What is to be done is decided by the node (`netctl.node`); this is what it is wired to on a real host.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netctl.agent.following import Following
from netctl.agent.host import Host
from netctl.agent.log import Progress, quiet, say, warn
from netctl.agent.mediators.controlclient import ControlClient
from netctl.agent.mediators.nat64discovery import Nat64
from netctl.agent.performing import Performer
from netctl.agent.runner import Runner
from netctl.agent.storage.commitstore import CommitStore, Watchdog, boot_id, start_watchdog
from netctl.agent.storage.keyfiles import Keys
from netctl.agent.storage.statestore import StateStore
from netctl.agent.storage.timeline import Timeline
from netctl.agent.takesnapshot import Sources, take
from netctl.agent.transport.addressmonitor import AddressMonitor
from netctl.agent.transport.endpointnames import EndpointNames
from netctl.agent.transport.pathmtus import PathMtus
from netctl.agent.transport.pathrunner import PathRunner
from netctl.agent.transport.tunnels import Tunnels
from netctl.agent.watchers.documentwatch import DocumentWatch
from netctl.agent.watchers.enginewatch import EngineWatch
from netctl.agent.watchers.firewallcheck import Firewall
from netctl.agent.watchers.routewatch import RouteWatch
from netctl.agent.watchers.rulesetwatch import Rulesets
from netctl.config import Loaded
from netctl.engine.filter.rewrites import REWRITES_FILE, Rewrites
from netctl.model.addresses import SocketAddress
from netctl.model.errors import LocalError, NetctlError
from netctl.model.keys import WireGuardKey
from netctl.model.outcome import ApplyOutcome, in_words
from netctl.model.view import View
from netctl.node import events as on
from netctl.node import requests
from netctl.node.changing import ApplyResult
from netctl.node.commit import Terms
from netctl.node.context import Context
from netctl.node.linkstate import LinkState
from netctl.node.node import DRIFT_S, Node
from netctl.node.planreport import Planned
from netctl.node.snapshot import Snapshot
from netctl.node.state import NodeState
from netctl.node.status import status_of
from netctl.paths.effects import PathStatus
from netctl.plan import Binding
from netctl.session import Effect, LoggedIn, PathMessage, PresenceChanged, ViewChanged
from netctl.system.clock import boottime
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What an apply came to, for people. `armed`: what `status` says of one that waits for its confirmation."""

    outcome: ApplyOutcome
    warnings: tuple[str, ...] = ()
    waiting: str | None = None
    armed: dict[str, Any] | None = None


class Agent:
    """Everything here runs in one event loop; the host is touched by one thread, one change at a time."""

    def __init__(
        self,
        keys: Keys,
        store: StateStore,
        host: Host,
        *,
        drift_s: float = DRIFT_S,
        watchdog: Watchdog = start_watchdog,
        watch: Path | None = None,
    ) -> None:
        self.guard = Guard(warn)
        """Counts what could not be handled, wherever it came from."""
        self.tasks = Tasks(self.guard)
        self.store, self.host, self.commits = store, host, CommitStore(store.locations)
        loaded = remembered(store)
        state = NodeState(
            loaded=loaded,
            joined=store.joined(),
            pins=store.pins(),
            down=store.down(),
            told=loaded.document if loaded is not None else None,
        )
        self.context = Context(keys.wireguard, boot_id(), state)
        """What the node knows: to be looked at. The node changes it (exceptions: see `Context`)."""
        self.timeline = Timeline(store.locations.timeline)
        self.runner = Runner(
            Node(self.context, drift_s), self.guard, self.tasks, lambda text: self.timeline.add("host", text)
        )
        self.client = ControlClient(keys, self._on_control, self._on_link, self.guard)
        rewrites = Rewrites(store.locations.state / REWRITES_FILE)
        self.mtus = PathMtus(self.context, host)
        self.paths = PathRunner(
            keys,
            host.steer,
            self.client.send,
            self._on_path,
            rewrites,
            self.guard,
            through=lambda key: self.tunnels.knock_at(key),
            look_soon=lambda after_s: self.tunnels.look_soon(after_s),
            limit_size=self.mtus.limit,
            another_port=lambda why: self.runner.post(on.PortUnfit(why)),
        )
        self.nat64 = Nat64(self.guard, self.paths.use_nat64)
        self.names = EndpointNames(keys.wireguard, self.guard, self._on_names)
        self.addresses = AddressMonitor(self.context, host, self.paths, self.names, self.nat64, self._on_move)
        self.tunnels = Tunnels(
            self.runner, host, self.paths, self.addresses, self.names, on_wake=self._on_wake
        )
        self.following = Following(
            self.context, host, self.paths, self.tunnels, self.addresses, self.mtus, self.names
        )
        self.firewall = Firewall(self.context, host, self.runner)
        self.rulesets = Rulesets(self.runner, host)
        self.routes = RouteWatch(self.runner, self.mtus)
        self.performer = Performer(
            self.context,
            store,
            self.commits,
            watchdog,
            host,
            self.client,
            self.tunnels,
            self.following,
            self.names,
        )
        self.runner.attach(self.performer.perform, self.performer.notify)
        self.watch = DocumentWatch(self, watch) if watch is not None else None

    @property
    def state(self) -> NodeState:
        """What this host knows and has decided."""
        return self.context.state

    # -- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Tunnels are left as they are: only `down` takes them away."""
        self.timeline.add("host", "the agent began")
        self.runner.post(on.Started())
        for name, work in {
            "the control connection": self.client.run,
            "watching the tunnels": self.tunnels.run,
            "watching the addresses": self.addresses.run,
            "watching the engine": EngineWatch(self.runner).run,
            "watching the tables": self.rulesets.run,
            "watching the routes": self.routes.run,
            "sizes of packets": self.mtus.run,
            "the time line": lambda: self.timeline.run(self.performer.disk, warn),
            **({"watching the document": self.watch.run} if self.watch is not None else {}),
        }.items():
            self.tasks.keep(name, work)
        try:
            await self.tasks.wait()
        finally:
            self.runner.close()
            await self.tasks.end()
            await self._keep_view()
            with contextlib.suppress(OSError):
                await self.timeline.save(self.performer.disk)
            await self.close()

    async def close(self) -> None:
        """Let go of everything that this life has opened."""
        self.runner.close()
        self.names.close()
        self.nat64.close()
        await self.paths.release()
        self.paths.close()
        await self.host.close()
        self.performer.disk.close()

    async def _keep_view(self) -> None:
        """Have the newest view on disk for the next life."""
        kept, self.context.unkept = self.context.unkept, None
        if kept is not None:
            try:
                await self.performer.disk.run(self.store.keep_view, kept)
            except OSError as error:  # a full disk stops no network
                warn(f"cannot keep the view for the next start: {error.strerror}")

    # -- what people ask --------------------------------------------------------------------------------------

    async def plan(
        self, text: str, file: str, *, ssh_connection: str = "", everyone: bool = False
    ) -> Planned:
        """What an apply of this text would change. Changes nothing, of the agent neither. Raises NetctlError."""
        loaded = await self._load(text, file)
        planned: Planned = await self.runner.ask(requests.Plan(loaded, ssh_connection, everyone))
        return planned

    async def apply(
        self,
        text: str,
        file: str,
        progress: Progress = quiet,
        *,
        holds: Binding | None = None,
        terms: Terms | None = None,
    ) -> ApplyReport:
        """Make this text the host's document. Raises NetctlError, with nothing changed.

        `holds`: the binding of a plan; where it holds no more the apply is refused. `terms`: whether it is armed.
        """
        loaded = await self._load(text, file)
        wish = requests.Apply(loaded, terms or Terms(), holds)
        try:
            result: ApplyResult = await self.runner.ask(wish, progress)
        except NetctlError as error:
            self.timeline.add("apply", f"an apply was refused: {error}")
            raise
        armed_for = f", for {result.armed.deadline_s - boottime():.0f} s" if result.armed is not None else ""
        how = "a save" if wish.terms.unattended else "a document"
        self.timeline.add("apply", f"{how} was applied{armed_for}: {in_words(result.outcome)}")
        warnings = (*result.warnings, *self.host.troubles())
        if result.outcome.error is None and self.context.trouble is not None:
            warnings = (*warnings, self.context.trouble)
        if result.outcome.error is None:
            warnings = (*warnings, *map(str, await self.firewall.look()))
        armed = self.commits.record() if result.armed is not None else None
        return ApplyReport(
            result.outcome, warnings, result.waiting, armed.plain() if armed is not None else None
        )

    async def _load(self, text: str, file: str) -> Loaded:
        return await self.performer.disk.run(self.store.load, text, file)

    def somebody_confirms(self) -> bool:
        """Whether an apply waits for a person."""
        try:
            record = self.commits.record()
        except LocalError:
            return False
        return record is not None and not record.unattended

    def refused(self) -> tuple[str, ...]:
        """Digests of documents that were rolled back."""
        return self.commits.refused()

    async def status(self) -> dict[str, Any]:
        """For `netctl status -o json`, with counts and handshakes of now."""
        await self.tunnels.refresh()
        await self.firewall.refresh()
        return status_of(self.snapshot())

    def snapshot(self) -> Snapshot:
        """What is so just now."""
        return take(
            Sources(
                self.context,
                self.store,
                self.commits,
                self.client,
                self.paths,
                self.tunnels,
                self.following,
                self.rulesets,
                self.routes,
                self.host,
                self.guard,
                self.watch,
                self.firewall,
            )
        )

    # -- what the network around says ---------------------------------------------------------------------------

    def _on_move(self) -> None:
        self.client.prove()
        self.names.network_changed()
        self.nat64.look(moved=True)

    async def _on_names(self, moved: Mapping[WireGuardKey, SocketAddress]) -> None:
        """A name has other addresses: of a peer that is silent, or of this host itself."""
        document = self.state.document
        if document is not None and document.mediators:
            await self.addresses.look(document)
            return
        self.runner.post(on.ReconcileWanted())
        for key, address in moved.items():
            await self.host.steer(key, address)
            self.tunnels.knock_at(key)

    # -- what the mediator and the paths say --------------------------------------------------------------------

    def _on_control(self, effect: Effect) -> None:
        match effect:
            case LoggedIn(_, stun):
                self.paths.logged_in(stun, self.client.mediator)
            case ViewChanged(view, kept):
                self.client.kept = kept
                self._members(view)
                self.runner.post(on.ViewReceived(view, kept))
            case PresenceChanged(key, online):
                self.timeline.add("member", f"{self.state.name_of(key)}: {'online' if online else 'offline'}")
                self.runner.post(on.PresenceReceived(key, online))
                self.paths.presence(key, online)
            case PathMessage(message, servers):
                self.paths.message(message, servers)
            case _:  # the rest is between the client and its session
                pass

    def _on_link(self, state: LinkState) -> None:
        self.runner.post(on.LinkChanged(state))
        if state.state == "unreachable":
            self.paths.mediator_gone()

    def _on_wake(self, slept_s: float) -> None:
        say(f"this host stood still for {slept_s:.0f} s: every path is tried anew")
        self.client.woke(slept_s)
        self.paths.woke()

    def _on_path(self, key: WireGuardKey, status: PathStatus) -> None:
        if self.tunnels.meter is not None:
            self.tunnels.meter.path(key, status.kind, time.monotonic())
        name = self.context.state.name_of(key)
        why = f" ({status.distrust})" if status.distrust else ""
        text = f"{name}: {status.kind}" + (f" at {status.endpoint}" if status.endpoint else "") + why
        say(text)
        self.timeline.add("path", text)

    def _members(self, view: View) -> None:
        """Who has come into the view, and who has gone out of it, since the view before."""
        before = self.state.view
        if before is None:
            return
        for key in view.members.keys() - before.members.keys():
            self.timeline.add("member", f"{view.members[key].name} joined")
        for key in before.members.keys() - view.members.keys():
            self.timeline.add("member", f"{before.members[key].name} is no member any more, or out of sight")


def remembered(store: StateStore) -> Loaded | None:
    """The accepted document. A damaged one is said and not used: only an agent that runs can be given another."""
    try:
        return store.document()
    except LocalError as error:
        warn(str(error))
        return None
