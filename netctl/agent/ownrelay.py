"""Runs this member's relay as a child process, where the document says `relay` of this member.

The child (`mediator.shell.memberrelay`, of the mediator's package) gets the ports and the secrets by which grants are
checked, and no key. It ends with its standard input, so with this agent, however the agent ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import random
import time
from dataclasses import replace

from netctl.agent.log import warn
from netctl.agent.storage.keyfiles import Keys
from netctl.model.document import Document, relay_of
from netctl.model.errors import LocalError, RemoteError
from netctl.node.context import identities
from netctl.node.snapshot import NO_RELAY, OwnRelayStatus
from netctl.session import Backoff
from netctl.system.guard import Guard
from netctl.system.ourselves import environment, module
from netctl.system.tasks import Tasks
from netctl.wire.relayorders import MAX_LINE, RelayOrder, RelayReport, read_line, write_line
from netctl.wire.relaysecret import agreed_secret

PROGRAM = "mediator.shell.memberrelay"
RETRY_BASE_S = 1.0
RETRY_CAP_S = 60.0
"""Back-off between two starts of a relay that ended: a port may be taken by another program for hours."""
STABLE_S = 30.0
"""A relay that lasted so long did not fail at its start: the next one begins at once."""
GOODBYE_S = 2.0
"""Seconds that a relay has to end by itself, before it is killed."""
MAX_TRUSTED = 16
"""Mediators' identities whose grants are checked, as at any relay (`mediator.core.relay_table.MAX_SECRETS`)."""


def order_of(document: Document, keys: Keys) -> RelayOrder | None:
    """What this member's relay is told; None: the document wants no relay here.

    Raises LocalError where the document wants one that nobody could use.
    """
    member = document.member_by_key(keys.wireguard)
    relay = relay_of(member) if member is not None else None
    if member is None or relay is None or not document.networks_of(member.name):
        return None
    if member.identity != keys.identity:
        raise LocalError(
            f"the document gives '{member.name}' the identity {member.identity}, and this host has {keys.identity}: "
            "members get grants for the other one"
        )
    secrets: dict[str, None] = {}
    for pin in identities(document):
        with contextlib.suppress(RemoteError, ValueError):  # a key with which nothing can be agreed
            secrets[agreed_secret(keys.identity_private, pin, keys.identity).hex()] = None
    if not secrets:
        raise LocalError("the document names no mediator whose grants a relay here could check")
    return RelayOrder(list(relay.stun), relay.relay_ports, list(secrets)[:MAX_TRUSTED])


class OwnRelay:
    """For the agent's event loop."""

    def __init__(self, keys: Keys, guard: Guard) -> None:
        self._keys = keys
        self._tasks = Tasks(guard)
        self._order: RelayOrder | None = None
        self._child: asyncio.subprocess.Process | None = None
        self.status: OwnRelayStatus = NO_RELAY
        """The relay as it was when it last reported."""

    async def follow(self, document: Document | None) -> None:
        """Run the relay that the document wants of this member, or none."""
        try:
            order = order_of(document, self._keys) if document is not None else None
        except LocalError as error:
            if self._order is not None or self.status.error != str(error):
                await self._use(None)
                self._say(str(error))
            return
        await self._use(order)

    def stop(self) -> None:
        """End the relay soon."""
        self._order, self.status = None, NO_RELAY
        self._tasks.cancel()

    async def close(self) -> None:
        """End the relay, and wait until it has ended."""
        await self._use(None)

    async def _use(self, order: RelayOrder | None) -> None:
        before, self._order = self._order, order
        if order is None:
            await self._tasks.end()
            self.status = NO_RELAY
        elif before is None or (before.stun, before.relay_ports) != (order.stun, order.relay_ports):
            await self._tasks.end()  # its ports are free then
            self.status = OwnRelayStatus("starting", since_s=time.monotonic())
            self._tasks.keep("this member's relay", self._run)
        elif before != order and self._child is not None and self._child.stdin is not None:
            self._child.stdin.write(write_line(order))

    def _say(self, reason: str) -> None:
        if reason != self.status.error:
            warn(f"this member does not relay: {reason}")
        self.status = OwnRelayStatus("waiting", reason, since_s=time.monotonic())

    async def _run(self) -> None:
        backoff = Backoff(RETRY_BASE_S, RETRY_CAP_S)
        while self._order is not None:
            began = time.monotonic()
            self._say(await self._once(self._order))
            if time.monotonic() - began > STABLE_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_delay(random.random()))

    async def _once(self, order: RelayOrder) -> str:
        """Run the child once; returns why it ended."""
        if importlib.util.find_spec(PROGRAM.partition(".")[0]) is None:
            return "the package netctl-mediator, which has the relay, is not installed on this host"
        try:
            child = await asyncio.create_subprocess_exec(
                *module(PROGRAM),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment(),
                cwd="/",
                limit=MAX_LINE,
            )
        except OSError as error:
            return f"it cannot be started: {error.strerror or error}"
        self._child = child
        try:
            assert child.stdin is not None
            child.stdin.write(write_line(order))
            return (
                await self._reports(child)
                or f"it ended (status {await child.wait()}); the log above says why"
            )
        finally:
            self._child = None
            await _ended(child)

    async def _reports(self, child: asyncio.subprocess.Process) -> str | None:
        """Take the child's reports until it ends; returns its last word."""
        assert child.stdout is not None
        while line := await child.stdout.readline():
            try:
                report = read_line(line, RelayReport)
            except RemoteError as error:
                return str(error)
            if report.error is not None:
                return report.error
            self._reported(report)
        return None

    def _reported(self, report: RelayReport) -> None:
        if self.status.state != "up":
            self.status = OwnRelayStatus("up", since_s=time.monotonic())
        self.status = replace(
            self.status,
            bindings=report.bindings,
            forwarded_bytes=report.forwarded_bytes,
            clock_behind_s=report.clock_behind_s,
            unheld=tuple(report.unheld),
        )


async def _ended(child: asyncio.subprocess.Process) -> None:
    """Let the child end, and kill it if it does not."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        async with asyncio.timeout(GOODBYE_S):
            await child.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
