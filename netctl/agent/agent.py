"""The agent: keeps one host in the state of its document and its mediator's view, and its tunnels on their best paths.

The node (`netctl.node`) makes the decisions; this module connects it with the real host.
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
from netctl.agent.ownrelay import OwnRelay
from netctl.agent.performing import Performer
from netctl.agent.runner import Runner
from netctl.agent.storage.commitstore import CommitStore, Watchdog, boot_id, start_watchdog
from netctl.agent.storage.keyfiles import Keys
from netctl.agent.storage.statestore import StateStore
from netctl.agent.storage.timeline import Timeline
from netctl.agent.takesnapshot import Sources, take
from netctl.agent.transport.addressmonitor import AddressMonitor
from netctl.agent.transport.doorbells import idle_s
from netctl.agent.transport.echoprobe import EchoProbe
from netctl.agent.transport.endpointnames import EndpointNames
from netctl.agent.transport.pathmtus import PathMtus
from netctl.agent.transport.pathrunner import PathRunner
from netctl.agent.transport.tunnels import Tunnels
from netctl.agent.viewers import Viewers
from netctl.agent.watchers.documentwatch import DocumentWatch
from netctl.agent.watchers.enginewatch import EngineWatch
from netctl.agent.watchers.firewallcheck import Firewall
from netctl.agent.watchers.routewatch import RouteWatch
from netctl.agent.watchers.rulesetwatch import Rulesets
from netctl.config import Loaded
from netctl.engine.filter.rewrites import REWRITES_FILE, Rewrites
from netctl.model.addresses import Address, SocketAddress
from netctl.model.errors import EngineError, LocalError, NetctlError
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
from netctl.session import Effect, LoggedIn, PathMessage, PresenceChanged, PresenceKnown, ViewChanged
from netctl.system.clock import boottime
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """The result of an apply, for people. `armed`: the apply that waits for confirmation, as `status` shows it."""

    outcome: ApplyOutcome
    warnings: tuple[str, ...] = ()
    waiting: str | None = None
    armed: dict[str, Any] | None = None


class Agent:
    """All methods run in one event loop. One thread changes the host, one change at a time."""

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
        """Counts all input that raised an unexpected exception."""
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
        """The node's knowledge, for reading. Only the node changes it (exceptions: see `Context`)."""
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
            echo=lambda key, transaction: self.echoes.send(key, transaction),
            on_liveness=lambda: self.viewers.changed(),
            look_soon=lambda after_s: self.tunnels.look_soon(after_s),
            limit_size=self.mtus.limit,
            another_port=lambda why: self.runner.post(on.PortUnfit(why)),
            on_open=self.client.interested,
            idle_s=idle_s(),
        )
        self.viewers = Viewers(self._watched)
        self.echoes = EchoProbe(self._open_address, self.paths.echoed, self.guard)
        self.nat64 = Nat64(self.guard, self.paths.use_nat64)
        self.names = EndpointNames(keys.wireguard, self.guard, self._on_names)
        self.addresses = AddressMonitor(self.context, host, self.paths, self.names, self.nat64, self._on_move)
        self.tunnels = Tunnels(
            self.runner, host, self.paths, self.addresses, self.names, on_wake=self._on_wake
        )
        self.following = Following(
            self.context,
            host,
            self.paths,
            self.tunnels,
            self.addresses,
            self.mtus,
            self.names,
            OwnRelay(keys, self.guard),
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
        """What the node knows and has decided."""
        return self.context.state

    # -- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled. Tunnels stay after the end: only `down` removes them."""
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
        """Close all sockets, files and threads of this agent."""
        self.runner.close()
        self.names.close()
        self.nat64.close()
        await self.following.own_relay.close()
        await self.paths.release()
        self.paths.close()
        self.echoes.close()
        await self.host.close()
        self.performer.disk.close()

    async def _keep_view(self) -> None:
        """Save the newest view for the next start of the agent."""
        kept, self.context.unkept = self.context.unkept, None
        if kept is not None:
            try:
                await self.performer.disk.run(self.store.keep_view, kept)
            except OSError as error:  # a full disk must not stop the network
                warn(f"cannot keep the view for the next start: {error.strerror}")

    # -- requests of people --------------------------------------------------------------------------------------

    async def plan(
        self, text: str, file: str, *, ssh_connection: str = "", everyone: bool = False
    ) -> Planned:
        """What an apply of this text would change. Changes neither host nor agent. Raises NetctlError."""
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
        """Apply a document to the host. Raises NetctlError before any change.

        `holds`: the binding of a plan; the apply is refused if it does not hold now. `terms`: whether it is armed.
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
        """Whether an apply waits for the confirmation of a person."""
        try:
            record = self.commits.record()
        except LocalError:
            return False
        return record is not None and not record.unattended

    def refused(self) -> tuple[str, ...]:
        """Digests of documents that were rolled back."""
        return self.commits.refused()

    async def status(self, *, look: bool = True) -> dict[str, Any]:
        """The answer to `netctl status -o json`, with present counters and handshakes. `look`: see `Status`."""
        if look:
            await self.client.know_all()
        await self.tunnels.refresh()
        await self.firewall.refresh()
        return status_of(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The present state, for `status` and `doctor`."""
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

    # -- events of the network around ---------------------------------------------------------------------------

    def _on_move(self) -> None:
        self.client.prove()
        self.paths.routes_changed()
        self.names.network_changed()
        self.paths.network_changed()
        self.nat64.look(moved=True)

    async def _on_names(self, moved: Mapping[WireGuardKey, SocketAddress]) -> None:
        """A name of a peer or of this host has other addresses. `moved`: new endpoints of silent peers."""
        document = self.state.document
        if document is not None and document.mediators:
            await self.addresses.look(document)
            return
        self.runner.post(on.ReconcileWanted())
        with contextlib.suppress(EngineError):
            await self.host.steer(moved)
        for key in moved:
            self.tunnels.knock_at(key)

    # -- events of the mediator and the paths --------------------------------------------------------------------

    def _on_control(self, effect: Effect) -> None:
        match effect:
            case LoggedIn(welcome, stun):
                self.paths.logged_in(stun, self.client.mediator, names=welcome.spread)
            case ViewChanged(view, kept):
                self.client.kept = kept
                self._members(view)
                self.runner.post(on.ViewReceived(view, kept))
            case PresenceChanged(key, online):
                self.timeline.add("member", f"{self.state.name_of(key)}: {'online' if online else 'offline'}")
                self._presence({key: online})
            case PresenceKnown(told, kept):
                if kept is not None:
                    self.client.kept = kept
                    self.runner.post(on.ViewConfirmed(kept))
                self._presence(told)
            case PathMessage(message, servers):
                self.paths.message(message, servers)
            case _:  # the control client has handled the others
                pass

    def _watched(self, for_s: float) -> None:
        """There will be a viewer for so many seconds."""
        self.paths.watch(for_s)
        self.client.look_at_all()

    def _presence(self, online: Mapping[WireGuardKey, bool | None]) -> None:
        self.runner.post(on.PresenceReceived(online))
        self.paths.presence(online)
        self.viewers.changed()

    def _on_link(self, state: LinkState) -> None:
        self.runner.post(on.LinkChanged(state))
        if state.state == "unreachable":
            self.paths.mediator_gone()

    def _on_wake(self, stood_s: float, suspended_s: float) -> None:
        say(f"this host stood still for {stood_s:.0f} s: every path is tried anew")
        self.client.woke(stood_s)
        self.paths.woke(suspended_s)
        self.runner.post(on.TimePassed())  # its deadlines count in suspend, and asyncio's timers do not

    def _on_path(self, key: WireGuardKey, status: PathStatus) -> None:
        if self.tunnels.meter is not None:
            self.tunnels.meter.path(key, status.kind, time.monotonic())
        name = self.context.state.name_of(key)
        why = f" ({status.distrust})" if status.distrust else ""
        text = f"{name}: {status.kind}" + (f" at {status.endpoint}" if status.endpoint else "") + why
        if status.opened_s is not None:
            text += f", {status.opened_s * 1000:.0f} ms after the first packet"
        say(text)
        self.timeline.add("path", text)
        self.viewers.changed()

    def _open_address(self, key: WireGuardKey) -> Address | None:
        """An address of a peer with a session; None without one, as a request would start a handshake."""
        return self.tunnels.address_of(key) if key in self.tunnels.live else None

    def _members(self, view: View) -> None:
        """Note in the time line which members entered and left the view."""
        before = self.state.view
        if before is None:
            return
        for key in view.members.keys() - before.members.keys():
            self.timeline.add("member", f"{view.members[key].name} joined")
        for key in before.members.keys() - view.members.keys():
            self.timeline.add("member", f"{before.members[key].name} is no member any more, or out of sight")


def remembered(store: StateStore) -> Loaded | None:
    """The accepted document; None, with a warning, if it is damaged: the agent must run to receive another."""
    try:
        return store.document()
    except LocalError as error:
        warn(str(error))
        return None
