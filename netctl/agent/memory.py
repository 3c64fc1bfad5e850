"""What an agent remembers between its lives: the accepted document, the last view, what was taken down."""

from __future__ import annotations

import contextlib
import json
from ipaddress import IPv4Address
from pathlib import Path

from msgspec.structs import replace as replace_struct

from netctl.agent.compiled import CompiledDocuments
from netctl.agent.places import Places
from netctl.config import Loaded, Pins
from netctl.model.document import Document
from netctl.model.errors import ConfigError, LocalError, RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.node.choices import Down, Joined
from netctl.session import Kept, open_view
from netctl.session.views import pack_view
from netctl.system.files import write_atomic
from netctl.wire.control import Message, Sealed, ViewChunk, decode, encode


class Memory:
    """Files in the state directory, each written whole or not at all."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._compiled = CompiledDocuments(places.compiled)

    @property
    def places(self) -> Places:
        """Where it is kept."""
        return self._places

    def document(self) -> Loaded | None:
        """The accepted document; None before the first apply. Raises LocalError when it is damaged."""
        path = self._places.accepted
        try:
            return self.load(path.read_text(), str(path))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, ConfigError) as error:
            message = f"{path} cannot be used ({str(error).splitlines()[0]}); run `netctl apply` again"
            raise LocalError(message) from error

    def load(self, text: str, file: str) -> Loaded:
        """The document of this text, quickly when it was read before. Raises ConfigError."""
        return self._compiled.load(text, file)

    def accept(self, text: str) -> None:
        """This is the document that the host lives by."""
        if not self.holds(text):  # an apply that changes nothing need not wait for the disk
            write_atomic(self._places.accepted, text)

    def holds(self, text: str) -> bool:
        """This is the accepted document's text."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._places.accepted.read_text(encoding="utf-8") == text
        return False

    def joined(self) -> Joined | None:
        """The invite that this host lives by; None: it has a document of its own, or nothing yet."""
        try:
            plain = json.loads(self._places.joined.read_text())
            return Joined(str(plain["network"]), plain.get("routes") is True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def set_joined(self, joined: Joined | None) -> None:
        """Remember it. None: a document of its own comes first from now on."""
        if joined is None:
            with contextlib.suppress(FileNotFoundError):
                self._places.joined.unlink()
        else:
            plain = {"network": joined.network, "routes": joined.routes}
            write_atomic(self._places.joined, json.dumps(plain))

    def forget(self) -> None:
        """As before the first apply; the keys stay."""
        for path in (
            self._places.joined,
            self._places.accepted,
            self._places.view,
            self._places.down,
            self._places.leases,
        ):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def view(self, pins: tuple[IdentityKey, ...], key: WireGuardKey) -> Kept | None:
        """The last view, if there is one for this key that a pinned identity has sealed."""
        try:
            plain = json.loads(self._places.view.read_text())
            messages = [decode(json.dumps(row).encode()) for row in plain["view"]]
            chunks = [message for message in messages if isinstance(message, ViewChunk)]
            (sealed,) = (message for message in messages if isinstance(message, Sealed))
            newest = {IdentityKey.parse(text): int(number) for text, number in plain["newest"].items()}
            return Kept(open_view(chunks, sealed, pins, key), sealed, newest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RemoteError):
            return None

    def keep_view(self, kept: Kept) -> None:
        """Keep a view with its seal, so that the next life can check it again. Presence does not last."""
        messages: list[Message] = [*pack_view(kept.view), replace_struct(kept.seal, online="")]
        plain = {
            "view": [json.loads(encode(message)) for message in messages],
            "newest": {str(identity): generation for identity, generation in kept.newest.items()},
        }
        write_atomic(self._places.view, json.dumps(plain))

    def pins(self) -> dict[tuple[str, WireGuardKey], IPv4Address]:
        """The leases that this host has seen, by network id and key."""
        try:
            plain = json.loads(self._places.leases.read_text())
            return {
                (network, WireGuardKey.parse(key)): IPv4Address(address)
                for network, held in plain.items()
                for key, address in held.items()
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def keep_pins(self, pins: Pins) -> None:
        """Remember them."""
        plain: dict[str, dict[str, str]] = {}
        for (network, key), address in pins.items():
            plain.setdefault(network, {})[str(key)] = str(address)
        write_atomic(self._places.leases, json.dumps(plain))

    def down(self) -> Down:
        """What is down."""
        try:
            plain = json.loads(self._places.down.read_text())
            return Down(bool(plain["everything"]), frozenset(plain["networks"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return Down()

    def set_down(self, down: Down) -> None:
        """Remember it."""
        if down == Down():
            with contextlib.suppress(FileNotFoundError):
                Path(self._places.down).unlink()
        else:
            plain = {"everything": down.everything, "networks": sorted(down.networks)}
            write_atomic(self._places.down, json.dumps(plain))


def identities(document: Document) -> tuple[IdentityKey, ...]:
    """The identities of all mediators that a document pins."""
    return tuple(pin for mediator in document.mediators for pin in mediator.identity)
