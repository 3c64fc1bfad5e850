"""The operator's socket: JSON lines over a Unix socket in the state directory, for this user and root alone.

One request a connection: `{"op": "…", …}`, answered by `{"result": …}` or `{"error": {"message": "…"}}`. `netctl
invite`, `members` and `export` speak it when they are run on the mediator's machine; it is reachable from no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mediator.core import admissions as a
from mediator.core.hub import Hub
from mediator.shell.roster import Roster, unix_now
from netctl.config.guests import NAME
from netctl.config.stock import stock_config
from netctl.model.document import MemberState
from netctl.model.errors import LocalError, NetctlError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.wire.jsonline import parse_request, text_of

SOCKET_NAME = "admin.sock"
MAX_REQUEST = 64 * 1024
"""A request is a line of words; an answer may be longer."""
Request = dict[str, Any]
_LIFE = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)\Z")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def life_s(text: str) -> int:
    """Seconds of ``24h``. Raises LocalError."""
    found = _LIFE.match(text)
    seconds = int(found.group(1)) * _UNITS_S[found.group(2)] if found else 0
    if not 0 < seconds <= a.MAX_LIFE_S:
        raise LocalError(f"'{text}' is no time to live: say 30m, 24h or 7d, at most a year")
    return seconds


def _text(request: Request, key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value:
        raise LocalError(f"the request does not say '{key}'")
    return value


class AdminServer:
    """Serves the operator of this mediator."""

    def __init__(self, roster: Roster, hub: Hub, state: Path, document: Path) -> None:
        self._roster = roster
        self._hub = hub
        self._path = state / SOCKET_NAME
        self._document = document
        self._server: asyncio.Server | None = None
        self.operations: dict[str, Callable[[Request], Any]] = {
            "invite.create": self._invite,
            "invite.list": self._invites,
            "invite.revoke": self._revoke_invite,
            "members.list": self._members,
            "members.approve": lambda request: self._roster.approve(_text(request, "who")),
            "members.reject": lambda request: self._roster.revoke(_text(request, "who"), pending=True),
            "members.revoke": lambda request: self._roster.revoke(_text(request, "who")),
            "members.restore": lambda request: self._roster.restore(_text(request, "who")),
            "members.rekey": self._rekey,
            "export": self._export,
            "export.wg": self._export_wg,
        }
        """By name: whatever else an operator may ask is added here. What waits for the store is a coroutine."""

    async def start(self) -> None:
        """Listen. The socket is 0600 from its first moment. Raises LocalError."""
        try:
            self._path.unlink(missing_ok=True)
            old = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(self._serve, self._path, limit=MAX_REQUEST)
            finally:
                os.umask(old)
        except OSError as error:
            raise LocalError(f"cannot listen on {self._path}: {error.strerror or error}") from error

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            connection: socket.socket = writer.get_extra_info("socket")
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", raw)[1] not in (0, os.getuid()):
                return
            line = await reader.readline()
            if line:
                writer.write(json.dumps(await self.answer(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """What to say to a request, whatever it was."""
        try:
            request = parse_request(line)
            operation = self.operations.get(request["op"])
            if operation is None:
                raise LocalError(f"this mediator does not know '{request['op']}': is it of the same version?")
            result = operation(request)
            return {"result": await result if isinstance(result, Awaitable) else result}
        except NetctlError as error:
            return {"error": {"kind": "failed", "message": str(error)}}
        except Exception as error:  # whoever asks gets a line
            message = f"the mediator itself failed ({type(error).__name__}: {error})"
            return {"error": {"kind": "failed", "message": message}}

    # -- invites --------------------------------------------------------------------------------------------

    async def _invite(self, request: Request) -> dict[str, Any]:
        uses, name = request.get("uses", 1), text_of(request, "name", "")
        if not isinstance(uses, int) or not 1 <= uses <= a.MAX_USES:
            raise LocalError(f"an invite has 1 to {a.MAX_USES} uses")
        if name and (uses != 1 or not NAME.match(name)):
            raise LocalError(
                "a name is for an invite with one use, and a host name: letters, digits, hyphens"
            )
        network = self._roster.network(_text(request, "network"))
        life = life_s(text_of(request, "expires", "24h"))
        made, text = await self._roster.invite(network, uses, life, name)
        return {**self._row(made), "invite": text, "approve": network.join.approve}

    def _row(self, invite: a.Invite) -> dict[str, Any]:
        names = {network.id: network.name for network in self._roster.document.networks.values()}
        return {
            "id": invite.id,
            "network": names.get(invite.network),
            "uses": invite.uses,
            "used": invite.used,
            "name": invite.name or None,
            "expires_s": invite.expires_s,
            "state": invite.state(unix_now()),
        }

    async def _invites(self, _: Request) -> list[dict[str, Any]]:
        return [self._row(invite) for invite in await self._roster.store.invites()]

    async def _revoke_invite(self, request: Request) -> str:
        identifier = _text(request, "id")
        await self._roster.store.revoke_invite(identifier)
        return identifier

    # -- members --------------------------------------------------------------------------------------------

    def _members(self, _: Request) -> list[dict[str, Any]]:
        roster, book = self._roster, self._roster.book
        document, waiting = a.effective(roster.document, book)
        full = {(item.network, item.member): item.message for item in self._hub.exhausted}
        pending = {entry.key for entry in book.admissions if entry.pending}
        invited = {entry.key: entry for entry in book.admissions}
        rows = []
        shown = set()
        for member in document.members.values():
            key = member.wireguard
            if key is None:
                continue
            shown.add(key)
            networks = document.networks_of(member.name)
            trouble = [full[n.id, member.name] for n in networks if (n.id, member.name) in full]
            state = "online" if self._hub.is_online(key) else "offline"
            if key in book.revoked:
                state = "revoked"
            elif member.state.value == "absent":
                state = "absent"
            elif key in pending and not networks:
                state = "pending"
            rows.append(
                {
                    "name": member.name,
                    "wireguard": str(key),
                    "identity": str(member.identity) if member.identity is not None else None,
                    "from": "invite" if member.guest else "document",
                    "state": state,
                    "networks": {
                        n.name: [str(x) for x in self._hub.addresses(n.name, member.name, key)]
                        for n in networks
                    },
                    "condition": waiting.get(member.name) or (trouble[0] if trouble else None),
                }
            )
        names = {row["name"] for row in rows}
        for key, name in book.revoked.items():
            if key not in shown and name not in names:  # an old key of somebody who has a new one is not news
                rows.append(_bare(name, key, "revoked", None))
        for key, entry in invited.items():
            if key not in shown and key not in book.revoked:
                rows.append(_bare(entry.name, key, "waiting", waiting.get(entry.name)))
        return rows

    async def _rekey(self, request: Request) -> str:
        try:
            key = WireGuardKey.parse(_text(request, "wireguard"))
            identity = IdentityKey.parse(_text(request, "identity"))
        except ValueError as error:
            raise LocalError(f"{error}; `netctl keys` on the host prints both") from error
        return await self._roster.rekey_by_operator(_text(request, "who"), key, identity)

    def _export(self, _: Request) -> dict[str, Any]:
        book = self._roster.book
        known = {member.wireguard for member in self._roster.document.members.values()}
        guests = a.guests_of(self._roster.document, book)
        return {
            "document": str(self._document.absolute()),
            "guests": [
                {
                    "name": guest.name,
                    "wireguard": str(guest.key),
                    "identity": str(guest.identity),
                    "networks": list(guest.networks),
                }
                for guest in guests
                if guest.key not in known and guest.networks
            ],
        }

    def _export_wg(self, request: Request) -> dict[str, Any]:
        name = _text(request, "member")
        document, mediator = self._hub.document, self._roster.mediator
        member = document.members.get(name)
        key = member.wireguard if member is not None and member.state is MemberState.PRESENT else None
        if key is None or mediator is None:
            raise LocalError(f"the mediator's document has no present member '{name}'")
        hub = self._hub
        return stock_config(document, name, hub.view(key), mediator, lambda peer: hub.pair_port(key, peer))


def _bare(name: str, key: WireGuardKey, state: str, condition: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "wireguard": str(key),
        "identity": None,
        "from": "invite",
        "state": state,
        "networks": {},
        "condition": condition,
    }
