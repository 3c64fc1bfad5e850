"""The directory of a relay that runs as another user: what the mediator hands over, without identity and store.

The mediator writes four things: the shared secret, a key with a certificate that the mediator's identity has signed
for the relay only, the ports of pairs, and a copy of the last good document. Members pin the identity. A server with
such a certificate is accepted as the mediator's relay, and for nothing else: no view, no lease, no introduction.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core.relay_pairs import PairMember, PairPort, PairTable
from mediator.core.relayload import RelayLoad
from mediator.shell.credentials import RELAY_SECRET_FILE, SECRET_LEN, Identity, certificate, key_pem
from mediator.shell.pairstore import PairSource
from mediator.shell.stateroles import CERTIFICATE_FILE, refuse_apart
from mediator.shell.watched import KEPT_FILE
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.portspans import checked, ports_in, spans
from netctl.system.files import write_atomic
from netctl.wire.relayframe import RELAY_SUBJECT
from netctl.wire.stun import MAX_LOAD

_LOG = logging.getLogger("mediator.relay")

PAIRS_FILE = "pairs.json"
UNHELD_FILE = "unheld-ports.json"
MAX_UNHELD_FILE = 1 << 20
"""Bytes: every port of a full range as a span of its own."""
SHARED = 0o640
"""Mode of the files: readable by the directory's group, the relay's; others cannot enter the directory."""
WAIT_S = 0.25
"""Interval of the relay's checks for files that are still missing."""


def _write(path: Path, content: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return
    write_atomic(path, content, SHARED)


class Holds(Protocol):
    """A relay that knows which of its ports it could not bind, and who is bound at the others."""

    @property
    def table(self) -> Sized:
        """The bindings."""

    @property
    def unheld(self) -> frozenset[int]:
        """Those that another program holds."""


class _Trouble:
    """Reports a failure to the operator once, until the reason changes or the work succeeds."""

    def __init__(self) -> None:
        self._known: str | None = None

    def of(self, work: Callable[[], None], words: str) -> str | None:
        """Run `work`; returns `words` and the system's reason if it fails in a new way, else None."""
        said = None
        try:
            work()
        except OSError as error:
            said = f"{words}: {error.strerror or error}"
        known, self._known = self._known, said
        return None if known == said else said


class PairFile:
    """The mediator's side: a file with the ports of pairs, for a relay that cannot read the store."""

    def __init__(self, directory: Path, pairs: PairSource) -> None:
        self._path = directory / PAIRS_FILE
        self._source = pairs
        self._text: str | None = None
        self._trouble = _Trouble()

    def write(self) -> None:
        """Write changed pairs. Raises OSError."""
        found = self._source.changed()
        if found is not None:
            self._text = _told(found)
        if self._text is not None:
            _write(self._path, self._text.encode())
            self._text = None

    def keep(self) -> str | None:
        """Write changed pairs; returns a line for the operator on a new failure."""
        return self._trouble.of(self.write, f"{self._path} cannot be written, and the relay needs it")

    def close(self) -> None:
        """Let go of the store."""
        self._source.close()


class RelayPlace:
    """The mediator's side: keeps the relay's directory complete."""

    def __init__(
        self,
        directory: Path,
        identity: Identity,
        secret: bytes,
        pairs: PairSource,
        document: Callable[[], str] = lambda: "",
    ) -> None:
        """`document`: the text in force, or ""; the relay starts with it if the document's file is refused.

        Raises LocalError if the directory is that of a relay apart.
        """
        refuse_apart(directory)
        self._directory = directory
        self._identity = identity
        self._secret = secret
        self._pairs = PairFile(directory, pairs)
        self._document = document
        self._document_text = ""
        self._trouble = _Trouble()

    def keep(self) -> str | None:
        """Write missing and changed files; returns a line for the operator on a new failure."""
        return self._trouble.of(self._write, f"the relay's directory {self._directory} cannot be kept")

    def _write(self) -> None:
        self._certificate()
        self._file(RELAY_SECRET_FILE, self._secret)
        self._pairs.write()
        if (text := self._document()) != self._document_text:
            self._file(KEPT_FILE, text.encode())
            self._document_text = text

    def close(self) -> None:
        """Let go of the store."""
        self._pairs.close()

    def _certificate(self) -> None:
        path = self._directory / CERTIFICATE_FILE
        with contextlib.suppress(FileNotFoundError, LocalError):
            if RelayIdentity.load(self._directory).identity == self._identity.public:
                return
        own = Ed25519PrivateKey.generate()
        leaf = certificate(RELAY_SUBJECT, own.public_key(), self._identity.private)
        write_atomic(path, key_pem(own) + leaf + self._identity.certificate(), SHARED)

    def _file(self, name: str, content: bytes) -> None:
        _write(self._directory / name, content)


@dataclass(frozen=True, slots=True)
class RelayIdentity:
    """The relay's side: its key and certificate, and the identity of its mediator."""

    pem: bytes
    identity: IdentityKey

    @classmethod
    def load(cls, directory: Path) -> RelayIdentity:
        """Read and verify the certificate file. Raises FileNotFoundError, or LocalError if it is damaged."""
        path = directory / CERTIFICATE_FILE
        try:
            pem = path.read_bytes()
            key = serialization.load_pem_private_key(pem, None)
            leaf, issuer = x509.load_pem_x509_certificates(pem)
            signer = issuer.public_key()
            if leaf.public_key() != key.public_key():
                raise ValueError("the certificate is another key's")
            leaf.verify_directly_issued_by(issuer)
            identity = IdentityKey(
                signer.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            )
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError, InvalidSignature) as error:
            raise LocalError(f"{path} cannot be used: {error}; restart the mediator") from error
        return cls(pem, identity)


def handed_over(directory: Path, sleep: Callable[[float], None] = time.sleep) -> tuple[RelayIdentity, bytes]:
    """The identity and secret from the mediator; waits until they exist. Raises LocalError if they are damaged."""
    said = False
    while True:
        try:
            identity = RelayIdentity.load(directory)
            secret = (directory / RELAY_SECRET_FILE).read_bytes()
        except FileNotFoundError:
            if not said:
                said = True
                _LOG.warning(
                    f"waiting for the mediator: it has put nothing into {directory} yet (where a relay runs alone: "
                    f"netctl-mediator init --state {directory})"
                )
            sleep(WAIT_S)
            continue
        except OSError as error:
            raise LocalError(f"cannot read what is in {directory}: {error.strerror}") from error
        if len(secret) != SECRET_LEN:
            raise LocalError(
                f"{directory / RELAY_SECRET_FILE} is damaged; remove it and restart the mediator"
            )
        return identity, secret


def write_pairs(path: Path, pairs: list[PairPort]) -> None:
    """Write the ports of pairs for `ToldPairs`. Raises OSError."""
    _write(path, _told(pairs).encode())


class ToldPairs:
    """The relay's side: reads the file with the ports of pairs."""

    def __init__(self, directory: Path, table: PairTable, name: str = PAIRS_FILE) -> None:
        self._table = table
        self._path = directory / name
        self._seen: tuple[int, int] | None = None

    def look(self, now: float) -> bool:
        """Load changed pairs. False: there is no file."""
        stamp = _stamp(self._path)
        if stamp is not None and stamp != self._seen:
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                self._table.load(_read(self._path.read_text()), now)
        self._seen = stamp
        return stamp is not None


class Handed:
    """The relay's side: watches its directory while it runs."""

    def __init__(self, directory: Path, table: PairTable, other: Callable[[], None]) -> None:
        """`other` is called when secret or certificate have changed, which needs a restart."""
        self._other = other
        self._kept = [directory / CERTIFICATE_FILE, directory / RELAY_SECRET_FILE]
        self._stamps = [_stamp(path) for path in self._kept]
        self._pairs = ToldPairs(directory, table)

    def look(self, now: float) -> None:
        """Load changed pairs, and check secret and certificate."""
        self._pairs.look(now)
        for path, before in zip(self._kept, self._stamps, strict=True):
            now_there = _stamp(path)
            if now_there is not None and now_there != before:
                self._stamps = [_stamp(one) for one in self._kept]
                self._other()
                return


class UnheldFile:
    """The relay's side: tells the mediator beside it which ports it could not bind, as no grant is of use there, and
    how loaded it is, because the mediator answers STUN for it.
    """

    def __init__(self, directory: Path, relay: Holds, used_s: Callable[[], float] = time.thread_time) -> None:
        """`used_s`: processor time of the relay's thread, seconds."""
        self._path, self._relay, self._used_s = directory / UNHELD_FILE, relay, used_s
        self._load = RelayLoad()
        self._told: tuple[frozenset[int], int] | None = None
        self._trouble = _Trouble()

    def look(self, now: float) -> None:
        """Write ports and load if they have changed; `now`: monotonic seconds."""
        self._load.look(now, self._used_s(), len(self._relay.table))
        found = self._relay.unheld, self._load.step
        if found == self._told:
            return
        text = json.dumps({"ports": spans(found[0]), "load": found[1]})
        said = self._trouble.of(
            lambda: _write(self._path, text.encode()), f"{self._path} cannot be written for the mediator"
        )
        if said is not None:
            _LOG.warning(said)
        self._told = found


class UnheldPorts:
    """The mediator's side: which ports the relay beside it could not bind, and how loaded it is."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / UNHELD_FILE
        self._seen: tuple[int, int] | None = None
        self._ports: frozenset[int] = frozenset()
        self.load = 0
        """The step that the relay has told last, 0 to `MAX_LOAD`."""

    def look(self) -> frozenset[int]:
        """The ports; `load` is up to date then. A file that is damaged or missing names no port and no load."""
        stamp = _stamp(self._path)
        if stamp != self._seen:
            self._seen, self._ports, self.load = stamp, frozenset(), 0
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                with self._path.open("rb") as file:
                    told = json.loads(file.read(MAX_UNHELD_FILE))
                self._ports = ports_in(checked(told["ports"]))
                load = told.get("load", 0)
                self.load = load if isinstance(load, int) and 0 <= load <= MAX_LOAD else 0
        return self._ports


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _told(pairs: list[PairPort]) -> str:
    rows = [
        {
            "port": pair.port,
            "members": [
                {"key": str(member.key), "port": member.port, "stock": member.stock}
                for member in pair.members
            ],
        }
        for pair in pairs
    ]
    return json.dumps({"pairs": rows})


def _read(text: str) -> list[PairPort]:
    """The pairs in a file's text. Raises ValueError, LookupError or TypeError if it is damaged."""

    def member(row: dict[str, Any]) -> PairMember:
        return PairMember(WireGuardKey.parse(row["key"]), int(row["port"]), bool(row["stock"]))

    return [
        PairPort(int(row["port"]), (member(row["members"][0]), member(row["members"][1])))
        for row in json.loads(text)["pairs"]
    ]
