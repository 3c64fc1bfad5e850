"""The state of a host on disk. Only this module reads and writes it; it reports lost files.

| file          | if the file is lost                                                                     |
|---------------|-----------------------------------------------------------------------------------------|
| accepted.yaml | the generation before; else the host keeps its state, and waits for `netctl apply`      |
| joined.json   | the generation before; else the host still counts as joined, without extra routes       |
| view.json     | the mediator sends it again                                                             |
| leases.json   | the generation before; else the mediator's next addresses are accepted, as at first     |
| down.json     | the generation before; else everything is up                                            |

`timeline.py` keeps the events of the last day. `commitstore.py` keeps the record of an armed apply, by the same means
(`netctl.system.statefiles`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace as replace_struct

from netctl.agent.storage.documentcache import CompiledDocuments
from netctl.agent.storage.locations import Locations
from netctl.config import Loaded, Pins
from netctl.model.errors import ConfigError, LocalError, RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.node.choices import Down, Joined
from netctl.node.commit import PendingCommit
from netctl.session import Kept, open_view
from netctl.session.views import pack_view
from netctl.system import statefiles
from netctl.wire.control import Message, Sealed, ViewChunk, decode, encode

T = TypeVar("T")
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Exceptions from parsing a file that is damaged or that another program or version has written."""


class StateStore:
    """Files in the state directory, each written completely or not at all. Blocking; for one thread at a time."""

    def __init__(self, locations: Locations) -> None:
        self._places = locations
        self._compiled = CompiledDocuments(locations.compiled)
        self._lost: dict[Path, str] = {}

    @property
    def locations(self) -> Locations:
        """The locations of the files."""
        return self._places

    @property
    def losses(self) -> tuple[str, ...]:
        """Sentences on damaged files: what is used instead, what a person can do. A write of the file removes its."""
        return tuple(self._lost.copy().values())

    def _write(self, path: Path, text: str) -> None:
        statefiles.write(path, text)
        self._lost.pop(path, None)

    def _remove(self, path: Path) -> None:
        statefiles.remove(path)
        self._lost.pop(path, None)

    def _read(self, path: Path, parse: Callable[[str], T], without: str) -> T | None:
        """The parsed content of a file or its earlier generation; None: neither is usable. Adds damage to `losses`."""
        try:
            found = statefiles.read(path)
        except OSError as error:
            self._lost[path] = f"{path} cannot be read ({error.strerror}): {without}"
            return None
        if found.content is None:
            if found.lost is not None:
                self._lost[path] = f"{found.lost}: {without}"
            return None
        before = statefiles.previous(path) if found.lost is None else None
        for content, lost in (
            (found.content, found.lost),
            (before, f"{path} cannot be used: the one before it is"),
        ):
            if content is None:
                continue
            try:
                value = parse(content.decode())
            except UNREADABLE:
                continue
            if lost is not None:
                self._lost[path] = lost
            else:
                self._lost.pop(path, None)
            return value
        self._lost[path] = f"{path} cannot be used: {without}"
        return None

    # -- the document ------------------------------------------------------------------------------------------

    def document(self) -> Loaded | None:
        """The accepted document; None before the first apply. Raises LocalError if no generation of it can be used."""
        path = self._places.accepted
        try:
            found = statefiles.read(path)
            if found.content is None and found.lost is None:
                return None
            if found.content is None:
                raise LocalError(f"{found.lost}; run `netctl apply` again")
            loaded = self.load(found.content.decode(), str(path))
        except (OSError, UnicodeDecodeError, ConfigError, LocalError) as error:
            message = str(error)
            if not isinstance(error, LocalError):
                message = f"{path} cannot be used ({message.splitlines()[0]}); run `netctl apply` again"
            self._lost[path] = message
            raise LocalError(message) from error
        if found.lost is not None:
            self._lost[path] = f"{found.lost}; `netctl apply` brings the newest into force"
        else:
            self._lost.pop(path, None)
        return loaded

    def as_before(self, record: PendingCommit) -> tuple[Loaded | None, Joined | None]:
        """The document and the invite before a pending commit, from the commit's record only."""
        loaded = joined = None
        with contextlib.suppress(
            ConfigError
        ):  # damaged before the apply: the host's checkpoint returns all the same
            if record.before is not None:
                loaded = self.load(record.before, str(self._places.accepted))
        with contextlib.suppress(*UNREADABLE):
            joined = _parse_joined(record.joined) if record.joined is not None else None
        return loaded, joined

    def load(self, text: str, file: str) -> Loaded:
        """The document of a text, from the cache if possible. Raises ConfigError."""
        return self._compiled.load(text, file)

    def accept(self, text: str) -> None:
        """Store a text as the accepted document. Raises OSError."""
        if not self.holds(text):  # an apply of the same text need not wait for the disk
            self._write(self._places.accepted, text)

    def holds(self, text: str) -> bool:
        """Whether this is the accepted document's text."""
        try:
            found = statefiles.read(self._places.accepted)
            return found.lost is None and found.text == text
        except (OSError, UnicodeDecodeError):
            return False

    # -- an invite ---------------------------------------------------------------------------------------------

    def joined(self) -> Joined | None:
        """The invite by which this host joined; None: the host has its own document, or none yet."""
        path = self._places.joined
        without = "this host still lives by its invite, and takes no routes: `netctl join --allow-routes` if it should"
        found = self._read(path, _parse_joined, without)
        with contextlib.suppress(OSError):
            if found is None and path.exists():  # only `join` makes this file
                return Joined(self._first_network())
        return found

    def _first_network(self) -> str:
        try:
            loaded = self.document()
        except LocalError:
            loaded = None
        return next(iter(loaded.document.networks), "") if loaded is not None else ""

    def set_joined(self, joined: Joined | None) -> None:
        """Store the invite of this host; None: the host has its own document from now on. Raises OSError."""
        if joined is None:
            self._remove(self._places.joined)
        else:
            self._write(self._places.joined, json.dumps({"network": joined.network, "routes": joined.routes}))

    def forget(self) -> None:
        """Remove all state, as before the first apply; the keys stay. Raises OSError."""
        for path in (
            self._places.joined,
            self._places.accepted,
            self._places.view,
            self._places.down,
            self._places.leases,
        ):
            self._remove(path)

    # -- what the mediator said --------------------------------------------------------------------------------

    def view(self, pins: tuple[IdentityKey, ...], key: WireGuardKey) -> Kept | None:
        """The last view, if it is for this key and sealed by a pinned identity; else None."""

        def parse(text: str) -> Kept | None:
            plain = json.loads(text)
            messages = [decode(json.dumps(row).encode()) for row in plain["view"]]
            chunks = [message for message in messages if isinstance(message, ViewChunk)]
            (sealed,) = (message for message in messages if isinstance(message, Sealed))
            newest = {IdentityKey.parse(name): int(number) for name, number in plain["newest"].items()}
            stores = {str(name): int(number) for name, number in plain.get("stores", {}).items()}
            try:
                return Kept(open_view(chunks, sealed, pins, key), sealed, newest, stores)
            except RemoteError:  # sealed by another mediator, or for another key
                return None

        return self._read(self._places.view, parse, "the mediator has to send the view again")

    def keep_view(self, kept: Kept) -> None:
        """Store a view with its seal, for verification at the next start; without presence. Raises OSError."""
        messages: list[Message] = [*pack_view(kept.view), replace_struct(kept.seal, online="")]
        plain = {
            "view": [json.loads(encode(message)) for message in messages],
            "newest": {str(identity): generation for identity, generation in kept.newest.items()},
            "stores": dict(kept.stores),
        }
        self._write(self._places.view, json.dumps(plain))

    def pins(self) -> dict[tuple[str, WireGuardKey], IPv4Address]:
        """The leases that this host has seen, by (network id, key)."""

        def parse(text: str) -> dict[tuple[str, WireGuardKey], IPv4Address]:
            return {
                (network, WireGuardKey.parse(key)): IPv4Address(address)
                for network, held in json.loads(text).items()
                for key, address in held.items()
            }

        without = "what the mediator says next about addresses is believed, as at first"
        return self._read(self._places.leases, parse, without) or {}

    def keep_pins(self, pins: Pins) -> None:
        """Store the leases. Raises OSError."""
        plain: dict[str, dict[str, str]] = {}
        for (network, key), address in pins.items():
            plain.setdefault(network, {})[str(key)] = str(address)
        self._write(self._places.leases, json.dumps(plain))

    # -- what the user has taken down --------------------------------------------------------------------------

    def down(self) -> Down:
        """What the user has taken down."""

        def parse(text: str) -> Down:
            plain = json.loads(text)
            return Down(bool(plain["everything"]), frozenset(plain["networks"]))

        return self._read(self._places.down, parse, "nothing is down: `netctl down` says it again") or Down()

    def set_down(self, down: Down) -> None:
        """Store what the user has taken down. Raises OSError."""
        if down == Down():
            self._remove(self._places.down)
        else:
            plain = {"everything": down.everything, "networks": sorted(down.networks)}
            self._write(self._places.down, json.dumps(plain))


def _parse_joined(text: str) -> Joined:
    plain = json.loads(text)
    return Joined(str(plain["network"]), plain.get("routes") is True)
