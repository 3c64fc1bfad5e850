"""The agent's control socket: JSON lines over a Unix socket, for this user and root alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
from typing import Any

from netctl.agent.agent import Agent
from netctl.agent.armed import terms_of
from netctl.agent.places import Places
from netctl.agent.snapshot import take
from netctl.engine import ApplyOutcome
from netctl.model.errors import ConfigError, LocalError, NetctlError
from netctl.node import leases
from netctl.node.choices import Down
from netctl.node.diagnosis.examine import examine
from netctl.node.planreport import expected
from netctl.plan import plan_to_json
from netctl.wire.jsonline import parse_request, text_of

MAX_REQUEST = 20 * 1024 * 1024
"""A document of 20,000 members is about 4 MB; JSON may need twice that."""

MAX_NUMBER = 1e9
"""Larger than any number of seconds or changes that is asked for."""


def _number(request: dict[str, Any], key: str) -> float:
    """Raises LocalError."""
    value = request.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
        raise LocalError(f"the request does not say '{key}' as a number")
    return float(value)


def _peer_uid(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return int(uid)


class ControlServer:
    """Serves an agent's control socket."""

    def __init__(self, agent: Agent, places: Places) -> None:
        self._agent = agent
        self._places = places
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. The socket is 0600 from its first moment. Raises LocalError."""
        path = self._places.socket
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # the lock says that no other agent lives: it is a dead one's
            old = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(self._serve, path, limit=MAX_REQUEST)
            finally:
                os.umask(old)
        except OSError as error:
            raise LocalError(f"cannot listen on {path}: {error.strerror}; run this as root") from error

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        self._places.socket.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            connection: socket.socket = writer.get_extra_info("socket")
            if _peer_uid(connection) not in (0, os.getuid()):
                return
            line = await reader.readline()
            if line:
                await self._answer(line, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        def tell(message: dict[str, Any]) -> None:
            writer.write(json.dumps(message).encode() + b"\n")

        loop = asyncio.get_running_loop()

        def progress(text: str) -> None:  # called from the engine's thread, too
            loop.call_soon_threadsafe(tell, {"progress": text})

        try:
            request = parse_request(line)
            result = await self._perform(request, progress)
        except ConfigError as error:
            findings = [
                {
                    "code": f.code,
                    "path": f.path,
                    "message": f.message,
                    "hint": f.hint,
                    "severity": f.severity,
                    "file": f.mark.file if f.mark else None,
                    "line": f.mark.line if f.mark else None,
                    "column": f.mark.column if f.mark else None,
                }
                for f in error.findings
            ]
            tell({"error": {"kind": "config", "message": str(error), "findings": findings}})
        except NetctlError as error:
            tell({"error": {"kind": "failed", "message": str(error)}})
        except Exception as error:  # whoever asks gets a line, whatever it was
            message = f"the agent itself failed ({type(error).__name__}: {error})"
            tell({"error": {"kind": "failed", "message": message}})
        else:
            await asyncio.sleep(0)  # progress that the thread has queued goes first
            tell({"result": result})
        await writer.drain()

    async def _perform(self, request: dict[str, Any], progress: Any) -> Any:
        agent = self._agent
        match request["op"]:
            case "status":
                return await agent.status()
            case "doctor":
                return examine(take(agent))
            case "plan":
                asked = {"ssh_connection": text_of(request, "ssh_connection", "")}
                everyone = bool(request.get("everyone"))
                planned = await agent.changes.plan(
                    text_of(request, "text"), text_of(request, "file"), everyone=everyone, **asked
                )
                return planned.to_json()
            case "apply":
                holds = expected(request.get("binding"))
                terms = terms_of(request)
                if terms.unattended:
                    await agent.commit.decide_unproven()
                result = await agent.changes.apply(
                    text_of(request, "text"), text_of(request, "file"), progress, holds=holds, terms=terms
                )
                outcome = result.outcome
                return {
                    "changed": outcome.changed,
                    "rolled_back": outcome.rolled_back,
                    "error": outcome.error,
                    "warnings": list(result.warnings),
                    "waiting": result.waiting,
                    "armed": result.armed,
                }
            case "prune":
                at_most = int(_number(request, "at_most")) if request.get("at_most") is not None else None
                plan, pruned = await agent.changes.prune(at_most, progress)
                return {**plan_to_json(plan), "changed": pruned.changed, "error": pruned.error}
            case "stop":  # for `netctl` on this host, which starts it again with what has changed
                asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
                return {}
            case "adopt":
                await agent.joining.adopt()
                return {}
            case "leave":
                return outcome_to_json(await agent.joining.leave(progress))
            case "confirm":
                async with agent.changes.turn(progress):
                    return {"digest": (await agent.commit.confirm()).digest}
            case "rollback":
                async with agent.changes.turn(progress):
                    return outcome_to_json(
                        await agent.commit.roll_back(text_of(request, "nonce", "") or None)
                    )
            case "leases":
                return leases.rows(agent.state)
            case "leases.forget":
                return {
                    "forgotten": await agent.changes.forget_leases(
                        text_of(request, "member", "") or None, progress
                    )
                }
            case "drill":
                agent.client.hold(_number(request, "seconds"))
                return {}
            case "down" | "up" as op:
                return await self._switch(op, text_of(request, "network", "") or None, progress)
            case other:
                raise LocalError(f"this agent does not know '{other}': is it of the same version?")

    async def _switch(self, op: str, network: str | None, progress: Any) -> dict[str, Any]:
        agent = self._agent
        document = agent.state.document
        if document is None:
            raise LocalError("this host has no document yet: run `netctl apply`")
        known = document.networks
        if network is not None and network not in known:
            raise LocalError(f"there is no network '{network}'; there are: {', '.join(known)}")
        down = agent.state.down
        if op == "down":
            wanted = (
                Down(down.everything, down.networks | {network}) if network else Down(True, down.networks)
            )
        elif network is None:
            wanted = Down()
        else:
            others = frozenset(known) if down.everything else down.networks
            wanted = Down(False, others - {network})
        return outcome_to_json(await agent.changes.set_down(wanted, progress))


def outcome_to_json(outcome: ApplyOutcome) -> dict[str, Any]:
    """How a change ended, plain."""
    return {"changed": outcome.changed, "error": outcome.error, "rolled_back": outcome.rolled_back}
