"""Performs a node's steps and notices on a real host: engine, files, mediator, paths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from netctl.agent.following import Following
from netctl.agent.host import Host
from netctl.agent.log import Progress, quiet
from netctl.agent.mediators.controlclient import ControlClient
from netctl.agent.storage.commitstore import CommitStore, Watchdog
from netctl.agent.storage.disk import Disk
from netctl.agent.storage.statestore import StateStore
from netctl.agent.transport.endpointnames import EndpointNames, names_of
from netctl.agent.transport.tunnels import Tunnels
from netctl.model.errors import LocalError
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.context import Context, identities, reason_of


class Performer:
    """All methods run in the agent's event loop; files use one thread, the engine another."""

    def __init__(
        self,
        context: Context,
        store: StateStore,
        commits: CommitStore,
        watchdog: Watchdog,
        host: Host,
        client: ControlClient,
        tunnels: Tunnels,
        following: Following,
        names: EndpointNames,
    ) -> None:
        self._context, self._store, self._commits, self._watchdog = context, store, commits, watchdog
        self._host, self._client, self._tunnels, self._following = host, client, tunnels, following
        self._names = names
        self._disk = Disk()

    @property
    def disk(self) -> Disk:
        """The thread that writes files."""
        return self._disk

    async def perform(self, step: do.Effect, progress: Progress) -> on.Event:
        """Perform one step. Raises any exception of the step."""
        match step:
            case do.ReadHost(document, actual):
                named = frozenset() if document is None or document.mediators else names_of(document)
                return on.HostRead(
                    foreign=await self._host.foreign(),
                    live=self._tunnels.live,
                    resolved=await self._names.of(named),
                    view=self._context.state.view,
                    actual=await self._host.read() if actual else None,
                )
            case do.ApplyHost(desired, _, seen):
                tell = quiet if step.quiet else progress
                return on.Applied(await self._host.apply(desired, tell, seen))
            case do.FollowHost(document):
                try:
                    await self._following.follow(document)
                except Exception as error:  # the host has the desired state: the apply stays valid
                    return on.Followed(f"paths between members wait: {reason_of(error)}")
                return on.Followed()
            case do.Observe():
                await self._tunnels.observe()
                received = {key: status.rx_bytes for key, status in self._tunnels.statuses.items()}
                return on.Observed(self._tunnels.live, received)
            case do.RetryHost():
                await self._host.retry()
                return on.Stored()
            case do.PruneHost(desired, at_most):
                return on.Applied(await self._host.prune(desired, at_most, progress))
            case do.RestoreRoutes(desired):
                return on.Restored(await self._host.restore_routes(desired))
            case do.LookForLink():
                stands = await self._host.link_stands()
                port = (await self._host.port())[1] if stands else 0
                return on.LinkSeen(stands, self._following.engine_kind, port)
            case _:
                return await self._files(step)

    async def _files(self, step: do.Effect) -> on.Event:
        store, commits, run = self._store, self._commits, self._disk.run
        match step:
            case do.RecallView(document):
                return on.ViewKept(await run(store.view, identities(document), self._context.key))
            case do.LoadDocument(text, file):
                return on.DocumentRead(await run(store.load, text, file))
            case do.ReadDocument():
                return on.DocumentRead(await run(store.document), await run(store.joined))
            case do.ReadCommit():
                return on.CommitRead(await run(commits.record), await run(commits.refused))
            case do.Arm():
                return await self._arm(step)
            case do.Disarm():
                return await self._kept(commits.disarm, f"cannot remove {commits.locations.armed}")
            case do.FinishCommit(record):
                await run(commits.finish, record)
                return on.Stored()
            case do.CloseCommit(record):
                return await self._kept(lambda: commits.over(record))
            case do.RestoreDocument(record):
                stored = await self._kept(lambda: commits.put_back(record))
                if isinstance(stored, on.StoreFailed):
                    return on.DocumentRead(*(await run(store.as_before, record)), stored.reason)
                try:
                    loaded = await run(store.document)
                except LocalError:
                    loaded = None  # damaged before the apply: the host's checkpoint returns all the same
                return on.DocumentRead(loaded, await run(store.joined))
            case do.AdmitAgain(digest):
                return await self._kept(lambda: commits.admit_again(digest))
            case do.Persist(text):
                return await self._kept(lambda: _accept(store, text))
            case do.KeepExcerpt(text):
                return await self._kept(lambda: store.accept(text))
            case do.KeepView(kept):
                return await self._kept(lambda: store.keep_view(kept))
            case do.KeepPins(pins):
                return await self._kept(lambda: store.keep_pins(pins))
            case do.KeepDown(down):
                return await self._kept(lambda: store.set_down(down))
            case do.ForgetAll():
                return await self._kept(store.forget)
            case _:
                raise RuntimeError(f"{type(step).__name__} is nothing that a shell does")

    async def _kept(self, write: Callable[[], object], failed: str = "") -> on.Stored | on.StoreFailed:
        """Run a write in the thread for files; an OSError becomes StoreFailed."""
        try:
            await self._disk.run(write)
        except OSError as error:
            reason = error.strerror or str(error)
            return on.StoreFailed(f"{failed}: {reason}" if failed else reason)
        return on.Stored()

    async def _arm(self, wanted: do.Arm) -> on.Event:
        """Write the record of the armed apply and start its rollback watchdog. Raises LocalError."""
        back, terms, engine = wanted.back, wanted.terms, self._following.engine_kind or "auto"
        record = await self._disk.run(
            self._commits.arm, wanted.seconds, wanted.text, back.before, back.checkpoint, engine, terms
        )
        try:
            await asyncio.to_thread(self._watchdog, self._commits.locations, record)
        except BaseException:
            await self._disk.run(self._commits.disarm)
            raise
        return on.WatchdogReady(record)

    def notify(self, notice: do.Notice) -> None:
        """Perform a notice, which has no answer."""
        match notice:
            case do.UseMediators(mediators, kept):
                self._client.kept = kept
                self._client.set_mediators(mediators)
            case do.ConnectNow():
                self._client.poke()
            case do.ForgetMediator():
                self._client.forget()
            case do.TellMediator(message):
                self._client.send(message)
            case do.Knock(keys):
                for key in keys:
                    self._tunnels.knock_at(key)
            case do.EngineGone():
                self._following.engine_gone()
            case do.HostLeft():
                self._following.leave()


def _accept(store: StateStore, text: str) -> None:
    """Store the accepted document of a host that is not, or no longer, joined by invite."""
    store.accept(text)
    store.set_joined(None)
