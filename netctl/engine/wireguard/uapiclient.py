"""The driver for userspace WireGuard, through the UAPI socket (https://www.wireguard.com/xplatform/)."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from netctl.engine.addresstext import endpoint, parse_prefix, print_prefix
from netctl.model.addresses import Prefix, SocketAddress
from netctl.model.errors import EngineError
from netctl.model.hoststate import Peer
from netctl.model.keys import WireGuardKey, known

SOCKET_DIR = Path("/var/run/wireguard")
DIGEST_LEN = 16
"""Bytes that stand for a peer's text, of some 400."""
MAX_DIGITS = 20
"""Digits of a count: a 64-bit number has no more."""
TIMEOUT_S = 5.0
"""Seconds for an answer: a local engine answers in milliseconds, and one that takes longer hangs."""
MAX_REPLY = 64 * 1024 * 1024
"""Bytes of an answer: some 300 bytes a peer, so far more peers than a host can have."""

END = "\nerrno=0\n\n"
"""The end of an answer without an error."""


@dataclass(slots=True)
class PeerState:
    """The state of a peer in the device. Not changed once it is read: the next answer may share it."""

    allowed_ips: tuple[Prefix, ...] = ()
    """In any order: a set of two would take four times the memory."""
    endpoint: SocketAddress | None = None
    keepalive_s: int = 0
    last_handshake_s: float = 0.0
    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclass(slots=True)
class DeviceState:
    """The state of a WireGuard device."""

    private_key: bytes = bytes(32)
    listen_port: int = 0
    peers: dict[WireGuardKey, PeerState] = field(default_factory=dict)


class Openings:
    """Tells which peers are to be removed and added again, so that their next packet begins a handshake at once.

    An engine that has tried a handshake waits for Rekey-Timeout (5 s) before the next try, also if the first try had no
    endpoint: a keepalive asks for one as soon as the peer is there. A new peer does not wait.
    """

    def __init__(self) -> None:
        self._opened: set[WireGuardKey] = set()
        """Peers that have been seen with an endpoint, or given one."""

    def removed(self, key: WireGuardKey) -> None:
        """A peer was removed."""
        self._opened.discard(key)

    def renewed(
        self,
        endpoints: Mapping[WireGuardKey, SocketAddress],
        anew: frozenset[WireGuardKey],
        read: Callable[[], DeviceState],
    ) -> dict[WireGuardKey, Peer]:
        """The peers to add again, with their next endpoints: those in `anew`, and those without endpoint and handshake.

        `read` is called if a peer is in `anew` or is given its first endpoint.
        """
        unopened = endpoints.keys() - self._opened
        seen = read().peers if unopened or anew else {}
        self._opened |= unopened & seen.keys()
        return {
            key: Peer(
                key, frozenset(there.allowed_ips), endpoints.get(key, there.endpoint), there.keepalive_s
            )
            for key, there in seen.items()
            if key in anew or (key in unopened and there.endpoint is None and not there.last_handshake_s)
        }


class Answers:
    """Parses an engine's answers to ``get=1``.

    A peer whose text is as in the answer before is the same object, and not parsed again: most of thousands are
    idle.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[WireGuardKey, PeerState]] = {}
        """The peers of the last answer by the digest of their text."""

    def parse(self, text: str) -> DeviceState:
        """Parse an answer. Unknown keys are ignored. Raises EngineError for a bad line or errno."""
        device = DeviceState()
        head, *texts = f"\n{text}".split("\npublic_key=")
        _head(device, _fields(head))
        peers: dict[bytes, tuple[WireGuardKey, PeerState]] = {}
        for one in texts:
            digest = hashlib.blake2b(one.encode(), digest_size=DIGEST_LEN).digest()
            peers[digest] = self._known.get(digest) or _parse_peer(one)
        self._known = peers
        device.peers = dict(peers.values())
        return device


class ChangesOnly:
    """The state of a device by netctl-wg's answers to ``get=changed``: only peers that have changed are sent."""

    def __init__(self) -> None:
        self.cursor = ""
        """The last answer's; another process takes it for a stranger's, and sends all peers."""
        self._device = DeviceState()

    def parse(self, text: str) -> DeviceState | None:
        """The device after this answer: the same object if nothing has changed. None: no answer to ``get=changed``.

        Raises EngineError.
        """
        head, *texts = f"\n{text}".split("\npublic_key=")
        fields = dict(_fields(head)) if text.startswith("cursor=") else {}
        if "cursor" not in fields:
            return None
        before = self._device
        peers = dict(map(_parse_peer, texts))
        if not text.endswith(END):  # what is missing would never be sent again
            raise EngineError("the engine's answer was cut off")
        if fields.get("whole") != "true":
            peers = {**before.peers, **peers} if peers else before.peers
        device = DeviceState(peers=peers)
        _head(device, fields.items())
        same = peers is before.peers and (device.private_key, device.listen_port) == (
            before.private_key,
            before.listen_port,
        )
        if not same:
            self._device = device
        self.cursor = fields["cursor"]  # last: after a bad answer the same changes are asked for again
        return self._device


def _head(device: DeviceState, fields: Iterable[tuple[str, str]]) -> None:
    """Take the fields of the device itself. Raises EngineError."""
    for name, value in fields:
        try:
            if name == "private_key":
                device.private_key = bytes.fromhex(value)
            elif name == "listen_port":
                device.listen_port = int(value)
        except ValueError as error:
            raise _bad(name) from error


def _parse_peer(text: str) -> tuple[WireGuardKey, PeerState]:
    """A peer from its lines, the first of which is its key. Raises EngineError."""
    first, _, rest = text.partition("\n")
    name = "public_key"
    try:
        key, peer, allowed = known(bytes.fromhex(first)), PeerState(), list[Prefix]()
        for name, value in _fields(rest):
            if name == "allowed_ip":
                allowed.append(parse_prefix(value))
            elif value != "0":  # 0 is the default of a new peer
                _peer_line(peer, name, value)
        peer.allowed_ips = tuple(allowed)
    except ValueError as error:
        raise _bad(name) from error
    return key, peer


def _fields(text: str) -> Iterator[tuple[str, str]]:
    """Names and values of an answer's lines. Raises EngineError for a bad line, and for an errno."""
    for line in text.splitlines():
        if not line:
            continue
        name, separator, value = line.partition("=")
        if not separator:
            raise EngineError(f"the engine sent a line that is no key=value: {line[:80]!r}")
        if name != "errno":
            yield name, value
        elif not value.lstrip("-").isdecimal():
            raise _bad(name)
        elif int(value) != 0:
            raise EngineError(f"the engine answered: {os.strerror(abs(int(value)))}")


def _bad(name: str) -> EngineError:
    return EngineError(f"the engine sent {name}= with a bad value")


def _peer_line(peer: PeerState, key: str, value: str) -> None:
    if key == "endpoint":
        peer.endpoint = endpoint(value)
    elif key == "persistent_keepalive_interval":
        peer.keepalive_s = int(value)
    elif key == "last_handshake_time_sec":
        peer.last_handshake_s += int(value)
    elif key == "last_handshake_time_nsec":
        peer.last_handshake_s += int(value) / 1e9
    elif key == "rx_bytes":
        peer.rx_bytes = int(value)
    elif key == "tx_bytes":
        peer.tx_bytes = int(value)


def format_peer(peer: Peer) -> str:
    """The lines that add or set a peer; its session continues."""
    lines = [f"public_key={peer.key.raw.hex()}"]
    if peer.endpoint is not None:
        lines.append(f"endpoint={peer.endpoint}")
    lines.append(f"persistent_keepalive_interval={peer.keepalive_s}")
    lines.append("replace_allowed_ips=true")
    lines.extend(sorted(f"allowed_ip={print_prefix(allowed)}" for allowed in peer.allowed_ips))
    return "\n".join(lines) + "\n"


class UapiDriver:
    """Configures one interface through its socket; one connection for each request, as the protocol demands."""

    def __init__(self, interface: str, directory: Path = SOCKET_DIR) -> None:
        self.interface = interface
        self.path = directory / f"{interface}.sock"
        self._openings = Openings()
        self._answers = Answers()
        self._changes: ChangesOnly | None = ChangesOnly()
        """None: the engine has never told what has changed."""

    def answers(self) -> bool:
        """Whether a live engine serves this interface."""
        try:
            self._request("set=1\n\n")  # changes nothing; the answer to `get` would contain all peers
        except (EngineError, OSError):
            return False
        return True

    def _request(self, text: str) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(self.path))
            connection.sendall(text.encode())
            reply = bytearray()
            while not reply.endswith(b"\n\n"):
                chunk = connection.recv(65536)
                if not chunk:
                    break
                reply += chunk
                if len(reply) > MAX_REPLY:
                    raise EngineError("the engine's answer has no end")
            return reply.decode()

    def _ask(self, text: str) -> str:
        try:
            return self._request(text)
        except OSError as error:
            raise self._silent(error) from error

    def _silent(self, error: OSError) -> EngineError:
        return EngineError(f"the userspace WireGuard of {self.interface} does not answer: {error}")

    def _set(self, lines: str) -> None:
        reply = self._ask(f"set=1\n{lines}\n")
        for line in reply.splitlines():
            key, _, value = line.partition("=")
            if key == "errno" and value.lstrip("-").isdigit() and int(value) != 0:
                code = abs(int(value))
                raise EngineError(f"{os.strerror(code)} (errno {code})") from OSError(code, os.strerror(code))

    def read(self) -> DeviceState:
        """The present state of the device; the same object as before if nothing has changed since."""
        if self._changes is not None:
            device = self._changed(self._changes)
            if device is not None:
                return device
        device = self._answers.parse(self._ask("get=1\n\n"))
        if self._changes is not None and not self._changes.cursor:
            self._changes = None
        return device

    def _changed(self, changes: ChangesOnly) -> DeviceState | None:
        try:
            reply = self._request(f"get=changed\nsince={changes.cursor}\n\n")
        except TimeoutError as error:
            raise self._silent(error) from error
        except OSError:
            return None  # other engines end the connection, and a busy netctl-wg may
        return changes.parse(reply)

    def data_path(self) -> str:
        """The data path that netctl-wg reports; empty while it does not run, and for other engines."""
        return self._about().get("data_path", "")

    def faults(self) -> int:
        """Count of inputs that netctl-wg failed to handle since its start; 0 where it does not run or report it."""
        said = self._about().get("faults", "")
        return int(said) if said.isascii() and said.isdigit() and len(said) <= MAX_DIGITS else 0

    def _about(self) -> dict[str, str]:
        try:
            reply = self._request("get=data_path\n\n")
        except (EngineError, OSError):
            return {}
        return {name: value for name, _, value in (line.partition("=") for line in reply.splitlines())}

    def configure(self, private_key: bytes, listen_port: int) -> None:
        """Set the private key (32 bytes) and the UDP port (0: any)."""
        self._changes = ChangesOnly()  # it may be another engine than before
        current = self.read()
        lines = ""
        if current.private_key != private_key:
            lines += f"private_key={private_key.hex()}\n"
        if current.listen_port != listen_port:
            lines += f"listen_port={listen_port}\n"
        if not lines:
            return
        try:
            self._set(lines)
        except EngineError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
                message = (
                    f"UDP port {listen_port} is in use by another program on this host; "
                    "stop it, or set another `listenPort` for this member"
                )
                raise EngineError(message) from error
            raise

    def set_peers(self, peers: Iterable[Peer]) -> None:
        """Add peers or set them, in one request."""
        self._set("".join(map(format_peer, peers)))

    def remove_peer(self, key: WireGuardKey) -> None:
        """Remove a peer."""
        self._openings.removed(key)
        self._set(f"public_key={key.raw.hex()}\nremove=true\n")

    def steer(
        self,
        endpoints: Mapping[WireGuardKey, SocketAddress],
        anew: frozenset[WireGuardKey] = frozenset(),
    ) -> None:
        """Set the endpoints of existing peers, with one request, and one look at the engine where a peer is new.

        Peers in `anew` are removed and added again in the same request (`Openings`), and so are those whose first
        endpoint this is.
        """
        renewed = self._openings.renewed(endpoints, anew, self.read)
        lines = [
            f"public_key={key.raw.hex()}\nupdate_only=true\nendpoint={place}\n"
            for key, place in endpoints.items()
            if key not in renewed
        ]
        lines += [
            f"public_key={key.raw.hex()}\nremove=true\n{format_peer(peer)}" for key, peer in renewed.items()
        ]
        if lines:
            self._set("".join(lines))


def read_private_key(path: Path) -> bytes:
    """32 bytes from a file as `wg genkey` writes it. Raises EngineError."""
    try:
        raw = base64.b64decode(path.read_text().strip(), validate=True)
    except FileNotFoundError:
        raise EngineError(f"there is no key at {path}; make one with `netctl keys init`") from None
    except (OSError, ValueError) as error:
        raise EngineError(f"the key at {path} cannot be read: {error}") from error
    if len(raw) != 32:
        raise EngineError(f"{path} is no WireGuard private key; `netctl keys init` makes one")
    return raw
